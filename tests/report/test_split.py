"""Tables for the values of a setting, and which runs are looked at."""

from __future__ import annotations

from pathlib import Path

import pytest

from ke_cli.errors import UserError
from ke_cli.report.pivot import build_sheets
from ke_cli.report.rows import select
from ke_cli.report.tables import View
from ke_cli.results.reader import find_runs, read_run
from report.looking import at, labels, tables_of, values
from results.runs import case, unit, write_run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two methods, group sizes 2 and 10, two seeds: 'merge' is right in every second subject, 'rose' in all."""
    for minute, (size, method, seed) in enumerate(
        (z, m, s) for z in (10, 2) for m in ("merge", "rose") for s in (0, 1)
    ):
        lines = [
            line
            for subject in range(8)
            for line in unit(
                f"s{subject}", size, metrics={"efficacy": float(method == "rose" or subject % 2), "drift": 1.0}
            )
        ]
        settings = {"protocol.size": size, "protocol.name": "same_subject"}
        write_run(tmp_path / f"{method}{size}{seed}", lines, method, seed=seed, started_at=at(minute), **settings)
    return tmp_path


def test_a_table_for_each_value_in_the_order_of_numbers(folder: Path) -> None:
    found = tables_of(folder, View(split=("protocol.size",), by=("method.name",)))
    assert [table.title for table in found] == [f"gpt2 · counterfact · same_subject · size={size}" for size in (2, 10)]
    assert [labels(table) for table in found] == [["merge", "rose"]] * 2
    assert [line.cases for table in found for line in table.lines] == [16, 16, 80, 80]


def test_a_setting_that_splits_does_not_name_rows(folder: Path) -> None:
    for table in tables_of(folder, View(split=("protocol.size",))):
        assert labels(table) == ["merge", "rose"]
        assert not any("differ" in note for note in table.footnotes)


def test_differences_are_paired_within_each_table_and_resample_subjects(folder: Path) -> None:
    for table in tables_of(
        folder, View(split=("protocol.size",), by=("method.name",), against="merge", metrics=("efficacy",))
    ):
        assert values(table, "efficacy") == [0.5, 0.5]
        assert "8 groups of cases edited together" in table.caption
        reference, difference = (line.cells[0] for line in table.lines)
        assert (reference.is_difference, difference.is_difference) == (False, True)
        low, high = difference.estimate.low, difference.estimate.high
        assert low is not None and high is not None
        # Eight subjects, half of them different: the interval is that of eight coin flips whatever the group size.
        assert (low, high) == pytest.approx((0.125, 0.875), abs=0.13)


def test_runs_without_the_setting_have_a_table_of_their_own(folder: Path) -> None:
    write_run(folder / "single", [case("1")], **{"protocol.name": "same_subject"}, started_at=at(30))
    titles = [table.title for table in tables_of(folder, View(split=("protocol.size",)))]
    assert "gpt2 · counterfact · same_subject" in titles


def test_equal_numbers_of_other_types_are_other_tables(tmp_path: Path) -> None:
    for name, value in (("a", 1), ("b", True), ("c", 1.0)):
        write_run(tmp_path / name, [case("1")], **{"method.x": value}, started_at=at(ord(name) - 97))
    titles = [table.title for table in tables_of(tmp_path, View(split=("method.x",)))]
    assert sorted(title.rpartition("=")[2] for title in titles) == ["1", "1", "true"]


def test_an_unknown_key_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"did you mean 'protocol\.size'") as caught:
        tables_of(folder, View(split=("protocol.sice",)))
    assert caught.value.where == "--split"


@pytest.mark.parametrize(
    ("conditions", "count"),
    [
        ([], 8),
        ([("method.name", ("rose",))], 4),
        ([("method.name", ("rose",)), ("seed", ("1",))], 2),
        ([("seed", ("0", "1"))], 8),
        ([("protocol.size", ("3",))], 0),
    ],
)
def test_runs_are_selected_by_their_settings(
    folder: Path, conditions: list[tuple[str, tuple[str, ...]]], count: int
) -> None:
    runs = [read_run(path) for path in find_runs([folder])]
    assert len(select(runs, conditions)) == count


def test_selecting_needs_a_key_that_some_run_has(folder: Path) -> None:
    runs = [read_run(path) for path in find_runs([folder])]
    with pytest.raises(UserError, match="did you mean 'seed'"):
        select(runs, [("sed", ("1",))])
    assert select([], [("sed", ("1",))]) == []


def write_disjoint(folder: Path) -> None:
    for minute, size in enumerate((1, 2)):
        for method in ("rome", "rose"):
            cases = [case(str(number), prompts_sha256=f"{size}") for number in range(4)]
            write_run(folder / f"{method}{size}", cases, method, started_at=at(minute), **{"protocol.size": size})


def test_tables_are_parted_where_no_case_is_in_all_runs(tmp_path: Path) -> None:
    write_disjoint(tmp_path)
    tables = tables_of(tmp_path)
    assert [table.title.rpartition(" ")[2] for table in tables] == ["size=1", "size=2"]
    assert all(line.cases == 4 for table in tables for line in table.lines)
    assert "Apart by size, because no case is asked the same in all runs." in tables[0].footnotes
    (caption, _) = (table.caption for table in tables_of(tmp_path, View(cluster="case")))
    assert "Those from only 4 cases are rather too narrow." in caption
    for view in (View(split=()), View(all_cases=True)):
        assert [len(table.lines) for table in tables_of(tmp_path, view)] == [4]


def test_parts_stand_beside_each_other_where_that_is_asked_for(tmp_path: Path) -> None:
    write_disjoint(tmp_path)
    (sheet,) = build_sheets([read_run(path) for path in find_runs([tmp_path])], View(cols=("size",)))
    assert sheet.title == "gpt2 · counterfact · single"
    assert [head.levels for head in sheet.heads[:: len(sheet.heads) // 2]] == [("size=1",), ("size=2",)]
    assert "size=1 (4 of 4), size=2 (4 of 4)" in sheet.caption
    assert all(cell.amount is not None for line in sheet.lines for cell in line.cells)


def test_runs_that_share_cases_are_not_parted(folder: Path) -> None:
    titles = [table.title for table in tables_of(folder)]
    assert not any("=" in title for title in titles)
