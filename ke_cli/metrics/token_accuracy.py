"""Accuracy token by token, as published for zsRE: how much of an answer is right under teacher forcing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ke_cli.data.types import Case, Probe
from ke_cli.engine.queries import Answers, Query, Score, TargetQuery
from ke_cli.metrics.answers import mean, score
from ke_cli.metrics.base import Column, Metric, Values


@dataclass(frozen=True)
class TokenAccuracy(Metric):
    """The share of the answer's tokens that are the arg-max, each given those before it.

    The answer is the new object on the edit prompt and on paraphrases; on neighborhood prompts it is the answer of the
    prompt, else the true object. Accuracy in the metrics of success asks for all tokens at once instead.
    """

    name = "token_accuracy"
    version = 1

    @property
    def columns(self) -> Sequence[Column]:
        """One for each kind of prompts."""
        return (
            Column("token_accuracy_edit", "E-tok"),
            Column("token_accuracy_paraphrase", "P-tok"),
            Column("token_accuracy_neighborhood", "N-tok"),
        )

    def after(self, case: Case, before: Answers) -> Sequence[Query]:
        """Ask for the answer after each prompt."""
        return [query for queries in _asked(case).values() for query in queries]

    def measure(self, case: Case, before: Answers, after: Answers) -> Values:
        """Average over the prompts of each kind."""
        return {
            column: mean(share_of_tokens(score(after, query)) for query in queries)
            for column, queries in _asked(case).items()
        }


def share_of_tokens(found: Score) -> float:
    """Return the share of a target's tokens that are the arg-max."""
    return sum(found.hits) / len(found.hits)


def answered(probes: Iterable[Probe], default: str = "") -> list[TargetQuery]:
    """Return the queries for the gold answers of probes, leaving out those without one."""
    pairs = [(probe.prompt, probe.answer or default) for probe in probes]
    return [TargetQuery(prompt, answer) for prompt, answer in pairs if answer]


def _asked(case: Case) -> dict[str, list[TargetQuery]]:
    request = case.request
    return {
        "token_accuracy_edit": [TargetQuery(request.text, request.target_new)],
        "token_accuracy_paraphrase": [TargetQuery(probe.prompt, request.target_new) for probe in case.paraphrases],
        "token_accuracy_neighborhood": answered(case.neighborhood, request.target_true),
    }
