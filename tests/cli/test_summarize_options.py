"""``ke-summarize``: choosing runs, parting tables, and plots."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest

from ke_cli.summarize import main
from results.runs import efficacies, write_run

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    folder = tmp_path / "outputs"
    section = {"name": "mine", "report": {"split": ["seed"], "against": "rome"}}
    for method, shares in (("rome", [1, 0, 1]), ("rose", [1, 1, 1])):
        for seed in (0, 1):
            settings = {"method.layers": [seed, 2]}
            write_run(folder / f"{method}{seed}", efficacies(shares), method, seed=seed, experiment=section, **settings)
    return folder


def rows(captured: str) -> list[dict[str, str]]:
    return [row for row in csv.DictReader(captured.splitlines()) if row["metric"] == "efficacy"]


def test_a_table_for_each_value(outputs: Path, capsys: Captured) -> None:
    assert main([str(outputs), "--split", "seed", "--format", "csv"]) == 0
    found = rows(capsys.readouterr().out)
    assert [(row["split"], row["row"]) for row in found] == [(f"seed={s}", m) for s in (0, 1) for m in ("rome", "rose")]


def test_the_layout_comes_from_the_experiment_and_options_win(outputs: Path, capsys: Captured) -> None:
    assert main([str(outputs)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert out.count("· seed=") == 2
    assert "paired differences to rome" in out
    assert main([str(outputs), "--split", "", "--against", "", "--by", "method.name"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "seed=" not in out and "differences" not in out and "Laid out" not in out


def test_files_for_programs_have_plain_values_and_every_column_unless_asked(outputs: Path, capsys: Captured) -> None:
    assert main([str(outputs), "--format", "csv"]) == 0
    assert {row["difference"] for row in rows(capsys.readouterr().out)} == {"0"}
    assert main([str(outputs), "--format", "csv", "--against", "rome"]) == 0
    assert [row["difference"] for row in rows(capsys.readouterr().out)] == ["0", "1"] * 2


@pytest.mark.parametrize(
    ("conditions", "count"),
    [
        (["seed=1"], 2),
        (["seed=1", "method.name=rose,rome"], 2),
        (["experiment.name=mine"], 4),
        (["method.layers=[1, 2]"], 2),
    ],
)
def test_only_the_runs_asked_for(outputs: Path, capsys: Captured, conditions: list[str], count: int) -> None:
    wanted = [part for condition in conditions for part in ("--where", condition)]
    assert main([str(outputs), *wanted, "--format", "csv"]) == 0
    assert len(rows(capsys.readouterr().out)) == count


def test_no_run_that_fits(outputs: Path, capsys: Captured) -> None:
    assert main([str(outputs), "--where", "seed=7"]) == 1
    err = capsys.readouterr().err
    assert "none of the 4 run(s)" in err and "--list, which shows what tells the runs apart" in err


@pytest.mark.parametrize("plot", [["--scatter", "drift:efficacy"], ["--curve", "seed:efficacy"]])
@pytest.mark.parametrize("suffix", [".pdf", ".png", ".svg", ".PDF"])
def test_a_plot_is_written_to_a_file(outputs: Path, capsys: Captured, plot: list[str], suffix: str) -> None:
    pytest.importorskip("matplotlib")
    target = outputs.parent / f"plot{suffix}"
    assert main([str(outputs), *plot, "--output", str(target)]) == 0
    assert target.stat().st_size > 1000
    assert capsys.readouterr().err == f"written: {target}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scatter", "drift:efficacy"], "allowed: --output FILE.pdf, --output FILE.png, --output FILE.svg"),
        (["--scatter", "drift:efficacy", "--output", "x.md"], "a plot is written to a file whose suffix"),
        (["--scatter", "drift:efficacy", "--output", "x.pdf", "--format", "csv"], "where:   --format"),
        (["--scatter", "drift:nothing", "--output", "x.pdf"], "unknown column 'nothing'"),
        (["--curve", "sed:drift", "--output", "x.pdf"], "did you mean 'seed'"),
        (["--output", "x.png"], "a table cannot be written as .png"),
        (["--split", "sed"], "did you mean 'seed'"),
        (["--where", "sed=1"], "did you mean 'seed'"),
        (["--where", "seed"], "--where seed=0 for runs"),
    ],
)
def test_mistakes(outputs: Path, capsys: Captured, arguments: list[str], message: str) -> None:
    assert main([str(outputs), *arguments]) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert out == ""


@pytest.mark.parametrize("arguments", [["--scatter", "drift"], ["--scatter", "a:b", "--curve", "a:b"]])
def test_arguments_argparse_refuses(capsys: Captured, arguments: list[str]) -> None:
    assert main(arguments) == 2
    assert "try:     ke-summarize --help" in capsys.readouterr().err


def test_a_plot_of_nothing(tmp_path: Path, capsys: Captured) -> None:
    assert main([str(tmp_path), "--scatter", "a:b", "--output", str(tmp_path / "x.pdf")]) == 1
    assert "nothing to show" in capsys.readouterr().err


def test_without_matplotlib_tables_work_and_plots_say_what_to_install(
    outputs: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main([str(outputs)]) == 0
    assert main([str(outputs), "--scatter", "drift:efficacy", "--output", "x.pdf"]) == 2
    assert "try:     pip install 'ke-run[plots]'" in capsys.readouterr().err
