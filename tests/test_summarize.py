from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ke_cli.summarize import main
from results.runs import case, efficacies, write_run

ROOT = Path(__file__).resolve().parents[1]
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    folder = tmp_path / "outputs"
    write_run(folder / "none", efficacies([0, 0, 1]), "none")
    write_run(folder / "sweep" / "rome", efficacies([1, 0, 1]), "rome")
    write_run(folder / "sweep" / "rose", efficacies([1, 1, 1]), "rose")
    return folder


def test_shows_what_is_in_outputs(outputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.chdir(outputs.parent)
    assert main([]) == 0
    out, err = capsys.readouterr()
    assert [word for word in out.split() if word in ("none", "rome", "rose")] == ["none", "rome", "rose"]
    assert "On the 3 cases common to all 3 rows, of 3." in " ".join(out.split())
    assert err == ""


def test_one_run_alone(outputs: Path, capsys: Captured) -> None:
    assert main([str(outputs / "none")]) == 0
    assert "33 [0, 100]" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", ["table.csv", "table.json", "table.md", "table.html", "table.tex", "table.txt", "TABLE.CSV"]
)
def test_writes_a_file_in_the_format_of_its_suffix(outputs: Path, name: str, capsys: Captured) -> None:
    target = outputs.parent / name
    target.write_text("old")
    assert main([str(outputs), "--output", str(target)]) == 0
    text = target.read_text(encoding="utf-8")
    start = {"csv": "model,", "json": "{", "md": "### gpt2", "html": "<table", "tex": "% needs", "txt": "\ngpt2"}
    assert text.startswith(start[name.lower().rpartition(".")[2]])
    assert capsys.readouterr().out == ""
    assert sorted(path.name for path in outputs.parent.iterdir()) == sorted(["outputs", name])


def test_format_wins_over_the_suffix(outputs: Path) -> None:
    target = outputs.parent / "table.txt"
    assert main([str(outputs), "--format", "json", "--output", str(target)]) == 0
    assert len(json.loads(target.read_text())["tables"]) == 1


def test_prints_csv(outputs: Path, capsys: Captured) -> None:
    arguments = ["--format", "csv", "--metrics", "efficacy", "--sort", "efficacy:desc", "--against", "rome"]
    assert main([str(outputs), *arguments]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [row["method"] for row in rows] == ["rose", "rome", "none"]
    assert [float(row["value"]) for row in rows] == pytest.approx([1 / 3, 2 / 3, -1 / 3])


def test_pools_by_keys(outputs: Path, capsys: Captured) -> None:
    write_run(outputs / "rose2", efficacies([0, 0, 0]), "rose", seed=1)
    assert main([str(outputs), "--format", "csv", "--by", "method.name", "--metrics", "efficacy"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert {row["row"]: float(row["value"]) for row in rows}["rose"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metrics", "eficacy"], "did you mean 'efficacy'"),
        (["--by", "method.nam"], "did you mean 'method.name'"),
        (["--sort", "nothing"], "unknown column"),
        (["--against", "nobody"], "unknown row"),
        (["--output", "."], "the output is a folder"),
        (["--output", "absent/table.md"], "the output cannot be written: No such file or directory"),
    ],
)
def test_wrong_arguments(
    outputs: Path, arguments: list[str], message: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(outputs.parent)
    assert main([str(outputs), *arguments]) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert out == ""


@pytest.mark.parametrize("arguments", [["--format", "xml"], ["--metric", "efficacy"], ["--unknown"]])
def test_arguments_argparse_refuses(arguments: list[str], capsys: Captured) -> None:
    assert main(arguments) == 2
    assert "try:     ke-summarize --help" in capsys.readouterr().err


def test_nothing_found_says_where_and_what_to_type(tmp_path: Path, capsys: Captured) -> None:
    assert main([str(tmp_path), str(tmp_path / "absent")]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert f"{tmp_path / 'absent'}: no such folder" in err
    assert "nothing to show: no run" in err
    assert str(tmp_path) in err
    assert "ke-run" in err


def test_runs_without_cases_are_listed_and_the_code_is_1(tmp_path: Path, capsys: Captured) -> None:
    write_run(tmp_path / "begun", [], status="running", total=5)
    assert main([str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert "Not shown: begun (running, no case finished)." in out
    assert "1 run(s), but none with a finished case" in err


def test_bad_runs_are_told_and_good_ones_shown(outputs: Path, capsys: Captured) -> None:
    write_run(outputs / "old", [case("1")])
    (outputs / "old" / "run.json").write_text('{"schema": 0}')
    assert main([str(outputs)]) == 0
    out, err = capsys.readouterr()
    assert "rose" in out
    assert f"{outputs / 'old'}: run.json: written by another version (schema 0, not 1)" in err


def test_a_device_is_written_not_replaced(outputs: Path) -> None:
    assert main([str(outputs), "--output", os.devnull]) == 0
    assert not Path(os.devnull).is_file()


def test_a_link_keeps_pointing_to_its_file(outputs: Path) -> None:
    target, link = outputs.parent / "real.csv", outputs.parent / "link.csv"
    target.touch()
    link.symlink_to(target)
    assert main([str(outputs), "--output", str(link)]) == 0
    assert link.is_symlink()
    assert target.read_text().startswith("model,")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--frame", "runs"], "--frame goes with --export FILE"),
        (["--html", "x.html", "--output", "x.md"], "--output goes with a table"),
        (["--plots", "x", "--format", "csv"], "--format goes with a table"),
        (["--scatter", "a:b", "--html", "x.html"], "--html goes with no --scatter"),
        (["--output", "table.docx"], "a table cannot be written as .docx"),
    ],
)
def test_nothing_that_was_asked_for_is_passed_over(
    outputs: Path, tmp_path: Path, arguments: list[str], message: str, capsys: Captured
) -> None:
    assert main([str(outputs), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [outputs]


def test_help_has_examples(capsys: Captured) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert "ke-summarize outputs --sort score:desc" in capsys.readouterr().out


def test_a_terminal_without_arrows(outputs: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "ke_cli.summarize", str(outputs)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Efficacy ?" in done.stdout


def test_starts_without_heavy_libraries() -> None:
    script = (
        "import sys; from ke_cli.summarize import main; import ke_cli.report.summary;"
        "print([name for name in ('torch', 'transformers', 'pandas', 'hydra', 'datasets') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
