"""Effect sizes: paired differences to one row, with intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ke_cli.report.plots.figures import Figure, Forest, LeftOut, Point, group_slug
from ke_cli.report.rows import UNEDITED, Row, group_runs, make_rows
from ke_cli.report.statistics import LEVEL
from ke_cli.report.tables import Cell, Line, Table, build_tables, heading
from ke_cli.report.view import View, settled
from ke_cli.results.reader import Run
from ke_cli.results.record import ColumnRecord

BASELINE = "rome"
"""The method that others are compared with unless the reader or the experiment names another."""

MOST_ROWS = 40
MOST_COLUMNS = 8
TITLE = "Effect sizes"


def differences(runs: Sequence[Run], view: View) -> Iterator[Figure | LeftOut]:
    """Differences of all rows to the row that is compared with, a figure for each table."""
    layout = settled(view, runs)
    for group, members in group_runs(runs, layout.split):
        rows = make_rows(members, layout.by)
        against = _baseline(rows, layout.against)
        if against is None:
            yield LeftOut(f"{TITLE}: {group.title}", "there are not two rows with edits to compare")
            continue
        given = replace(view, by=layout.by, split=tuple(dict(group.split)), against=against.label)
        (table,) = build_tables(members, given)
        lines = [line for line in table.lines if line.row.method != UNEDITED and _is_compared(line)]
        if not lines:
            yield LeftOut(f"{TITLE}: {group.title}", "no case is common to all rows")
            continue
        yield _figure(table, lines[:MOST_ROWS], against.label, len(lines))


def _baseline(rows: Sequence[Row], wanted: str) -> Row | None:
    """Return the row wanted, else the only one of `BASELINE`, else the first that edits anything."""
    edited = [row for row in rows if row.method != UNEDITED]
    if len(rows) < 2 or not edited:
        return None
    for name in filter(None, (wanted, BASELINE)):
        same = [row for row in rows if row.label == name] or [row for row in rows if row.method == name]
        if len(same) == 1:
            return same[0]
    return edited[0] if len(edited) > 1 else None


def _is_compared(line: Line) -> bool:
    return any(cell.is_difference for cell in line.cells)


def _figure(table: Table, lines: Sequence[Line], against: str, rows: int) -> Figure:
    columns = table.columns[:MOST_COLUMNS]
    forest = Forest(
        title=table.title,
        labels=tuple(line.row.label for line in lines),
        headings=tuple(_heading(column) for column in columns),
        points=tuple(
            tuple(_point(line.cells[place], column) for line in lines) for place, column in enumerate(columns)
        ),
        against=against,
        upwards=tuple(column.direction == "up" for column in columns),
    )
    more = f" The first {len(lines)} of {rows} rows." if rows > len(lines) else ""
    caption = f"{table.title}: paired differences to {against} on common cases, with {LEVEL:.0%} intervals.{more}"
    return Figure(f"effects-{group_slug(table.group)}", f"{TITLE} against {against}", caption, forest)


def _heading(column: ColumnRecord) -> str:
    return f"{heading(column)}  [points]" if column.scale == 100 else heading(column)


def _point(cell: Cell, column: ColumnRecord) -> Point | None:
    estimate = cell.estimate
    if estimate.value is None or not cell.is_difference:
        return None
    low, high = (estimate.value if end is None else end for end in (estimate.low, estimate.high))
    return estimate.value * column.scale, low * column.scale, high * column.scale
