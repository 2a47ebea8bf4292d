"""Tables laid out by any settings: ``--rows model,method --cols dataset``, with several levels both ways.

The numbers are those of the plain tables: rows of one model, data set and protocol are measured on the cases that all
of them have, and runs that agree in the settings asked for are pooled. What stands in one column competes for the best
value; all tests of the table are corrected for each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ke_cli.report.aggregate import Comparison
from ke_cli.report.captions import caption
from ke_cli.report.cells import adjust, cells_of
from ke_cli.report.footnotes import footnotes, without_cases
from ke_cli.report.formats.body import Head, Sheet, Shown, ShownCell, published_cell, shown_cell
from ke_cli.report.keys import short_name
from ke_cli.report.pivot_plan import GROUP_KEYS, METHOD, Place, Plan, Values, in_order, plan_of, refuse_contradictions
from ke_cli.report.published import Figures, beside, published_note
from ke_cli.report.rows import Group, Row, as_typed, group_runs, make_rows
from ke_cli.report.tables import column_digits, selected
from ke_cli.report.view import View, check, common_experiment, completed
from ke_cli.results.experiment import Published
from ke_cli.results.reader import Run
from ke_cli.results.record import ColumnRecord, Scalar

EMPTY = (ShownCell(), ShownCell(""))
"""What stands where nothing was measured, and where nothing was published."""

_DOT = " \N{MIDDLE DOT} "
_DASH = "\N{EN DASH}"


@dataclass(frozen=True, slots=True)
class Block:
    """The rows of one model, data set and protocol."""

    group: Group
    comparison: Comparison
    columns: tuple[ColumnRecord, ...]
    places: tuple[Place, ...]
    references: tuple[int | None, ...]
    figures: Figures
    notes: tuple[str, ...]


def build_sheets(runs: Sequence[Run], view: View) -> list[Sheet]:
    """Lay tables out by the rows and columns of a view.

    Args:
        runs: As `read_run` returns them; unreadable ones are left out.
        view: With keys for rows, columns or both.

    Raises:
        UserError: The view names something that no run has, or asks for two layouts at once.
    """
    runs = [run for run in runs if run.readable]
    if not runs:
        return []
    view = completed(view, runs)
    refuse_contradictions(view)
    check(view, runs)
    plan = plan_of(view, runs)
    experiment = common_experiment(runs)
    sheets: dict[Group, list[Block]] = {}
    for group, members in group_runs(runs, plan.layout.split):
        if block := _block(plan, group, members, experiment.published if experiment else None):
            sheets.setdefault(_less(group, (*plan.rows, *plan.cols)), []).append(block)
    return [_sheet(plan, blocks) for blocks in sheets.values()]


def _less(group: Group, told: Sequence[str]) -> Group:
    """Return a group without what rows and columns tell."""
    model, dataset, protocol = ("" if key in told else name for key, name in zip(GROUP_KEYS, group[:3], strict=True))
    return Group(model, dataset, protocol, tuple(pair for pair in group.split if pair[0] not in told))


def _block(plan: Plan, group: Group, runs: Sequence[Run], published: Published | None) -> Block | None:
    rows = make_rows([run for run in runs if run.done], plan.by)
    layout = plan.layout
    if not rows:
        return None
    places = tuple(plan.place(group, row) for row in rows)
    references = tuple(_reference(plan, rows, places, place) for place in range(len(rows)))
    comparison = layout.made.of(rows, all_cases=layout.all_cases, cluster=layout.cluster, references=references)
    columns = selected(comparison, layout.metrics, layout.measured)
    differs = not layout.plain and any(reference is not None for reference in references)
    figures = {} if differs else beside(published, group, columns, rows, None)
    notes = [*footnotes(comparison), *without_cases([run for run in runs if not run.done])]
    notes += published_note(published, group, figures) if not differs else ()
    return Block(group, comparison, columns, places, references, figures, tuple(notes))


def _reference(plan: Plan, rows: Sequence[Row], places: Sequence[Place], place: int) -> int | None:
    """Return the row that one is compared with: of the method asked for, and beside it if there is one, else alone."""
    wanted = plan.layout.against
    same = [other for other, row in enumerate(rows) if wanted and wanted in (row.label, row.method)]
    beside_it = [other for other in same if plan.rivals(places[other]) == plan.rivals(places[place])]
    return beside_it[0] if len(beside_it) == 1 else same[0] if len(same) == 1 else None


def _sheet(plan: Plan, blocks: Sequence[Block]) -> Sheet:
    cells = {key: cell for part in _cells(plan, blocks) for key, cell in part.items()}
    filled = {(place[1], name) for place, name, _ in cells}
    heads = [(key, c) for key in _ordered(plan, blocks, 1) for c in _columns(blocks) if (key, c.name) in filled]
    counts = _counts(blocks)
    return Sheet(
        title=_title(plan, blocks),
        names=tuple(short_name(key).capitalize() for key in plan.rows),
        heads=tuple(Head(c.title, c.direction, tuple(map(_headed, plan.cols, key)), c.name) for key, c in heads),
        lines=tuple(
            Shown(
                _texts(blocks, index, published),
                tuple(cells.get(((index, key), c.name, published), EMPTY[published]) for key, c in heads),
                "" if published else f"{min(counts[index]):,}",
                published,
            )
            for index in _ordered(plan, blocks, 0)
            for published in (False, True)
            if any(((index, key), c.name, published) in cells for key, c in heads)
        ),
        caption=_caption(plan, blocks),
        footnotes=tuple(_footnotes(plan, blocks)),
        counted=all(len(found) == 1 for found in counts.values()),
    )


def _columns(blocks: Sequence[Block]) -> list[ColumnRecord]:
    return list({column.name: column for block in blocks for column in block.columns}.values())


def _ordered(plan: Plan, blocks: Sequence[Block], which: int) -> list[Values]:
    """Return what stands in the rows (0) or in the columns (1)."""
    keys = (plan.rows, plan.cols)[which]
    return in_order(keys, [place[which] for block in blocks for place in block.places])


CellKey = tuple[Place, str, bool]


def _cells(plan: Plan, blocks: Sequence[Block]) -> Iterator[dict[CellKey, ShownCell]]:
    """Yield the cells of each block by place, column, and whether they are published figures."""
    pairings = [pairing for block in blocks for pairing in block.comparison.pairings]
    adjusted = list(adjust(pairings, _columns(blocks)))
    layout = plan.layout
    for block in blocks:
        own, adjusted = adjusted[: len(block.places)], adjusted[len(block.places) :]
        found: dict[CellKey, ShownCell] = {}
        parts = [plan.rivals(place) for place in block.places]
        digits = column_digits(block.comparison, block.columns, layout)
        for number, (column, d) in enumerate(zip(block.columns, digits, strict=True)):
            made = cells_of(block.comparison, column, own, d, plain=layout.plain, parts=parts)
            for at, (place, row, cell) in enumerate(zip(block.places, block.comparison.rows, made, strict=True)):
                shown = shown_cell(cell, column, d, intervals=layout.intervals)
                is_zero = not layout.plain and block.references[at] == at  # sorted among the differences to it
                found[place, column.name, False] = replace(shown, amount=0.0) if is_zero else shown
                figure = block.figures.get(row.method, ())[number : number + 1]
                if figure and figure[0] is not None:
                    found[place, column.name, True] = published_cell(figure[0], False, column, d)
        yield found


def _headed(key: str, value: Scalar) -> str:
    """Return a value above columns: names alone, settings with what they are."""
    if value is None:
        return f"no {short_name(key)}"
    return as_typed(value) if key in (METHOD, *GROUP_KEYS) else f"{short_name(key)}={as_typed(value)}"


def _texts(blocks: Sequence[Block], index: Values, published: bool) -> tuple[str, ...]:
    rows = [
        row
        for block in blocks
        for place, row in zip(block.places, block.comparison.rows, strict=True)
        if place[0] == index
    ]
    star = "*" if any(not row.finished for row in rows) else ""
    texts = [_DASH if value is None else as_typed(value) for value in index]
    return (*texts[:-1], f"{texts[-1]}, published" if published else texts[-1] + star)


def _counts(blocks: Sequence[Block]) -> Mapping[Values, set[int]]:
    found: dict[Values, set[int]] = {}
    for block in blocks:
        for place, used in zip(block.places, block.comparison.used, strict=True):
            found.setdefault(place[0], set()).add(used)
    return found


def _title(plan: Plan, blocks: Sequence[Block]) -> str:
    told = (*plan.rows, *plan.cols)
    common = _less(blocks[0].group, told)
    methods = {row.method for block in blocks for row in block.comparison.rows} if METHOD not in told else ()
    return _DOT.join(filter(None, (*common[:3], *methods, common.part))) or "results"


def _named(plan: Plan, block: Block) -> str:
    """Return what tells a block from the others of its table."""
    common = _less(block.group, (*plan.rows, *plan.cols))
    names = (str(name) for name, same in zip(block.group[:3], common[:3], strict=True) if not same)
    parts = (_headed(key, value) for key, value in block.group.split if (key, value) not in common.split)
    return _DOT.join((*names, *parts))


def _caption(plan: Plan, blocks: Sequence[Block]) -> str:
    """Return how the numbers of all blocks were made."""
    compared = any(reference is not None for block in blocks for reference in block.references)
    return caption(
        {_named(plan, block): block.comparison for block in blocks},
        _columns(blocks),
        all_cases=plan.layout.all_cases,
        against=plan.layout.against if compared else "",
        plain=plan.layout.plain,
        intervals=plan.layout.intervals,
    )


def _footnotes(plan: Plan, blocks: Sequence[Block]) -> Iterator[str]:
    """Yield the notes of all blocks, with the names of those that a note is about where it is not about all."""
    told: dict[str, list[str]] = {}
    for block in blocks:
        for note in block.notes:
            told.setdefault(note, []).append(_named(plan, block))
    for note, names in told.items():
        yield note if len(names) == len(blocks) else f"{', '.join(names)}: {note}"
    if plan.layout.source:
        yield plan.layout.source
