"""Tables as data: what every output format shows, in order, with the best values marked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ke_cli.errors import unknown_name
from ke_cli.report.aggregate import Comparison
from ke_cli.report.captions import caption
from ke_cli.report.cells import Cell as Cell
from ke_cli.report.cells import adjust, cells_of, digits_of
from ke_cli.report.cells import cell_texts as cell_texts
from ke_cli.report.cells import number as number
from ke_cli.report.footnotes import footnotes, without_cases
from ke_cli.report.published import Figures, beside, published_note
from ke_cli.report.rows import Group, Row, group_runs, make_rows
from ke_cli.report.view import EVERY, Layout, View, check, common_experiment, completed, settled
from ke_cli.results.experiment import Published
from ke_cli.results.reader import Run
from ke_cli.results.record import ColumnRecord

ARROWS = {"up": "\N{UPWARDS ARROW}", "down": "\N{DOWNWARDS ARROW}"}


@dataclass(frozen=True, slots=True)
class Line:
    """One row of a table.

    Args:
        row: Its runs.
        cases: How many of its cases entered.
        failed: How many could not be finished.
        cells: One for each column.
        published: The figures published for its method, one for each column in the column's own units; empty where
            none are to be shown.
    """

    row: Row
    cases: int
    failed: int
    cells: tuple[Cell, ...]
    published: tuple[float | None, ...] = ()

    @property
    def figures(self) -> tuple[float | None, ...]:
        """The published figures, one for each column, None where there is none."""
        return self.published or (None,) * len(self.cells)

    @property
    def label(self) -> str:
        """The name of the row, with a star when one of its runs is unfinished."""
        return self.row.label if self.row.finished else f"{self.row.label}*"


@dataclass(frozen=True, slots=True)
class Table:
    """The results of one model, data set and protocol; without lines when no case was finished.

    Args:
        group: What all its runs have in common.
        columns: What is shown.
        lines: In the order wanted.
        caption: How many cases, and how intervals and tests were made.
        footnotes: What is unusual.
        digits: Decimals of each column; None for as many as usual.
        intervals: Whether they are wanted.
        against: The label of the row that others are compared with, if any.
    """

    group: Group
    columns: tuple[ColumnRecord, ...]
    lines: tuple[Line, ...]
    caption: str
    footnotes: tuple[str, ...]
    digits: tuple[int | None, ...] = ()
    intervals: bool = True
    against: str = ""

    @property
    def title(self) -> str:
        """For example ``gpt2 · counterfact · single``."""
        return self.group.title


def build_tables(runs: Sequence[Run], view: View | None = None) -> list[Table]:
    """Make one table for each model, data set, protocol, and value of the settings that part tables.

    Args:
        runs: As `read_run` returns them; unreadable ones are left out (their problems say why).
        view: What to show; everything by default.

    Raises:
        UserError: The view names a setting, column or row that no run has.
    """
    view, runs = view or View(), [run for run in runs if run.readable]
    if not runs:
        return []
    view = completed(view, runs)
    check(view, runs)
    layout, experiment = settled(view, runs), common_experiment(runs)
    groups = group_runs(runs, layout.split)
    _check_reference(view, layout, [members for _, members in groups])
    published = experiment.published if experiment else None
    return [_table(group, members, layout, published) for group, members in groups]


def _check_reference(view: View, layout: Layout, groups: Sequence[Sequence[Run]]) -> None:
    """Refuse a row to compare with that no table has."""
    rows = [make_rows([run for run in members if run.done], layout.by) for members in groups]
    if view.against and any(rows) and all(find_reference(members, view.against) is None for members in rows):
        labels = {row.label for members in rows for row in members}
        raise unknown_name("row", view.against, labels, where="--baseline")


def _table(group: Group, runs: Sequence[Run], layout: Layout, published: Published | None) -> Table:
    rows = make_rows([run for run in runs if run.done], layout.by)
    empty = [run for run in runs if not run.done]
    if not rows:
        return Table(group, (), (), "No case was finished.", tuple(without_cases(empty)))
    reference = find_reference(rows, layout.against)
    references = (reference,) * len(rows)
    comparison = layout.made.of(rows, all_cases=layout.all_cases, cluster=layout.cluster, references=references)
    columns = selected(comparison, layout.metrics, layout.measured)
    digits = column_digits(comparison, columns, layout)
    compared = None if reference is None else rows[reference]
    figures = beside(published, group, columns, rows, None if layout.plain else compared)
    lines = _lines(comparison, columns, digits, layout.plain, figures)
    notes = [*footnotes(comparison), *without_cases(empty), *published_note(published, group, figures), layout.source]
    if layout.against and compared is None:
        notes.append(f"Plain values, because {layout.against} is no single row here to compare with.")
    return Table(
        group=group,
        columns=columns,
        lines=tuple(lines[place] for place in _order(comparison, layout.sort)),
        caption=caption(
            {group.title: comparison},
            columns,
            all_cases=layout.all_cases,
            against=compared.label if compared else "",
            plain=layout.plain,
            intervals=layout.intervals,
        ),
        footnotes=tuple(filter(None, notes)),
        digits=digits,
        intervals=layout.intervals,
        against=compared.label if compared else "",
    )


def _lines(
    comparison: Comparison,
    columns: Sequence[ColumnRecord],
    digits: Sequence[int | None],
    plain: bool,
    figures: Figures,
) -> list[Line]:
    adjusted = adjust(comparison.pairings, columns)
    by_column = [
        cells_of(comparison, column, adjusted, places, plain=plain)
        for column, places in zip(columns, digits, strict=True)
    ]
    return [
        Line(
            row=row,
            cases=comparison.used[place],
            failed=sum(len(run.failed) for run in row.runs),
            cells=tuple(cells[place] for cells in by_column),
            published=figures.get(row.method, ()),
        )
        for place, row in enumerate(comparison.rows)
    ]


def column_digits(comparison: Comparison, columns: Sequence[ColumnRecord], layout: Layout) -> tuple[int | None, ...]:
    """Return the decimals of every column: those asked for, or those that its intervals support."""
    if layout.digits is not None:
        return (layout.digits,) * len(columns)
    return tuple(digits_of(comparison, column, plain=layout.plain) for column in columns)


def find_reference(rows: Sequence[Row], against: str) -> int | None:
    """The row with this label, or else the only row of this method."""
    same = [place for place, row in enumerate(rows) if row.label == against]
    same = same or [place for place, row in enumerate(rows) if row.method == against]
    return same[0] if against and len(same) == 1 else None


def selected(comparison: Comparison, wanted: Sequence[str], measured: bool) -> tuple[ColumnRecord, ...]:
    """Return the columns with these names, in the order wanted; a name that no column has stands for a metric's.

    Unasked, the main ones; shares of units only where a unit is not just one case. With ``measured``, those that any
    row has a value for.
    """
    columns = comparison.columns
    if EVERY in wanted:
        return tuple(columns)
    if wanted:
        named = {c.name: c for c in columns}
        parts = [[named[name]] if name in named else [c for c in columns if c.metric == name] for name in wanted]
        chosen = list({c.name: c for part in parts for c in part}.values())
    else:
        grouped = any((run.done.sizes > 1).any() for row in comparison.rows for run in row.runs)
        chosen = [c for c in columns if c.main and (grouped or c.kind != "all_in_unit")]
    return tuple(c for c in chosen if not measured or not comparison.cases or _has_value(comparison, c))


def _has_value(comparison: Comparison, column: ColumnRecord) -> bool:
    return not all(math.isnan(sample[column.name].point) for sample in comparison.samples)


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


def heading(column: ColumnRecord) -> str:
    """Return the title with the arrow of the better direction."""
    return f"{column.title} {ARROWS[column.direction]}"
