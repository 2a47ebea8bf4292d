"""What a picture shows, as numbers: panels with series of points, from the same tables as everything else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ke_cli.errors import UserError, unknown_name
from ke_cli.report.aggregate import merged_columns
from ke_cli.report.keys import full_name, known_settings, short_name
from ke_cli.report.plots.parts import apart
from ke_cli.report.rows import Group, Row, as_typed, check_keys
from ke_cli.report.statistics import Estimate
from ke_cli.report.tables import Line, Table, build_tables, heading
from ke_cli.report.view import View, completed, settled
from ke_cli.results.reader import Run
from ke_cli.results.record import ColumnRecord, Scalar

Spot = tuple[float, float, float]
"""A coordinate and the ends of its interval, in the unit that tables show; all the same where it has no interval."""

Point = tuple[Spot, Spot]

MOST_TICKS = 8
"""With more values of a setting the axis chooses what it labels."""

WIDE = 30
"""The ratio of its values from which a setting has a logarithmic axis."""

SPREAD = 10
"""The same of a column that is no percentage."""


@dataclass(frozen=True, slots=True)
class Series:
    """What one row of the tables contributes to a panel; to a scatter plot a single point."""

    row: Row
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes; its title is what the panels' groups differ in, unless it has one of its own."""

    group: Group
    series: tuple[Series, ...]
    title: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """Panels that share their axes.

    Args:
        panels: At least one, each with a point.
        x_label: Under the axes.
        y_label: Beside them.
        ticks: Where the x axis has a mark and what stands there; empty to leave it to the axis.
        logarithmic: Which of the two axes are, by their places 0 and 1; for scatter plots.
        linear_up_to: Where the x axis of curves goes over from linear to logarithmic; None for a linear one.
        is_curve: Whether the points of a series are joined.
        against: The row that values are differences to; empty for plain values.
        own_heights: Whether every panel has a y axis of its own.
        title: Above the panels; by default what their groups have in common.
    """

    panels: tuple[Panel, ...]
    x_label: str
    y_label: str
    ticks: tuple[tuple[float, str], ...] = ()
    logarithmic: tuple[int, ...] = ()
    linear_up_to: float | None = None
    is_curve: bool = False
    against: str = ""
    own_heights: bool = False
    title: str = ""

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows of all panels, those of one label once."""
        rows = {series.row.label: series.row for panel in self.panels for series in panel.series}
        return tuple(rows.values())


def scatter(runs: Sequence[Run], view: View, x: str, y: str) -> Picture:
    """One column against another: a point for each row, a panel for each table.

    Args:
        runs: As `read_run` returns them.
        view: Which rows and tables; values are differences only where the view itself says to what.
        x: A column.
        y: A column.

    Raises:
        UserError: A name that no run has, or no row with values of both.
    """
    columns = _columns(runs, (x, y), "--scatter")
    tables = build_tables(runs, replace(view, metrics=(x, y), against=view.against or ""))
    panels = [Panel(table.group, tuple(_pairs(table, x, y))) for table in tables]
    panels = [panel for panel in panels if panel.series]
    if not panels:
        raise UserError(f"no row has a value of both {x} and {y}", where="--scatter")
    points = [point for panel in panels for series in panel.series for point in series.points]
    spread = tuple(place for place in (0, 1) if columns[place].scale != 100 and _is_spread(points, place))
    x_label, y_label = map(_axis, columns)
    return Picture(tuple(panels), x_label, y_label, logarithmic=spread, against=view.against or "")


def curve(runs: Sequence[Run], view: View, setting: str, column: str) -> Picture:
    """A column over a setting: a series for each row, a panel for each table.

    Args:
        runs: As `read_run` returns them.
        view: Which rows and tables, the setting itself apart.
        setting: A key of the configuration, or a short name of one; its values are taken in order.
        column: A column.

    Raises:
        UserError: A name that no run has, or no row with a value.
    """
    (found,) = _columns(runs, (column,), "--curve")
    readable = [run for run in runs if run.readable]
    view, setting = completed(view, readable), full_name(setting, known_settings(readable))
    check_keys([setting], readable, "--curve")
    layout = settled(view, readable)
    split = (*(key for key in layout.split if key != setting), setting)
    by = tuple(key for key in layout.by or apart(readable) if key not in split)
    given = replace(view, by=by, split=split, metrics=(column,), against=view.against or "", sort="")
    tables = [t for t in build_tables(runs, given) if t.lines and setting in dict(t.group.split)]
    values = [table.group.split[-1][1] for table in tables]
    ticks = _ticks(values)
    panels = _joined(tables, {text: place for place, text in ticks})
    if not panels:
        raise UserError(f"no row has a value of {column}", where="--curve")
    return Picture(
        panels,
        short_name(setting),
        _axis(found),
        ticks=() if _are_numbers(values) and len(ticks) > MOST_TICKS else ticks,
        linear_up_to=_linear_up_to([place for place, _ in ticks]) if _are_numbers(values) else None,
        is_curve=True,
        against=view.against or "",
    )


def _joined(tables: Sequence[Table], places: Mapping[str, float]) -> tuple[Panel, ...]:
    """Gather the points of rows with the same label from the tables of one panel."""
    panels: dict[Group, dict[str, Series]] = {}
    for table in tables:
        group = table.group._replace(split=table.group.split[:-1])
        place = places[as_typed(table.group.split[-1][1])]
        for line in _compared(table):
            if spot := _spot(line.cells[0].estimate, table.columns[0]):
                series = panels.setdefault(group, {}).setdefault(line.row.label, Series(line.row, ()))
                points = (*series.points, ((place, place, place), spot))
                panels[group][line.row.label] = replace(series, points=points)
    return tuple(Panel(group, tuple(series.values())) for group, series in panels.items())


def _ticks(values: Iterable[Scalar]) -> tuple[tuple[float, str], ...]:
    """Return the places of settings on an axis: numbers at their value, anything else one behind the other."""
    texts = {as_typed(value): value for value in values}
    if not _are_numbers(texts.values()):
        return tuple((float(place), text) for place, text in enumerate(texts))
    return tuple(sorted((float(value), text) for text, value in texts.items() if value is not None))


def _linear_up_to(places: Sequence[float]) -> float | None:
    """Return the smallest place above zero where the places spread over orders of magnitude, else None."""
    positive = [place for place in places if place > 0]
    wide = min(places) >= 0 and len(positive) > 2 and max(positive) >= WIDE * min(positive)
    return min(positive) if wide else None


def _are_numbers(values: Iterable[Scalar]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _pairs(table: Table, x: str, y: str) -> Iterator[Series]:
    places = {column.name: place for place, column in enumerate(table.columns)}
    for line in _compared(table):
        spots = [_spot(line.cells[places[name]].estimate, table.columns[places[name]]) for name in (x, y)]
        if spots[0] and spots[1]:
            yield Series(line.row, ((spots[0], spots[1]),))


def _compared(table: Table) -> list[Line]:
    """Return the lines of a table without the one that the others are compared with."""
    differences = [line for line in table.lines if any(cell.is_difference for cell in line.cells)]
    return differences or list(table.lines)


def _spot(estimate: Estimate, column: ColumnRecord) -> Spot | None:
    if estimate.value is None:
        return None
    ends = [estimate.value if end is None else end for end in (estimate.low, estimate.high)]
    return estimate.value * column.scale, ends[0] * column.scale, ends[1] * column.scale


def _columns(runs: Sequence[Run], names: Sequence[str], where: str) -> list[ColumnRecord]:
    known = {column.name: column for column in merged_columns([run for run in runs if run.readable])}
    for name in names:
        if name not in known:
            raise unknown_name("column", name, known, where=where)
    return [known[name] for name in names]


def _is_spread(points: Sequence[Point], place: int) -> bool:
    """Whether a coordinate, with its intervals, is positive and spreads over more than an order of magnitude."""
    values = [point[place][0] for point in points]
    return min(min(point[place]) for point in points) > 0 and max(values) >= SPREAD * min(values)


def _axis(column: ColumnRecord) -> str:
    return f"{heading(column)}  [%]" if column.scale == 100 else heading(column)
