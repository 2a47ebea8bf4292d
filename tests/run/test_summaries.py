"""``ke-summarize`` on what real runs leave behind: finished, failed, and still going."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from signal import SIGKILL

import pytest

from ke_cli.summarize import main as summarize
from run.children import Moment, start, wait_for
from run.commands import ONE_BY_ONE, Command, arguments, lines_of, measured, only_run, record_of, run_folders

Captured = pytest.CaptureFixture[str]
STARTS = {
    "terminal": "\nllama · atlas · single",
    "markdown": "### llama",
    "latex": "% needs",
    "csv": "model,",
    "json": "{",
}


def means(folder: Path, column: str, cases: set[str]) -> float:
    values = [line[column] for case, line in measured(folder).items() if case in cases]
    known = [value for value in values if value is not None]
    return sum(known) / len(known)


def test_finished_runs_in_every_format(
    ke_run: Command, outputs: Path, tiny_llama_dir: Path, tmp_path: Path, capsys: Captured
) -> None:
    for method in ("none", "rome", "rose"):
        assert ke_run(*arguments(tiny_llama_dir, method)).code == 0
    for name, start_of_text in STARTS.items():
        capsys.readouterr()
        assert summarize([str(outputs), "--format", name]) == 0
        out, err = capsys.readouterr()
        assert (out.startswith(start_of_text), err) == (True, "")
        assert summarize([str(outputs), "--format", name, "--output", str(tmp_path / name)]) == 0
        assert (tmp_path / name).read_text(encoding="utf-8") == out or name == "terminal"
        assert all(method in out for method in ("none", "rome", "rose"))
    rows = list(csv.DictReader((tmp_path / "csv").read_text(encoding="utf-8").splitlines()))
    check_values(rows, outputs)
    (table,) = json.loads((tmp_path / "json").read_text(encoding="utf-8"))["tables"]
    assert json.dumps(table, allow_nan=False)


def check_values(rows: list[dict[str, str]], outputs: Path) -> None:
    """Compare each mean, and the score made of them, with the case logs."""
    parts = ("efficacy", "paraphrase", "neighborhood", "r_specificity")
    for folder in run_folders(outputs):
        method, cases = record_of(folder)["config"]["method"]["name"], set(measured(folder))
        found = {row["metric"]: row for row in rows if row["method"] == method}
        expected = {column: means(folder, column, cases) for column in parts}
        assert {column: float(found[column]["value"]) for column in parts} == pytest.approx(expected)
        low = min(expected.values())
        harmonic = 4 / sum(1 / value for value in expected.values()) if low > 0 else 0.0
        assert float(found["score"]["value"]) == pytest.approx(harmonic)
        assert {(row["cases"], row["failed"], row["finished"]) for row in found.values()} == {("3", "0", "1")}
        for row in found.values():
            low, value, high = (float(row[key] or "nan") for key in ("low", "value", "high"))
            assert math.isnan(value) or low <= value <= high


def test_a_run_that_is_still_going(
    ke_run: Command, outputs: Path, tiny_llama_dir: Path, tmp_path: Path, capsys: Captured
) -> None:
    assert ke_run(*arguments(tiny_llama_dir, "none")).code == 0
    (finished,) = run_folders(outputs)
    child = start(arguments(tiny_llama_dir, "rome", ONE_BY_ONE), tmp_path / "log", Moment("append", 2, tmp_path / "go"))
    wait_for(lambda: [lines for lines in map(stored, run_folders(outputs)) if lines == 2])
    (going,) = set(run_folders(outputs)) - {finished}
    common = set(measured(going))
    assert len(common) == 2
    for name in STARTS:
        capsys.readouterr()
        assert summarize([str(outputs), "--format", name]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        if name == "csv":
            values = {
                row["method"]: float(row["value"])
                for row in csv.DictReader(out.splitlines())
                if row["metric"] == "efficacy"
            }
            assert values == {"none": means(finished, "efficacy", common), "rome": means(going, "efficacy", common)}
        if name == "terminal":
            assert "On the 2 cases common to both rows, of 3." in " ".join(out.split())
            assert "* rome: running, or killed, 2 of 3 cases done." in " ".join(out.split())
    (tmp_path / "go").touch()
    assert child.ended()[0] == 0
    assert summarize([str(outputs)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "On the 3 cases common to both rows, of 3." in out and "* rome" not in out


def stored(folder: Path) -> int:
    return len(lines_of(folder)) if (folder / "cases.jsonl").exists() else 0


def test_one_unfinished_run_alone(
    ke_run: Command, outputs: Path, tiny_gpt2_dir: Path, tmp_path: Path, capsys: Captured
) -> None:
    given = arguments(tiny_gpt2_dir, "rome", ONE_BY_ONE)
    assert start(given, tmp_path / "log", Moment("torn", 0, SIGKILL)).ended()[0] == -SIGKILL
    assert summarize([str(outputs)]) == 1
    assert "1 run(s), but none with a finished case" in " ".join(capsys.readouterr().err.split())
    assert start(given, tmp_path / "log", Moment("torn", 1, SIGKILL)).ended()[0] == -SIGKILL
    for name in STARTS:
        assert summarize([str(only_run(outputs)), "--format", name]) == 0
        out, err = capsys.readouterr()
        assert ("rome" in out, err) == (True, "")
