"""Gold accuracy on what follows from an edit (portability, reverse, alias), and on what it must not touch: locality."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from ke_cli.data.types import MULTI_HOP, Case, Probe
from ke_cli.engine.queries import Answers, Query, TargetQuery
from ke_cli.metrics.answers import mean, score
from ke_cli.metrics.base import Column, Metric, Values
from ke_cli.metrics.token_accuracy import share_of_tokens


@dataclass(frozen=True, kw_only=True)
class ProbeAccuracy(Metric):
    """Teacher-forced accuracy on the probes of a group, for all categories together and one by one.

    A probe counts with the share of its answer's tokens that are the arg-max, as in the published programs; the column
    ``<group>_exact`` asks for all of them. Every probe has the same weight, whatever its category.

    Args:
        categories: Those with a column of their own; others count in the mean only.
        accept: Which answers of a probe are right: its first, as in the published programs, or any (the best of them
            counts).
    """

    categories: tuple[str, ...]
    accept: Literal["first", "any"] = "first"

    name: ClassVar[str]
    title: ClassVar[str]
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        """Refuse categories that no probe or no two columns could have."""
        check_categories(self.categories, {"exact"})

    @property
    def columns(self) -> Sequence[Column]:
        """The mean, the share of answers that are right as a whole, and the categories."""
        return (
            Column(self.name, self.title),
            Column(f"{self.name}_exact", f"{self.title} exact", main=False),
            *(
                Column(f"{self.name}_{category}", f"{self.title} {category.replace('_', ' ')}", main=False)
                for category in self.categories
            ),
        )

    def after(self, case: Case, before: Answers) -> Sequence[Query]:
        """Ask for the answers of every probe of the group."""
        return [query for probe in self._probes(case) for query in self._queries(probe)]

    def measure(self, case: Case, before: Answers, after: Answers) -> Values:
        """Average over the probes, and over those of each category."""
        single = {
            f"{self.name}_{category}": mean(self._right(probe, after) for probe in self._probes(case, category))
            for category in self.categories
        }
        exact = mean(
            float(any(score(after, query).all_hit for query in self._queries(probe))) for probe in self._probes(case)
        )
        everything = mean(self._right(probe, after) for probe in self._probes(case))
        return {self.name: everything, f"{self.name}_exact": exact, **single}

    def _right(self, probe: Probe, after: Answers) -> float:
        """Return the share of an answer's tokens that are right."""
        return max(share_of_tokens(score(after, query)) for query in self._queries(probe))

    def _probes(self, case: Case, category: str = "") -> list[Probe]:
        """Return the probes of the group, or of one of its categories, that have an answer."""
        group = f"{self.name}/{category}"
        return [
            probe
            for probe in case.probes
            if probe.answer
            and probe.kind != MULTI_HOP
            and (probe.tag == group if category else f"{probe.tag}/".startswith(group))
        ]

    def _queries(self, probe: Probe) -> list[TargetQuery]:
        accepted = probe.answers if self.accept == "any" else probe.answers[:1]
        return [TargetQuery(probe.prompt, answer) for answer in accepted]


def check_categories(categories: Sequence[str], taken: Collection[str]) -> None:
    """Refuse categories that no probe or no two columns could have.

    Raises:
        ValueError: A name is none, is taken by another column, or comes twice.
    """
    for category in categories:
        if not category or category != category.lower() or category in taken or " " in category:
            raise ValueError(f"categories: expected names in lower case without spaces, got {category!r}")
    if len(set(categories)) < len(categories):
        raise ValueError(f"categories: expected each once, got {list(categories)}")


@dataclass(frozen=True, kw_only=True)
class Portability(ProbeAccuracy):
    """Accuracy on what follows from the edit: other names of the subject, several steps of reasoning, the reverse."""

    name = "portability"
    title = "Port."


@dataclass(frozen=True, kw_only=True)
class Locality(ProbeAccuracy):
    """Accuracy on what the edit must not touch, but for other relations of the subject, which are R-Specificity's."""

    name = "locality"
    title = "Loc."


@dataclass(frozen=True, kw_only=True)
class Reverse(ProbeAccuracy):
    """Accuracy on the fact asked from its other end: the new object is given, and the subject is the answer."""

    name = "reverse"
    title = "Reverse"


@dataclass(frozen=True, kw_only=True)
class Alias(ProbeAccuracy):
    """Accuracy on the fact asked about the subject under another name."""

    name = "alias"
    title = "Alias"


@dataclass(frozen=True, kw_only=True)
class Generalization(ProbeAccuracy):
    """Accuracy on the fact asked in another form than as a statement or a question about its object."""

    name = "generalization"
    title = "Gen."
