"""Rows of a table against one of them: paired differences on the cases that both have, and tests of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt

from ke_cli.report.clusters import Clusters
from ke_cli.report.significance import MCNEMAR, SIGN_FLIP, Outcome, Problem, exchange, mcnemar, sign_flip
from ke_cli.report.statistics import FloatArray, Sample, bootstrap, mean_of_means
from ke_cli.results.record import ColumnRecord


@dataclass(frozen=True, slots=True)
class Measured:
    """One row of a table.

    Args:
        values: ``[n, m]``: the value of each case in each measured column, the mean over the runs of the row.
        samples: Column name to number, derived columns too.
        runs: What tells the runs of the row apart, for example their seeds.
    """

    values: FloatArray
    samples: Mapping[str, Sample]
    runs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pairing:
    """One row against another.

    Args:
        differences: Column name to the paired difference.
        outcomes: Column name to what the test of it came to, where there is one.
    """

    differences: Mapping[str, Sample] = field(default_factory=dict)
    outcomes: Mapping[str, Outcome] = field(default_factory=dict)


def pairings(
    rows: Sequence[Measured],
    references: Sequence[int | None],
    measured: Sequence[ColumnRecord],
    columns: Sequence[ColumnRecord],
    clusters: Clusters,
) -> tuple[Pairing, ...]:
    """Compare rows with others.

    Args:
        rows: All of a table, from one `bootstrap`.
        references: For each row, which one it is compared with; itself or None for no comparison.
        measured: The columns that have a value per case, as in `Measured.values`.
        columns: All columns.
        clusters: The groups of cases that were resampled together.
    """
    pairs = [(place, other) for place, other in enumerate(references) if other not in (None, place)]
    found: list[Pairing] = [Pairing()] * len(rows)
    outcomes = _outcomes([(rows[place], rows[other or 0]) for place, other in pairs], measured, columns, clusters)
    for (place, other), tested in zip(pairs, outcomes, strict=True):
        row, reference = rows[place], rows[other or 0]
        found[place] = Pairing(_differences(row, reference, measured, clusters), tested)
    return tuple(found)


def _differences(
    row: Measured, reference: Measured, measured: Sequence[ColumnRecord], clusters: Clusters
) -> dict[str, Sample]:
    """Subtract; where cases have a value in one of the two rows only, without these cases."""
    same_runs = row.runs == reference.runs
    found = {name: sample.minus(reference.samples[name], same_runs=same_runs) for name, sample in row.samples.items()}
    uneven = np.flatnonzero((np.isnan(row.values) != np.isnan(reference.values)).any(axis=0))
    if uneven.size:
        both = (row.values - reference.values)[None, :, uneven]
        for place, sample in zip(uneven.tolist(), bootstrap([both], clusters.labels)[0], strict=True):
            found[measured[place].name] = sample
    return found


def _outcomes(
    pairs: Sequence[tuple[Measured, Measured]],
    measured: Sequence[ColumnRecord],
    columns: Sequence[ColumnRecord],
    clusters: Clusters,
) -> list[dict[str, Outcome]]:
    """Test every column of every pair; what no exact test fits goes through the same exchanges together."""
    found: list[dict[str, Outcome]] = [{} for _ in pairs]
    left: list[tuple[int, str, Problem]] = []
    for place, (row, reference) in enumerate(pairs):
        for number, column in enumerate(measured):
            tested = _tested(row.values[:, number], reference.values[:, number], clusters)
            if isinstance(tested, Outcome):
                found[place][column.name] = tested
            elif tested is not None:
                left.append((place, column.name, tested))
        left += [(place, name, problem) for name, problem in _derived(row, reference, measured, columns, clusters)]
    for (place, name, _), outcome in zip(left, exchange([problem for *_, problem in left]), strict=True):
        if outcome is not None:
            found[place][name] = outcome
    return found


def _tested(values: FloatArray, others: FloatArray, clusters: Clusters) -> Outcome | Problem | None:
    """Test a mean over cases, ``[n]`` against ``[n]``, or say what is to be exchanged; None without a common value."""
    both = ~(np.isnan(values) | np.isnan(others))
    if not both.any():
        return None
    one, other = values[both], others[both]
    if clusters.are_cases and np.isin(one, (0, 1)).all() and np.isin(other, (0, 1)).all():
        wins, losses = int((one > other).sum()), int((one < other).sum())
        return Outcome(mcnemar(wins, losses), MCNEMAR, exact=True, groups=wins + losses)
    sums, others_sums = (_sums(part[:, None], both, clusters) for part in (one, other))
    differences = _sums((one - other)[:, None], both, clusters)[:, 0]
    return sign_flip(differences) or Problem(sums, others_sums, np.array([float(both.sum())]), _only, SIGN_FLIP)


def _sums(values: FloatArray, both: npt.NDArray[np.bool_], clusters: Clusters) -> FloatArray:
    """Add up the values of the cases that count, ``[c, s]``, to ``[k, s]``."""
    labels = clusters.labels[both]
    return np.stack([np.bincount(labels, weights=part, minlength=clusters.count) for part in values.T], axis=-1)


def _only(means: FloatArray) -> FloatArray:
    return means[..., 0]


def _derived(
    row: Measured,
    reference: Measured,
    measured: Sequence[ColumnRecord],
    columns: Sequence[ColumnRecord],
    clusters: Clusters,
) -> Iterator[tuple[str, Problem]]:
    """Yield what is to be exchanged for every number that is made of several columns."""
    places = {column.name: place for place, column in enumerate(measured)}
    for column in columns:
        sources = [places[name] for name in column.of if name in places]
        if column.name in places or len(sources) < 1:
            continue
        used = [[place for place in sources if _has_values(side, place)] for side in (row, reference)]
        if used[0] != used[1] or len(used[0]) < min(2, len(sources)):
            continue
        one, other = row.values[:, used[0]], reference.values[:, used[0]]
        both = ~(np.isnan(one) | np.isnan(other))
        if both.any(axis=0).all():
            every = np.ones(len(both), dtype=np.bool_)
            sums, others_sums = (_sums(np.where(both, part, 0), every, clusters) for part in (one, other))
            combine = partial(mean_of_means, column.kind)
            yield column.name, Problem(sums, others_sums, both.sum(axis=0).astype(np.float64), combine)


def _has_values(row: Measured, place: int) -> bool:
    return not np.isnan(row.values[:, place]).all()
