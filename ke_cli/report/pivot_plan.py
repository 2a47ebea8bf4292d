"""What makes the rows and the columns of a table that is laid out by settings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ke_cli.errors import UserError
from ke_cli.report.rows import Group, Row, as_typed
from ke_cli.report.view import Layout, View, completed, settled
from ke_cli.results.reader import Run
from ke_cli.results.record import Scalar

METHOD = "method.name"
GROUP_KEYS = ("model.name", "dataset.name", "protocol.name")

Values = tuple[Scalar, ...]
"""One value for each key, the outermost level first."""

Place = tuple[Values, Values]
"""What stands in the rows and in the columns."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What makes rows and columns.

    Args:
        rows: Setting keys, the outermost level first.
        cols: Setting keys.
        layout: Everything else.
    """

    rows: tuple[str, ...]
    cols: tuple[str, ...]
    layout: Layout

    @property
    def by(self) -> tuple[str, ...]:
        """The settings that part the runs of a method."""
        return _by((*self.rows, *self.cols))

    def place(self, group: Group, row: Row) -> Place:
        """Return where a row of a group stands."""
        index, columns = (tuple(_value(key, group, row) for key in keys) for keys in (self.rows, self.cols))
        return index, columns

    def rivals(self, place: Place) -> tuple[object, ...]:
        """Return what those agree in that compete for the best value: all but the method."""
        index, columns = place
        if METHOD not in self.cols:
            return columns
        found = zip((*self.rows, *self.cols), (*index, *columns), strict=True)
        return tuple(value for key, value in found if key != METHOD)


def _by(keys: Sequence[str]) -> tuple[str, ...]:
    return (METHOD, *(key for key in keys if key not in (METHOD, *GROUP_KEYS)))


def in_plain_rows(view: View, runs: Sequence[Run]) -> View:
    """Return a view with the same numbers in plain rows, for formats that know no columns above the metrics."""
    view = completed(view, [run for run in runs if run.readable])
    return replace(view, by=_by((*view.rows, *view.cols)), rows=(), cols=())


def _value(key: str, group: Group, row: Row) -> Scalar:
    if key in GROUP_KEYS:
        return str(group[GROUP_KEYS.index(key)])
    return row.method if key == METHOD else row.runs[0].record.settings.get(key)


def refuse_contradictions(view: View) -> None:
    """Refuse a view that asks for two layouts at once.

    Raises:
        UserError: It names the option.
    """
    for option, given in (("--by", view.by), ("--sort", view.sort)):
        if given:
            raise UserError(f"{option} does not go with --rows and --cols, which say the rows", where=option)
    if twice := [key for key in view.rows if key in view.cols]:
        raise UserError(f"{twice[0]} cannot make rows and columns", where="--cols")


def plan_of(view: View, runs: Sequence[Run]) -> Plan:
    """Return the layout; methods that neither rows nor columns tell apart become the last level of the rows."""
    several = len({run.record.named("method") for run in runs}) > 1
    told = METHOD in (*view.rows, *view.cols)
    rows = (*view.rows, METHOD) if not told and (several or not view.rows) else view.rows
    if not rows:
        rows = tuple(key for key in GROUP_KEYS if key not in view.cols)[:1]
    return Plan(rows, view.cols, settled(view, runs))


def in_order(keys: Sequence[str], found: Iterable[Values]) -> list[Values]:
    """Return what was found, each once: names as they come up, settings in the order of their values."""
    once = dict.fromkeys(found)
    ranks = [list(dict.fromkeys(values)) for values in zip(*once, strict=True)]

    def order(values: Values) -> list[tuple[float, str]]:
        return [
            (float(rank.index(value)), "") if key in (METHOD, *GROUP_KEYS) else _order(value)
            for key, value, rank in zip(keys, values, ranks, strict=True)
        ]

    return sorted(once, key=order)


def _order(value: Scalar) -> tuple[float, str]:
    is_number = isinstance(value, int | float) and not math.isnan(value)
    return (float(value) if is_number else math.inf, as_typed(value))  # type: ignore[arg-type]
