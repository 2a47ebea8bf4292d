from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ke_cli.errors import UserError
from ke_cli.report.cells import digits_of
from ke_cli.report.statistics import Estimate, Sample
from ke_cli.report.tables import Cell, Line, Table, View, cell_texts, number
from ke_cli.results.record import ColumnRecord
from report.looking import best, labels, table_of, values
from results.runs import COLUMNS, DERIVED, case, efficacies, unit, write_run


class TestCommonCases:
    def test_rows_are_compared_on_the_cases_all_have(self, tmp_path: Path) -> None:
        write_run(tmp_path / "a", efficacies([1, 1, 0, 0]), "rome", total=6)
        write_run(tmp_path / "b", efficacies([1, 0, 0, 0], first=2), "rose", total=6)
        table = table_of(tmp_path)
        assert [line.cases for line in table.lines] == [2, 2]
        assert values(table, "efficacy") == [0.0, 0.5]
        assert table.caption.startswith("On the 2 cases common to both rows, of 6.")

    def test_all_cases(self, tmp_path: Path) -> None:
        write_run(tmp_path / "a", efficacies([1, 1, 0, 0]), "rome")
        write_run(tmp_path / "b", efficacies([1], first=3), "rose")
        table = table_of(tmp_path, View(all_cases=True))
        assert [line.cases for line in table.lines] == [4, 1]
        assert values(table, "efficacy") == [0.5, 1.0]
        assert "all its own finished cases" in table.caption

    def test_cases_asked_with_other_prompts_are_left_out_and_told(self, tmp_path: Path) -> None:
        write_run(tmp_path / "a", efficacies([1, 1, 0]), "rome")
        other = [*efficacies([1, 1]), case("c2", metrics={"efficacy": 1.0}, prompts_sha256="11")]
        write_run(tmp_path / "b", other, "rose")
        table = table_of(tmp_path)
        assert [line.cases for line in table.lines] == [2, 2]
        assert "1 case(s) left out: the runs asked different prompts for them, for example c2." in table.footnotes

    def test_failed_cases_are_no_common_cases_and_are_told(self, tmp_path: Path) -> None:
        write_run(tmp_path / "a", efficacies([1, 1, 0]), "rome")
        failed = [case(f"c{i}", status="failed", error=error, metrics={}) for i, error in enumerate(["nan", "nan"], 1)]
        write_run(tmp_path / "b", [*efficacies([1]), *failed], "rose")
        table = table_of(tmp_path)
        assert [(line.cases, line.failed) for line in table.lines] == [(1, 0), (1, 2)]
        assert table.footnotes == ("rose: 2 case(s) failed, most often: nan",)

    def test_a_run_without_a_finished_case_empties_nothing(self, tmp_path: Path) -> None:
        write_run(tmp_path / "a", efficacies([1, 1]), "rome")
        write_run(tmp_path / "begun", [], "rose", status="running", total=2)
        write_run(tmp_path / "failed", [case("c0", status="failed", error="x", metrics={})], "memit", status="failed")
        table = table_of(tmp_path)
        assert labels(table) == ["rome"]
        assert set(table.footnotes) == {
            "Not shown: begun (running, no case finished).",
            "Not shown: failed (failed, no case finished, 1 failed).",
        }

    def test_nothing_finished_at_all(self, tmp_path: Path) -> None:
        write_run(tmp_path / "begun", [], status="interrupted", total=2)
        table = table_of(tmp_path)
        assert (table.lines, table.footnotes) == ((), ("Not shown: begun (interrupted, no case finished).",))

    def test_no_common_case_says_what_to_type(self, tmp_path: Path) -> None:
        write_run(tmp_path / "a", efficacies([1]), "rome")
        write_run(tmp_path / "b", efficacies([1], first=1), "rose")
        table = table_of(tmp_path)
        assert values(table, "efficacy") == [None, None]
        assert "--all-cases" in table.footnotes[0]

    def test_an_unfinished_run_has_a_star(self, tmp_path: Path) -> None:
        write_run(tmp_path / "a", efficacies([1, 1]), "rome")
        write_run(tmp_path / "b", efficacies([1]), "rose", status="interrupted", total=2)
        table = table_of(tmp_path)
        assert labels(table) == ["rome", "rose*"]
        assert table.footnotes == ("* rose: interrupted, 1 of 2 cases done.",)

    def test_versions_of_metrics_that_differ_are_told(self, tmp_path: Path) -> None:
        for method, version in (("rome", 1), ("rose", 2)):
            metrics = {"success": {"version": version, "columns": COLUMNS}}
            write_run(tmp_path / method, efficacies([1]), method, metrics=metrics)
        assert table_of(tmp_path).footnotes == (
            "The versions of the metric success differ, so its columns do not compare: 1 (rome); 2 (rose).",
        )


