"""Two runs side by side, on a terminal and as data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from ke_cli.report.captions import MARK
from ke_cli.report.cells import cell_texts, number
from ke_cli.report.finding.difference import CaseChange, Change, ColumnChange, Difference, better
from ke_cli.report.tables import heading
from ke_cli.results.record import ColumnRecord
from ke_cli.results.text import printable

_DASH = "\N{EN DASH}"
_ARROW = "\N{RIGHTWARDS ARROW}"
LONGEST = 200
"""Characters of a setting that are shown."""


def print_difference(found: Difference, most: int, console: Console) -> None:
    """Print all there is to say about two runs.

    Args:
        found: As `difference` returns it.
        most: How many cases are listed.
        console: Where to.
    """
    console.print()
    for letter, name, run in zip("AB", found.names, found.runs, strict=True):
        console.print(Text.assemble((f"{letter}  {printable(name)}", "bold"), (f"   {printable(run)}", "dim")))
    _changes("Configuration", found.configuration, "the same in all that can change a number", console)
    _changes("How they were computed", (*found.operation, *found.surroundings), "the same", console)
    if found.columns:
        _title("Columns", console)
        console.print(_columns(found))
        console.print()
        console.print(Text(found.caption, style="dim"))
        _cases(found, most, console)
    for note in found.notes:
        console.print(Text(note, style="dim"))


def _title(text: str, console: Console) -> None:
    console.print()
    console.print(Text(text, style="bold"))
    console.print()


def _changes(title: str, changes: Sequence[Change], nothing: str, console: Console) -> None:
    if not changes:
        console.print()
        console.print(Text.assemble((title, "bold"), f": {nothing}"))
        return
    _title(title, console)
    grid = _grid("", "A", "B")
    for change in changes:
        grid.add_row(Text(change.key), *(Text(_shown(change.key, text)) for text in (change.one, change.other)))
    console.print(grid)


def _shown(key: str, text: str | None) -> str:
    """Return a setting as people read it: sizes and times with their unit, long ones cut."""
    if text is None:
        return _DASH
    if key.endswith("_bytes") and text.isdecimal():
        return f"{int(text) / 2**20:,.0f} MiB"
    if key.endswith("_s") and text.replace(".", "", 1).isdecimal():
        return f"{float(text):,.1f} s"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _grid(*titles: str) -> Grid:
    grid = Grid(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for title in titles:
        grid.add_column(title, overflow="fold")
    return grid


def _columns(found: Difference) -> Grid:
    """Return a row for each column: both numbers, the difference with its interval and test, who wins how often."""
    grid = Grid(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    grid.add_column("Column", overflow="fold")
    for title in ("A", "B", f"B {_MINUS} A", "raw p", "B wins", "A wins", "ties"):
        grid.add_column(title, justify="right", overflow="fold")
    for row in found.columns:
        grid.add_row(*map(Text, _column(row)))
    return grid


_MINUS = "\N{MINUS SIGN}"


def _column(row: ColumnChange) -> Iterator[str]:
    yield heading(row.column)
    for cell in (row.one, row.other):
        yield cell_texts(cell, row.column, row.digits)[0]
    yield _difference(row)
    outcome = row.other.outcome
    yield _DASH if outcome is None else _p(outcome.p)
    for count in (row.wins, row.losses, row.ties):
        yield _DASH if count is None else f"{count:,}"


def _difference(row: ColumnChange) -> str:
    """Return the paired difference with its interval and the mark, ``+12.5† [3.1, 20.9]``."""
    estimate = row.other.difference
    if estimate is None or estimate.value is None:
        return _DASH
    mark = MARK if row.other.significant else ""
    value = number(estimate.value, row.column, "+", row.digits)
    if estimate.low is None or estimate.high is None:
        return f"{value}{mark}"
    low, high = (number(end, row.column, "+", row.digits) for end in (estimate.low, estimate.high))
    return f"{value}{mark} [{low}, {high}]"


def _p(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _cases(found: Difference, most: int, console: Console) -> None:
    """Print the cases that differ most, with what each run is better in."""
    if not found.cases:
        console.print()
        console.print(Text.assemble(("Cases", "bold"), ": every common case has the same values in both"))
        return
    _title(f"Cases that differ: {len(found.cases):,}, the largest differences first", console)
    grid = _grid("Case", f"B wins (A {_ARROW} B)", f"A wins (A {_ARROW} B)")
    columns = [row.column for row in found.columns]
    for case in found.cases[:most]:
        won = (", ".join(_won(case, columns, sign)) or _DASH for sign in (1, -1))
        fact = " \N{MIDDLE DOT} ".join(filter(None, (printable(case.subject), printable(case.relation))))
        name = Text.assemble(f"{fact}\n" if fact else "", (printable(case.case_id), "dim" if fact else ""))
        grid.add_row(name, *map(Text, won))
    console.print(grid)
    if len(found.cases) > most:
        console.print(Text(f"and {len(found.cases) - most:,} more: --cases {len(found.cases)} shows all", style="dim"))
    console.print()


def _won(case: CaseChange, columns: Sequence[ColumnRecord], sign: int) -> Iterator[str]:
    for column in columns:
        if column.name in case.values and better(column, case.values[column.name]) == sign:
            first, second = (number(value, column, digits=_digits(column)) for value in case.values[column.name])
            yield f"{column.title} {first}{_ARROW}{second}"


def _digits(column: ColumnRecord) -> int | None:
    return 0 if column.scale >= 10 else None


def to_data(found: Difference) -> dict[str, Any]:
    """Return all there is to say about two runs for programs; numbers unscaled."""
    return {
        "schema": 1,
        "a": {"name": found.names[0], "run": found.runs[0]},
        "b": {"name": found.names[1], "run": found.runs[1]},
        "configuration": [asdict(change) for change in found.configuration],
        "operation": [asdict(change) for change in found.operation],
        "surroundings": [asdict(change) for change in found.surroundings],
        "columns": [_column_data(row) for row in found.columns],
        "cases": [_case_data(case, found) for case in found.cases],
        "caption": found.caption,
        "notes": list(found.notes),
    }


def _column_data(row: ColumnChange) -> dict[str, Any]:
    outcome, difference = row.other.outcome, row.other.difference
    return {
        "column": row.column.name,
        "direction": row.column.direction,
        "a": asdict(row.one.estimate),
        "b": asdict(row.other.estimate),
        "difference": asdict(difference) if difference else None,
        "test": {**asdict(outcome), "p_adjusted": row.other.adjusted} if outcome else None,
        "b_wins": row.wins,
        "a_wins": row.losses,
        "ties": row.ties,
    }


def _case_data(case: CaseChange, found: Difference) -> dict[str, Any]:
    columns = {row.column.name: row.column for row in found.columns}
    return {
        "case_id": case.case_id,
        "subject": case.subject,
        "relation": case.relation,
        "values": {
            name: {"a": pair[0], "b": pair[1], "winner": {1: "b", -1: "a"}[better(columns[name], pair)]}
            for name, pair in case.values.items()
        },
    }
