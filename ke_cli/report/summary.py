"""The table at the end of ``ke-run``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from ke_cli.report.formats.terminal import print_tables
from ke_cli.report.tables import build_tables
from ke_cli.results.reader import Run, read_run
from ke_cli.results.shards import join_shards
from ke_cli.results.text import printable


def print_run_table(directories: Sequence[Path], console: Console) -> None:
    """Print a row for each of the given runs, shards put together, and what is wrong with their files, if anything."""
    runs = join_shards([read_run(directory) for directory in directories])
    print_problems(runs, console)
    print_tables(build_tables(runs), console)


def print_problems(runs: Sequence[Run], console: Console) -> None:
    """Print every problem of the runs' files under the name of its run."""
    for run in runs:
        for problem in run.problems:
            console.print(Text(f"{printable(run.path)}: {problem}", style="yellow"), soft_wrap=True)
