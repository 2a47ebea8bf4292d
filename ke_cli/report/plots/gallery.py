"""All pictures that runs give rise to, each with a name and a caption, and what could not be drawn with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from ke_cli.errors import UserError
from ke_cli.report.aggregate import merged_columns
from ke_cli.report.plots.curves import facts_curves, lifelong_curves, sweep_curves
from ke_cli.report.plots.differences import differences
from ke_cli.report.plots.figures import Drawable, Figure, LeftOut, slug, unique_names
from ke_cli.report.plots.panels import scatter
from ke_cli.report.plots.relations import heat_maps
from ke_cli.report.rows import UNEDITED, group_runs, make_rows
from ke_cli.report.view import View, settled
from ke_cli.results.reader import Run
from ke_cli.results.record import ColumnRecord

WRITTEN = ("efficacy", "token_accuracy_efficacy", "instruction_exact")
"""Columns that say whether the fact was written; the first that was measured is one axis of the trade-off."""

KEPT = ("r_specificity", "r_specificity_gold", "neighborhood", "locality", "token_accuracy_neighborhood")
"""Columns that say what else stayed as it was; each that was measured is the other axis once."""

MOST_ROWS = 48

RECALLED = ("instruction_exact", "efficacy")
"""What geometry is set against."""


@dataclass(frozen=True, slots=True)
class Gallery:
    """Pictures of runs.

    Args:
        figures: Those that could be drawn, each under a name of its own.
        left_out: The others.
    """

    figures: tuple[Figure, ...]
    left_out: tuple[LeftOut, ...]


Maker = Callable[[Sequence[Run], View], Iterator[Figure | LeftOut]]


def gallery(runs: Sequence[Run], view: View) -> Gallery:
    """Make every picture for which there is data.

    Args:
        runs: As `read_run` returns them.
        view: Which rows and tables; its columns, comparison and order do not count.
    """
    runs, view = [run for run in runs if run.done], replace(view, metrics=None, sort="")
    view, pooled = _readable(runs, view)
    makers: tuple[Maker, ...] = (
        sweep_curves,
        _trade_offs,
        facts_curves,
        lifelong_curves,
        heat_maps,
        _geometry,
        differences,
    )
    found = [*pooled, *(item for make in makers for item in make(runs, view))]
    figures = unique_names([item for item in found if isinstance(item, Figure)])
    return Gallery(tuple(figures), tuple(item for item in found if isinstance(item, LeftOut)))


def _readable(runs: Sequence[Run], view: View) -> tuple[View, list[LeftOut]]:
    """Pool the rows of a method where nobody could tell so many marks apart, unless rows were asked for."""
    layout = settled(view, runs)
    most = max((len(make_rows(members, layout.by)) for _, members in group_runs(runs, layout.split)), default=0)
    if layout.by or most <= MOST_ROWS:
        return view, []
    why = f"no more than {MOST_ROWS} marks can be told apart, so the rows of a method are pooled; --by parts them"
    return replace(view, by=("method.name",)), [LeftOut(f"A mark for each of {most:,} rows", why)]


def _trade_offs(runs: Sequence[Run], view: View) -> Iterator[Figure | LeftOut]:
    columns = {column.name: column for column in merged_columns(runs)}
    x = next((columns[name] for name in WRITTEN if name in columns), None)
    kept = [columns[name] for name in KEPT if name in columns]
    if x is None or not kept:
        yield LeftOut("Trade-off", "it takes a column that says what was written and one that says what was kept")
        return
    for y in kept:
        caption = f"{x.title} against {y.title}: what was written against what was kept, with all methods."
        name, title = f"tradeoff-{slug(x.name)}-{slug(y.name)}", f"Trade-off: {x.title} and {y.title}"
        yield from _scatter(runs, view, (x, y), Drawable(name, title, caption))


def _geometry(runs: Sequence[Run], view: View) -> Iterator[Figure | LeftOut]:
    columns = {column.name: column for column in merged_columns(runs)}
    measured = [column for column in columns.values() if column.metric == "geometry"]
    y = next((columns[name] for name in RECALLED if name in columns), None)
    if not measured or y is None:
        yield LeftOut("Geometry", "no run has measured the geometry of its edits (metrics=ablation does)")
        return
    edited = [run for run in runs if run.record.named("method") != UNEDITED]
    for x in measured:
        name, title = f"geometry-{slug(x.name)}", f"Geometry: {x.title} and {y.title}"
        caption = f"{y.title} against {x.title}, a measure of the edit's geometry."
        yield from _scatter(edited, view, (x, y), Drawable(name, title, caption))


def _scatter(
    runs: Sequence[Run], view: View, columns: tuple[ColumnRecord, ColumnRecord], about: Drawable
) -> Iterator[Figure | LeftOut]:
    try:
        picture = scatter(runs, replace(view, against=""), *(column.name for column in columns))
        yield Figure(about.name, about.title, f"{about.caption} Bars are 95% intervals.", picture)
    except UserError as error:
        yield LeftOut(about.title, error.what)
