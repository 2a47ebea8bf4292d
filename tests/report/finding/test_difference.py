from __future__ import annotations

import json
from pathlib import Path

import pytest

from ke_cli.errors import UserError
from ke_cli.report.finding.difference import Difference, difference
from ke_cli.report.finding.picking import pick
from ke_cli.results.reader import Run, find_runs, read_run
from ke_cli.results.shards import join_shards
from ke_cli.summarize import main
from report.finding.conftest import failed, line
from results.runs import efficacies, shard, write_run

Captured = pytest.CaptureFixture[str]


def runs_of(folder: Path) -> list[Run]:
    return join_shards([read_run(path) for path in find_runs([folder])])


def compared(folder: Path, one: str = "rome", other: str = "rose", **changes: object) -> Difference:
    runs = runs_of(folder)
    return difference(pick(one, runs), pick(other, runs), **changes)  # type: ignore[arg-type]


def test_configuration(outputs: Path) -> None:
    found = compared(outputs)
    assert [(change.key, change.one, change.other) for change in found.configuration] == [
        ("method.name", "rome", "rose"),
        ("method.steps", "20", None),
        ("method.lambda_", None, "0.5"),
    ]
    assert found.names == ("rome", "rose") and found.runs == ("gpt2_rome", "gpt2_rose")


def test_numbers_of_one_kind_are_told_apart(tmp_path: Path) -> None:
    for name, value in (("a", 1), ("b", 1.0), ("c", True)):
        write_run(tmp_path / name, efficacies([1]), "rose", **{"method.lambda_": value})
    keys = [[change.key for change in compared(tmp_path, *names).configuration] for names in ("ab", "ac", "aa")]
    assert keys == [["method.lambda_"], ["method.lambda_"], []]


def test_surroundings(tmp_path: Path) -> None:
    common = {"git": {"commit": "abc", "dirty": False}, "hardware": {"gpus": []}}
    for name, version, wall_s in (("a", "2.9", 1.5), ("b", "2.10", 300.25)):
        changes = {"versions": {"torch": version, "numpy": "2"}, "wall_s": wall_s, "command": ["x", f"seed={wall_s}"]}
        write_run(tmp_path / name, efficacies([1]), **(common | changes), device=name)
    found = compared(tmp_path, "a", "b")
    assert [(change.key, change.one, change.other) for change in (*found.operation, *found.surroundings)] == [
        ("device", "a", "b"),
        ("versions.torch", "2.9", "2.10"),
        ("wall_s", "1.5", "300.25"),
        ("command", "ke-run seed=1.5", "ke-run seed=300.25"),
    ]


def test_who_wins_which_cases(outputs: Path) -> None:
    found = compared(outputs)
    counts = {row.column.name: (row.wins, row.losses, row.ties) for row in found.columns}
    assert counts == {"efficacy": (2, 0, 1), "drift": (1, 0, 2), "score": (None,) * 3}  # a smaller drift is better
    assert [(case.case_id, dict(case.values), case.size) for case in found.cases] == [
        ("c2", {"efficacy": (0.0, 1.0), "drift": (0.75, 0.25)}, 1.0),
        ("c1", {"efficacy": (0.0, 1.0)}, 1.0),
    ]
    assert found.notes[0] == "1 case(s) failed only in rome: c3."


def test_the_numbers_and_tests_are_those_of_the_tables(tmp_path: Path) -> None:
    """Six cases won and none lost: McNemar's exact p is 2 / 2^6."""
    write_run(tmp_path / "a", [line(n, 0.0, subject=f"s{n}") for n in range(6)] + [line(9, 1.0)], "rome")
    write_run(tmp_path / "b", [line(n, 1.0, subject=f"s{n}") for n in range(6)] + [line(9, 1.0)], "rose")
    row = compared(tmp_path).columns[0]
    assert row.one.estimate.value == pytest.approx(1 / 7) and row.other.estimate.value == 1
    assert row.other.difference and row.other.difference.value == pytest.approx(6 / 7)
    assert row.other.outcome and (row.other.outcome.p, row.other.outcome.test) == (2 / 2**6, "mcnemar")
    assert row.one.difference is None


def test_columns_that_only_one_has_and_a_choice_of_them(outputs: Path) -> None:
    write_run(outputs / "narrow", [line(n, 1.0, metrics={"efficacy": 0.5}) for n in range(4)], "ft")
    assert [row.column.name for row in compared(outputs, "rose", "ft", metrics=["efficacy"]).columns] == ["efficacy"]
    found = compared(outputs, "rose", "ft")
    assert [row.wins for row in found.columns if row.column.name == "drift"] == [0]
    assert {name for case in found.cases for name in case.values} == {"efficacy"}


