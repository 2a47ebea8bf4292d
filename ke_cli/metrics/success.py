"""Efficacy, paraphrase and neighborhood: which of two objects is likelier (Meng et al. 2022, section 4).

All three compare the new object ``o_new`` with the true one ``o_true`` under teacher forcing, by the mean NLL
over the tokens of each. Per prompt:

* success: the object that should win has the strictly lower NLL;
* magnitude: ``exp(-nll)`` of the object that should win, minus that of the other;
* accuracy: every token of the object that should win is the arg-max at its position.

A column is the mean over the prompts of a case; None where it has none. Where the true object is not known, there is
nothing to compare with: success and magnitude are None, and accuracy is that of the new object alone.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from ke_cli.data.types import Case, Probe
from ke_cli.engine.queries import Answers, Query, TargetQuery
from ke_cli.metrics.answers import held_out, mean, score
from ke_cli.metrics.base import Column, Metric, Values


@dataclass(frozen=True, slots=True)
class Duel:
    """A prompt, the object that should be likelier after it, and the other one if it is known."""

    winner: TargetQuery
    loser: TargetQuery | None

    @classmethod
    def on(cls, prompt: str, winner: str, loser: str) -> Duel:
        """Return the duel of two objects on a prompt; an empty ``loser`` is not known."""
        return cls(TargetQuery(prompt, winner), TargetQuery(prompt, loser) if loser else None)

    @property
    def queries(self) -> tuple[TargetQuery, ...]:
        """What is asked."""
        return (self.winner,) if self.loser is None else (self.winner, self.loser)

    def success(self, answers: Answers) -> float | None:
        """Return 1 if the right object is likelier, otherwise 0; a tie is no success. None without another object."""
        if self.loser is None:
            return None
        return float(score(answers, self.winner).nll < score(answers, self.loser).nll)

    def magnitude(self, answers: Answers) -> float | None:
        """Return the lead of the right object in ``exp(-nll)``, in [-1, 1]. None without another object."""
        if self.loser is None:
            return None
        return math.exp(-score(answers, self.winner).nll) - math.exp(-score(answers, self.loser).nll)

    def accuracy(self, answers: Answers) -> float:
        """Return 1 if every token of the right object is the arg-max, otherwise 0."""
        return float(score(answers, self.winner).all_hit)


class DuelMetric(Metric):
    """A family of three columns over the duels of a case."""

    name: str
    version: int
    letter: str

    @abstractmethod
    def duels(self, case: Case) -> list[Duel]:
        """Return one duel for each prompt."""

    @property
    def columns(self) -> Sequence[Column]:
        """Success, magnitude and accuracy."""
        return (
            Column(self.name, f"{self.letter}S"),
            Column(f"{self.name}_magnitude", f"{self.letter}M", main=False),
            Column(f"{self.name}_accuracy", f"{self.letter}-acc", main=False),
        )

    def after(self, case: Case, before: Answers) -> Sequence[Query]:
        """Ask for both objects after each prompt."""
        return [query for duel in self.duels(case) for query in duel.queries]

    def measure(self, case: Case, before: Answers, after: Answers) -> Values:
        """Average the duels."""
        duels = self.duels(case)
        return {
            self.name: mean(duel.success(after) for duel in duels),
            f"{self.name}_magnitude": mean(duel.magnitude(after) for duel in duels),
            f"{self.name}_accuracy": mean(duel.accuracy(after) for duel in duels),
        }


@dataclass(frozen=True)
class Efficacy(DuelMetric):
    """ES, EM and accuracy on the edit prompt: the new object should win."""

    name = "efficacy"
    version = 1
    letter = "E"

    def duels(self, case: Case) -> list[Duel]:
        """Return the one duel on the edit prompt."""
        request = case.request
        return [Duel.on(request.text, request.target_new, request.target_true)]


@dataclass(frozen=True)
class Paraphrase(DuelMetric):
    """PS, PM and accuracy on paraphrases; PS of those that are tagged ``held_out`` once more by itself."""

    name = "paraphrase"
    version = 1
    letter = "P"

    def duels(self, case: Case) -> list[Duel]:
        """Return one duel for each paraphrase."""
        return self._duels(case, case.paraphrases)

    @property
    def columns(self) -> Sequence[Column]:
        """Those of the family, and success on held-out paraphrases."""
        return (*super().columns, Column("paraphrase_held_out", "PS held out", main=False))

    def measure(self, case: Case, before: Answers, after: Answers) -> Values:
        """Average the duels, over all paraphrases and over those held out."""
        unseen = self._duels(case, held_out(case.paraphrases))
        success = mean(duel.success(after) for duel in unseen)
        return {**super().measure(case, before, after), "paraphrase_held_out": success}

    def _duels(self, case: Case, probes: Sequence[Probe]) -> list[Duel]:
        request = case.request
        return [Duel.on(probe.prompt, request.target_new, request.target_true) for probe in probes]


@dataclass(frozen=True)
class Neighborhood(DuelMetric):
    """NS, NM and accuracy on other subjects: their true object should win.

    It is ``target_true`` of the request unless a probe has an answer of its own; prompts with neither are not asked.
    """

    name = "neighborhood"
    version = 1
    letter = "N"

    def duels(self, case: Case) -> list[Duel]:
        """Return one duel for each neighbor."""
        request = case.request
        known = [(probe.prompt, probe.answer or request.target_true) for probe in case.neighborhood]
        return [Duel.on(prompt, answer, request.target_new) for prompt, answer in known if answer]
