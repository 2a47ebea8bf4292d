"""Tables on a terminal: as wide as it is, and never with a column missing."""

from __future__ import annotations

import io
import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from ke_cli.report.formats.body import MARKED, Sheet, Shown, ShownCell, sheet_of
from ke_cli.report.tables import Table

_GAP = 3
"""Blanks between two columns."""

NARROW = "The intervals, in brackets, do not fit here beside all columns; a wider terminal or --output FILE shows them."

Column = tuple[Text, list[Text]]


def print_tables(tables: Sequence[Table | Sheet], console: Console) -> None:
    """Print tables with captions and footnotes.

    Intervals stand behind the values where the width allows, else under them. Where the columns then still do not fit
    beside each other, but would without intervals, these are left out, and that is said. Where they would not either,
    columns follow in a further table below.
    """
    for table in tables:
        sheet = sheet_of(table)
        console.print()
        console.print(Text(sheet.title, style="bold"))
        grids, notes = _grids(sheet, console.width)
        for grid in grids:
            console.print()
            console.print(grid)
        console.print()
        for note in (*notes, sheet.caption, *sheet.footnotes):
            console.print(Text(note, style="dim"))


def to_text(tables: Sequence[Table | Sheet], width: int = 120) -> str:
    """Return what `print_tables` prints, without styles."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    print_tables(tables, console)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def _grids(sheet: Sheet, width: int) -> tuple[list[Grid], list[str]]:
    """Return the tables that a sheet is printed as, and what is to be said of them."""
    if not sheet.lines:
        return [], []
    labels = list(_labels(sheet))
    counts: list[Column] = [(Text("n"), [Text(line.count) for line in sheet.lines])] if sheet.counted else []
    free = width - sum(map(_width, (*labels, *counts))) + _GAP
    for arranged in (_behind, _under, _stacked, _alone):
        columns = _columns(sheet, arranged)
        if sum(map(_width, columns)) <= free:
            lost = arranged is _alone and any(cell.interval for line in sheet.lines for cell in line.cells)
            return [_grid(sheet, labels, columns, counts)], [NARROW] if lost else []
    parts = _parts(zip(_columns(sheet, _stacked), (head.levels[:1] for head in sheet.heads), strict=True), free)
    return [_grid(sheet, labels, part, counts) for part in parts], []


def _labels(sheet: Sheet) -> Iterator[Column]:
    """Yield a column for each level of the rows."""
    for name, texts in zip(sheet.names, zip(*sheet.index_texts(), strict=True), strict=True):
        yield Text(name), [Text(text, style=_style(line)) for text, line in zip(texts, sheet.lines, strict=True)]


Arranged = Callable[[Text, ShownCell, int, int], Text]
"""Puts a value, its interval and its deviation together; both of these are as wide as given, or lines of their own."""


def _behind(value: Text, cell: ShownCell, interval: int, deviation: int) -> Text:
    padded = (f" {text:>{width}}" for text, width in ((cell.interval, interval), (cell.deviation, deviation)) if width)
    return Text.assemble(value, ("".join(padded), "dim"))


def _under(value: Text, cell: ShownCell, interval: int, deviation: int) -> Text:
    return Text.assemble(value, (f"\n{cell.behind}" if cell.behind else "", "dim"))


def _stacked(value: Text, cell: ShownCell, interval: int, deviation: int) -> Text:
    return Text("\n").join([value, *(Text(text, "dim") for text in (cell.interval, cell.deviation) if text)])


def _alone(value: Text, cell: ShownCell, interval: int, deviation: int) -> Text:
    return value


def _columns(sheet: Sheet, arranged: Arranged) -> list[Column]:
    columns = []
    for place, head in enumerate(sheet.heads):
        cells = [line.cells[place] for line in sheet.lines]
        widths = [max(len(getattr(cell, part)) for cell in cells) for part in ("interval", "deviation")]
        has_marks = any(cell.marked for cell in cells)
        texts = [
            arranged(_value(cell, _style(line), has_marks), cell, *widths)
            for cell, line in zip(cells, sheet.lines, strict=True)
        ]
        columns.append((Text("\n".join((*head.levels, head.text))), texts))
    return columns


def _value(cell: ShownCell, style: str, has_marks: bool) -> Text:
    """Return a value; where others of its column have a mark, with room for one."""
    emphasis = "bold" if cell.best else "underline" if cell.second else style
    return Text.assemble((cell.value, emphasis), (MARKED if cell.marked else " ") if has_marks else "")


def _style(line: Shown) -> str:
    return "italic" if line.published else ""


def _width(column: Column) -> int:
    head, cells = column
    return _GAP + max(cell_len(line) for text in (head, *cells) for line in text.plain.split("\n"))


def _parts(columns: Iterable[tuple[Column, tuple[str, ...]]], free: int) -> Iterator[list[Column]]:
    """Share columns out to tables, each as full as it can be; what one level joins stays together where it has room."""
    part: list[Column] = []
    for _, joined in itertools.groupby(columns, key=operator.itemgetter(1)):
        together = [column for column, _ in joined]
        if part and sum(map(_width, [*part, *together])) > free:
            yield part
            part = []
        for column in together:
            if part and sum(map(_width, [*part, column])) > free:
                yield part
                part = []
            part.append(column)
    yield part


def _grid(sheet: Sheet, labels: Sequence[Column], columns: Sequence[Column], counts: Sequence[Column]) -> Grid:
    grid = Grid(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    shown = [*labels, *columns, *counts]
    for place, (head, _) in enumerate(shown):
        is_label = place < len(labels)
        grid.add_column(head, justify="left" if is_label else "right", overflow="fold", vertical="top")
    for place, cells in enumerate(zip(*(cells for _, cells in shown), strict=True)):
        if sheet.opens_section(place):
            grid.add_section()
        grid.add_row(*cells)
    return grid
