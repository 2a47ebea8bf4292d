"""Tables as GitHub-flavoured Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ke_cli.report.formats.body import MARKED, Sheet, Shown, ShownCell, sheet_of
from ke_cli.report.tables import Table

_SPECIAL = re.compile(r"([\\|*_`<>\[\]#~])")
_DOT = " \N{MIDDLE DOT} "


def to_markdown(tables: Sequence[Table | Sheet]) -> str:
    """Return one pipe table per table, the best values bold, the second best underlined."""
    return "\n\n".join(_section(sheet_of(table)) for table in tables) + "\n"


def _section(sheet: Sheet) -> str:
    parts = [f"### {_escaped(sheet.title)}"]
    if sheet.lines:
        parts.append("\n".join(_rows(sheet)))
    notes = "\n".join(f"- {_escaped(note)}" for note in sheet.footnotes)
    return "\n\n".join(part for part in (*parts, _escaped(sheet.caption), notes) if part)


def _rows(sheet: Sheet) -> list[str]:
    count = ["n"] if sheet.counted else []
    head = [*map(_escaped, sheet.names), *(_escaped(_DOT.join((*h.levels, h.text))) for h in sheet.heads), *count]
    body = [
        [*_labels(line, index), *map(_cell, line.cells), *([line.count] if count else [])]
        for line, index in zip(sheet.lines, sheet.index_texts(), strict=True)
    ]
    names = len(sheet.names)
    rule = [*[":--"] * names, *["--:"] * (len(head) - names)]
    return [f"| {' | '.join(row)} |" for row in (head, rule, *body)]


def _labels(line: Shown, index: Sequence[str]) -> list[str]:
    return [f"*{_escaped(text)}*" if line.published and text else _escaped(text) for text in index]


def _cell(cell: ShownCell) -> str:
    value = f"**{cell.value}**" if cell.best else f"<ins>{cell.value}</ins>" if cell.second else cell.value
    return f"{value}{MARKED if cell.marked else ''} {cell.behind}".strip()


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text)
