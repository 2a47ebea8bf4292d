"""Tables as HTML: a fragment for any page, with classes to style and nothing that loads or runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from ke_cli.report.formats.body import MARKED, Sheet, Shown, ShownCell, sheet_of
from ke_cli.report.tables import Table


def to_html(tables: Sequence[Table | Sheet]) -> str:
    """Return one ``table`` element per table, the best values in ``b``, the second best in ``u``."""
    return "\n".join("\n".join(_table(sheet_of(table))) for table in tables) + "\n"


def _table(sheet: Sheet) -> Iterator[str]:
    yield '<table class="ke-table">'
    yield f"<caption><strong>{escape(sheet.title)}</strong> {escape(sheet.caption)}</caption>"
    yield "<thead>"
    yield from _heads(sheet)
    yield "</thead>"
    yield "<tbody>"
    for line, index in zip(sheet.lines, sheet.index_texts(), strict=True):
        yield _row(sheet, line, index)
    yield "</tbody>"
    if sheet.footnotes:
        width = len(sheet.names) + len(sheet.heads) + sheet.counted
        notes = "<br>".join(map(escape, sheet.footnotes))
        yield f'<tfoot><tr><td colspan="{width}">{notes}</td></tr></tfoot>'
    yield "</table>"


def _heads(sheet: Sheet) -> Iterator[str]:
    """Yield a row for each level above the columns, and one for the columns themselves."""
    spans = sheet.spans
    rows = len(spans) + 1
    names = "".join(f'<th scope="col" rowspan="{rows}">{escape(name)}</th>' for name in sheet.names)
    count = f'<th scope="col" rowspan="{rows}">n</th>' if sheet.counted else ""
    titles = "".join(f'<th scope="col">{escape(head.text)}</th>' for head in sheet.heads)
    levels = [
        "".join(f'<th scope="colgroup" colspan="{width}">{escape(text)}</th>' for text, width in level)
        for level in spans
    ]
    for place, row in enumerate([*levels, titles]):
        yield f"<tr>{names if place == 0 else ''}{row}{count if place == 0 else ''}</tr>"


def _row(sheet: Sheet, line: Shown, index: Sequence[str]) -> str:
    labels = "".join(f'<th scope="row">{escape(text)}</th>' for text in index)
    cells = "".join(f"<td>{_cell(cell)}</td>" for cell in line.cells)
    count = f"<td>{line.count}</td>" if sheet.counted else ""
    kind = ' class="published"' if line.published else ""
    return f"<tr{kind}>{labels}{cells}{count}</tr>"


def _cell(cell: ShownCell) -> str:
    value = escape(cell.value)
    value = f"<b>{value}</b>" if cell.best else f"<u>{value}</u>" if cell.second else value
    mark = f"<sup>{MARKED}</sup>" if cell.marked else ""
    interval = cell.interval.replace(" ", "\N{NO-BREAK SPACE}")  # a narrow column breaks between the parts only
    behind = escape(" ".join(filter(None, (interval, cell.deviation))))
    return f"{value}{mark} <small>{behind}</small>" if behind else f"{value}{mark}"
