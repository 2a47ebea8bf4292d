"""From the cases of runs to the numbers of a table, compared on the cases that all rows have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ke_cli.report.clusters import Clusters, choose, numbered
from ke_cli.report.paired import Measured, Pairing, pairings
from ke_cli.report.rows import Row, causes, setting
from ke_cli.report.statistics import FloatArray, IntArray, Sample, bootstrap, derive, mean_of_runs
from ke_cli.results.cases import CaseTable
from ke_cli.results.reader import Run
from ke_cli.results.record import ColumnRecord
from ke_cli.results.text import natural


@dataclass(frozen=True, slots=True)
class Comparison:
    """The rows of a table, measured.

    Args:
        rows: As they were given.
        columns: All columns of all rows.
        samples: For each row, column name to its number.
        used: For each row, how many of its cases entered.
        cases: How many cases entered in any row.
        total: How many cases the runs are about.
        mismatched: Cases left out because the runs asked different prompts for them.
        clusters: How many groups of cases were resampled; fewer than ``cases`` when groups hold several.
        grouping: What these groups are.
        pairings: For each row, how it compares with its reference; empty ones for rows without.
    """

    rows: tuple[Row, ...]
    columns: tuple[ColumnRecord, ...]
    samples: tuple[Mapping[str, Sample], ...]
    used: tuple[int, ...]
    cases: int
    total: int
    mismatched: tuple[str, ...]
    clusters: int
    grouping: Clusters
    pairings: tuple[Pairing, ...]


def compare(
    rows: Sequence[Row], *, all_cases: bool = False, cluster: str = "auto", references: Sequence[int | None] = ()
) -> Comparison:
    """Measure rows on their common cases, or with ``all_cases`` each row on all its own.

    Args:
        rows: At least one; each with a finished case.
        all_cases: Do not look for common cases.
        cluster: Which cases are resampled together: one of `ke_cli.report.clusters.CHOICES`.
        references: For each row, which row it is compared with, if any.
    """
    rows = [replace(row, runs=tuple(sorted(row.runs, key=partial(_run_key, causes(row.runs))))) for row in rows]
    everything = _all_ids(rows)
    ids, mismatched = (everything, ()) if all_cases else common_cases(rows)
    index = {case_id: place for place, case_id in enumerate(ids)}
    runs = [run for row in rows for run in row.runs]
    columns = merged_columns(runs)
    measured = [column for column in columns if column.kind in ("mean", "all_in_unit")]
    entries = [[_enter(run.done, index) for run in row.runs] for row in rows]
    units = [_partition(entry) for row in entries for entry in row]
    clusters = choose(cluster, units, *(_about(entries, part, len(ids)) for part in ("subjects", "relations")))
    finished = ([run.finished for run in row.runs] for row in rows)
    plain = bootstrap((_stacked(entry, measured) for entry in entries), clusters.labels, finished)
    names = [column.name for column in measured]
    samples = [_with_derived(dict(zip(names, row, strict=True)), columns) for row in plain]
    return Comparison(
        rows=tuple(rows),
        columns=tuple(columns),
        samples=tuple(samples),
        used=tuple(np.unique(np.concatenate([entry.places for entry in row])).size for row in entries),
        cases=len(ids),
        total=max(len(everything), *(run.record.total for run in runs)),
        mismatched=mismatched,
        clusters=clusters.count,
        grouping=clusters,
        pairings=_paired(rows, entries, samples, references, measured, columns, clusters),
    )


def _paired(
    rows: Sequence[Row],
    entries: Sequence[Sequence[_Entry]],
    samples: Sequence[Mapping[str, Sample]],
    references: Sequence[int | None],
    measured: Sequence[ColumnRecord],
    columns: Sequence[ColumnRecord],
    clusters: Clusters,
) -> tuple[Pairing, ...]:
    """Compare rows with their references; without any, nothing is computed."""
    if all(reference is None for reference in references):
        return (Pairing(),) * len(rows)
    sides = [
        Measured(mean_of_runs(_stacked(entry, measured)), sample, _run_keys(row))
        for row, entry, sample in zip(rows, entries, samples, strict=True)
    ]
    return pairings(sides, references, measured, columns, clusters)


def _run_key(keys: Sequence[str], run: Run) -> tuple[str, ...]:
    return tuple(setting(run, key) for key in keys)


def _run_keys(row: Row) -> tuple[str, ...]:
    keys = causes(row.runs)
    return tuple(repr(_run_key(keys, run)) for run in row.runs)


def merged_columns(runs: Sequence[Run]) -> list[ColumnRecord]:
    """Return the columns of all runs, each name once, as the first run that has it defines it."""
    columns: dict[str, ColumnRecord] = {}
    for column in (column for run in runs for column in run.record.columns):
        columns.setdefault(column.name, column)
    return list(columns.values())


def common_cases(rows: Sequence[Row]) -> tuple[list[str], tuple[str, ...]]:
    """Return the cases that every row has finished, and those of them asked with different prompts.

    The two are disjoint; both are in natural order, whatever the order in which the cases were stored, so that a run
    that was interrupted, or put together from shards, has the intervals of one that was not.
    """
    shared = set.intersection(*({case_id for run in row.runs for case_id in run.done.ids} for row in rows))
    asked = {pair for row in rows for run in row.runs for pair in zip(run.done.ids, run.done.prompts, strict=True)}
    ways = Counter(case_id for case_id, _ in asked)
    ordered = sorted(shared, key=natural)
    return (
        [case_id for case_id in ordered if ways[case_id] == 1],
        tuple(case_id for case_id in ordered if ways[case_id] > 1),
    )


def _all_ids(rows: Sequence[Row]) -> list[str]:
    return sorted({case_id for row in rows for run in row.runs for case_id in run.done.ids}, key=natural)


@dataclass(frozen=True, slots=True)
class _Entry:
    """The cases of a run that enter a comparison of ``n`` cases, and where.

    Args:
        table: All finished cases of the run.
        chosen: ``[e]``: which of them enter.
        places: ``[e]``: the place of each among the ``n``.
        units: ``[e]``: the number of the unit of each, 0 for the unit of the first case and so on.
        n: How many cases are compared.
    """

    table: CaseTable
    chosen: IntArray
    places: IntArray
    units: IntArray
    n: int


def _enter(table: CaseTable, index: Mapping[str, int]) -> _Entry:
    """Look up the cases of a run in ``index``, case id to place."""
    places = np.array([index.get(case_id, -1) for case_id in table.ids], dtype=np.intp)
    chosen = np.flatnonzero(places >= 0)
    numbers: dict[str, int] = {}
    units = [numbers.setdefault(table.units[case], len(numbers)) for case in chosen.tolist()]
    return _Entry(table, chosen, places[chosen], np.array(units, dtype=np.intp), len(index))


def _stacked(entries: Sequence[_Entry], columns: Sequence[ColumnRecord]) -> FloatArray:
    """Return the measured columns of the runs of a row, ``[s, n, m]``."""
    return np.stack([_values(entry, columns) for entry in entries])


def _about(entries: Sequence[Sequence[_Entry]], part: str, n: int) -> IntArray:
    """Number the subjects or relations of the cases that are compared, ``[n]``, as the first run tells them."""
    texts = [""] * n
    for entry in (entry for row in entries for entry in row):
        if all(texts):
            break
        told = getattr(entry.table, part)
        for place, case in zip(entry.places.tolist(), entry.chosen.tolist(), strict=True):
            texts[place] = texts[place] or told[case]
    return numbered(texts)


def _values(entry: _Entry, columns: Sequence[ColumnRecord]) -> FloatArray:
    """Return the measured columns of a run, ``[n, m]``, NaN where it has no value."""
    values = np.full((entry.n, len(columns)), np.nan)
    for place, column in enumerate(columns):
        is_share = column.kind == "all_in_unit"
        found = _unit_shares(entry, column.of) if is_share else entry.table.column(column.name)[entry.chosen]
        values[entry.places, place] = found
    return values


def _unit_shares(entry: _Entry, of: Sequence[str]) -> FloatArray:
    """Return, ``[e]``, for the first case of each subject of a whole unit 1 if all its cases have the value 1, else 0.

    As a column with one value per subject it is averaged and resampled like any other.
    """
    subjects = numbered([entry.table.subjects[case] for case in entry.chosen.tolist()]) + 1
    pairs = entry.units * (subjects.max(initial=0) + 1) + subjects
    _, first, group = np.unique(pairs, return_index=True, return_inverse=True)
    lowest = np.full(len(first), np.nan)
    for name in of[:1]:
        np.fmin.at(lowest, group, entry.table.column(name)[entry.chosen])
    whole = np.bincount(entry.units)[entry.units[first]] == entry.table.sizes[entry.chosen[first]]
    shares = np.full(len(entry.units), np.nan)
    shares[first] = np.where(whole & ~np.isnan(lowest), lowest >= 1, np.nan)
    return shares


def _partition(entry: _Entry) -> IntArray:
    """Return the number of the unit of each case, ``[n]``, -1 for cases the run has not finished."""
    units = np.full(entry.n, -1, dtype=np.intp)
    units[entry.places] = entry.units
    return units


def _with_derived(measured: Mapping[str, Sample], columns: Sequence[ColumnRecord]) -> dict[str, Sample]:
    return {
        column.name: measured[column.name]
        if column.name in measured
        else derive(column.kind, [measured[source] for source in column.of if source in measured])
        for column in columns
    }
