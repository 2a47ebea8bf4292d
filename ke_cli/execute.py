"""Doing a run: edit and evaluate package by package, store every finished unit, and go on where a run stopped."""

from __future__ import annotations

import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ke_cli.config import RunConfig, config_dict, run_dir, run_id, run_identity
from ke_cli.data.text import TextSource
from ke_cli.data.types import EditUnit
from ke_cli.engine.batching import Budget
from ke_cli.engine.statistics import StatisticsSpec, StatisticsStore
from ke_cli.engine.workbench import Workbench
from ke_cli.errors import UserError
from ke_cli.evaluate import result_lines
from ke_cli.metrics.base import Metric
from ke_cli.models.loading import load
from ke_cli.paths import cache_dir
from ke_cli.plan import Plan, make_plan
from ke_cli.progress import Progress, make_progress
from ke_cli.provenance import environment, git_state, hardware, now
from ke_cli.results.store import RunStore
from ke_cli.unedited import AnswerCache


def execute(config: RunConfig, *, show_table: bool = True) -> Path:
    """Do the run that ``config`` describes, or what is left of it, and print its table.

    Args:
        config: The run.
        show_table: Whether its table is printed at the end (a sweep prints one for all of its runs).

    Returns:
        The run directory.

    Raises:
        UserError: Bad input; everything finished is stored.
        KeyboardInterrupt: After Ctrl-C or SIGTERM; likewise.
    """
    console = Console(stderr=False)
    plan = make_plan(config)
    for warning in plan.warnings:
        console.print(f"[yellow]warning:[/] {warning}", highlight=False)
    directory = run_dir(config)
    if config.dry_run:
        _show_plan(console, plan)
        return directory
    with RunStore.open(directory, resume=config.resume) as store, _terminable():
        Run(plan, store, console).complete()
    if show_table:
        _print_table(console, directory)
    console.print(f"results: {directory}", highlight=False, soft_wrap=True)
    return directory


