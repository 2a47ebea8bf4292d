"""Means and 95 % intervals by the cluster bootstrap, for many rows of a table at once.

All rows are resampled together: resample ``r`` draws the same clusters of cases for every row, so that the
difference of two rows is a paired difference (Efron and Tibshirani 1993, chapters 6, 8 and 13).

Runs that share a row, such as the seeds of a method, are no cases: a case counts once, with its mean over them. How far
the runs lie apart is a number of its own, and no part of an interval.

Shapes: ``r`` resamples, ``s`` runs that share a row, ``n`` cases, ``k`` clusters, ``m`` columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Self

import numpy as np
import numpy.typing as npt

RESAMPLES = 1000
LEVEL = 0.95
SEED = 0
_DRAWS_AT_ONCE = 1 << 22

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its interval, in the column's own units; None where there is none.

    Args:
        value: The estimate; None without any value.
        low: Lower end of the interval; None when fewer than two clusters have a value.
        high: Upper end of the interval.
        n: How many cases (for ``all_in_unit``: subjects) have a value.
        deviation: Standard deviation over the runs that share the row; None for one run.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    deviation: float | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One number of one row: over all cases, and over each resample of them.

    Args:
        point: The number; NaN where no case has a value.
        draws: ``[r]``, NaN where a resample holds no case with a value.
        n: Cases with a value.
        spread: Clusters with a value; from fewer than two no interval can be had.
        runs: ``[s]``: the number in each of several runs that share the row; NaN for one that does not count.
    """

    point: float
    draws: FloatArray
    n: int
    spread: int
    runs: FloatArray = field(default_factory=lambda: np.empty(0))

    def minus(self, other: Self, *, same_runs: bool = True) -> Self:
        """Return the paired difference to a sample of the same `bootstrap`.

        Args:
            other: What is subtracted.
            same_runs: Whether run for run the two belong together (the same seeds).
        """
        runs = self.runs if self.runs.size else np.atleast_1d(self.point)
        others = other.runs if other.runs.size else np.atleast_1d(other.point)
        fitting = 1 in (runs.size, others.size) or (same_runs and runs.size == others.size)
        return type(self)(
            self.point - other.point,
            self.draws - other.draws,
            min(self.n, other.n),
            min(self.spread, other.spread),
            runs - others if fitting else np.empty(0),
        )

    def estimate(self) -> Estimate:
        """Return the number with its percentile interval."""
        if not np.isfinite(self.point):
            return Estimate(None, None, None, self.n)
        deviation = self._deviation()
        draws = self.draws[np.isfinite(self.draws)]
        if self.spread < 2 or not draws.size:
            return Estimate(self.point, None, None, self.n, deviation)
        low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Estimate(self.point, float(low), float(high), self.n, deviation)

    def _deviation(self) -> float | None:
        """Return the standard deviation over the runs that have a number; None where fewer than two have one."""
        runs = self.runs[~np.isnan(self.runs)]
        with np.errstate(over="ignore", invalid="ignore"):
            deviation = float(runs.std(ddof=1)) if runs.size > 1 else np.nan
        return deviation if np.isfinite(deviation) else None


def derive(kind: str, sources: Sequence[Sample]) -> Sample:
    """Return the ``harmonic`` or ``arithmetic`` mean of those sources that were measured.

    It is computed anew in every resample, so that its interval knows how the sources vary together. One source of
    several is no score: it would repeat that column under another name.
    """
    used = [source for source in sources if source.n > 0]
    if len(used) < min(2, len(sources)) or not used:
        return Sample(np.nan, np.full(RESAMPLES, np.nan), 0, 0)
    return Sample(
        point=float(mean_of_means(kind, np.array([source.point for source in used]))),
        draws=mean_of_means(kind, np.stack([source.draws for source in used], axis=-1)),
        n=min(source.n for source in used),
        spread=min(source.spread for source in used),
        runs=mean_of_means(kind, np.stack([source.runs for source in used], axis=-1)),
    )


