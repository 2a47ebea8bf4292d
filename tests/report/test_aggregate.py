"""The numbers of a table against the plain way to them: case by case, dictionary by dictionary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ke_cli.report.aggregate import Comparison, compare
from ke_cli.report.rows import Row
from ke_cli.report.standing import Means
from ke_cli.report.statistics import RESAMPLES, SEED, FloatArray, join
from ke_cli.results.cases import CaseTable
from ke_cli.results.journal import CaseLine
from ke_cli.results.reader import Run
from ke_cli.results.record import ColumnRecord, RunRecord

COLUMNS = (
    ColumnRecord("efficacy", "Efficacy", "up", 100.0, "success"),
    ColumnRecord("drift", "Drift", "down", 1.0, "success"),
    ColumnRecord("absent", "Absent", "up", 1.0, "success"),
    ColumnRecord("units", "Units", "up", 100.0, "success", "all_in_unit", ("efficacy", "drift")),
    ColumnRecord("of_nothing", "Nothing", "up", 100.0, "success", "all_in_unit", ()),
)
NAMES = ("efficacy", "drift")


def run_of(lines: Sequence[CaseLine], total: int = 0) -> Run:
    record = RunRecord("run", status="complete", columns=COLUMNS, total=total)
    return Run(Path("run"), record, CaseTable.gather(lines, NAMES), (), [])


def row_of(*runs: Sequence[CaseLine]) -> Row:
    return Row("rose", (), tuple(run_of(lines) for lines in runs))


@st.composite
def finished(draw: st.DrawFn) -> list[CaseLine]:
    """The cases of a run: some of twelve, in units that need not be those of another run, at times asked otherwise."""
    numbers = draw(st.lists(st.integers(0, 11), min_size=1, unique=True))
    size, value = draw(st.integers(1, 4)), st.none() | st.sampled_from([0.0, 0.5, 1.0, -2.5])
    unit = {number: number // size for number in numbers}
    whole = [number for number in numbers if len([n for n in numbers if unit[n] == unit[number]]) == size]
    sizes = {number: size if number in whole else draw(st.integers(1, 9)) for number in numbers}
    return [
        CaseLine(
            case_id=f"c{number}",
            unit=f"u{unit[number]}",
            unit_size=sizes[min(n for n in numbers if unit[n] == unit[number])],
            ok=True,
            error="",
            prompts_sha256=draw(st.sampled_from(["00"] * 9 + ["01"])),
            metrics={name: draw(value) for name in NAMES if draw(st.integers(0, 9))},
        )
        for number in numbers
    ]


def plain_values(lines: Sequence[CaseLine], ids: Sequence[str]) -> FloatArray:
    """The measured columns, ``[n, m]``."""
    lines = [line for line in lines if line.case_id in ids]
    values = np.full((len(ids), len(COLUMNS)), np.nan)
    for line in lines:
        for place, name in enumerate(NAMES):
            value = line.metrics.get(name)
            values[ids.index(line.case_id), place] = math.nan if value is None else value
    for unit in {line.unit: line for line in lines}:
        members = [line for line in lines if line.unit == unit]
        known = [value for line in members if (value := line.metrics.get("efficacy")) is not None]
        if known and len(members) == members[0].unit_size:
            values[ids.index(members[0].case_id), 3] = all(value >= 1 for value in known)
    return values


def mean_of(values: FloatArray) -> float:
    """The mean over the runs that have a value."""
    known = [value for value in values.tolist() if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def plain_units(lines: Sequence[CaseLine], ids: Sequence[str]) -> list[int]:
    units = {line.case_id: line.unit for line in lines}
    names = list(dict.fromkeys(line.unit for line in lines if line.case_id in ids))
    return [names.index(units[case_id]) if case_id in units else -1 for case_id in ids]


def check(comparison: Comparison, runs: Sequence[Sequence[Sequence[CaseLine]]], ids: Sequence[str]) -> None:
    """Compare with means and resamples that are taken case by case, every column on its own."""
    units = [np.array(plain_units(lines, ids), dtype=np.intp) for row in runs for lines in row]
    clusters = join(units)
    k = int(clusters.max(initial=-1)) + 1
    drawn = np.random.default_rng(SEED).integers(k, size=(RESAMPLES, k)) if k else np.zeros((RESAMPLES, 0), int)
    for row, samples in zip(runs, comparison.samples, strict=True):
        values = np.stack([plain_values(lines, ids) for lines in row])
        for place, column in enumerate(COLUMNS):
            found = np.array([mean_of(values[:, case, place]) for case in range(len(ids))])
            sums = [np.nansum(found[clusters == cluster]) for cluster in range(k)]
            sizes = [np.sum(~np.isnan(found[clusters == cluster])) for cluster in range(k)]
            sample = samples[column.name]
            with np.errstate(invalid="ignore"):
                draws = np.array(sums)[drawn].sum(axis=1) / np.array(sizes)[drawn].sum(axis=1)
            np.testing.assert_allclose(sample.draws, draws, rtol=0, atol=1e-12)
            np.testing.assert_allclose(sample.point, np.nan if not sum(sizes) else sum(sums) / sum(sizes), atol=1e-12)
            assert sample.n == (~np.isnan(found)).sum()
            assert sample.spread == np.count_nonzero(sizes)


@settings(max_examples=60, deadline=None, database=None)
@given(st.lists(st.lists(finished(), min_size=1, max_size=3), min_size=1, max_size=3), st.booleans())
def test_agrees_with_the_plain_way(runs: list[list[list[CaseLine]]], all_cases: bool) -> None:
    comparison = compare([row_of(*row) for row in runs], all_cases=all_cases)
    lines = [line for row in runs for run in row for line in run]
    found = sorted({line.case_id for line in lines}, key=lambda case_id: int(case_id[1:]))
    common = [i for i in found if all(any(line.case_id == i for run in row for line in run) for row in runs)]
    asked = {i: {line.prompts_sha256 for line in lines if line.case_id == i} for i in common}
    ids = found if all_cases else [i for i in common if len(asked[i]) == 1]
    assert comparison.mismatched == (() if all_cases else tuple(i for i in common if len(asked[i]) > 1))
    assert (comparison.cases, comparison.total) == (len(ids), len(found))
    assert comparison.used == tuple(len({ln.case_id for run in row for ln in run if ln.case_id in ids}) for row in runs)
    check(comparison, runs, ids)


@pytest.mark.parametrize("columns", [(), COLUMNS[3:4]])
def test_runs_without_plain_columns(columns: tuple[ColumnRecord, ...]) -> None:
    line = CaseLine("c", "u", 1, True, "", "00", {})
    run = Run(Path("run"), RunRecord("run", columns=columns), CaseTable.gather([line], NAMES), (), [])
    (samples,) = compare([Row("rose", (), (run,))]).samples
    assert [(name, sample.n) for name, sample in samples.items()] == [(column.name, 0) for column in columns]


def test_a_case_counts_once_whatever_the_number_of_its_runs() -> None:
    values = [{"c1": 1.0, "c2": 0.0}, {"c1": 1.0}, {"c1": 0.25}]  # pooled they would have the mean 0.5625
    runs = [[CaseLine(i, i, 1, True, "", "00", {"efficacy": value}) for i, value in run.items()] for run in values]
    (samples,) = compare([row_of(*runs)], all_cases=True).samples
    assert (samples["efficacy"].point, samples["efficacy"].n) == (0.375, 2)


def test_subjects_of_a_batch_count_one_by_one() -> None:
    told = [("s1", 1.0), ("s1", 1.0), ("s2", 1.0), ("s2", 0.5), ("s3", None)]
    lines = [
        CaseLine(f"c{i}", "batch", len(told), True, "", "00", {"efficacy": value}, subject=subject)
        for i, (subject, value) in enumerate(told)
    ]
    (samples,) = compare([row_of(lines)]).samples
    assert (samples["units"].point, samples["units"].n) == (0.5, 2)
    standing = Means(COLUMNS)
    standing.add([line.metrics for line in lines], len(lines), [line.subject for line in lines])
    assert "Units 50.0" in [str(point) for point in standing.points()]
    (samples,) = compare([row_of(lines[:4])]).samples  # a unit that is not whole
    assert samples["units"].n == 0


@pytest.mark.parametrize("all_cases", [False, True])
def test_the_order_in_which_cases_were_stored_changes_nothing(all_cases: bool) -> None:
    values = np.random.default_rng(1).random((2, 30))
    rows = [
        [CaseLine(f"c{i}", f"u{i // 2}", 2, True, "", "00", {"efficacy": row[i], "drift": 1.0}) for i in range(30)]
        for row in values.tolist()
    ]
    shuffled = [[row[(7 * i + turn) % 30] for i in range(30)] for turn, row in zip((6, 12), rows, strict=True)]
    plain, other = (compare([row_of(row) for row in kind], all_cases=all_cases) for kind in (rows, shuffled))
    for mine, theirs in zip(plain.samples, other.samples, strict=True):
        for name in NAMES:
            np.testing.assert_array_equal(mine[name].draws, theirs[name].draws)
            assert mine[name].estimate() == theirs[name].estimate()
