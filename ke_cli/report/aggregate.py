"""From the cases of runs to the numbers of a table, compared on the cases that all rows have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ke_cli.report.rows import Row
from ke_cli.report.statistics import FloatArray, IntArray, Sample, bootstrap, derive, join
from ke_cli.results.journal import CaseLine
from ke_cli.results.reader import Run
from ke_cli.results.record import ColumnRecord

Index = Mapping[str, int]
"""Case id to its place in the arrays."""


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
        clusters: How many groups of cases were resampled; fewer than ``cases`` when units hold several.
    """

    rows: tuple[Row, ...]
    columns: tuple[ColumnRecord, ...]
    samples: tuple[Mapping[str, Sample], ...]
    used: tuple[int, ...]
    cases: int
    total: int
    mismatched: tuple[str, ...]
    clusters: int


def compare(rows: Sequence[Row], *, all_cases: bool = False) -> Comparison:
    """Measure rows on their common cases, or with ``all_cases`` each row on all its own.

    Args:
        rows: At least one; each with a finished case.
        all_cases: Do not look for common cases.
    """
    ids, mismatched = (_all_ids(rows), ()) if all_cases else common_cases(rows)
    index = {case_id: place for place, case_id in enumerate(ids)}
    runs = [run for row in rows for run in row.runs]
    columns = merged_columns(runs)
    measured = [column for column in columns if column.kind in ("mean", "all_in_unit")]
    values = [np.stack([_values(run, index, measured) for run in row.runs]) for row in rows]
    clusters = join([_units(run, index) for run in runs])
    samples = [
        _with_derived(dict(zip((column.name for column in measured), row, strict=True)), columns)
        for row in bootstrap(values, clusters)
    ]
    return Comparison(
        rows=tuple(rows),
        columns=tuple(columns),
        samples=tuple(samples),
        used=tuple(len(_ids(row) & index.keys()) for row in rows),
        cases=len(ids),
        total=max(len(_all_ids(rows)), *(run.record.total for run in runs)),
        mismatched=mismatched,
        clusters=int(clusters.max(initial=-1)) + 1,
    )


def merged_columns(runs: Sequence[Run]) -> list[ColumnRecord]:
    """Return the columns of all runs, each name once, as the first run that has it defines it."""
    columns: dict[str, ColumnRecord] = {}
    for column in (column for run in runs for column in run.record.columns):
        columns.setdefault(column.name, column)
    return list(columns.values())


def common_cases(rows: Sequence[Row]) -> tuple[list[str], tuple[str, ...]]:
    """Return the cases that every row has finished, and those of them asked with different prompts.

    The two are disjoint; both are in the order of the first row.
    """
    shared = set.intersection(*map(_ids, rows))
    hashes: dict[str, set[str]] = {}
    for case in (case for row in rows for run in row.runs for case in run.done):
        hashes.setdefault(case.case_id, set()).add(case.prompts_sha256)
    ordered = [case_id for case_id in hashes if case_id in shared]
    return (
        [case_id for case_id in ordered if len(hashes[case_id]) == 1],
        tuple(case_id for case_id in ordered if len(hashes[case_id]) > 1),
    )


def _ids(row: Row) -> set[str]:
    return {case.case_id for run in row.runs for case in run.done}


def _all_ids(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(case.case_id for row in rows for run in row.runs for case in run.done))


def _values(run: Run, index: Index, columns: Sequence[ColumnRecord]) -> FloatArray:
    """Return the measured columns of a run, ``[n, m]``, NaN where it has no value."""
    cases = [case for case in run.done if case.case_id in index]
    values = np.full((len(index), len(columns)), np.nan)
    for place, column in enumerate(columns):
        found = _unit_shares(cases, column.of) if column.kind == "all_in_unit" else _plain(cases, column.name)
        for case_id, value in found.items():
            values[index[case_id], place] = value
    return values


def _plain(cases: Sequence[CaseLine], name: str) -> dict[str, float]:
    found = ((case.case_id, case.metrics.get(name)) for case in cases)
    return {case_id: value for case_id, value in found if value is not None}


def _unit_shares(cases: Sequence[CaseLine], of: Sequence[str]) -> dict[str, float]:
    """Return, under the first case of each whole unit, 1 if all its cases have the value 1, otherwise 0.

    As a column with one value per unit it is averaged and resampled like any other.
    """
    units: dict[str, list[CaseLine]] = {}
    for case in cases:
        units.setdefault(case.unit, []).append(case)
    shares: dict[str, float] = {}
    for members in units.values():
        values = [value for name in of[:1] for value in _plain(members, name).values()]
        if values and len(members) == members[0].unit_size:
            shares[members[0].case_id] = float(min(values) >= 1)
    return shares


def _units(run: Run, index: Index) -> IntArray:
    """Return the number of the unit of each case, ``[n]``, -1 for cases the run has not finished."""
    numbers: dict[str, int] = {}
    units = np.full(len(index), -1, dtype=np.intp)
    for case in run.done:
        if case.case_id in index:
            units[index[case.case_id]] = numbers.setdefault(case.unit, len(numbers))
    return units


def _with_derived(measured: Mapping[str, Sample], columns: Sequence[ColumnRecord]) -> dict[str, Sample]:
    return {
        column.name: measured[column.name]
        if column.name in measured
        else derive(column.kind, [measured[source] for source in column.of if source in measured])
        for column in columns
    }
