"""Overlap: how much of a long answer does the edited model write by itself?

ROUGE-L (Lin 2004), as for the paragraphs of UnKE (Deng et al. 2024, arXiv 2405.15349).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ke_cli.checks import check_at_least
from ke_cli.data.types import Case
from ke_cli.engine.queries import Answers, InstructionQuery, Query
from ke_cli.metrics.answers import generated, mean
from ke_cli.metrics.base import Column, Metric, Values

WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Overlap(Metric):
    """ROUGE-L of the new object and greedy text, on the edit prompt and on paraphrases.

    With ``m`` the length of the longest common subsequence of words (in lower case, punctuation left out), recall is
    ``m`` by the words of the new object, and F is the harmonic mean of it and of ``m`` by the words of the text.
    Prompts are asked as in instruction following, since they are questions where answers are long.

    Args:
        max_new_tokens: Length of the text.
    """

    max_new_tokens: int

    name = "overlap"
    version = 1

    def __post_init__(self) -> None:
        """Refuse a length that leaves no text."""
        check_at_least(self, 1, "max_new_tokens")

    @property
    def columns(self) -> Sequence[Column]:
        """Recall and F, on both kinds of prompts."""
        return (
            Column("rouge_l_recall", "R-L recall"),
            Column("rouge_l", "R-L"),
            Column("rouge_l_recall_paraphrase", "P R-L recall"),
            Column("rouge_l_paraphrase", "P R-L", main=False),
        )

    def after(self, case: Case, before: Answers) -> Sequence[Query]:
        """Ask the edit prompt and the paraphrases."""
        return [self._query(prompt) for prompt in _prompts(case)]

    def measure(self, case: Case, before: Answers, after: Answers) -> Values:
        """Average over the prompts."""
        prompts = _prompts(case)
        pairs = [rouge_l(generated(after, self._query(prompt)), case.request.target_new) for prompt in prompts]
        return {
            "rouge_l_recall": pairs[0][0],
            "rouge_l": pairs[0][1],
            "rouge_l_recall_paraphrase": mean(recall for recall, _ in pairs[1:]),
            "rouge_l_paraphrase": mean(f for _, f in pairs[1:]),
        }

    def _query(self, prompt: str) -> InstructionQuery:
        return InstructionQuery(prompt, self.max_new_tokens)


def _prompts(case: Case) -> list[str]:
    return [case.request.text, *(probe.prompt for probe in case.paraphrases)]


def rouge_l(text: str, target: str) -> tuple[float, float]:
    """Return recall and F of the longest common subsequence of words."""
    written, wanted = (WORD.findall(one.lower()) for one in (text, target))
    common = longest_common(written, wanted)
    if not common:
        return 0.0, 0.0
    recall, precision = common / len(wanted), common / len(written)
    return recall, 2 * recall * precision / (recall + precision)


def longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the length of the longest common subsequence."""
    row = [0] * (len(second) + 1)
    for word in first:
        before = row[:]
        for place, other in enumerate(second, start=1):
            row[place] = before[place - 1] + 1 if word == other else max(row[place - 1], before[place])
    return row[-1]
