"""Looking at the tables of the runs below a folder."""

from __future__ import annotations

from pathlib import Path

from ke_cli.report.tables import Table, View, build_tables
from ke_cli.results.reader import find_runs, read_run


def tables_of(folder: Path, view: View | None = None) -> list[Table]:
    """Every column, unless the view says otherwise."""
    return build_tables([read_run(path) for path in find_runs([folder])], view or View(metrics=("all",)))


def table_of(folder: Path, view: View | None = None) -> Table:
    (table,) = tables_of(folder, view)
    return table


def labels(table: Table) -> list[str]:
    return [line.label for line in table.lines]


def values(table: Table, column: str) -> list[float | None]:
    place = [c.name for c in table.columns].index(column)
    return [line.cells[place].estimate.value for line in table.lines]


def best(table: Table, column: str) -> list[str]:
    place = [c.name for c in table.columns].index(column)
    return [line.label for line in table.lines if line.cells[place].best]


def at(minute: int) -> str:
    return f"2025-01-01T00:{minute:02d}:00+00:00"
