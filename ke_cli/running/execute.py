"""Doing a run: edit and evaluate package by package, store every finished unit, and go on where a run stopped."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from ke_cli.config import RunConfig, config_dict, run_dir
from ke_cli.data.text import TextSource
from ke_cli.data.types import EditUnit
from ke_cli.engine.batching import Budget
from ke_cli.engine.budget import Shape, reading_tokens
from ke_cli.engine.statistics import StatisticsSpec, StatisticsStore
from ke_cli.engine.trial import try_out
from ke_cli.engine.workbench import Workbench
from ke_cli.errors import UserError, visible
from ke_cli.interrupts import terminable
from ke_cli.models.memory import peak_memory, restart_peak
from ke_cli.paths import cache_dir
from ke_cli.provenance import now
from ke_cli.results.reader import read_run
from ke_cli.results.store import RunStore
from ke_cli.running.belonging import FolderWatch, folder_changed, other_conditions
from ke_cli.running.evaluate import result_lines
from ke_cli.running.failures import Failures
from ke_cli.running.following import Following, Place
from ke_cli.running.opening import first_record
from ke_cli.running.partition import wanted
from ke_cli.running.plan import Plan, make_plan
from ke_cli.running.progress import Progress
from ke_cli.running.reproducible import in_one_order, with_threads
from ke_cli.running.resident import load
from ke_cli.running.showing import complete_already, is_quiet, print_table, progress_of, screen, show_plan
from ke_cli.running.stored import EditKeeper
from ke_cli.running.unedited import AnswerCache


def execute(config: RunConfig, *, show_table: bool = True, job: str = "") -> Path:
    """Do the run that ``config`` describes, or what is left of it, and print its table.

    Args:
        config: The run.
        show_table: Whether its table is printed at the end (a sweep prints one for all of its runs).
        job: What the sweep calls it that the run is part of; empty for a run by itself.

    Returns:
        The run directory.

    Raises:
        UserError: Bad input; everything finished is stored.
        KeyboardInterrupt: After Ctrl-C or SIGTERM; likewise.
    """
    with screen(config) as console:
        plan = make_plan(config)
        for warning in plan.warnings:
            console.print(f"[yellow]warning:[/] {escape(visible(warning))}", highlight=False)
        directory = run_dir(config)
        if config.dry_run:
            show_plan(console, plan, job)
            return directory
        with with_threads(config.cpu_threads), RunStore.open(directory, resume=config.resume) as store, terminable():
            Run(plan, store, console, Failures(config.stop_failed, directory), job).complete()
    if show_table and not is_quiet(config):
        print_table(console, directory)
    if not job:  # a sweep says in the end where its results are
        print("" if is_quiet(config) else "results: ", visible(str(directory)), sep="")
    return directory


@dataclass
class Run:
    """One run on its way: the plan, the place its results go to, and the screen."""

    plan: Plan
    store: RunStore
    console: Console
    failures: Failures
    job: str = ""  # what a sweep calls it
    budget: Budget | None = None  # tokens per batch, once the model is loaded
    keeper: EditKeeper | None = None  # of the edits, where they are to be saved
    watch: FolderWatch | None = None  # on the folder it was loaded from, likewise

    def complete(self) -> None:
        """Compute every unit that is not stored yet; a complete run is recognised without loading the model."""
        given_up = self._given_up()
        left = [unit for unit in self.plan.own if unit.unit_id not in self.store.done_units | given_up]
        for note in self.store.notes:
            self.console.print(f"note: {visible(note)}", highlight=False, markup=False)
        self._refuse_another("dataset", self.plan.dataset.fingerprint)
        self._refuse_another("references", self.plan.references.fingerprint)
        if given_up:
            self._leave(len(given_up), nothing_else=not (left or self.store.done_units))
        self.keeper = EditKeeper.of(self.plan.config, self.store.directory, self.store.done_units)
        if not left:
            self._refuse_changed_folder()
            line = complete_already(self.plan, self.store, self.console, self.job)
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)
            self._record_as_complete()
            return
        done = len(self.plan.own) - len(left)
        if done:
            self.console.print(f"going on: {done} of {len(self.plan.own)} {self.plan.parts} are stored already")
        self._compute(left)

    def _given_up(self) -> set[str]:
        """Failed units that are not tried again; in a sequence, those the model has gone beyond."""
        failed, sequence = self.store.failed_units, self.plan.sequence
        stored = [unit.unit_id for unit in self.plan.own if unit.unit_id in self.store.done_units | failed]
        return failed & set(stored[:-1] if sequence else ()) if self.plan.config.retry_failed else failed

    def _leave(self, units: int, *, nothing_else: bool) -> None:
        """Say that units which failed are not tried again, and why they failed; refuse to show nothing else."""
        retried = self.plan.config.retry_failed
        self.failures.recall(case.error for case in read_run(self.store.directory).failed)
        if nothing_else:
            raise self.failures.nothing_finished(retried=retried)
        why = "the sequence has gone on" if retried else "retry_failed=false"
        what = f"{units} unit(s) failed before and are left as they are ({why})"
        line = visible("; ".join(filter(None, (what, self.failures.most_often()))))
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _refuse_changed_folder(self) -> None:
        """Show no results as those of a model that has changed since; the model need not be loaded for that."""
        if folder_changed(self._earlier, self.plan.source.folder):
            raise _Refused(
                f"the {NAMES['model']} changed since this run began, so its results are not those of the model now",
                where=f"{self.store.directory} (files of {self.plan.source.path})",
                hint="put the old files back, or start anew with resume=false, which moves the old results aside",
            )

    def _record_as_complete(self) -> None:
        """Bring the record of a complete run up to date: its status, and the experiment it is part of."""
        earlier, experiment = self._earlier, config_dict(self.plan.config)["experiment"]
        if earlier.get("status") == "complete" and (earlier.get("config") or {}).get("experiment") == experiment:
            return
        record = earlier or first_record(self.plan, self.store, self._earlier)
        self._write_record({**record, "config": {**record["config"], "experiment": experiment}}, status="complete")

    def _compute(self, left: Sequence[EditUnit]) -> None:
        restart_peak()
        record = first_record(self.plan, self.store, self._earlier)
        record["notes"] = list(dict.fromkeys([*record["notes"], *other_conditions(self._earlier, record)]))
        began = time.perf_counter() - record["wall_s"]
        try:
            self._write_record(record, status="running")
            bench = self._workbench(record)
            self._write_record(record, status="running", began=began)
            cache = AnswerCache.of(cache_dir() / "unedited", bench.model) if self.plan.config.unedited_cache else None
            sequence = self._following(bench, record, left, cache) if self.plan.sequence else None
            bar = progress_of(self.plan, self.store, self.console, self.job)
            with bar as progress, in_one_order(bench.model):
                packages = self._packages(bench, record, left, progress, cache)
                for _ in sequence.stored(progress) if sequence else packages:
                    self._write_record(record, status="running", began=began)  # what a kill leaves
            if not self.store.done_units:
                raise self.failures.nothing_finished(retried=self.plan.config.retry_failed)
            self._write_record(record, status="complete", began=began)
        except _Refused:
            self.store.write_record(self._earlier)  # what is stored still belongs together
            raise
        except BaseException as error:
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            with suppress(UserError):  # on a disk that refuses, what happened first is what the user should read
                self._write_record(record, status=status, began=began)
            raise

    @property
    def _earlier(self) -> dict[str, Any]:
        """What was recorded with the stored part of the run; empty where nothing is stored."""
        stored = self.store.done_units or self.store.failed_units
        return dict(self.store.record or {}) if stored else {}

    def _workbench(self, record: dict[str, Any]) -> Workbench:
        """Load the model and prepare what is computed once per model."""
        config = self.plan.config
        with self.console.status(f"loading {escape(visible(config.model.name))}"):
            model = load(self.plan.source, config.gpu, partial(self._note, record))
        if model.architecture.explored:
            self._note(record, try_out(model))
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
        reading = Budget(reading_tokens(Shape.of(model), model.device.type))
        store = StatisticsStore(cache_dir() / "statistics", spec, reading)
        bench = Workbench(model, store, self.budget, self.plan.references.prompts)
        needed = self.plan.editor.covariance_layers(model.n_layers)
        if needed:
            with self.console.status(f"covariance of layers {', '.join(map(str, needed))}"):
                bench.covariances(needed)
        self._context_templates(bench, record)
        record["model"] = {"name": model.name, "fingerprint": model.fingerprint, "layers": layers}
        if model.origin is not None and self.plan.source.folder is not None:
            record["model"]["files"] = model.origin.record()
            self.watch = FolderWatch(model, self.plan.source.folder, record["notes"], model.origin)
        return bench

    def _note(self, record: dict[str, Any], text: str) -> None:
        """Say something that the record keeps."""
        record["notes"] = [*record["notes"], text]
        self.console.print(f"note: {text}", highlight=False)

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

    def _packages(
        self,
        bench: Workbench,
        record: dict[str, Any],
        left: Sequence[EditUnit],
        progress: Progress,
        cache: AnswerCache | None,
    ) -> Iterator[None]:
        """Do independent units package by package; yields when one is stored."""
        packages = self.plan.packages(record["batch_tokens"]["tokens"])
        for package, names in wanted(packages, {unit.unit_id for unit in left}):
            self.failures.refuse_hopeless()
            self._package(bench, package, names, progress, cache)
            yield

    def _following(
        self, bench: Workbench, record: dict[str, Any], left: Sequence[EditUnit], cache: AnswerCache | None
    ) -> Following:
        """The steps of a sequence that are left."""
        record["checkpoints"] = list(self._earlier.get("checkpoints") or [])
        quiet = self.plan.config.progress == "none"
        say = partial(self.console.print, highlight=False, markup=False, soft_wrap=True)
        place = Place(self.store, self.failures, self.watch, partial(self._note, record), None if quiet else say)
        return Following.of(self.plan, bench, record, left, cache, self.keeper, place)

    def _package(
        self,
        bench: Workbench,
        units: Sequence[EditUnit],
        names: frozenset[str],
        progress: Progress,
        cache: AnswerCache | None,
    ) -> None:
        """Edit and evaluate a package as a whole, and store those of its units that are wanted."""
        progress.begin([unit for unit in units if unit.unit_id in names])
        keeper = self.keeper.only(names) if self.keeper else None
        lines = result_lines(self.plan.editor, self.plan.metrics, bench, units, cache, keeper)
        lines = [line for line in lines if line["unit"] in names]
        if self.watch is not None:
            self.watch.look()
        self.store.append(lines)
        self.failures.add(lines)
        progress.advance(lines)

    def _write_record(self, record: dict[str, Any], *, status: str, began: float | None = None) -> None:
        record["status"] = status
        record["updated_at"] = now()
        record["peak_memory_bytes"] = max(int(record.get("peak_memory_bytes") or 0), peak_memory())
        if began is not None:
            record["wall_s"] = time.perf_counter() - began
        if self.budget is not None:
            record["batch_tokens"]["least"] = self.budget.tokens  # what was left of it where memory ran out
        record["counts"] = {"units_ok": len(self.store.done_units), "units_failed": len(self.store.failed_units)}
        self.store.write_record(record)


NAMES = {"dataset": "dataset has", "model": "model has", "references": "reference prompts have"}


class _Refused(UserError):
    """What is stored was made with something else."""