@dataclass
class Run:
    """One run on its way: the plan, the place its results go to, and the screen."""

    plan: Plan
    store: RunStore
    console: Console
    reasons: Counter[str] = field(default_factory=Counter)  # why cases failed
    budget: Budget | None = None  # tokens per batch, once the model is loaded

    def complete(self) -> None:
        """Compute every unit that is not stored yet; a complete run is recognised without loading the model."""
        left = [unit for unit in self.plan.units if unit.unit_id not in self.store.done_units]
        for note in self.store.notes:
            self.console.print(f"note: {note}", highlight=False)
        self._refuse_another("dataset", self.plan.dataset.fingerprint)
        self._refuse_another("references", self.plan.references.fingerprint)
        if not left:
            self.console.print("this run is complete: its results are shown, nothing is computed again")
            self._record_as_complete()
            return
        done = len(self.plan.units) - len(left)
        if done:
            self.console.print(f"going on: {done} of {len(self.plan.units)} units are stored already")
        self._compute(left)

    def _record_as_complete(self) -> None:
        """Bring the record of a complete run up to date: its status, and the experiment it is part of."""
        earlier, experiment = self._earlier, config_dict(self.plan.config)["experiment"]
        if earlier.get("status") == "complete" and (earlier.get("config") or {}).get("experiment") == experiment:
            return
        record = earlier or self._first_record()
        self._write_record({**record, "config": {**record["config"], "experiment": experiment}}, status="complete")

    def _compute(self, left: Sequence[EditUnit]) -> None:
        record = self._first_record()
        began = time.perf_counter() - record["wall_s"]
        self._write_record(record, status="running")
        try:
            bench = self._workbench(record)
            self._write_record(record, status="running", began=began)
            cache = AnswerCache.of(cache_dir() / "unedited", bench.model) if self.plan.config.unedited_cache else None
            size = self.plan.package(record["batch_tokens"]["tokens"])
            with make_progress(self.plan.config.progress, self.console, self.plan, len(left)) as progress:
                for start in range(0, len(left), size):
                    self._package(bench, left[start : start + size], progress, cache)
                    self._write_record(record, status="running", began=began)  # what a kill leaves
        except _Refused:
            self.store.write_record(self._earlier)  # what is stored still belongs together
            raise
        except BaseException as error:
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            self._write_record(record, status=status, began=began)
            raise
        if not self.store.done_units:
            self._write_record(record, status="failed", began=began)
            raise self._nothing_finished()
        self._write_record(record, status="complete", began=began)

    def _nothing_finished(self) -> UserError:
        reason, cases = self.reasons.most_common(1)[0]
        return UserError(
            f"no unit could be finished; the reason for {cases} of {sum(self.reasons.values())} cases: {reason}",
            where=str(self.store.directory),
            hint="the same command tries them again",
        )

    @property
    def _earlier(self) -> dict[str, Any]:
        """What was recorded with the stored part of the run; empty where nothing is stored."""
        stored = self.store.done_units or self.store.failed_units
        return dict(self.store.record or {}) if stored else {}

    def _workbench(self, record: dict[str, Any]) -> Workbench:
        """Load the model and prepare what is computed once per model."""
        config = self.plan.config
        with self.console.status(f"loading {config.model.name}"):
            model = load(self.plan.source)
        self._refuse_another("model", model.fingerprint)
        layers = self.plan.editor.edited_layers(model.n_layers)
        spec = StatisticsSpec(
            TextSource(config.statistics.text),
            config.statistics.tokens_per_width,
            config.statistics.tokens,
            config.statistics.max_length,
        )
        found = self.plan.budget(model)
        record["batch_tokens"] = asdict(found)
        self.budget = Budget(found.tokens)
        store = StatisticsStore(cache_dir() / "statistics", spec, self.budget)
        bench = Workbench(model, store, self.budget, self.plan.references.prompts)
        needed = self.plan.editor.covariance_layers(model.n_layers)
        if needed:
            with self.console.status(f"covariance of layers {', '.join(map(str, needed))}"):
                bench.covariances(needed)
        self._context_templates(bench, record)
        record["model"] = {"name": model.name, "fingerprint": model.fingerprint, "layers": layers}
        return bench

    def _refuse_another(self, part: str, fingerprint: str) -> None:
        """Refuse to go on with another model or data set than the stored part of the run was made with."""
        known = (self._earlier.get(part) or {}).get("fingerprint")
        if known and known != fingerprint:
            raise _Refused(
                f"the {NAMES[part]} changed since this run began, so its results would not belong together",
                where=f"{self.store.directory} (fingerprint {known[:12]}, now {fingerprint[:12]})",
                hint="resume=false starts anew and moves the old results aside",
            )

    def _context_templates(self, bench: Workbench, record: dict[str, Any]) -> None:
        """Sample the context templates, or take those that the stored part of the run was made with."""
        spec = self.plan.editor.context()
        if spec is None:
            return
        if record.get("context_templates"):
            bench.use_templates(spec, record["context_templates"])
        record["context_templates"] = list(bench.templates(spec))

    def _package(
        self, bench: Workbench, units: Sequence[EditUnit], progress: Progress, cache: AnswerCache | None
    ) -> None:
        """Edit and evaluate some units together and store them."""
        lines = result_lines(self.plan.editor, self.plan.metrics, bench, units, cache)
        self.store.append(lines)
        self.reasons.update(line["error"] for line in lines if line["error"])
        progress.advance(len(units), lines)

    def _first_record(self) -> dict[str, Any]:
        """The run record before anything is computed; what an earlier part of the run recorded is kept."""
        config, earlier = self.plan.config, self._earlier
        notes = (*(earlier.get("notes") or []), *self.store.notes, *self.plan.warnings)
        return {
            "schema": 1,
            "run_id": run_id(config),
            "name": self.store.directory.name,
            "config": config_dict(config),
            "identity": run_identity(config),
            "metrics": {metric.name: _described(metric) for metric in self.plan.metrics},
            "totals": {"cases": self.plan.cases, "units": len(self.plan.units)},
            "model": earlier.get("model") or {},
            "dataset": {
                "name": self.plan.dataset.name,
                "fingerprint": self.plan.dataset.fingerprint,
                "source": self.plan.dataset.source,
            },
            "references": {
                "source": self.plan.references.source,
                "fingerprint": self.plan.references.fingerprint,
                "prompts": len(self.plan.references.prompts),
            },
            "versions": environment(),
            "git": git_state(),
            "hardware": hardware(),
            "context_templates": earlier.get("context_templates") or [],
            "started_at": earlier.get("started_at") or now(),
            "wall_s": float(earlier.get("wall_s") or 0.0),
            "peak_memory_bytes": int(earlier.get("peak_memory_bytes") or 0),
            "command": sys.argv,
            "notes": list(dict.fromkeys(notes)),  # a warning comes again whenever the run goes on
        }

    def _write_record(self, record: dict[str, Any], *, status: str, began: float | None = None) -> None:
        record["status"] = status
        record["updated_at"] = now()
        record["peak_memory_bytes"] = max(int(record.get("peak_memory_bytes") or 0), _peak_memory_bytes())
        if began is not None:
            record["wall_s"] = time.perf_counter() - began
        if self.budget is not None:
            record["batch_tokens"]["least"] = self.budget.tokens  # what was left of it where memory ran out
        record["counts"] = {"units_ok": len(self.store.done_units), "units_failed": len(self.store.failed_units)}
        self.store.write_record(record)


NAMES = {"dataset": "dataset has", "model": "model has", "references": "reference prompts have"}


class _Refused(UserError):
    """What is stored was made with something else."""


def _described(metric: Metric) -> dict[str, Any]:
    """A metric's version and columns, so that results can be summarised without its code."""
    columns = [asdict(column) for column in metric.columns]
    derived = [asdict(column) for column in metric.derived]
    return {"version": metric.version, "columns": columns, "derived": derived}


def _peak_memory_bytes() -> int:
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the run as Ctrl-C does: cleanly, with everything finished stored."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    try:
        old = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread: the launcher owns the signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)


def _show_plan(console: Console, plan: Plan) -> None:
    from rich.table import Table

    table = Table(title="what this run would do (dry_run=true)", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in plan.describe():
        table.add_row(name, value)
    console.print(table)


def _print_table(console: Console, directory: Path) -> None:
    from ke_cli.report.summary import print_run_table

    print_run_table([directory], console)