class TestNumbers:
    def test_columns_of_different_runs_are_united(self, tmp_path: Path) -> None:
        write_run(tmp_path / "a", efficacies([1]), "rome", metrics={"m": {"columns": COLUMNS[:1]}})
        write_run(tmp_path / "b", efficacies([1]), "rose", metrics={"m": {"columns": COLUMNS[1:]}})
        assert [column.name for column in table_of(tmp_path).columns] == ["efficacy", "drift"]

    def test_a_derived_column_leaves_out_what_was_not_measured(self, tmp_path: Path) -> None:
        write_run(tmp_path / "a", efficacies([1, 0, 0.5, None]))
        table = table_of(tmp_path)
        assert values(table, "score") == values(table, "efficacy") == [0.5]
        assert [cell.estimate.n for cell in table.lines[0].cells] == [3, 4, 3, 3]

    def test_unasked_only_main_columns_that_were_measured_are_shown(self, tmp_path: Path) -> None:
        columns = [*COLUMNS, {"name": "side", "title": "Side", "main": False}, {"name": "none", "title": "None"}]
        metrics = {"success": {"version": 1, "columns": columns, "derived": DERIVED}}
        write_run(tmp_path / "a", [case("1", metrics={"efficacy": 1.0, "drift": 0.5, "side": 1.0})], metrics=metrics)
        assert [column.name for column in table_of(tmp_path, View()).columns] == ["efficacy", "drift", "score"]

    def test_share_of_units_in_which_all_is_right(self, tmp_path: Path) -> None:
        lines = [
            *unit("right", 2),
            *unit("wrong", 2, metrics={"efficacy": 0.0}),
            *[
                {**line, "metrics": {"efficacy": value}}
                for line, value in zip(unit("half", 2), (1.0, 0.0), strict=True)
            ],
            *[
                {**line, "metrics": {"efficacy": value}}
                for line, value in zip(unit("gap", 2), (1.0, None), strict=True)
            ],
            *unit("unmeasured", 2, metrics={"efficacy": None}),
        ]
        write_run(tmp_path / "a", lines, "rome")
        (cell,) = table_of(tmp_path, View(metrics=("units",))).lines[0].cells
        assert (cell.estimate.value, cell.estimate.n) == (0.5, 4)
        # A unit of which another row lacks a case cannot be judged as a whole.
        half = [{**line, "unit_size": 1, "unit": line["case_id"]} for line in lines if line["case_id"] != "right.1"]
        write_run(tmp_path / "b", half, "rose")
        first, _ = table_of(tmp_path, View(metrics=("units",))).lines
        assert (first.cells[0].estimate.value, first.cells[0].estimate.n) == (pytest.approx(1 / 3), 3)

    def test_units_are_resampled_whole_and_the_caption_says_so(self, tmp_path: Path) -> None:
        lines = [line for i in range(6) for line in unit(f"u{i}", 5, metrics={"efficacy": i % 2})]
        write_run(tmp_path / "whole" / "a", lines)
        write_run(tmp_path / "single" / "a", [{**line, "unit": line["case_id"], "unit_size": 1} for line in lines])
        whole, single = table_of(tmp_path / "whole"), table_of(tmp_path / "single")
        assert "of 6 groups of cases edited together" in whole.caption
        assert "of the cases" in single.caption
        assert interval_width(whole) > 1.5 * interval_width(single)

    @pytest.mark.parametrize(
        ("estimate", "scale", "expected"),
        [
            (Estimate(0.9344, 0.9, 0.95, 9), 100.0, ("93.4", "[90.0, 95.0]")),
            (Estimate(0.5, None, None, 1), 100.0, ("50.0", "")),
            (Estimate(None, None, None, 0), 100.0, ("\N{EN DASH}", "")),
            (Estimate(0.00421, 0.004, 0.005, 9), 1.0, ("0.004", "[0.004, 0.005]")),
            (Estimate(123456789.0, 1.0, 2e9, 9), 1.0, ("1.23e+08", "[1.000, 2e+09]")),
        ],
    )
    def test_shown(self, estimate: Estimate, scale: float, expected: tuple[str, str]) -> None:
        assert cell_texts(Cell(estimate), ColumnRecord("x", "X", "up", scale, "m")) == expected

    @pytest.mark.parametrize(
        ("half", "digits"),
        [(0.3, 0), (0.096, 0), (0.094, 0), (0.036, 0), (0.035, 1), (0.012, 1), (0.0096, 1), (0.0094, 1), (0.003, 2)],
    )
    def test_digits_are_those_the_interval_supports(self, half: float, digits: int) -> None:
        """Half-widths of 30, 9.6, 9.4, 3.6 points and so on: two digits of them from 1.0 to 3.5, else one."""
        column = ColumnRecord("x", "X", "up", 100.0, "m")
        samples = tuple(
            {"x": Sample(0.5, np.linspace(0.5 - half / 0.95, 0.5 + half / 0.95, 1001), 9, 9)} for _ in range(3)
        )
        assert digits_of(_Compared(samples), column) == digits  # type: ignore[arg-type]

    def test_digits_asked_for_win(self, tmp_path: Path) -> None:
        write_run(tmp_path / "a", efficacies([1, 0, 1]))
        assert table_of(tmp_path, View(metrics=("efficacy",))).digits == (0,)
        assert table_of(tmp_path, View(metrics=("efficacy",), digits=4)).digits == (4,)

    def test_no_interval_no_digits(self, tmp_path: Path) -> None:
        write_run(tmp_path / "a", efficacies([1, 1, 1]))
        assert table_of(tmp_path, View(metrics=("efficacy",))).digits == (None,)

    def test_an_interval_without_width_says_what_it_leaves_open(self, tmp_path: Path) -> None:
        write_run(tmp_path / "a", efficacies([1] * 50))
        bound = 100 * (1 - 0.025 ** (1 / 50))  # Clopper and Pearson: 0.025 = (1 - bound) ** 50
        assert f"up to {bound:.2g}% of all cases may be otherwise" in table_of(tmp_path).caption
        assert f"{bound:.2g}" == "7.1"

    def test_a_rounded_zero_has_no_minus(self) -> None:
        column = ColumnRecord("x", "X", "up", 100.0, "m")
        assert (number(-0.0001, column), number(-0.0001, column, "+"), number(-0.01, column)) == ("0.0", "+0.0", "-1.0")


