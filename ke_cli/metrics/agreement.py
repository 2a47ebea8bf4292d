"""Agreement: does the edited model still say what the unedited one said, right or wrong?

Locality as Mitchell et al. 2022 (arXiv 2110.11309) and Yao et al. 2023 (arXiv 2305.13172) measure it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ke_cli.data.types import Case, Probe
from ke_cli.engine.queries import Answers, PredictionQuery, Query
from ke_cli.metrics.answers import mean, predictions
from ke_cli.metrics.base import Column, Metric, Values
from ke_cli.metrics.probes import check_categories

GROUP = "locality/"
"""How the tags of probes begin that an edit must not touch."""


@dataclass(frozen=True)
class Agreement(Metric):
    """The share of arg-max tokens that an edit leaves as they were, on everything that it must not touch.

    They are read where the tokens of the answer are predicted, each given those of the answer before it; the answer
    is the probe's own, else (on neighborhood prompts) the true object. A prompt without any answer counts with its
    next token alone. Every prompt has the same weight. The unedited model has 100 %.

    Args:
        categories: Of probes tagged ``locality/<category>``: those with a column of their own; others count in the mean
            only.
    """

    categories: tuple[str, ...]

    name = "agreement"
    version = 1

    def __post_init__(self) -> None:
        """Refuse categories that no probe or no two columns could have."""
        check_categories(self.categories, {"neighborhood", "relation_specific"})

    @property
    def columns(self) -> Sequence[Column]:
        """The mean over all prompts, and over those of each kind."""
        kinds = ("neighborhood", "relation_specific", *self.categories)
        single = (Column(f"agreement_{kind}", f"Agree {kind.replace('_', ' ')}", main=False) for kind in kinds)
        return (Column("agreement", "Agree"), *single)

    def before(self, case: Case) -> Sequence[Query]:
        """Ask for the likeliest tokens."""
        return self._all(case)

    def after(self, case: Case, before: Answers) -> Sequence[Query]:
        """Ask the same again."""
        return self._all(case)

    def measure(self, case: Case, before: Answers, after: Answers) -> Values:
        """Compare token by token, and average over the prompts."""
        kinds = {
            "neighborhood": _asked(case.neighborhood, case.request.target_true),
            "relation_specific": _asked(case.relation_specific),
            **{category: _asked(_of(case, f"{GROUP}{category}", whole=True)) for category in self.categories},
        }
        return {
            "agreement": _agreement(self._all(case), before, after),
            **{f"agreement_{kind}": _agreement(queries, before, after) for kind, queries in kinds.items()},
        }

    def _all(self, case: Case) -> list[PredictionQuery]:
        elsewhere = [*case.relation_specific, *_of(case, GROUP)]
        return [*_asked(case.neighborhood, case.request.target_true), *_asked(elsewhere)]


def _of(case: Case, tag: str, *, whole: bool = False) -> list[Probe]:
    """Return the probes with a tag, or whose tag begins with it."""
    return [probe for probe in case.probes if (probe.tag == tag if whole else probe.tag.startswith(tag))]


def _asked(probes: Iterable[Probe], default: str = "") -> list[PredictionQuery]:
    return [PredictionQuery(probe.prompt, probe.answer or default) for probe in probes]


def _agreement(queries: Iterable[PredictionQuery], before: Answers, after: Answers) -> float | None:
    pairs = [(predictions(before, query).ids, predictions(after, query).ids) for query in queries]
    return mean(sum(map(int.__eq__, old, new)) / len(old) for old, new in pairs)
