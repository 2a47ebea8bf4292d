"""Tables as data: what every output format shows, in order, with the best values marked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ke_cli.errors import UserError, unknown_name
from ke_cli.report.aggregate import Comparison, compare, merged_columns
from ke_cli.report.footnotes import caption, footnotes, without_cases
from ke_cli.report.rows import UNEDITED, Row, check_keys, group_runs, make_rows
from ke_cli.report.statistics import Estimate
from ke_cli.results.reader import Run
from ke_cli.results.record import ColumnRecord

ARROWS = {"up": "\N{UPWARDS ARROW}", "down": "\N{DOWNWARDS ARROW}"}


EVERY = "all"
"""Asks for every column that was measured."""


@dataclass(frozen=True, slots=True)
class View:
    """What the reader of the tables wants to see.

    Args:
        by: Setting keys that make rows; see `make_rows`.
        metrics: Names of columns or of metrics, in the order wanted; ``all``; the main columns when empty.
        sort: A column, or ``name``, with ``:desc`` behind it for the highest first.
        all_cases: Each row on all its own cases, not on the common ones.
        against: A row or method: the other rows then show paired differences to it.
    """

    by: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    sort: str = ""
    all_cases: bool = False
    against: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """One number of a table, and whether it is the best of its column."""

    estimate: Estimate
    best: bool = False
    is_difference: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """One row of a table: ``cases`` of it entered, ``failed`` could not be finished."""

    row: Row
    cases: int
    failed: int
    cells: tuple[Cell, ...]

    @property
    def label(self) -> str:
        """The name of the row, with a star when one of its runs is unfinished."""
        return self.row.label if self.row.finished else f"{self.row.label}*"


@dataclass(frozen=True, slots=True)
class Table:
    """The results of one model, data set and protocol; without lines when no case was finished."""

    model: str
    dataset: str
    protocol: str
    columns: tuple[ColumnRecord, ...]
    lines: tuple[Line, ...]
    caption: str
    footnotes: tuple[str, ...]

    @property
    def title(self) -> str:
        """For example ``gpt2 · counterfact · single``."""
        return " \N{MIDDLE DOT} ".join((self.model, self.dataset, self.protocol))


def build_tables(runs: Sequence[Run], view: View | None = None) -> list[Table]:
    """Make one table for each model, data set and protocol.

    Args:
        runs: As `read_run` returns them; unreadable ones are left out (their problems say why).
        view: What to show; everything by default.

    Raises:
        UserError: The view names a setting, column or row that no run has.
    """
    view = view or View()
    groups = group_runs(run for run in runs if run.readable)
    _check(view, groups.values())
    return [_table(names, members, view) for names, members in groups.items()]


def _table(names: tuple[str, str, str], runs: Sequence[Run], view: View) -> Table:
    rows = make_rows([run for run in runs if run.done], view.by)
    empty = [run for run in runs if not run.done]
    if not rows:
        return Table(*names, (), (), "No case was finished.", tuple(without_cases(empty)))
    comparison = compare(rows, all_cases=view.all_cases)
    columns = _selected(comparison, view.metrics)
    reference = _reference(rows, view.against)
    lines = _lines(comparison, columns, reference)
    ordered = tuple(lines[place] for place in _order(comparison, view.sort))
    notes = (*footnotes(comparison), *without_cases(empty))
    text = caption(comparison, view.all_cases, "" if reference is None else rows[reference].label)
    return Table(*names, columns, ordered, text, notes)


def _lines(comparison: Comparison, columns: Sequence[ColumnRecord], reference: int | None) -> list[Line]:
    by_column = [_cells(comparison, column, reference) for column in columns]
    return [
        Line(
            row=row,
            cases=comparison.used[place],
            failed=sum(len(run.failed) for run in row.runs),
            cells=tuple(cells[place] for cells in by_column),
        )
        for place, row in enumerate(comparison.rows)
    ]


def _reference(rows: Sequence[Row], against: str) -> int | None:
    """The row with this label, or else the only row of this method."""
    same = [place for place, row in enumerate(rows) if row.label == against]
    same = same or [place for place, row in enumerate(rows) if row.method == against]
    return same[0] if against and len(same) == 1 else None


def _cells(comparison: Comparison, column: ColumnRecord, reference: int | None) -> list[Cell]:
    samples = [sample[column.name] for sample in comparison.samples]
    estimates = [sample.estimate() for sample in samples]
    best = _best(comparison.rows, [estimate.value for estimate in estimates], column)
    return [
        Cell(estimates[place], place in best)
        if reference in (None, place)
        else Cell(sample.minus(samples[reference]).estimate(), place in best, is_difference=True)
        for place, sample in enumerate(samples)
    ]


def _best(rows: Sequence[Row], values: Sequence[float | None], column: ColumnRecord) -> set[int]:
    """The rows whose shown value is the best; nothing is best when there is nothing to compare it with."""
    shown = {
        place: float(number(value, column))
        for place, (row, value) in enumerate(zip(rows, values, strict=True))
        if value is not None and row.method != UNEDITED
    }
    if len(shown) < 2:
        return set()
    best = max(shown.values()) if column.direction == "up" else min(shown.values())
    return {place for place, value in shown.items() if value == best}


def _selected(comparison: Comparison, wanted: Sequence[str]) -> tuple[ColumnRecord, ...]:
    """Return the columns with these names, or of the metrics with these names, in the order wanted.

    Unasked, the main ones that any row has a value for; shares of units only where a unit is not just one case.
    """
    columns = comparison.columns
    if EVERY in wanted:
        return tuple(columns)
    if not wanted:
        grouped = comparison.clusters < comparison.cases
        return tuple(
            c
            for c in columns
            if c.main
            and (grouped or c.kind != "all_in_unit")
            and not (comparison.cases and all(math.isnan(sample[c.name].point) for sample in comparison.samples))
        )
    chosen = {c.name: c for name in wanted for c in columns if name == c.name or name == c.metric}
    return tuple(chosen.values())


def _order(comparison: Comparison, sort: str) -> list[int]:
    """Return the places of the rows in the order wanted; rows without a value come last either way."""
    name, _, direction = sort.partition(":")
    places = list(range(len(comparison.rows)))
    if name == "name":
        return sorted(places, key=lambda place: comparison.rows[place].label, reverse=direction == "desc")
    if name not in comparison.samples[0]:
        return places
    points = [sample[name].point * (-1 if direction == "desc" else 1) for sample in comparison.samples]
    return sorted(places, key=lambda place: (math.isnan(points[place]), points[place]))


def _check(view: View, groups: Iterable[Sequence[Run]]) -> None:
    """Refuse names that no run has, before anything is computed."""
    groups = list(groups)
    runs = [run for members in groups for run in members]
    if not runs:
        return
    check_keys(view.by, runs)
    columns = merged_columns(runs)
    names = {column.name for column in columns}
    shown = names | {column.metric for column in columns}
    for name in view.metrics:
        if name != EVERY and name not in shown:
            raise unknown_name("metric", name, shown, where="--metrics")
    name, _, order = view.sort.partition(":")
    if name not in ("", "name", *names):
        raise unknown_name("column", name, ["name", *names], where="--sort")
    if order not in ("", "asc", "desc"):
        raise UserError(f"unknown order {order!r}", where="--sort", allowed="asc, desc")
    rows = [make_rows([run for run in members if run.done], view.by) for members in groups]
    if view.against and any(rows) and all(_reference(members, view.against) is None for members in rows):
        labels = {row.label for members in rows for row in members}
        raise unknown_name("row", view.against, labels, where="--against")


def number(value: float, column: ColumnRecord, sign: str = "") -> str:
    """Return a value as it is shown: in percent (or whatever the scale is) with one decimal.

    Columns that are not scaled up get three decimals, very large values three digits.
    """
    scaled = value * column.scale
    if abs(scaled) >= 1e6:
        return f"{scaled:{sign}.3g}"
    return f"{scaled:{sign}.{1 if column.scale >= 10 else 3}f}"


def cell_texts(cell: Cell, column: ColumnRecord) -> tuple[str, str]:
    """Return value and interval as they are shown: ``93.4`` and ``[92.1, 94.6]``, or a dash and nothing."""
    estimate, sign = cell.estimate, "+" if cell.is_difference else ""
    if estimate.value is None:
        return "\N{EN DASH}", ""
    value = number(estimate.value, column, sign)
    if estimate.low is None or estimate.high is None:
        return value, ""
    return value, f"[{number(estimate.low, column, sign)}, {number(estimate.high, column, sign)}]"


def heading(column: ColumnRecord) -> str:
    """Return the title with the arrow of the better direction."""
    return f"{column.title} {ARROWS[column.direction]}"
