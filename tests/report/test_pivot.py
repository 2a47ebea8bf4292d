"""Tables laid out by any settings, with several levels both ways."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from ke_cli.errors import UserError
from ke_cli.report.formats import FORMATS
from ke_cli.report.formats.body import Sheet, ShownCell
from ke_cli.report.formats.terminal import to_text
from ke_cli.report.pivot import build_sheets
from ke_cli.report.tables import View
from ke_cli.results.reader import find_runs, read_run
from ke_cli.summarize import main
from report.looking import at
from results.runs import efficacies, write_run

RIGHT = {"rome": 2, "rose": 8, "none": 0}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two models, two data sets (the second has twice as many cases), three methods, two seeds that agree."""
    minute = 0
    for model in ("gpt2", "llama"):
        for dataset, times in (("counterfact", 1), ("zsre", 2)):
            for method, right in RIGHT.items():
                for seed in (0, 1):
                    values = [float(i < right) for i in range(10)] * times
                    names = {"model.name": model, "dataset.name": dataset}
                    write_run(
                        tmp_path / f"{model}_{dataset}_{method}_{seed}",
                        efficacies(values),
                        method,
                        seed=seed,
                        started_at=at(minute),
                        **names,
                    )
                    minute += 1
    return tmp_path


def sheets(folder: Path, **view: object) -> list[Sheet]:
    runs = [read_run(path) for path in find_runs([folder])]
    return build_sheets(runs, View(**{"metrics": ("efficacy",), **view}))  # type: ignore[arg-type]


def values(sheet: Sheet) -> dict[tuple[str, ...], list[str]]:
    return {line.index: [cell.value for cell in line.cells] for line in sheet.lines}


def test_on_a_terminal_what_a_level_joins_stays_together(folder: Path) -> None:
    sheet = sheets(folder, rows=("method",), cols=("model", "dataset"))[0]
    above = to_text([sheet], width=40).partition("On the cases")[0]
    heads = [line.split() for line in above.splitlines()]
    assert [words for words in heads if words[:1] in (["gpt2"], ["llama"])] == [["gpt2", "gpt2"], ["llama", "llama"]]


def test_rows_by_columns(folder: Path) -> None:
    first, second = sheets(folder, rows=("method",), cols=("dataset",))
    assert (first.title, second.title) == ("gpt2 · single", "llama · single")
    assert first.names == ("Method",)
    assert [head.levels for head in first.heads] == [("counterfact",), ("zsre",)]
    assert values(first) == {("none",): ["0", "0"], ("rome",): ["20", "20"], ("rose",): ["80", "80"]}
    assert [first.counted, "counterfact (10 of 10), zsre (20 of 20)" in first.caption] == [False, True]


def test_several_levels_of_rows(folder: Path) -> None:
    (sheet,) = sheets(folder, rows=("model", "method"), cols=("dataset", "protocol"), metrics=("efficacy", "drift"))
    assert sheet.names == ("Model", "Method")
    assert [line.index for line in sheet.lines] == [(m, n) for m in ("gpt2", "llama") for n in ("none", "rome", "rose")]
    assert list(sheet.index_texts())[:4] == [("gpt2", "none"), ("", "rome"), ("", "rose"), ("llama", "none")]
    assert [sheet.opens_section(place) for place in range(6)] == [False, False, False, True, False, False]
    assert sheet.spans == [[("counterfact", 2), ("zsre", 2)], [("single", 2), ("single", 2)]]
    assert [head.title for head in sheet.heads] == ["Efficacy", "Drift"] * 2


def test_methods_that_are_not_named_become_the_last_level(folder: Path) -> None:
    assert sheets(folder, cols=("dataset",))[0].names == ("Method",)
    assert sheets(folder, rows=("model", "dataset"))[0].names == ("Model", "Dataset", "Method")


def test_methods_across(folder: Path) -> None:
    (sheet,) = sheets(folder, rows=("model", "dataset"), cols=("method",))
    assert [head.levels for head in sheet.heads] == [("none",), ("rome",), ("rose",)]
    assert [[cell.best for cell in line.cells] for line in sheet.lines] == [[False, False, True]] * 4
    assert sheet.counted


def test_the_best_is_looked_for_within_a_model_and_a_column(folder: Path) -> None:
    (sheet,) = sheets(folder, rows=("model", "method"), cols=("dataset",))
    assert [line.index for line in sheet.lines if all(cell.best for cell in line.cells)] == [
        ("gpt2", "rose"),
        ("llama", "rose"),
    ]


def test_seeds_are_pooled_and_their_spread_shown(folder: Path) -> None:
    (sheet, _) = sheets(folder, rows=("method",), cols=("dataset",))
    assert {cell.deviation for line in sheet.lines for cell in line.cells} == {"±0"}
    assert "Each row is a mean over 2 seeds." in sheet.caption
    assert not any("Pooled" in note for note in sheet.footnotes)
    assert sheets(folder, rows=("method", "seed"))[0].names == ("Method", "Seed")


def test_each_part_is_compared_with_its_own_reference_and_all_tests_are_corrected(folder: Path) -> None:
    (sheet,) = sheets(folder, rows=("model", "method"), cols=("dataset",), against="rome")
    found = values(sheet)
    assert found["gpt2", "rose"] == found["llama", "rose"] == ["+60", "+60"]
    assert found["gpt2", "rome"] == ["20", "20"]
    assert "Holm's correction over the 8 tests of this table" in sheet.caption
    marked = {line.index: [cell.marked for cell in line.cells] for line in sheet.lines}
    assert marked["gpt2", "rose"] == [False, True]  # 6 of 10 against 12 of 20 cases that differ: p = 2/64, 2/4096