def test_a_run_without_a_finished_case(outputs: Path) -> None:
    write_run(outputs / "none_done", [failed(0)], "ft", status="failed")
    found = compared(outputs, "rome", "ft")
    assert found.columns == () and found.notes == ("ft has no finished case.",)
    assert found.configuration


def test_cases_that_only_one_has(tmp_path: Path) -> None:
    write_run(tmp_path / "a", efficacies([1, 0]), "rome")
    write_run(tmp_path / "b", efficacies([1, 0, 1]), "rose")
    assert compared(tmp_path).notes[0] == "1 case(s) are only in rose: c2."


def test_shards_against_the_whole(tmp_path: Path) -> None:
    for index in range(3):
        shard(tmp_path, index, efficacies([1, 0], first=2 * index))
    write_run(tmp_path / "whole", efficacies([1, 1, 1, 0, 1, 0]), "rome")
    found = compared(tmp_path, "rome", "rose")
    assert [(case.case_id, case.values["efficacy"]) for case in found.cases] == [("c1", (1.0, 0.0))]


@pytest.mark.parametrize("name", ["gpt2_rome", "rome1", "rome", "_rome", "FOLDER", "FOLDER/run.json/.."])
def test_how_a_run_is_named(outputs: Path, name: str) -> None:
    where = name.replace("FOLDER/run.json/..", "FOLDER/.").replace("FOLDER", str(outputs / "gpt2_rome"))
    assert pick(where, runs_of(outputs)).record.run_id == "rome1"


def test_a_folder_that_was_not_searched(outputs: Path, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "elsewhere" / "mine", efficacies([1]), "ft")
    assert pick(str(folder), runs_of(outputs)).record.named("method") == "ft"


@pytest.mark.parametrize(
    ("name", "what", "hint"),
    [
        ("gpt2_rom", None, None),
        ("rosee", "unknown run 'rosee'", "did you mean 'rose'?"),
        ("gpt2", "'gpt2' means 3 runs", "name one of them"),
        ("", "'' means 3 runs", "name one of them"),
    ],
)
def test_names_that_mean_none_or_several(outputs: Path, name: str, what: str | None, hint: str | None) -> None:
    if what is None:
        assert pick(name, runs_of(outputs)).record.name == "gpt2_rome"
        return
    with pytest.raises(UserError) as caught:
        pick(name, runs_of(outputs))
    assert (caught.value.what, caught.value.hint) == (what, hint)


def test_a_run_that_cannot_be_read(outputs: Path) -> None:
    (outputs / "gpt2_rome" / "run.json").write_text("{")
    with pytest.raises(UserError, match="this run cannot be read"):
        pick(str(outputs / "gpt2_rome"), runs_of(outputs))


def test_what_is_printed(outputs: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    assert main([str(outputs), "--diff", "rome", "rose", "--cases", "1"]) == 0
    out = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "A rome gpt2_rome" in lines and "B rose gpt2_rose" in lines
    assert "method.steps 20 \N{EN DASH}" in lines
    assert any(line.startswith("Efficacy \N{UPWARDS ARROW}") and line.endswith(" 2 0 1") for line in lines)
    assert any(line.startswith("subject 2 \N{MIDDLE DOT} P0 Efficacy 0\N{RIGHTWARDS ARROW}100") for line in lines)
    assert "and 1 more: --cases 2 shows all" in lines
    assert "1 case(s) failed only in rome: c3." in lines
    assert "On the 3 cases common to both rows, of 4." in " ".join(lines)


def test_the_same_run_twice(outputs: Path, capsys: Captured) -> None:
    assert main([str(outputs), "--diff", "rome", "rome"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "Configuration: the same in all that can change a number" in out
    assert "How they were computed: the same" in out
    assert "Cases: every common case has the same values in both" in out


def test_as_data(outputs: Path, tmp_path: Path, capsys: Captured) -> None:
    target = tmp_path / "diff.json"
    assert main([str(outputs), "--diff", "rome", "rose", "--output", str(target)]) == 0
    assert capsys.readouterr().out == ""
    found = json.loads(target.read_text())
    assert found["a"] == {"name": "rome", "run": "gpt2_rome"}
    assert [(row["column"], row["b_wins"], row["a_wins"]) for row in found["columns"][:2]] == [
        ("efficacy", 2, 0),
        ("drift", 1, 0),
    ]
    assert found["cases"][0]["values"]["drift"] == {"a": 0.75, "b": 0.25, "winner": "b"}
