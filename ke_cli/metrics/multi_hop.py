"""Multi-hop accuracy: can the edited model put an edited fact and others together?

MQuAKE (Zhong et al. 2023, arXiv 2305.14795): each question in several phrasings, and right if one of them is answered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ke_cli.checks import check_at_least
from ke_cli.data.types import MULTI_HOP, Case, Probe
from ke_cli.engine.queries import Answers, InstructionQuery, Query, TargetQuery
from ke_cli.metrics.answers import generated, mean, score
from ke_cli.metrics.base import Column, Metric, Values
from ke_cli.metrics.instruction import contains, is_exact

Right = Callable[[Probe], bool]
"""Whether a phrasing of a question is answered right."""


@dataclass(frozen=True)
class MultiHop(Metric):
    """The share of questions that are answered right in one phrasing at least, by any of the right answers.

    Exact and contains: greedy text, asked as in instruction following; the first sentence is a right answer, or one
    stands anywhere in the text. Forced: every token of a right answer is the arg-max behind the bare question, each
    given those before it.

    Args:
        max_new_tokens: Length of the text.
    """

    max_new_tokens: int

    name = "multi_hop"
    version = 1

    def __post_init__(self) -> None:
        """Refuse a length that leaves no text."""
        check_at_least(self, 1, "max_new_tokens")

    @property
    def columns(self) -> Sequence[Column]:
        """In text of the model's own, and under teacher forcing."""
        return (
            Column("multi_hop_exact", "M-hop"),
            Column("multi_hop_contains", "M-hop contains", main=False),
            Column("multi_hop_forced", "M-hop forced"),
        )

    def after(self, case: Case, before: Answers) -> Sequence[Query]:
        """Ask every phrasing, for a text and for each of the right answers."""
        queries: list[Query] = []
        for probe in (probe for phrasings in _questions(case) for probe in phrasings):
            queries += [self._text(probe), *_forced(probe)]
        return queries

    def measure(self, case: Case, before: Answers, after: Answers) -> Values:
        """Average over the questions."""

        def text(probe: Probe) -> str:
            return generated(after, self._text(probe))

        return {
            "multi_hop_exact": _share(case, lambda probe: any(is_exact(text(probe), one) for one in probe.answers)),
            "multi_hop_contains": _share(case, lambda probe: any(contains(text(probe), one) for one in probe.answers)),
            "multi_hop_forced": _share(case, lambda probe: any(score(after, one).all_hit for one in _forced(probe))),
        }

    def _text(self, probe: Probe) -> InstructionQuery:
        return InstructionQuery(probe.prompt, self.max_new_tokens)


def _questions(case: Case) -> list[list[Probe]]:
    """Return the phrasings of each question, which share a tag; those without a right answer are left out."""
    questions: dict[str, list[Probe]] = {}
    for probe in case.probes:
        if probe.kind == MULTI_HOP and probe.answer:
            questions.setdefault(probe.tag, []).append(probe)
    return list(questions.values())


def _forced(probe: Probe) -> list[TargetQuery]:
    return [TargetQuery(probe.prompt, answer) for answer in probe.answers]


def _share(case: Case, right: Right) -> float | None:
    return mean(float(any(map(right, phrasings))) for phrasings in _questions(case))
