"""What a run shows of itself on the screen, and what it does not when it is to be quiet."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from ke_cli.config import RunConfig
from ke_cli.errors import visible
from ke_cli.metrics.base import Metric
from ke_cli.report.standing import Standing, in_a_line
from ke_cli.results.follow import FollowedLog
from ke_cli.results.journal import CASES_FILE
from ke_cli.results.record import ColumnRecord
from ke_cli.results.store import RunStore
from ke_cli.running.plan import Plan
from ke_cli.running.progress import Progress, make_progress


def is_quiet(config: RunConfig) -> bool:
    """Whether a run shows nothing but errors and, in the end, its folder; a dry run has nothing else to do."""
    return config.progress == "none" and not config.dry_run


@contextmanager
def screen(config: RunConfig) -> Iterator[Console]:
    """The standard output of a run; while a quiet one lasts, warnings are not shown either.

    What matters about a run stands in its record, whatever was shown.
    """
    quiet, logger = is_quiet(config), logging.getLogger("ke_cli")
    before = logger.level
    if quiet:
        logger.setLevel(logging.ERROR)
    try:
        yield Console(stderr=False, quiet=quiet)
    finally:
        logger.setLevel(before)


def stored(plan: Plan, store: RunStore) -> Standing:
    """How far a run is by what is stored of it."""
    standing = Standing(tuple(columns_of(plan.metrics)), sequence="checkpoints" in plan.totals)
    if store.done_units or store.failed_units:
        _, blocks = FollowedLog(store.directory / CASES_FILE).look()
        for block in blocks:
            standing.take_block(block)
    return standing


def columns_of(metrics: Sequence[Metric]) -> Iterator[ColumnRecord]:
    """Yield the columns of metrics in the terms, and in the order, of a run record."""
    for metric in metrics:
        yield from (ColumnRecord(metric=metric.name, **asdict(column)) for column in metric.columns)
        yield from (ColumnRecord(metric=metric.name, **asdict(column)) for column in metric.derived)


def progress_of(plan: Plan, store: RunStore, console: Console, job: str = "") -> Progress:
    """The display of a run that begins, or goes on.

    Args:
        plan: What is to be done.
        store: What has been; failed units count as not done where they are tried again.
        console: The screen.
        job: What a sweep calls the run; empty for a run by itself.
    """
    standing = stored(plan, store)
    if plan.config.retry_failed:
        standing.forget_failures()
    title = visible(job or f"{plan.config.method.name} on {plan.dataset.name}")
    return make_progress(plan.config.progress, console, title, plan.totals["cases"], standing, one_of_many=bool(job))


def complete_already(plan: Plan, store: RunStore, console: Console, job: str = "") -> str:
    """Return the line for a run in which nothing is left to compute; see `progress_of`."""
    if not job:
        return "this run is complete: its results are shown, nothing is computed again"
    standing = stored(plan, store)
    line = f"{visible(job)}: this run is complete, {standing.done}/{plan.totals['cases']} cases"
    room = console.width - len(line) - 2 if console.is_terminal else None
    return f"{line}  {in_a_line(standing.points(), room)}".rstrip()


def show_plan(console: Console, plan: Plan, job: str = "") -> None:
    """Print what a run would do; see `progress_of`."""
    from rich.table import Table

    name = f"{escape(visible(job))}: " if job else ""
    console.print(f"{name}what this run would do (dry_run=true)", highlight=False)
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in plan.describe():
        table.add_row(name, escape(visible(value)))
    console.print(table)


def print_table(console: Console, directory: Path) -> None:
    """Print the table of a run directory."""
    from ke_cli.report.summary import print_run_table

    print_run_table([directory], console)
