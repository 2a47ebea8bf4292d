"""Figures that others published, set beside the measured ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from ke_cli.report.rows import Group, Row
from ke_cli.results.experiment import Published
from ke_cli.results.record import ColumnRecord

Figures = Mapping[str, tuple[float | None, ...]]
"""Method to its figures, one for each column of a table, in the column's own units."""


def beside(
    published: Published | None,
    group: Group,
    columns: Sequence[ColumnRecord],
    rows: Sequence[Row],
    reference: Row | None,
) -> Figures:
    """Return the figures that belong beside a table.

    Args:
        published: What was published, if anything.
        group: Of the table; figures about another model, data set or protocol are not shown.
        columns: Of the table.
        rows: Of the table; figures of methods that it lacks are left out.
        reference: The row that the others are compared with: figures then are differences to those of its method.
    """
    if published is None or not _fits(published, group):
        return {}
    found = {
        row.method: tuple(_unscaled(published.rows.get(row.method, {}).get(column.name), column) for column in columns)
        for row in rows
    }
    figures = {method: row for method, row in found.items() if any(value is not None for value in row)}
    if reference is None:
        return figures
    base = found[reference.method]
    return {method: row if method == reference.method else _minus(row, base) for method, row in figures.items()}


def published_note(published: Published | None, group: Group, figures: Figures) -> Iterator[str]:
    """Yield where the figures come from, or why there are none."""
    if published is None:
        return
    if figures:
        yield f"Published: {published.source}."
    elif not _fits(published, group):
        about = ", ".join(name for name in published.of if name)
        yield f"The published figures ({published.source}) are about {about}, so they are not shown here."


def _fits(published: Published, group: Group) -> bool:
    return all(name in (None, given) for name, given in zip(published.of, group, strict=False))


def _unscaled(value: float | None, column: ColumnRecord) -> float | None:
    unscaled = math.nan if value is None or not column.scale else value / column.scale
    return unscaled if math.isfinite(unscaled) else None


def _minus(row: Sequence[float | None], base: Sequence[float | None]) -> tuple[float | None, ...]:
    return tuple(
        None if value is None or other is None else value - other for value, other in zip(row, base, strict=True)
    )