def test_a_setting_across_becomes_a_sweep(tmp_path: Path) -> None:
    for place, value in enumerate((10, 0.5, 2)):
        for method in ("rose", "rets"):
            lines = efficacies([float(i <= place) for i in range(4)])
            write_run(tmp_path / f"{method}{value}", lines, method, **{"method.lambda_": value})
    write_run(tmp_path / "rome", efficacies([1, 1, 1, 1]), "rome")
    (sheet,) = sheets(tmp_path, cols=("method.lambda",), against="rome")
    assert [head.levels[0] for head in sheet.heads] == ["lambda=0.5", "lambda=2", "lambda=10", "no lambda"]
    assert values(sheet)["rose",] == ["-50", "-25", "-75", "\N{EN DASH}"]
    assert values(sheet)["rome",] == ["\N{EN DASH}"] * 3 + ["100"]


def test_published_figures_stand_under_their_method(tmp_path: Path) -> None:
    section = {
        "name": "mine",
        "published": {"source": "a paper", "rows": {"rome": {"efficacy": 99.25}}, "dataset": "counterfact"},
    }
    for dataset in ("counterfact", "zsre"):
        for method in ("rome", "rose"):
            changes = {"dataset.name": dataset, "experiment": section}
            write_run(tmp_path / f"{dataset}{method}", efficacies([1, 0, 1]), method, **changes)
    (sheet,) = sheets(tmp_path, rows=("method",), cols=("dataset",))
    published = [line for line in sheet.lines if line.published]
    assert [(line.index, [cell.value for cell in line.cells]) for line in published] == [
        (("rome, published",), ["99.2", ""])
    ]
    assert "counterfact: Published: a paper." in sheet.footnotes


def test_an_unfinished_run_has_a_star(folder: Path) -> None:
    write_run(folder / "cut", efficacies([1.0] * 10), "memit", status="interrupted", total=99)
    (sheet, _) = sheets(folder, rows=("method",), cols=("dataset",))
    (line,) = (line for line in sheet.lines if line.index == ("memit*",))
    assert line.cells[1] == ShownCell()


@pytest.mark.parametrize(
    ("view", "message"),
    [
        ({"rows": ("methd",)}, "did you mean 'method.name'"),
        ({"cols": ("method.lamda",)}, "unknown setting"),
        ({"rows": ("method",), "cols": ("method.name",)}, "cannot make rows and columns"),
        ({"rows": ("method",), "by": ("seed",)}, "--by does not go with --rows"),
        ({"rows": ("method",), "sort": "efficacy"}, "--sort does not go with --rows"),
    ],
)
def test_mistakes(folder: Path, view: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        sheets(folder, **view)


def test_nothing_to_lay_out(tmp_path: Path) -> None:
    write_run(tmp_path / "begun", [], status="running", total=5)
    assert sheets(tmp_path, rows=("method",)) == []
    assert build_sheets([], View(rows=("method",))) == []


class TestFormats:
    @pytest.fixture
    def sheet(self, folder: Path) -> Sheet:
        (sheet,) = sheets(folder, rows=("model", "method"), cols=("dataset",), metrics=("efficacy", "drift"))
        return sheet

    def test_markdown_has_rectangular_rows(self, sheet: Sheet) -> None:
        rows = [line for line in FORMATS["markdown"]([sheet]).splitlines() if line.startswith("|")]
        assert {row.count("|") for row in rows} == {7}
        assert rows[0].startswith("| Model | Method | counterfact · Efficacy ↑ |")
        assert rows[3].startswith("|  | rome |")

    def test_latex_joins_what_stands_above_columns(self, sheet: Sheet) -> None:
        text = FORMATS["latex"]([sheet])
        assert r" &  & \multicolumn{4}{c}{counterfact} & \multicolumn{4}{c}{zsre} \\" in text
        assert r"\cmidrule(lr){3-6}\cmidrule(lr){7-10}" in text
        assert text.count(r"\midrule") == 2

    def test_html_is_rectangular_and_joins_too(self, sheet: Sheet) -> None:
        text = FORMATS["html"]([sheet])
        assert text.count('<th scope="colgroup" colspan="2">') == 2
        body = text.partition("<tbody>")[2].partition("</tbody>")[0]
        assert {(row.count("<th"), row.count("<td")) for row in body.splitlines() if row} == {(2, 4)}

    def test_terminal(self, sheet: Sheet) -> None:
        lines = to_text([sheet], 150).splitlines()
        assert any(re.fullmatch(r" +counterfact +counterfact +zsre +zsre *", line) for line in lines)
        assert sum(line.startswith("gpt2 ") for line in lines) == 1


def test_on_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(folder), "--rows", "model,method", "--cols", "dataset", "--metrics", "efficacy"]
    assert main([*arguments, "--format", "markdown", "--no-intervals", "--digits", "2"]) == 0
    out = capsys.readouterr().out
    assert "| gpt2 | none | 0.00 ±0.00 | 0.00 ±0.00 |" in out
    assert "[" not in out and "In brackets" not in out
    assert main([*arguments, "--format", "csv", "--where", "method=rose"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert {(row["model"], row["dataset"], row["row"]) for row in rows} == {
        (model, dataset, "rose") for model in ("gpt2", "llama") for dataset in ("counterfact", "zsre")
    }