def mean_of_means(kind: str, means: FloatArray) -> FloatArray:
    """Return the ``harmonic`` or ``arithmetic`` mean over the last axis.

    A harmonic mean is 0 as soon as one of its sources is, and undefined (NaN) below 0.
    """
    if kind == "arithmetic":
        return np.asarray(means.mean(axis=-1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(means.shape[-1] / (1 / np.where(means < 0, np.nan, means)).sum(axis=-1))


def join(partitions: Sequence[IntArray]) -> IntArray:
    """Number the smallest groups of cases such that no unit of any partition is cut.

    Args:
        partitions: Each ``[n]``: the unit of each case, negative for cases that are in none.

    Returns:
        ``[n]`` cluster of each case, 0 to ``k - 1``. One single cluster could not be resampled: then each case
        is its own.
    """
    clusters = components(partitions)
    return clusters if clusters.max(initial=0) > 0 else np.arange(len(clusters))


def components(partitions: Sequence[IntArray]) -> IntArray:
    """Do the same as `join`, but leave one single cluster as it is."""
    n = len(partitions[0])
    labels, before = np.arange(n), np.full(n, -1)
    units = [np.where(units < 0, units.max(initial=-1) + 1 + np.arange(n), units) for units in partitions]
    while not np.array_equal(labels, before):
        before = labels
        for unit in units:
            lowest = np.full(unit.max(initial=-1) + 1, n)
            np.minimum.at(lowest, unit, labels)
            labels = lowest[unit]
    clusters: IntArray = np.unique(labels, return_inverse=True)[1].reshape(n)
    return clusters


def bootstrap(
    rows: Iterable[FloatArray], clusters: IntArray, finished: Iterable[Sequence[bool]] = ()
) -> list[list[Sample]]:
    """Estimate the mean of every column of every row, on the same resamples of whole clusters.

    Args:
        rows: Each ``[s, n, m]``, NaN where there is no value. A case has the mean of its runs.
        clusters: ``[n]`` the cluster of each case, as `join` numbers them.
        finished: For each row ``[s]``: which of its runs count for how far they lie apart; without, all do.

    Returns:
        For each row, one sample per column.
    """
    k = int(clusters.max(initial=-1)) + 1
    parts, counts, runs = [], [], []
    for row, counted in zip_longest(rows, finished):
        runs.append(run_means(row, counted))
        means = mean_of_runs(row)
        parts.append(_cluster_sums(np.where(np.isnan(means), 0.0, means), clusters, k))
        counts.append((~np.isnan(means)).astype(np.int32))
    # Columns of different rows are columns of one wide table from here on; behind them stand the sizes.
    kinds, kind = _distinct(np.concatenate(counts, axis=1))
    sizes = _cluster_sums(kinds, clusters, k)
    table = np.concatenate([*parts, sizes], axis=1)
    points, draws = _means(table.sum(axis=0), kind), _means(_resampled(table), kind)
    n, spread = (kinds > 0).sum(axis=0)[kind], (sizes > 0).sum(axis=0)[kind]
    apart = [column for row in runs for column in row.T]
    wide = [Sample(float(points[i]), draws[:, i], int(n[i]), int(spread[i]), apart[i]) for i in range(len(points))]
    ends = np.cumsum([part.shape[1] for part in parts])
    return [wide[end - part.shape[1] : end] for part, end in zip(parts, ends, strict=True)]


def mean_of_runs(row: FloatArray) -> FloatArray:
    """Average ``[s, n, m]`` to ``[n, m]`` over the runs that have a value; NaN where none has."""
    if len(row) == 1:
        return np.asarray(row[0])
    sizes = (~np.isnan(row)).sum(axis=0)
    return np.where(sizes > 0, np.nansum(row, axis=0) / np.maximum(sizes, 1), np.nan)


def run_means(row: FloatArray, finished: Sequence[bool] | None = None) -> FloatArray:
    """Return the mean of every run that shares a row with others, over the cases for which all of them have a value.

    Args:
        row: ``[s, n, m]``, NaN where there is no value.
        finished: ``[s]``: which runs count; by default all. Runs without any value in a column do not count there.

    Returns:
        ``[s, m]``, NaN for a run that does not count or has no shared case; ``[0, m]`` for one run alone.
    """
    if len(row) < 2:
        return np.empty((0, row.shape[2]))
    known = ~np.isnan(row)
    whole = np.array([True] * len(row) if finished is None else finished)
    counted = known.any(axis=1) & whole[:, None]  # [s, m]
    shared = np.asarray((known | ~counted[:, None]).all(axis=0) & counted.any(axis=0))  # [n, m]
    sizes = shared.sum(axis=0)
    sums = np.where(shared & known, row, 0.0).sum(axis=1)
    return np.where(counted & (sizes > 0), sums / np.maximum(sizes, 1), np.nan)


def _distinct(columns: npt.NDArray[np.int32]) -> tuple[npt.NDArray[np.int32], IntArray]:
    """Return the different ones among the columns, ``[n, d]``, and which of them each column is, ``[m]``.

    Which cases have a value is mostly the same in all rows, so it need not be resampled for each of them.
    """
    places: dict[bytes, int] = {}
    which = np.array([places.setdefault(column.tobytes(), len(places)) for column in columns.T], dtype=np.intp)
    return columns[:, np.unique(which, return_index=True)[1]], which


def _cluster_sums(values: npt.NDArray[np.generic], clusters: IntArray, k: int) -> FloatArray:
    """Add up ``[n, m]`` to ``[k, m]``."""
    sums = np.empty((k, values.shape[1]))
    for place, column in enumerate(values.T):
        sums[:, place] = np.bincount(clusters, weights=column, minlength=k)
    return sums


def _resampled(table: FloatArray) -> FloatArray:
    """Return the column sums of ``[k, m]`` over k clusters drawn with replacement, ``[r, m]``."""
    k = len(table)
    random = np.random.default_rng(SEED)
    step = max(1, _DRAWS_AT_ONCE // max(k, 1))
    parts = []
    for start in range(0, RESAMPLES, step):
        r = min(step, RESAMPLES - start)
        drawn = random.integers(k, size=(r, k)) + k * np.arange(r)[:, None] if k else np.zeros((r, 0), np.intp)
        times = np.bincount(drawn.ravel(), minlength=r * k).reshape(r, k)  # how often each cluster was drawn
        parts.append(times.astype(np.float64) @ table)
    return np.concatenate(parts)


def _means(table: FloatArray, kind: IntArray) -> FloatArray:
    """Divide sums by sizes.

    Args:
        table: ``[..., m + d]``: the sum of each column, behind them the different sizes.
        kind: ``[m]``: which of the sizes is that of each column.

    Returns:
        ``[..., m]``, NaN where the size is 0.
    """
    m = len(kind)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(table[..., :m] / table[..., m:][..., kind])
