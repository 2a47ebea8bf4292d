"""Differences to a row, what the tests of them find, and the spread over seeds."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest

from ke_cli.report.formats import FORMATS
from ke_cli.report.significance import EXCHANGE, MCNEMAR, SIGN_FLIP, mcnemar
from ke_cli.report.tables import Cell, Table, View
from report.looking import table_of
from results.runs import case, efficacies, write_run

HARMONIC = [{"name": "score", "title": "Score", "kind": "harmonic", "of": ["efficacy", "drift"], "direction": "up"}]


def cell(table: Table, label: str, column: str) -> Cell:
    place = [c.name for c in table.columns].index(column)
    return next(line.cells[place] for line in table.lines if line.label == label)


def write_pair(folder: Path, rome: list[float | None], rose: list[float | None], **changes: object) -> None:
    write_run(folder / "rome", efficacies(rome), "rome", **changes)
    write_run(folder / "rose", efficacies(rose), "rose", **changes)


def test_zeros_and_ones_are_tested_by_mcnemar(tmp_path: Path) -> None:
    write_pair(tmp_path, [0] * 9 + [1] + [1] * 5, [1] * 9 + [0] + [1] * 5)
    table = table_of(tmp_path, View(against="rome", metrics=("efficacy",)))
    found = cell(table, "rose", "efficacy")
    assert found.outcome is not None
    assert (found.outcome.test, found.outcome.p, found.outcome.groups) == (MCNEMAR, mcnemar(1, 9), 10)
    assert (found.adjusted, found.significant) == (mcnemar(1, 9), True)
    assert found.estimate.value == pytest.approx(8 / 15)
    assert "† differs from rome: p < 0.05 after one test (McNemar's, exact)." in table.caption
    assert cell(table, "rome", "efficacy").outcome is None


def test_cases_of_one_subject_are_flipped_together(tmp_path: Path) -> None:
    for method, value in (("rome", 0.0), ("rose", 1.0)):
        lines = [case(f"c{i}", subject=f"s{i % 4}", metrics={"efficacy": value}) for i in range(40)]
        write_run(tmp_path / method, lines, method)
    grouped_table = table_of(tmp_path, View(against="rome", metrics=("efficacy",)))
    grouped = cell(grouped_table, "rose", "efficacy")
    assert grouped.outcome is not None
    assert (grouped.outcome.test, grouped.outcome.groups) == (SIGN_FLIP, 4)
    assert grouped.outcome.p == pytest.approx(2 / 2**4)  # of four subjects no more can be learned
    assert not grouped.significant
    assert "No number differs from rome at p < 0.05 after one test" in grouped_table.caption
    view = View(against="rome", metrics=("efficacy",), cluster="case")
    assert cell(table_of(tmp_path, view), "rose", "efficacy").outcome.p == pytest.approx(2 / 2**40)  # type: ignore[union-attr]


def test_shares_and_scores_have_tests_of_their_own(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    metrics = {
        "m": {"version": 1, "columns": [{"name": n, "title": n} for n in ("efficacy", "drift")], "derived": HARMONIC}
    }
    for method, better in (("rome", 0.0), ("rose", 0.3)):
        values = zip(random.integers(0, 3, 30) / 2, random.random(30) + better, strict=True)
        lines = [case(f"c{i}", metrics={"efficacy": a, "drift": b}) for i, (a, b) in enumerate(values)]
        write_run(tmp_path / method, lines, method, metrics=metrics)
    table = table_of(tmp_path, View(against="rome"))
    outcomes = {column.name: cell(table, "rose", column.name).outcome for column in table.columns}
    kinds = {name: (outcome.test, outcome.exact) for name, outcome in outcomes.items() if outcome}
    assert kinds == {"efficacy": (SIGN_FLIP, True), "drift": (SIGN_FLIP, False), "score": (EXCHANGE, False)}
    assert cell(table, "rose", "drift").significant
    assert "Holm's correction over the 3 tests of this table" in table.caption


def test_holm_goes_over_all_tests_that_are_shown(tmp_path: Path) -> None:
    write_pair(tmp_path, [0] * 6 + [1] * 4, [1] * 10)
    write_run(tmp_path / "memit", efficacies([0] * 6 + [1] * 4), "memit")
    table = table_of(tmp_path, View(against="rome", metrics=("efficacy",)))
    rose, memit = cell(table, "rose", "efficacy"), cell(table, "memit", "efficacy")
    assert (rose.outcome and rose.outcome.p, rose.adjusted) == (2 / 2**6, 2 * 2 / 2**6)
    assert (memit.adjusted, memit.significant) == (1.0, False)


def test_cases_with_a_value_in_one_row_only_are_in_no_pair(tmp_path: Path) -> None:
    write_pair(tmp_path, [1, 0, 1, 0, None, None], [1, 1, 1, 1, 0, 0])
    found = cell(table_of(tmp_path, View(against="rome", metrics=("efficacy",))), "rose", "efficacy")
    assert (found.estimate.value, found.estimate.n) == (0.5, 4)
    assert found.outcome is not None
    assert found.outcome.p == mcnemar(2, 0)


def test_plain_numbers_can_be_marked_all_the_same(tmp_path: Path) -> None:
    write_pair(tmp_path, [0] * 9 + [1] * 3, [1] * 12)
    view = View(against="rome", metrics=("efficacy",), plain=True)
    found = cell(table_of(tmp_path, view), "rose", "efficacy")
    assert (found.estimate.value, found.is_difference, found.significant) == (1.0, False, True)
    assert found.difference is not None
    assert found.difference.value == pytest.approx(0.75)
    assert "differences to" not in table_of(tmp_path, view).caption.replace("sign flips of the differences", "")


def test_without_a_common_case_nothing_is_tested(tmp_path: Path) -> None:
    write_run(tmp_path / "rome", efficacies([1, 1]), "rome")
    write_run(tmp_path / "rose", efficacies([1, 1], first=5), "rose")
    table = table_of(tmp_path, View(against="rome", metrics=("efficacy",)))
    assert cell(table, "rose", "efficacy").outcome is None
    assert "†" not in table.caption


class TestSeeds:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """Three seeds: rome is right in 2, 3 and 4 of 4 cases, rose always in one more, or all."""
        for seed in range(3):
            for method, right in (("rome", 1 + seed), ("rose", 2 + seed)):
                values = [float(i < right) for i in range(4)]
                write_run(tmp_path / f"{method}{2 - seed}", efficacies(values), method, seed=seed)
        return tmp_path

    def test_their_spread_stands_beside_the_interval_over_cases(self, folder: Path) -> None:
        table = table_of(folder, View(by=("method",), metrics=("efficacy",)))
        found = cell(table, "rome", "efficacy").estimate
        assert found.value == pytest.approx(0.5, rel=1e-15)
        assert found.deviation == pytest.approx(0.25)  # of 0.25, 0.5, 0.75
        assert "±: standard deviation over the seeds of a row" in table.caption
        assert "| 50 \\[" not in table.caption

    def test_it_is_no_part_of_the_interval(self, tmp_path: Path) -> None:
        """Two seeds that lie far apart, but alike in every case: cases leave nothing open, seeds do."""
        for seed in (0, 1):
            write_run(tmp_path / f"{seed}", efficacies([float(seed)] * 20), "rome", seed=seed)
        found = cell(table_of(tmp_path, View(by=("method",))), "rome", "efficacy").estimate
        assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)
        assert found.deviation == pytest.approx(math.sqrt(0.5))

    def test_differences_are_taken_seed_by_seed(self, folder: Path) -> None:
        table = table_of(folder, View(by=("method",), metrics=("efficacy",), against="rome"))
        found = cell(table, "rose", "efficacy").estimate
        assert found.value == pytest.approx(0.25, rel=1e-15)
        assert found.deviation == pytest.approx(0.0, abs=1e-12)

    def test_a_single_run_has_none(self, folder: Path) -> None:
        assert cell(table_of(folder, View(by=("seed",))), "rome (seed=0)", "efficacy").estimate.deviation is None

    def test_a_case_that_one_seed_lacks_is_left_out_of_it(self, folder: Path) -> None:
        """Seeds 0, 1 and 2 are right in 0.5, 1 and 1 of the two cases that seed 7 has, which is right in both."""
        write_run(folder / "few", efficacies([1.0, 1.0]), "rome", seed=7)
        found = cell(table_of(folder, View()), "rome", "efficacy").estimate
        assert found.deviation == pytest.approx(np.std([0.5, 1, 1, 1], ddof=1))

    @pytest.mark.parametrize("values", [[], [0.0]])
    def test_seeds_that_are_still_running_do_not_count(self, folder: Path, values: list[float]) -> None:
        write_run(folder / "cut", efficacies(values), "rome", seed=7, status="running", total=4)
        found = cell(table_of(folder, View()), "rome*" if values else "rome", "efficacy").estimate
        assert found.deviation == pytest.approx(0.25)

    def test_a_difference_counts_seeds_that_both_have_finished(self, folder: Path) -> None:
        for method, seed, right in (("rome", 7, 0), ("rome", 8, 4), ("rose", 7, 4), ("rose", 8, 0)):
            status = {"status": "running", "total": 9} if right else {}
            values = [float(i < right) for i in range(4)]
            write_run(folder / f"{method}-{seed}", efficacies(values), method, seed=seed, **status)
        table = table_of(folder, View(metrics=("efficacy",), against="rome"))
        assert cell(table, "rose*", "efficacy").estimate.deviation == pytest.approx(0.0, abs=1e-12)

    def test_no_spread_is_explained_where_none_is_shown(self, tmp_path: Path) -> None:
        for seed, status in ((0, "complete"), (1, "running")):
            write_run(tmp_path / f"{seed}", efficacies([1.0, 0.0]), seed=seed, status=status)
        table = table_of(tmp_path, View())
        assert "±" not in table.caption and "Each row is a mean over 2 seeds." in table.caption

    def test_of_a_score(self, tmp_path: Path) -> None:
        columns = [{"name": "efficacy", "title": "E"}, {"name": "drift", "title": "D"}]
        metrics = {"m": {"version": 1, "columns": columns, "derived": HARMONIC}}
        for seed, value in enumerate((0.5, 1.0)):
            lines = [case(f"c{i}", metrics={"efficacy": value, "drift": 1.0}) for i in range(3)]
            write_run(tmp_path / f"{seed}", lines, "rome", seed=seed, metrics=metrics)
        found = cell(table_of(tmp_path, View(by=("method",))), "rome", "score").estimate
        assert found.value == pytest.approx(2 / (1 / 0.75 + 1))
        assert found.deviation == pytest.approx(np.std([2 / 3, 1.0], ddof=1))


def test_files_for_programs_have_difference_and_test(tmp_path: Path) -> None:
    write_pair(tmp_path, [0] * 9 + [1] * 3, [1] * 12)
    table = table_of(tmp_path, View(against="rome", metrics=("efficacy",), plain=True))
    rows = {row["method"]: row for row in csv.DictReader(io.StringIO(FORMATS["csv"]([table])))}
    rose = rows["rose"]
    assert (rose["value"], rose["compared_with"], rose["test"], rose["exact"]) == ("1.0", "rome", "mcnemar", "1")
    assert float(rose["paired_difference"]) == 0.75
    assert float(rose["p"]) == float(rose["p_adjusted"]) == 2 / 2**9
    assert {rows["rome"][name] for name in ("compared_with", "paired_difference", "test", "p", "p_adjusted")} == {""}
    (content,) = json.loads(FORMATS["json"]([table]))["tables"]
    values = content["rows"][1]["values"]["efficacy"]
    assert values["test"] == {"p": 2 / 2**9, "test": "mcnemar", "exact": True, "groups": 9, "p_adjusted": 2 / 2**9}
    assert (values["significant"], values["paired_difference"]["value"], content["against"]) == (True, 0.75, "rome")


@pytest.mark.parametrize("size", [1e-300, 1e20, 1e300, 1.7e308])
def test_numbers_of_any_size_make_a_table(tmp_path: Path, size: float) -> None:
    random = np.random.default_rng(0)
    for method in ("rome", "rose"):
        for seed in (0, 1):
            lines = [case(f"c{i}", metrics={"efficacy": v * size}) for i, v in enumerate(random.choice([-1, 1], 20))]
            write_run(tmp_path / f"{method}{seed}", lines, method, seed=seed)
    with np.errstate(all="ignore"):
        table = table_of(tmp_path, View(by=("method",), against="rome", metrics=("efficacy",)))
    json.loads(FORMATS["json"]([table]), parse_constant=pytest.fail)
    assert len(FORMATS["latex"]([table])) > 500
