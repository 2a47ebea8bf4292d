"""Lifelong editing: batch after batch on the accumulated change, with all facts so far evaluated at checkpoints.

The weights are never written to. The accumulated change stands under everything that editors read and optimise
(`Workbench.over`), and is attached when the model is evaluated. It is one dense matrix for each edited weight, so that
memory does not grow with the number of facts. With what the editor keeps in mind it is saved at every checkpoint,
before the evaluation, and a run that was stopped goes on from there with the same numbers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from ke_cli.data.types import Case, EditUnit
from ke_cli.engine.batching import Budget
from ke_cli.engine.edits import NO_EDIT, Edit
from ke_cli.engine.workbench import Workbench
from ke_cli.errors import UnitError
from ke_cli.protocols.base import SequenceProtocol
from ke_cli.running.evaluate import body_of, evaluate_units, head_of, numbers_of, usable
from ke_cli.running.partition import package_size
from ke_cli.running.plan import Plan
from ke_cli.running.sequence_state import State, StateFile
from ke_cli.running.stored import EditKeeper
from ke_cli.running.unedited import AnswerCache

Line = dict[str, Any]


@dataclass(frozen=True, eq=False, slots=True)
class Step:
    """Something was done.

    Args:
        unit: A batch that was written, or all facts so far, which were evaluated.
        reason: Why a batch could not be written; None where it was.
        lines: What was evaluated, a line for each fact; empty for a batch.
        summary: What the record says about a checkpoint; empty for a batch.
    """

    unit: EditUnit
    reason: str | None
    lines: Sequence[Line]
    summary: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Lifelong:
    """A sequence of edits on its way.

    Args:
        plan: The run.
        sequence: Its protocol.
        bench: The model with what belongs to it.
        file: Where the state is saved.
        stages: What is still to be evaluated.
        begun: The state to go on from.
        cache: Of the unedited model's answers, if they are kept.
        keeper: Of the edits, if they are saved.
    """

    plan: Plan
    sequence: SequenceProtocol
    bench: Workbench
    file: StateFile
    stages: Sequence[EditUnit]
    begun: State
    cache: AnswerCache | None
    keeper: EditKeeper | None

    @classmethod
    def of(
        cls,
        plan: Plan,
        bench: Workbench,
        file: StateFile,
        stages: Sequence[EditUnit],
        cache: AnswerCache | None,
        keeper: EditKeeper | None,
    ) -> Lifelong:
        """Go on from the state that was saved.

        One from behind the first stage that is still to be evaluated is of no use: then everything is written again,
        with the same numbers.
        """
        assert plan.sequence is not None, "the units of this run are independent"
        state = file.load(bench.model.device)
        begun = state if state.facts <= len(stages[0].cases) else State()
        return cls(plan, plan.sequence, bench, file, stages, begun, cache, keeper)

    def steps(self) -> Iterator[Step]:
        """Write and evaluate until all stages are done; what is yielded is done but not stored."""
        state = self.begun
        batches = self._batches(state.facts, len(self.stages[-1].cases))
        for stage in self.stages:
            while state.facts < len(stage.cases):
                number, unit = next(batches)
                state, reason = self._written(state, unit)
                yield Step(unit, reason, (), {})
                if self.sequence.save_every and number % self.sequence.save_every == 0:
                    self.file.save(state)
            self.file.save(state)
            yield self._evaluated(stage, state)

    def _batches(self, taken: int, last: int) -> Iterator[tuple[int, EditUnit]]:
        """The batches behind the first ``taken`` facts, up to the fact ``last``, numbered from 1."""
        facts = 0
        for number, unit in enumerate(self.plan.units, start=1):
            if taken <= facts < last:
                yield number, unit
            facts += len(unit.cases)

    def _written(self, state: State, unit: EditUnit) -> tuple[State, str | None]:
        """The state with one more batch, and why it could not be written, if it could not."""
        began = time.perf_counter()
        found: Edit | str
        try:
            with self.bench.over(state.total):
                edit, memory = self.plan.editor.follow(self.bench, unit, state.memory)
            found = usable(self.bench, edit)
        except (UnitError, LinAlgError) as error:
            found = str(error)
        seconds = time.perf_counter() - began
        if isinstance(found, str):
            return state.without(len(unit.cases), unit.unit_id, found, seconds), found
        return state.after(len(unit.cases), found, memory if self.sequence.remember else {}, seconds), None

    def _evaluated(self, stage: EditUnit, state: State) -> Step:
        """What the metrics say about all facts of a stage, on the model with all of them written."""
        began = time.perf_counter()
        edit = self.plan.editor.settled(self.bench, state.total)
        outcomes = [found for cases in self._parts(stage) for found in self._outcomes(stage, cases, edit)]
        seconds = time.perf_counter() - began
        saved = self.keeper.keep(self.bench.model, [stage], [edit])[0] if self.keeper else {}
        count = len(stage.cases)
        said = {"edit": {**numbers_of(edit), **saved}}
        times = {"time": {"edit_s": state.edit_s / count, "evaluate_s": seconds / count}}
        lines = [
            {
                **head_of(stage, case),
                "checkpoint": count,
                "position": place,
                **body_of(case, outcome),
                **said,
                **times,
            }
            for place, (case, outcome) in enumerate(zip(stage.cases, outcomes, strict=True), start=1)
        ]
        return Step(stage, None, lines, {**self.told(count, edit), **_cost(state, seconds)})

    def _outcomes(self, stage: EditUnit, cases: Sequence[Case], edit: Edit) -> list[Any]:
        """The outcome of each of some cases, or why there is none."""
        part = EditUnit(stage.unit_id, tuple(cases))
        return evaluate_units(self.bench, self.plan.metrics, [part], [edit], self.cache) * len(cases)

    def _parts(self, stage: EditUnit) -> Iterator[Sequence[Case]]:
        """The cases of a stage as they are evaluated together: cut alike at every checkpoint."""
        tokens = Budget.of(self.bench.budget).tokens
        singles = [EditUnit(case.case_id, (case,)) for unit in self.plan.units for case in unit.cases]
        size = package_size(singles, tokens)
        return (stage.cases[first : first + size] for first in range(0, len(stage.cases), size))

    def told(self, facts: int, edit: Edit = NO_EDIT) -> dict[str, Any]:
        """What the record says about the model with an edit: the size of the change, and its general ability."""
        norms = {name: update.norm() for name, update in edit.updates.items()}
        tasks = list(self.sequence.ability)
        if not tasks:
            return {"facts": facts, "norms": norms}
        from ke_cli.running.ability import measure_ability  # late: it needs the extra `ability`

        limit = self.sequence.ability_limit
        found = measure_ability(self.bench.model, edit, tasks, limit, manager=self._task_manager)
        return {"facts": facts, "norms": norms, "ability": dict(found)}

    @cached_property
    def _task_manager(self) -> Any:
        """The harness's account of its tasks, read once for all checkpoints."""
        from ke_cli.running.ability import check_tasks

        return check_tasks(self.sequence.ability)


def _cost(state: State, evaluate_s: float) -> dict[str, Any]:
    return {"skipped": dict(state.skipped), "edit_s": state.edit_s, "evaluate_s": evaluate_s}
