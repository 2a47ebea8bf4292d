"""Colours and markers of rows: told apart by people of any colour vision, and in grey."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ke_cli.report.rows import UNEDITED, Row

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette without its yellow, which is too light for a point on white paper."""

GREY = "#808080"
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 2, 1, 2)))


@dataclass(frozen=True, slots=True)
class Style:
    """How one row is drawn, in every panel."""

    colour: str
    marker: str
    line: str | tuple[int, tuple[int, ...]]


def styles(rows: Sequence[Row]) -> Mapping[str, Style]:
    """Return the style of each label.

    With few rows each has a colour and a marker of its own. With many, rows that agree in their method and in the first
    setting share a colour, and rows that agree in the others share a marker.
    """
    edited = [row for row in rows if row.method != UNEDITED]
    keys = [(str((row.method, row.values[:1])), str(row.values[1:])) for row in edited]
    colours, markers = (list(dict.fromkeys(key[part] for key in keys)) for part in (0, 1))
    found = {row.label: Style(GREY, "o", LINES[0]) for row in rows}
    for place, (row, (colour, marker)) in enumerate(zip(edited, keys, strict=True)):
        if len(edited) <= len(COLOURS) or len(colours) > len(COLOURS) or len(set(keys)) < len(keys):
            found[row.label] = _style(place, place)
        else:
            found[row.label] = _style(colours.index(colour), markers.index(marker))
    return found


def _style(colour: int, shape: int) -> Style:
    return Style(COLOURS[colour % len(COLOURS)], MARKERS[shape % len(MARKERS)], LINES[shape % len(LINES)])