@dataclass
class _Compared:
    """As much of a comparison as digits depend on."""

    samples: tuple[dict[str, Sample], ...]
    pairings: tuple[()] = ()


def interval_width(table: Table) -> float:
    estimate = table.lines[0].cells[0].estimate
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.high - estimate.low


class TestBest:
    @staticmethod
    def write(folder: Path, rows: dict[str, tuple[float | None, float]]) -> Table:
        for method, (efficacy, drift) in rows.items():
            lines = [case(f"c{i}", metrics={"efficacy": efficacy, "drift": drift}) for i in range(2)]
            write_run(folder / method, lines, method)
        return table_of(folder)

    def test_follows_the_direction_and_leaves_the_unedited_model_out(self, tmp_path: Path) -> None:
        table = self.write(tmp_path, {"none": (1.0, 0.0), "rome": (0.5, 0.3), "rose": (0.75, 0.4)})
        assert (best(table, "efficacy"), best(table, "drift")) == (["rose"], ["rome"])

    def test_marks_all_that_look_equal(self, tmp_path: Path) -> None:
        table = self.write(tmp_path, {"a": (0.50001, 0.1), "b": (0.5, 0.1), "c": (0.4, 0.2)})
        assert (best(table, "efficacy"), best(table, "drift")) == (["a", "b"], ["a", "b"])

    def test_needs_something_to_compare_with(self, tmp_path: Path) -> None:
        table = self.write(tmp_path, {"none": (0.1, 0.1), "a": (0.5, 0.1), "b": (None, 0.2)})
        assert (best(table, "efficacy"), best(table, "drift")) == ([], ["a"])


