from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ke_cli.report.finding.case_list import count_cases, find_cases
from ke_cli.results.reader import Run, find_runs, read_run
from ke_cli.summarize import main
from report.finding.conftest import line
from results.runs import efficacies, log_of, shard, write_run

Captured = pytest.CaptureFixture[str]


def runs_of(folder: Path) -> list[Run]:
    return [read_run(path) for path in find_runs([folder])]


def shown(captured: Captured) -> list[str]:
    return [" ".join(line.split()) for line in captured.readouterr().out.splitlines()]


def test_a_case_of_several_runs_is_one(outputs: Path) -> None:
    runs = runs_of(outputs)
    found = list(find_cases(runs, 10))
    assert [case.case_id for case in found] == ["c0", "c1", "c2", "c3"] and count_cases(runs) == 4
    assert found[3].labels == ("none", "rome", "rose") and found[3].unedited == (True, False, False)
    assert [case.error for case in found[3].cases] == ["", "it diverged", ""]
    assert found[0].title == "gpt2 \N{MIDDLE DOT} counterfact \N{MIDDLE DOT} single"


def test_the_limit_holds_over_all_groups(outputs: Path) -> None:
    write_run(outputs / "long", efficacies([1] * 12), "rose", **{"dataset.name": "zsre"})
    runs = runs_of(outputs)
    assert count_cases(runs) == 16
    assert [case.case_id for case in find_cases(runs, 6)] == ["c0", "c1", "c2", "c3", "c0", "c1"]
    assert [case.case_id for case in find_cases(runs[3:], 12)][-2:] == ["c10", "c11"]
    assert list(find_cases(runs, 0)) == []


