"""How often intervals hold the truth and tests raise a false alarm, in simulated results of which the truth is known.

The numbers of repetitions make the standard error of every share about one point, so that bounds of three points on
either side are met unless something is wrong.
"""

from __future__ import annotations

import numpy as np
import pytest

from ke_cli.report.clusters import FEW, Clusters
from ke_cli.report.paired import Measured, pairings
from ke_cli.report.significance import holm
from ke_cli.report.statistics import FloatArray, IntArray, bootstrap
from ke_cli.results.record import ColumnRecord

REPETITIONS = 600
CASES = 5
"""Cases of a subject."""

EFFICACY = ColumnRecord("efficacy", "Efficacy", "up", 100.0, "m")


def simulated(random: np.random.Generator, subjects: int, shift: float = 0.0) -> FloatArray:
    """Zeros and ones that lean the same way within a subject, ``[n]``; half of them are ones when there is no shift."""
    leaning = random.normal(shift, 1, subjects).repeat(CASES)
    return (leaning + random.normal(size=subjects * CASES) > 0).astype(float)


def labels(subjects: int) -> IntArray:
    return np.arange(subjects).repeat(CASES)


def coverage(subjects: int, *, clustered: bool) -> float:
    """The share of intervals that hold the true mean, one half."""
    random = np.random.default_rng(0)
    groups = labels(subjects) if clustered else np.arange(subjects * CASES)
    hits = []
    for _ in range(REPETITIONS):
        values = simulated(random, subjects)
        estimate = bootstrap([values[None, :, None]], groups)[0][0].estimate()
        assert estimate.low is not None and estimate.high is not None
        hits.append(estimate.low <= 0.5 <= estimate.high)
    return float(np.mean(hits))


@pytest.mark.slow
def test_intervals_by_subject_hold_the_truth_as_often_as_they_say() -> None:
    assert 0.92 <= coverage(100, clustered=True) <= 0.98


@pytest.mark.slow
def test_intervals_by_case_do_not_when_cases_of_a_subject_are_alike() -> None:
    assert coverage(100, clustered=False) < 0.85


@pytest.mark.slow
def test_few_subjects_make_intervals_too_narrow_which_is_why_tables_say_so() -> None:
    assert 0.86 <= coverage(10, clustered=True) <= 0.94
    assert 0.91 <= coverage(FEW, clustered=True) <= 0.97


def alarms(subjects: int, rows: int, *, clustered: bool, corrected: bool) -> float:
    """The share of tables in which any row is said to differ from the first, when none does."""
    random = np.random.default_rng(1)
    by = "subject" if clustered else "case"
    clusters = Clusters(labels(subjects) if clustered else np.arange(subjects * CASES), by)
    found = []
    for _ in range(REPETITIONS):
        values = [simulated(random, subjects) for _ in range(rows)]
        samples = bootstrap([one[None, :, None] for one in values], clusters.labels)
        sides = [Measured(one[:, None], {"efficacy": row[0]}) for one, row in zip(values, samples, strict=True)]
        tested = pairings(sides, [0] * rows, [EFFICACY], [EFFICACY], clusters)
        ps = [pairing.outcomes["efficacy"].p for pairing in tested[1:]]
        found.append(min(holm(ps) if corrected else ps) < 0.05)
    return float(np.mean(found))


@pytest.mark.slow
def test_one_test_by_subject_raises_few_false_alarms() -> None:
    assert 0.02 <= alarms(60, 2, clustered=True, corrected=False) <= 0.075


@pytest.mark.slow
def test_tests_by_case_raise_many_when_cases_of_a_subject_are_alike() -> None:
    assert alarms(60, 2, clustered=False, corrected=False) > 0.1


@pytest.mark.slow
def test_holm_keeps_the_alarms_of_a_whole_table_few() -> None:
    assert alarms(40, 7, clustered=True, corrected=False) > 0.12
    assert alarms(40, 7, clustered=True, corrected=True) <= 0.075


def test_effects_are_found() -> None:
    random = np.random.default_rng(2)
    clusters = Clusters(labels(60), "subject")
    one, other = simulated(random, 60), simulated(random, 60, shift=1.0)
    samples = bootstrap([one[None, :, None], other[None, :, None]], clusters.labels)
    sides = [Measured(v[:, None], {"efficacy": s[0]}) for v, s in zip((one, other), samples, strict=True)]
    _, pairing = pairings(sides, [0, 0], [EFFICACY], [EFFICACY], clusters)
    assert pairing.outcomes["efficacy"].p < 0.01
    low = pairing.differences["efficacy"].estimate().low
    assert low is not None and low > 0