class TestView:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        for method, shares in {"a": [1, 1, 0, 0], "b": [1, 1, 1, 0], "c": [None] * 4, "none": [0, 0, 0, 1]}.items():
            write_run(tmp_path / method, efficacies(shares), method)
        return tmp_path

    @pytest.mark.parametrize(
        ("wanted", "expected"),
        [
            (("units", "efficacy"), ["units", "efficacy"]),
            (("success",), ["efficacy", "drift", "score", "units"]),
            (("drift", "success"), ["drift", "efficacy", "score", "units"]),
        ],
    )
    def test_metrics(self, folder: Path, wanted: tuple[str, ...], expected: Sequence[str]) -> None:
        assert [column.name for column in table_of(folder, View(metrics=wanted)).columns] == expected

    def test_a_name_of_a_column_and_of_its_metric_is_the_column(self, tmp_path: Path) -> None:
        metrics = {"efficacy": {"version": 1, "columns": COLUMNS}}
        write_run(tmp_path / "a", efficacies([1, 0]), metrics=metrics)
        found = {wanted: table_of(tmp_path, View(metrics=(wanted,))).columns for wanted in ("efficacy", "all")}
        assert [column.name for column in found["efficacy"]] == ["efficacy"]
        assert [column.name for column in found["all"]] == ["efficacy", "drift"]

    @pytest.mark.parametrize(
        ("sort", "expected"),
        [
            ("", ["none", "a", "b", "c"]),
            ("efficacy", ["none", "a", "b", "c"]),
            ("efficacy:asc", ["none", "a", "b", "c"]),
            ("efficacy:desc", ["b", "a", "none", "c"]),
            ("name:desc", ["none", "c", "b", "a"]),
            ("name", ["a", "b", "c", "none"]),
        ],
    )
    def test_sort_also_by_a_column_that_is_not_shown(self, folder: Path, sort: str, expected: list[str]) -> None:
        assert labels(table_of(folder, View(sort=sort, metrics=("drift",)))) == expected

    def test_differences(self, folder: Path) -> None:
        table = table_of(folder, View(against="a", sort="efficacy:desc"))
        assert labels(table) == ["b", "a", "none", "c"]
        assert values(table, "efficacy") == [0.25, 0.5, -0.25, None]
        assert [line.cells[0].is_difference for line in table.lines] == [True, False, True, True]
        assert cell_texts(table.lines[0].cells[0], table.columns[0])[0] == "+25.0"
        assert "paired differences to a." in table.caption
        assert best(table, "efficacy") == ["b"]

    @pytest.mark.parametrize(
        ("view", "message"),
        [
            ({"metrics": ("eficacy",)}, "did you mean 'efficacy'"),
            ({"sort": "scor"}, "did you mean 'score'"),
            ({"sort": "score:down"}, "unknown order 'down'"),
            ({"against": "x"}, "unknown row 'x'"),
        ],
    )
    def test_refuses_unknown_names(self, folder: Path, view: dict[str, Any], message: str) -> None:
        with pytest.raises(UserError, match=message):
            table_of(folder, View(**view))

    def test_a_method_with_several_rows_is_no_single_row(self, tmp_path: Path) -> None:
        for steps in (0, 1):
            write_run(tmp_path / f"{steps}", efficacies([1, 0]), **{"method.steps": steps})
        with pytest.raises(UserError, match=r"rose \(steps=0\)"):
            table_of(tmp_path, View(against="rose"))
        lines: tuple[Line, ...] = table_of(tmp_path, View(against="rose (steps=0)")).lines
        assert [line.cells[0].is_difference for line in lines] == [False, True]


def test_shares_of_units_are_not_shown_where_cases_only_share_a_subject(tmp_path: Path) -> None:
    write_run(tmp_path / "rose", [case(f"c{i}", subject=f"s{i // 2}") for i in range(8)])
    assert "units" not in [column.name for column in table_of(tmp_path, View()).columns]
    write_run(tmp_path / "rome", unit("u", 2), "rome")
    write_run(tmp_path / "rome2", unit("u", 2), "rome")
    assert "units" in [column.name for column in table_of(tmp_path, View(all_cases=True)).columns]
