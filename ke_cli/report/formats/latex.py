r"""Tables as LaTeX, with the rules of the booktabs package.

The text compiles on its own, and can be read with ``\input`` into a document. A table that is too wide for the page
is scaled down by TeX itself, which alone knows how wide it is.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from ke_cli.report.formats.body import Head, Sheet, Shown, ShownCell, sheet_of
from ke_cli.report.tables import Table

_ESCAPES: Mapping[int, str] = MappingProxyType(
    str.maketrans(
        {
            **{char: f"\\{char}" for char in "&%$#_{}"},
            "\\": r"\textbackslash{}",
            "~": r"\textasciitilde{}",
            "^": r"\textasciicircum{}",
            "<": r"\textless{}",
            ">": r"\textgreater{}",
            "|": r"\textbar{}",
            '"': "''",
            "`": r"\textasciigrave{}",
            # At the start of a row a bracket would be read as an argument of the line break before it.
            "[": "{[}",
            "]": "{]}",
            "\N{MIDDLE DOT}": r"$\cdot$",
            "\N{EN DASH}": "--",
            "\N{PLUS-MINUS SIGN}": r"$\pm$",
            "\N{DAGGER}": r"$\dagger$",
            "\N{UPWARDS ARROW}": r"$\uparrow$",
            "\N{DOWNWARDS ARROW}": r"$\downarrow$",
        }
    )
)
_ARROWS = MappingProxyType({"up": r"$\uparrow$", "down": r"$\downarrow$"})
_LETTERS = frozenset("ßæœøłÆŒØŁ")
_ACCENTS = frozenset(map(chr, (0x300, 0x301, 0x302, 0x303, 0x304, 0x306, 0x307, 0x308, 0x30A, 0x30B, 0x30C, 0x327)))
"""Letters, and accents on others, that LaTeX knows in every font encoding without further packages."""

_DAGGER = r"$^{\dagger}$"
_WIDE = 5
"""With more columns than so many, intervals stand under the values and not behind them."""

_BEGIN = r"""% needs \usepackage{booktabs,graphicx} where it is read with \input; compiles on its own as well
\makeatletter\ifx\documentclass\@twoclasseserror\else
\documentclass{article}\usepackage[T1]{fontenc}\IfFileExists{lmodern.sty}{\usepackage{lmodern}}{}
\usepackage[margin=2cm]{geometry}\usepackage{booktabs,graphicx}
\begin{document}\def\keclose{\end{document}}
\fi\makeatother"""
_END = r"\ifdefined\keclose\expandafter\keclose\fi"


def to_latex(tables: Sequence[Table | Sheet]) -> str:
    """Return one ``table`` environment per table, the best values bold, the second best underlined."""
    return "\n\n".join([_BEGIN, *(_environment(sheet_of(table)) for table in tables), _END]) + "\n"


def _environment(sheet: Sheet) -> str:
    notes = [f"\\par\\smallskip\\footnotesize {escaped(note)}" for note in sheet.footnotes]
    lines = [
        "\\begin{table}[htbp]",
        "\\centering",
        f"\\caption{{{escaped(sheet.title)}. {escaped(sheet.caption)}}}\\par\\medskip",
        *(_fitted(sheet) if sheet.lines else ()),
        *notes,
        "\\end{table}",
    ]
    return "\n".join(lines)


def _fitted(sheet: Sheet) -> list[str]:
    """Return the table, scaled down where it is wider than a line."""
    scaled = r"\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi"
    return [r"\sbox0{%", *_tabular(sheet), "}%", scaled]


def _tabular(sheet: Sheet) -> Iterator[str]:
    behind = len(sheet.heads) <= _WIDE and any(cell.behind for line in sheet.lines for cell in line.cells)
    width = 2 if behind else 1
    number = "r@{\\,}l" if behind else "r"
    yield f"\\begin{{tabular}}{{{'l' * len(sheet.names)}{number * len(sheet.heads)}{'r' * sheet.counted}}}"
    yield "\\toprule"
    yield from _levels(sheet, width)
    yield _row([*map(escaped, sheet.names), *(_head(head, width) for head in sheet.heads), *["$n$"] * sheet.counted])
    yield "\\midrule"
    marked = [any(line.cells[place].marked for line in sheet.lines) for place in range(len(sheet.heads))]
    for place, (line, index) in enumerate(zip(sheet.lines, sheet.index_texts(), strict=True)):
        if sheet.opens_section(place):
            yield "\\midrule"
        yield from _lines(sheet, line, index, marked, behind)
    yield "\\bottomrule"
    yield "\\end{tabular}"


def _levels(sheet: Sheet, width: int) -> Iterator[str]:
    """Yield the rows above the heads of the columns, each with rules under what it joins."""
    for level in sheet.spans:
        before, rules, start = [""] * len(sheet.names), [], len(sheet.names) + 1
        cells = []
        for text, columns in level:
            end = start + columns * width - 1
            cells.append(f"\\multicolumn{{{columns * width}}}{{c}}{{{escaped(text)}}}")
            rules.append(f"\\cmidrule(lr){{{start}-{end}}}")
            start = end + 1
        yield _row([*before, *cells, *[""] * sheet.counted])
        yield "".join(rules)


def _head(head: Head, width: int) -> str:
    text = f"{escaped(head.title)} {_ARROWS[head.direction]}"
    return f"\\multicolumn{{{width}}}{{c}}{{{text}}}"


def _lines(sheet: Sheet, line: Shown, index: Sequence[str], marked: Sequence[bool], behind: bool) -> Iterator[str]:
    """Yield a line; where intervals stand under the values, as two rows."""
    labels = [_label(line, text) for text in index]
    values = [_value(cell, has_marks) for cell, has_marks in zip(line.cells, marked, strict=True)]
    intervals = [f"{{\\scriptsize {_signed(cell.behind)}}}" if cell.behind else "" for cell in line.cells]
    count = [line.count] * sheet.counted
    if behind:
        yield _row([*labels, *(part for pair in zip(values, intervals, strict=True) for part in pair), *count])
        return
    yield _row([*labels, *values, *count])
    if any(intervals):
        yield _row([*[""] * len(labels), *intervals, *[""] * len(count)]) + "[3pt]"


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _label(line: Shown, text: str) -> str:
    return f"\\quad\\textit{{{escaped(text)}}}" if line.published and text else escaped(text)


def _value(cell: ShownCell, has_marks: bool) -> str:
    value = _signed(cell.value)
    bold = r"\boldmath " if "$" in value else ""  # a sign is mathematics, which \textbf leaves as it is
    value = f"\\textbf{{{bold}{value}}}" if cell.best else f"\\underline{{{value}}}" if cell.second else value
    return value + (_DAGGER if cell.marked else f"\\phantom{{{_DAGGER}}}" if has_marks else "")


def _signed(text: str) -> str:
    """Return a number, or several, with real minus signs."""
    signed = text.replace("-", "$-$").replace("+", "$+$")
    return signed.replace("\N{EN DASH}", "--").replace("\N{PLUS-MINUS SIGN}", r"$\pm$")


def escaped(text: str) -> str:
    """Return plain text as LaTeX that prints it; letters that LaTeX does not know as their numbers in Unicode."""
    known = "".join(char if _is_known(char) else f"[U+{ord(char):04X}]" for char in text)
    return known.replace("--", "-\0-").translate(_ESCAPES).replace("-\0-", "-{}-")


def _is_known(char: str) -> bool:
    if char.isascii() or char in _LETTERS or ord(char) in _ESCAPES:
        return True
    parts = unicodedata.normalize("NFD", char)
    return len(parts) == 2 and parts[0].isascii() and parts[1] in _ACCENTS
