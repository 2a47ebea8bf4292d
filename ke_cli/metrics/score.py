"""One number for an edit: the means of success, generalisation and the two kinds of specificity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ke_cli.data.types import Case
from ke_cli.engine.queries import Answers, Query
from ke_cli.metrics.base import Column, Derived, Metric, Values

PARTS = ("efficacy", "paraphrase", "neighborhood", "r_specificity")


@dataclass(frozen=True)
class HarmonicScore(Metric):
    """The harmonic mean of ES, PS, NS and R-Specificity over all cases; of those of them that are measured.

    ``score_arith`` is their arithmetic mean, which some published tables call Score.
    """

    name = "score"
    version = 1

    @property
    def columns(self) -> Sequence[Column]:
        """None."""
        return ()

    @property
    def derived(self) -> Sequence[Derived]:
        """Both means."""
        return (
            Derived("score", "Score", "harmonic", PARTS),
            Derived("score_arith", "Score arith.", "arithmetic", PARTS, main=False),
        )

    def after(self, case: Case, before: Answers) -> Sequence[Query]:
        """Ask nothing."""
        return ()

    def measure(self, case: Case, before: Answers, after: Answers) -> Values:
        """Fill no column."""
        return {}
