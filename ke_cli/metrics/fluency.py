"""Fluency: does the edited model still write varied text, or does it repeat itself?

Generation entropy after Zhang et al. 2018 (arXiv 1809.05972), with the weights of Meng et al. 2022 (arXiv 2202.05262).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ke_cli.checks import check_at_least
from ke_cli.data.types import Case
from ke_cli.engine.queries import Answers, Query, SampleQuery
from ke_cli.metrics.answers import generated, mean
from ke_cli.metrics.base import Column, Metric, Values

WEIGHTS = ((2, 2 / 3), (3, 4 / 3))
"""Length of n-grams, and the weight of their entropy."""

WORD = re.compile(
    r"n't\b|'(?:s|m|d|re|ve|ll)\b"  # what English contractions end in
    r"|(?:\w\.){2,}"  # U.S.
    r"|\d+(?:[.,:]\d+)+"  # 1,000.5
    r"|\w+?(?=n't\b)"  # what they begin with
    r"|\w+(?:[-/]\w+)*"
    r"|\.{2,}|-{2,}|[^\w\s]",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class SampledText:
    """Texts that begin with prompts of a case, one for each prompt; a prompt may come more than once.

    Args:
        prompts: The case's generation prompts (``generation``), its edit prompt (``edit``), or the edit prompt where
            there are no generation prompts (``generation_or_edit``).
        length: Tokens of a text, those of its prompt included.
        top_k: Only the ``k`` most likely tokens are drawn from.
        seed: Of the random numbers, which are the same for all methods.
    """

    prompts: Literal["generation", "edit", "generation_or_edit"]
    length: int
    top_k: int
    seed: int

    def __post_init__(self) -> None:
        """Refuse numbers that leave no text."""
        check_at_least(self, 1, "length", "top_k")

    def texts(self, case: Case) -> list[SampleQuery]:
        """Return the queries for the texts of a case."""
        seen: Counter[str] = Counter()
        queries = []
        for prompt in self._beginnings(case):
            queries.append(SampleQuery(prompt, self.length, self.top_k, self.seed, seen[prompt]))
            seen[prompt] += 1
        return queries

    def _beginnings(self, case: Case) -> tuple[str, ...]:
        given = case.generation if self.prompts != "edit" else ()
        return given or (() if self.prompts == "generation" else (case.request.text,))


@dataclass(frozen=True)
class Fluency(SampledText, Metric):
    """Entropy of the n-grams of sampled texts, averaged over the texts of a case.

    That of a text is ``(2/3 H_2 + 4/3 H_3) / 2``, with ``H_n`` the entropy, in bits, of the distribution of its n-grams
    of words. One of 80 words that never repeats itself has 6.3 bits, shown as 630; one that says the same word again
    and again has 0.
    """

    name = "fluency"
    version = 1

    @property
    def columns(self) -> Sequence[Column]:
        """The entropy."""
        return (Column("fluency", "Fluency"),)

    def after(self, case: Case, before: Answers) -> Sequence[Query]:
        """Ask for one text for each prompt."""
        return self.texts(case)

    def measure(self, case: Case, before: Answers, after: Answers) -> Values:
        """Average over the texts."""
        return {"fluency": mean(generation_entropy(generated(after, query)) for query in self.texts(case))}


def generation_entropy(text: str) -> float:
    """Return the weighted mean of the entropies of a text's pairs and triples of words, in bits."""
    tokens = words(text)
    return sum(weight * entropy(_grams(tokens, n)) for n, weight in WEIGHTS) / len(WEIGHTS)


def entropy(grams: Counter[tuple[str, ...]]) -> float:
    """Return the entropy of a distribution given by counts, in bits; 0 where nothing was counted."""
    total = sum(grams.values())
    return -sum(count / total * math.log2(count / total) for count in grams.values())


def words(text: str) -> list[str]:
    """Return words and punctuation marks as the Penn Treebank parts them, as far as that needs no list of words."""
    return WORD.findall(text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))


def _grams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1))
