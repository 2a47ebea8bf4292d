"""What a gallery is made of."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ke_cli.report.plots.panels import Picture
from ke_cli.report.rows import Group

Point = tuple[float, float, float]
"""A value and the ends of its interval, in the unit that tables show."""


@dataclass(frozen=True, slots=True)
class Forest:
    """Differences to a row, one under the other, a panel for each column.

    Args:
        title: Above the panels.
        labels: Of the rows, from the top.
        headings: Of the panels, with the unit.
        points: For each panel, a point for each label, None where there is none.
        against: The row that they are differences to.
        upwards: For each panel, whether more is better.
    """

    title: str
    labels: tuple[str, ...]
    headings: tuple[str, ...]
    points: tuple[tuple[Point | None, ...], ...]
    against: str
    upwards: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class HeatMap:
    """Numbers by relation and row.

    Args:
        title: Above the map.
        relations: What the lines are called, from the top.
        labels: What the columns are called.
        values: ``[relations][labels]``, in the unit that tables show; None where there is no case.
        heading: What the numbers are.
        limits: The values of the darkest and the lightest colour.
    """

    title: str
    relations: tuple[str, ...]
    labels: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    heading: str
    limits: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Drawable:
    """What a picture is called: name of its file, title, and a caption that says what is to be seen."""

    name: str
    title: str
    caption: str


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture that can be drawn.

    Args:
        name: Of its files, without suffix.
        title: For people.
        caption: What is to be seen, for those who cannot see it too.
        content: What `draw` draws.
    """

    name: str
    title: str
    caption: str
    content: Picture | Forest | HeatMap


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A picture that was not drawn, and why."""

    title: str
    why: str


def slug(text: str) -> str:
    """Return text as part of a file name that every system takes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "x"


def group_slug(group: Group) -> str:
    """Return the title of a group as part of a file name."""
    return slug(group.title)


def unique_names(figures: Sequence[Figure]) -> list[Figure]:
    """Number figures whose names are the same."""
    counts: Counter[str] = Counter()
    named = []
    for figure in figures:
        counts[figure.name] += 1
        count = counts[figure.name]
        named.append(figure if count == 1 else replace(figure, name=f"{figure.name}-{count}"))
    return named
