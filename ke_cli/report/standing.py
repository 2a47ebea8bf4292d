"""How far a run has come: its cases, and the means over all that are finished, exact at any moment."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Self

import numpy as np

from ke_cli.report.statistics import mean_of_means
from ke_cli.results.journal import Block
from ke_cli.results.reader import HUGE
from ke_cli.results.record import ColumnRecord

Values = Mapping[str, float | None]
"""Column name to value of one case."""

GAP = "  "


class Point(NamedTuple):
    """A mean as it is shown, in the units of its column."""

    title: str
    value: float
    scale: float

    @property
    def figure(self) -> str:
        """The number alone."""
        return f"{self.value:.1f}" if self.scale == 100 else f"{self.value:.3g}"

    def __str__(self) -> str:
        """For example ``ES 99.0``."""
        return f"{self.title} {self.figure}"


class Means:
    """Sums over cases, from which the numbers of a table follow without the cases.

    Args:
        columns: Of the run.
    """

    def __init__(self, columns: Sequence[ColumnRecord]) -> None:
        """Begin without a case."""
        self._columns = tuple(columns)
        self._sums: dict[str, float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)
        self._grouped = False

    def and_also(self, units: Iterable[tuple[Sequence[Values], int]]) -> Self:
        """Return these means with some further units; see `add`."""
        made = type(self)(self._columns)
        made._sums.update(self._sums)
        made._counts.update(self._counts)
        made._grouped = self._grouped
        for cases, size in units:
            made.add(cases, size)
        return made

    def add(self, cases: Sequence[Values], size: int, subjects: Sequence[str] = ()) -> None:
        """Take in finished cases of one unit.

        Args:
            cases: What was measured on each, at least one.
            size: How many cases the unit has, finished or not.
            subjects: What each case is about; without any, all are about one subject.
        """
        self._grouped |= size > 1
        for column in self._columns:
            if column.kind == "mean":
                self._count(column.name, _usable(cases, column.name))
            elif column.kind == "all_in_unit" and len(cases) == size:
                self._count(column.name, _shares(cases, subjects, column.of[:1]))

    def _count(self, name: str, values: Sequence[float]) -> None:
        if values:
            self._sums[name] += sum(values)
            self._counts[name] += len(values)

    def points(self) -> list[Point]:
        """Return the main columns that have a value, as a table would show them unasked."""
        shown = [column for column in self._columns if column.main]
        found = [(column, self._mean(column)) for column in shown if self._grouped or column.kind != "all_in_unit"]
        return [Point(column.title, column.scale * mean, column.scale) for column, mean in found if mean is not None]

    def _mean(self, column: ColumnRecord) -> float | None:
        if column.kind in ("mean", "all_in_unit"):
            count = self._counts.get(column.name, 0)
            return self._sums[column.name] / count if count else None
        known = {other.name: other for other in self._columns if other.kind in ("mean", "all_in_unit")}
        sources = [self._mean(known[name]) for name in column.of if name in known]
        used = [source for source in sources if source is not None]
        if not used or len(used) < min(2, len(sources)):  # one source of several is no score
            return None
        value = float(mean_of_means(column.kind, np.array(used)))
        return value if np.isfinite(value) else None


def _usable(cases: Sequence[Values], name: str) -> list[float]:
    values = (case.get(name) for case in cases)
    return [value for value in values if value is not None and abs(value) < HUGE]  # false for NaN


def _shares(cases: Sequence[Values], subjects: Sequence[str], of: Sequence[str]) -> list[float]:
    """Return for each subject that has a value 1 if all its cases have the value 1, otherwise 0."""
    groups: dict[str, list[Values]] = defaultdict(list)
    for case, subject in zip(cases, subjects or [""] * len(cases), strict=True):
        groups[subject].append(case)
    found = [_usable(group, name) for group in groups.values() for name in of]
    return [float(min(values) >= 1) for values in found if values]


class Standing:
    """The cases of a run, told unit by unit; of several attempts at a unit the first without a failure counts.

    Args:
        columns: Of the run.
        sequence: Whether each unit is a checkpoint, at which all cases so far were evaluated: then the last one counts.
    """

    def __init__(self, columns: Sequence[ColumnRecord], *, sequence: bool = False) -> None:
        """Begin without a case."""
        self._columns, self._sequence = columns, sequence
        self._begin()

    def _begin(self) -> None:
        self._means = Means(self._columns)
        self._units: set[str] = set()
        self._cases = 0
        self._failed: dict[str, Sequence[Values | None]] = {}

    def take(self, unit: str, cases: Sequence[Values | None], subjects: Sequence[str] = ()) -> None:
        """Take in an attempt at a whole unit.

        Args:
            unit: Its name.
            cases: What was measured on each of its cases; None for one that failed.
            subjects: What each case is about; without any, all are about one subject.
        """
        if unit in self._units:
            return
        if self._sequence:
            if len(cases) < self.done + self.failed:
                return
            self._begin()
        finished = [case for case in cases if case is not None]
        if len(finished) == len(cases):
            self._failed.pop(unit, None)
            self._units.add(unit)
            self._cases += len(cases)
            self._means.add(finished, len(cases), subjects)
        else:
            self._failed.setdefault(unit, cases)

    def take_block(self, block: Block) -> None:
        """Take in a unit as it stands in the case log; one that is not whole does not count."""
        if block.complete:
            values = [line.metrics if line.ok else None for line in block.lines]
            self.take(block.lines[0].unit, values, [line.subject for line in block.lines])

    def forget_failures(self) -> None:
        """Have the units that failed count as not tried."""
        self._failed.clear()

    @property
    def done(self) -> int:
        """Finished cases."""
        return self._cases + sum(case is not None for cases in self._failed.values() for case in cases)

    @property
    def failed(self) -> int:
        """Cases that failed."""
        return sum(case is None for cases in self._failed.values() for case in cases)

    def points(self) -> list[Point]:
        """Return the means over all finished cases."""
        parts = [([case for case in cases if case is not None], len(cases)) for cases in self._failed.values()]
        return self._means.and_also(part for part in parts if part[0]).points()


def in_a_line(points: Sequence[Point], width: int | None = None) -> str:
    """Return means beside each other, as many as fit; that some do not is shown.

    Args:
        points: The means.
        width: Of the line; None for any.
    """
    words = [str(point) for point in points]
    if width is None or len(GAP.join(words)) <= width:
        return GAP.join(words)
    while words and len(GAP.join([*words, "…"])) > width:
        words.pop()
    return GAP.join([*words, "…"]) if words else ""
