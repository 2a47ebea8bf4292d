"""In the wild: the edited fact in text that the model writes by itself, beside what teacher forcing makes of it.

Teacher forcing gives a model the right tokens of an answer and asks for the next one; nobody does that for it in use
(Yang et al. 2025, arXiv 2502.11177).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ke_cli.checks import check_at_least
from ke_cli.data.types import Case
from ke_cli.engine.queries import Answers, ContinuationQuery, Query, TargetQuery
from ke_cli.metrics.answers import generated, mean, score
from ke_cli.metrics.base import Column, Metric, Values
from ke_cli.metrics.instruction import contains, is_exact
from ke_cli.metrics.token_accuracy import share_of_tokens

PREFIXES = ("wild", "wild_paraphrase")
"""How the columns on the edit prompt and on paraphrases begin."""


@dataclass(frozen=True)
class InTheWild(Metric):
    """Greedy text after the bare prompt, without a template, against teacher forcing on the same prompt.

    Exact and containment are those of instruction following. Forced is the share of the new object's tokens that are
    the arg-max, each given those before it. The gap is forced minus containment, which is the kinder of the two to
    free text: a sentence that goes on behind the object is not exact.

    Args:
        max_new_tokens: Length of the text.
    """

    max_new_tokens: int

    name = "wild"
    version = 1

    def __post_init__(self) -> None:
        """Refuse a length that leaves no text."""
        check_at_least(self, 1, "max_new_tokens")

    @property
    def columns(self) -> Sequence[Column]:
        """Four on the edit prompt, of which three are shown, and four on paraphrases."""
        titles = dict(zip(PREFIXES, ("W", "P-W"), strict=True))
        return tuple(
            Column(f"{prefix}_{part}", f"{title}-{part}", "down" if part == "gap" else "up", main=shown)
            for prefix, title in titles.items()
            for part, shown in (
                ("contains", prefix == "wild"),
                ("exact", False),
                ("forced", prefix == "wild"),
                ("gap", prefix == "wild"),
            )
        )

    def after(self, case: Case, before: Answers) -> Sequence[Query]:
        """Ask for a text and for the new object after each prompt."""
        return [query for prompts in _prompts(case) for prompt in prompts for query in self._pair(case, prompt)]

    def measure(self, case: Case, before: Answers, after: Answers) -> Values:
        """Average over the prompts."""
        values: dict[str, float | None] = {}
        for prefix, prompts in zip(PREFIXES, _prompts(case), strict=True):
            values |= {f"{prefix}_{part}": value for part, value in self._parts(case, prompts, after).items()}
        return values

    def _parts(self, case: Case, prompts: Sequence[str], after: Answers) -> dict[str, float | None]:
        target = case.request.target_new
        pairs = [self._pair(case, prompt) for prompt in prompts]
        contained = mean(float(contains(generated(after, text), target)) for text, _ in pairs)
        forced = mean(share_of_tokens(score(after, scored)) for _, scored in pairs)
        return {
            "contains": contained,
            "exact": mean(float(is_exact(generated(after, text), target)) for text, _ in pairs),
            "forced": forced,
            "gap": None if forced is None or contained is None else forced - contained,
        }

    def _pair(self, case: Case, prompt: str) -> tuple[ContinuationQuery, TargetQuery]:
        return ContinuationQuery(prompt, self.max_new_tokens), TargetQuery(prompt, case.request.target_new)


def _prompts(case: Case) -> tuple[list[str], list[str]]:
    """Return the edit prompt, and the paraphrases."""
    return [case.request.text], [probe.prompt for probe in case.paraphrases]
