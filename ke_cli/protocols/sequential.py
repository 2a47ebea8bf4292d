"""Lifelong editing: batches written one after another into the same model, evaluated on the way."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice
from typing import ClassVar

from ke_cli.checks import check_at_least
from ke_cli.data.types import Case, EditUnit
from ke_cli.protocols.crowd import aware, batches, groups_of, unit_of


@dataclass(frozen=True)
class Sequential:
    """Cuts the cases into batches in their order, which are written on top of each other.

    At a checkpoint all facts written so far are evaluated on the model with all of them. What is asked about a fact is
    the same at every checkpoint: nothing that is about any fact of the whole sequence, unless that is wanted.

    Args:
        size: Facts of a batch; the last one holds what is left, and the facts of a `Case.group` stay together.
        checkpoints: Numbers of facts after which the model is evaluated, whole batches each; where groups made a batch
            shorter, behind the last one within that number.
        every: The model is also evaluated whenever so many more facts are written.
        remember: Whether editors that keep the keys of earlier batches in mind (AlphaEdit, ENCORE, EMMET) do so.
        distinct_relations: Of facts with one subject and relation, which contradict each other, keep the first.
        ask_about_written: Keep prompts about other facts of the sequence, whose answers may rightly change.
        ability: Tasks of lm-evaluation-harness that are asked at every checkpoint and before the first edit.
        ability_limit: Questions of each task at most; None for all.
        save_every: Batches after which the state is saved, besides at every checkpoint.
    """

    independent: ClassVar[bool] = False
    groups_cases: ClassVar[bool] = False

    size: int
    checkpoints: tuple[int, ...] | None = None
    every: int | None = None
    remember: bool = True
    distinct_relations: bool = True
    ask_about_written: bool = False
    ability: tuple[str, ...] = ()
    ability_limit: int | None = None
    save_every: int | None = field(default=None, metadata={"camp": "operational"})

    def __post_init__(self) -> None:
        """Refuse numbers that leave nothing, and checkpoints inside a batch."""
        check_at_least(self, 1, "size", "every", "save_every", "ability_limit")
        for name, numbers in (("every", (self.every,)), ("checkpoints", self.checkpoints or ())):
            for number in numbers:
                if number is not None and (number < 1 or number % self.size):
                    nearest = max(1, round(number / self.size)) * self.size
                    raise ValueError(f"{name}: {number} facts are not whole batches of {self.size} (try {nearest})")

    def units(self, cases: Sequence[Case]) -> list[EditUnit]:
        """Return one unit for each batch, in the order in which they are written.

        Raises:
            UserError: If there are no cases.
        """
        cut = batches(cases, self.size, distinct=self.distinct_relations)
        written = [case for unit in cut for case in unit.cases]
        facts = iter(aware(written, groups_of(cases), ask_about_written=self.ask_about_written))
        return [EditUnit(unit.unit_id, tuple(islice(facts, len(unit.cases)))) for unit in cut]

    def stages(self, units: Sequence[EditUnit]) -> list[EditUnit]:
        """Return what is evaluated at each checkpoint: all facts so far, as one unit. The last holds all of them."""
        facts = [case for unit in units for case in unit.cases]
        asked = {*(self.checkpoints or ()), *(range(self.every, len(facts), self.every) if self.every else ())}
        ends = [0, *accumulate(len(unit.cases) for unit in units)]
        lasts = {ends[bisect_right(ends, count) - 1] for count in asked if count <= len(facts)}
        return [unit_of(facts, 0, last) for last in sorted({*lasts, len(facts)} - {0})]
