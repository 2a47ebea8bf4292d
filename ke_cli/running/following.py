"""A sequence of edits in its run directory: checkpoints are stored as they come, and said."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ke_cli.data.types import EditUnit
from ke_cli.engine.workbench import Workbench
from ke_cli.metrics.base import Metric
from ke_cli.results.store import RunStore
from ke_cli.running.belonging import FolderWatch
from ke_cli.running.failures import Failures
from ke_cli.running.plan import Plan
from ke_cli.running.progress import Progress
from ke_cli.running.sequence import Lifelong, Step
from ke_cli.running.sequence_state import StateFile
from ke_cli.running.stored import EditKeeper
from ke_cli.running.unedited import AnswerCache

SHOWN = 6
"""Columns whose means are said at a checkpoint."""

Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Place:
    """Where a run's results go.

    Args:
        store: Its directory.
        failures: What failed so far.
        watch: On the folder of the model, where it has one.
        note: Says something that the record keeps.
        say: Says something; None where nothing is to be shown.
    """

    store: RunStore
    failures: Failures
    watch: FolderWatch | None
    note: Say
    say: Say | None


@dataclass(frozen=True, eq=False)
class Following:
    """A sequence on its way into a run directory.

    Args:
        plan: The run.
        lifelong: What is computed.
        record: Of the run; gets an entry for each checkpoint.
        place: Where the results go.
    """

    plan: Plan
    lifelong: Lifelong
    record: dict[str, Any]
    place: Place

    @classmethod
    def of(
        cls,
        plan: Plan,
        bench: Workbench,
        record: dict[str, Any],
        left: Sequence[EditUnit],
        cache: AnswerCache | None,
        keeper: EditKeeper | None,
        place: Place,
    ) -> Following:
        """Go on from the state in the run directory; ``left`` are the checkpoints that are not stored yet."""
        identity = {"run": record["run_id"], "model": bench.model.fingerprint, "data": plan.dataset.fingerprint}
        file = StateFile.of(place.store.directory, **identity)
        lifelong = Lifelong.of(plan, bench, file, left, cache, keeper)
        if lifelong.sequence.ability and not record["checkpoints"]:
            record["checkpoints"] = [lifelong.told(0)]
        return cls(plan, lifelong, record, place)

    def stored(self, progress: Progress) -> Iterator[None]:
        """Do all steps; yields when a checkpoint is stored.

        Raises:
            UserError: Too much failed, the disk refuses, or the model folder changed.
        """
        written = progress.count
        for step in self.lifelong.steps():
            if self.place.watch is not None:
                self.place.watch.look()
            self.place.failures.add(step.lines or [_line(step)])
            if step.reason:
                self.place.note(f"{step.unit.unit_id} could not be written: {step.reason}")
            written += 0 if step.lines else len(step.unit.cases)
            if step.lines:
                self._store(step)
                yield
            progress.advance(step.lines, written=written)
            self.place.failures.refuse_hopeless()

    def _store(self, step: Step) -> None:
        self.place.store.append(step.lines)
        others = [told for told in self.record["checkpoints"] if told["facts"] != step.summary["facts"]]
        self.record["checkpoints"] = [*others, step.summary]
        if self.place.say is not None:
            self.place.say(at_checkpoint(self.plan.metrics, step))


def _line(step: Step) -> dict[str, Any]:
    """How writing a batch ended, in the words of a result line."""
    return {"unit": step.unit.unit_id, "status": "failed" if step.reason else "ok", "error": step.reason}


def at_checkpoint(metrics: Sequence[Metric], step: Step) -> str:
    """A line that says how the model is doing, for example ``after 100 facts: efficacy 99.0  paraphrase 95.5``."""
    columns = [column for metric in metrics for column in metric.columns if column.main and column.direction == "up"]
    found = []
    for column in columns[:SHOWN]:
        values = [line["metrics"].get(column.name) for line in step.lines]
        known = [value for value in values if value is not None]
        found += [f"{column.name} {column.scale * sum(known) / len(known):.1f}"] if known else []
    found += [f"{task} {value:.3f}" for task, value in step.summary.get("ability", {}).items()]
    failed = sum(line["status"] != "ok" for line in step.lines)
    found += [f"[failed {failed}]"] if failed else []
    edited, asked = step.summary["edit_s"], step.summary["evaluate_s"]
    return f"after {len(step.lines)} facts: {'  '.join(found)}  (edited in {edited:.0f} s, asked in {asked:.0f} s)"