def test_what_is_printed(outputs: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert main([str(outputs), "--cases", "--where", "efficacy==0 and method!='none'"]) == 0
    lines = shown(capsys)
    start = lines.index("c1 gpt2 \N{MIDDLE DOT} counterfact \N{MIDDLE DOT} single")
    assert lines[start + 1] == "subject 1 lies in \N{RIGHTWARDS ARROW} Peru (before: Switzerland \N{MIDDLE DOT} P1)"
    assert lines[start + 3 : start + 5] == ["Efficacy Drift", "rome 0.0 0.500"]
    assert lines[start + 6 : start + 13] == [
        "Asked Answer before rome",
        "other subject",
        "Zürich lies in Peru 9.00 4.00",
        "Switzerland 9.00 2.00",
        "question, decoded",
        "Where is Zürich? \N{EN DASH} In",
        "Peru.\N{REPLACEMENT CHARACTER}[31m",
    ]
    assert " ".join(lines).endswith("All 2 cases.")


def test_the_unedited_model_is_looked_at_where_it_is_named_or_alone(outputs: Path, capsys: Captured) -> None:
    fails = ["--cases", "--where", "efficacy<1", "--format", "json"]
    for where, expected in (([], {"rome"}), (["--where", 'method in ["none", "rome"]'], {"none", "rome"})):
        assert main([str(outputs), *fails, *where]) == 0
        cases = json.loads(capsys.readouterr().out)["cases"]
        assert {run["label"] for case in cases for run in case["runs"]} == expected
    assert main([str(outputs / "gpt2_none"), *fails]) == 0
    assert json.loads(capsys.readouterr().out)["total"] == 4


def test_numbers_stand_beside_their_answers(tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    long, short = "the People's Democratic Republic of Nowhere", "Peru"
    common = {"ask": "target", "prompt": "p", "hits": [False]}
    asks = [{**common, "target": long, "nlls": [9.0]}, {**common, "target": short, "nlls": [2.0]}]
    write_run(tmp_path / "run", [{**line(0, 0.0), "before": [], "after": asks}])
    monkeypatch.setenv("COLUMNS", "80")
    assert main([str(tmp_path), "--cases"]) == 0
    rows = [row for row in shown(capsys) if row.endswith(("9.00", "2.00"))]
    assert [row.split()[-3:-1] for row in rows] == [["People's", "\N{EN DASH}"], ["Peru", "\N{EN DASH}"]]


def test_failed_cases(outputs: Path, capsys: Captured) -> None:
    assert main([str(outputs), "--cases", "--where", 'status=="failed"']) == 0
    lines = shown(capsys)
    assert "rome failed: it diverged" in lines
    assert "c0" not in " ".join(lines)


def test_runs_beside_each_other_where_there_is_room(
    outputs: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    for width, heads in (
        (100, ["Asked Answer before rome rose"]),
        (64, ["Asked Answer before rome", "Asked Answer before rose"]),
    ):
        monkeypatch.setenv("COLUMNS", str(width))
        assert main([str(outputs), "--cases", "1", "--where", "method=rome,rose"]) == 0
        assert [line for line in shown(capsys) if line.startswith("Asked")] == heads


def test_of_many_some_are_shown_and_the_rest_is_counted(outputs: Path, capsys: Captured) -> None:
    write_run(outputs / "long", [line(n, 0.0) for n in range(30)], "ft")
    assert main([str(outputs), "--cases", "--where", 'method=="ft"', "--metrics", "efficacy"]) == 0
    lines = shown(capsys)
    assert sum(text.startswith("ft ") for text in lines) == 10
    assert lines.count("Efficacy") == 10
    assert "10 of 30 cases: --cases 30 shows all, --export FILE writes them." in " ".join(lines)


def test_as_data_with_the_raw_answers(outputs: Path, tmp_path: Path, capsys: Captured) -> None:
    target = tmp_path / "cases.json"
    assert main([str(outputs), "--cases", "--where", 'run=="gpt2_rome" and drift>0.6', "--output", str(target)]) == 0
    assert capsys.readouterr().out == ""
    (found,) = json.loads(target.read_text())["cases"]
    (run,) = found["runs"]
    assert (found["case_id"], run["label"], run["prompt"], run["metrics"]) == (
        "c2",
        "rome",
        "{} lies in",
        {"efficacy": 0.0, "drift": 0.75},
    )
    assert run["after"][1]["nlls"] == [2.0] and run["before"] == []


def test_text_in_a_file(outputs: Path, tmp_path: Path) -> None:
    target = tmp_path / "cases.txt"
    assert main([str(outputs), "--cases", "1", "--output", str(target)]) == 0
    assert "subject 0 lies in" in target.read_text(encoding="utf-8")


def test_shards(tmp_path: Path, capsys: Captured) -> None:
    for index in range(3):
        shard(tmp_path, index, efficacies([1, 0], first=2 * index))
    assert main([str(tmp_path), "--cases", "--where", "efficacy<1"]) == 0
    assert [text.split()[0] for text in shown(capsys) if "counterfact" in text] == ["c1", "c3", "c5"]


def test_a_line_that_is_gone_since(outputs: Path) -> None:
    runs = runs_of(outputs)[1:2]
    log_of(runs[0].path).write_bytes(b"")
    assert [case.cases for case in find_cases(runs, 10)] == [()] * 4


def test_no_such_case(outputs: Path, capsys: Captured) -> None:
    assert main([str(outputs), "--cases", "--where", "drift>9", "--where", "method=rome,rose"]) == 1
    out, err = capsys.readouterr()
    assert (out, err) == ("", "no case of 2 run(s) fulfils drift>9 and method=rome,rose\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--where", "efficacy<1"], "add --cases to see these cases, or --export FILE to write them"),
        (["--where", "efficacy<1", "--html", "x.html", "--cases", "3"], "chooses none for tables, pictures or a page"),
        (["--where", "efficacy<1", "--list"], "--list knows no conditions about cases"),
        (["--where", "efficacy<1", "--diff", "rome", "rose"], "--diff knows no conditions about cases"),
        (["--where", "efficacy", "--cases"], "expected a comparison, not the end"),
        (["--where", "efficacy=1", "--cases"], "efficacy is no setting of a run, but something that each case has"),
        (["--list", "--cases"], "--cases does not go with --list"),
        (["--export", "x.csv", "--cases"], "--cases does not go with --export"),
        (["--list", "--plots", "x"], "--plots does not go with --list"),
        (["--cases", "--format", "latex"], "--list, --diff and --cases are not written as latex"),
        (["--list", "--output", "x.csv"], "--list, --diff and --cases are not written as .csv"),
        (["--cases", "--metrics", "eficacy"], "did you mean 'efficacy'"),
        (["--export", "x.xlsx"], "allowed: FILE.parquet, FILE.csv, FILE.json"),
    ],
)
def test_mistakes(outputs: Path, arguments: list[str], message: str, capsys: Captured) -> None:
    assert main([str(outputs), *arguments]) == 2
    out, err = capsys.readouterr()
    assert message in err and out == ""


@pytest.mark.parametrize("arguments", [["--cases", "outputs"], ["--list", "--diff", "a", "b"], ["--diff", "a"]])
def test_what_argparse_refuses(arguments: list[str], capsys: Captured) -> None:
    assert main(arguments) == 2
    assert "try:     ke-summarize --help" in capsys.readouterr().err


def test_listing_and_looking_need_no_pandas(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert [main([str(outputs), *view]) for view in (["--list"], ["--cases"], ["--diff", "rome", "rose"])] == [0] * 3
