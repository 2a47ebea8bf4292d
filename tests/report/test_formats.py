from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from ke_cli.report.formats import FORMATS
from ke_cli.report.formats.latex import escaped
from ke_cli.report.formats.terminal import NARROW, print_tables, to_text
from ke_cli.report.summary import print_run_table
from ke_cli.report.tables import Table, View, build_tables
from ke_cli.results.reader import find_runs, read_run
from results.runs import case, efficacies, write_run

AWKWARD = r"50% _of_ {R&D} [#1] a|b \x ~^ <$>"


@pytest.fixture
def tables(tmp_path: Path) -> list[Table]:
    """Two tables; in the first the unedited model, the best row, and an unfinished one with an awkward name."""
    write_run(tmp_path / "none", efficacies([0, 0, 0, 1]), "none")
    write_run(tmp_path / "rose", efficacies([1, 1, 0, 1]), "rose")
    write_run(tmp_path / "odd", efficacies([1, 0, 0, None]), AWKWARD, status="running", total=9)
    write_run(tmp_path / "other", efficacies([1, 0]), "rome", **{"dataset.name": "zsre"}, started_at="2026-01-01")
    return build_tables([read_run(path) for path in find_runs([tmp_path])], View(metrics=("all",), digits=1))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")
@pytest.mark.parametrize("included", [False, True])
def test_latex_compiles_as_it_is_and_in_a_document(tables: list[Table], tmp_path: Path, included: bool) -> None:
    (tmp_path / "table.tex").write_text(FORMATS["latex"](tables), encoding="utf-8")
    packages = r"\usepackage{booktabs,graphicx}"
    document = rf"\documentclass{{article}}{packages}\begin{{document}}A.\input{{table}}B.\end{{document}}"
    (tmp_path / "main.tex").write_text(document, encoding="utf-8")
    name = "main" if included else "table"
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", f"{name}.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, errors="replace")
    assert done.returncode == 0, done.stdout
    assert (tmp_path / f"{name}.pdf").stat().st_size > 10_000
    assert "Overfull" not in done.stdout
    assert "incomplete" not in done.stdout


def markdown_cells(row: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", row.strip())[1:-1]]


class TestMarkdown:
    def test_every_row_has_as_many_cells(self, tables: list[Table]) -> None:
        text = FORMATS["markdown"](tables)
        rows = [markdown_cells(line) for line in text.splitlines() if line.startswith("|")]
        assert [len(row) for row in rows] == [6] * (2 + 3 + 2 + 1)
        assert rows[0] == ["Method", "Efficacy ↑", "Drift ↓", "Score ↑", "Units ↑", "n"]
        assert set(rows[1]) == {":--", "--:"}
        assert [row[0] for row in rows[2:4]] == ["none", r"50% \_of\_ {R&D} \[\#1\] a\|b \\x \~^ \<$\>\*"]

    def test_values_are_bold_where_best_and_have_intervals(self, tables: list[Table]) -> None:
        rows = {cells[0]: cells for cells in map(markdown_cells, FORMATS["markdown"](tables).splitlines()) if cells}
        assert re.fullmatch(r"\*\*75\.0\*\* \[25\.0, 100\.0\]", rows["rose"][1])
        assert re.fullmatch(r"25\.0 \[0\.0, 75\.0\]", rows["none"][1])
        assert rows["rose"][5] == "4"

    def test_has_headings_captions_and_notes(self, tables: list[Table]) -> None:
        lines = FORMATS["markdown"](tables).splitlines()
        assert [line for line in lines if line.startswith("#")] == [
            "### gpt2 · counterfact · single",
            "### gpt2 · zsre · single",
        ]
        assert sum(line.startswith("On ") for line in lines) == 2
        assert any(
            line.startswith(r"- \* 50% ") and line.endswith("running, or killed, 4 of 9 cases done.") for line in lines
        )


class TestLatex:
    @pytest.mark.parametrize(
        ("plain", "expected"),
        [
            ("50% of R&D_x #1 $", r"50\% of R\&D\_x \#1 \$"),
            ("{a}", r"\{a\}"),
            ("\\~^", r"\textbackslash{}\textasciitilde{}\textasciicircum{}"),
            ("[x]", "{[}x{]}"),
            ("gpt2 · cf", r"gpt2 $\cdot$ cf"),
            ('a|b "c" --x', r"a\textbar{}b ''c'' -{}-x"),
            ("Zürich Łódź", "Zürich Łódź"),
            ("\N{CJK UNIFIED IDEOGRAPH-4E2D}\N{LATIN SMALL LETTER ETH}", "{[}U+4E2D{]}{[}U+00F0{]}"),
        ],
    )
    def test_escapes(self, plain: str, expected: str) -> None:
        assert escaped(plain) == expected

    def test_is_well_formed(self, tables: list[Table]) -> None:
        text = FORMATS["latex"](tables)
        opened, closed = (re.findall(rf"\\{word}\{{(\w+)\}}", text) for word in ("begin", "end"))
        assert sorted(opened) == sorted(closed) == ["document", "table", "table", "tabular", "tabular"]
        bare = re.sub(r"\\[{}]", "", text)
        assert bare.count("{") == bare.count("}")
        body = [line for line in text.splitlines() if line.endswith(r"\\")]
        # Method, for each of four columns a value and its interval, and n; the heads stand over two columns each.
        assert [len(re.findall(r"(?<!\\)&", line)) for line in body] == [5, 9, 9, 9, 5, 9]
        assert not re.search(r"(?<!\\)[#_]|(?<!\\)%(?! needs|\n)", text)
        assert (text.count(r"\toprule"), text.count(r"\midrule"), text.count(r"\bottomrule")) == (2, 2, 2)

    def test_values(self, tables: list[Table]) -> None:
        text = FORMATS["latex"](tables)
        assert r"\textbf{75.0} & {\scriptsize [25.0, 100.0]}" in text
        assert r"Drift $\downarrow$" in text
        assert r"\textbf{25.0}" not in text


class TestHtml:
    def test_names_are_text(self, tables: list[Table]) -> None:
        write = FORMATS["html"](tables)
        assert "{R&amp;D} [#1] a|b" in write
        assert "<$>" not in write

    def test_every_row_has_as_many_cells(self, tables: list[Table]) -> None:
        rows = re.findall(r"<tr.*?</tr>", FORMATS["html"](tables))
        cells = [row.count("<th") + row.count("<td") for row in rows if "colspan" not in row]
        assert cells == [6] * (1 + 3 + 1 + 1)

    def test_values(self, tables: list[Table]) -> None:
        assert "<b>75.0</b> <small>[25.0,\N{NO-BREAK SPACE}100.0]</small>" in FORMATS["html"](tables)


def test_csv_carries_full_numbers(tables: list[Table]) -> None:
    rows = list(csv.DictReader(io.StringIO(FORMATS["csv"](tables))))
    assert len(rows) == 4 * 4
    numbers = {(row["dataset"], row["method"], row["metric"]): row for row in rows}
    odd = numbers["counterfact", AWKWARD, "efficacy"]
    assert float(odd["value"]) == 1 / 3
    assert float(odd["low"]) <= 1 / 3 <= float(odd["high"])
    assert (odd["n"], odd["cases"], odd["finished"], odd["best"]) == ("3", "4", "0", "0")
    assert numbers["counterfact", "rose", "efficacy"]["best"] == "1"
    assert numbers["zsre", "rome", "efficacy"]["runs"] == "other"


def test_csv_leaves_what_is_missing_empty(tmp_path: Path) -> None:
    write_run(tmp_path / "a", [case("1", metrics={"efficacy": None})])
    rows = list(
        csv.DictReader(io.StringIO(FORMATS["csv"](build_tables([read_run(tmp_path / "a")], View(metrics=("all",))))))
    )
    assert {(row["value"], row["low"], row["high"], row["n"]) for row in rows} == {("", "", "", "0")}


def test_json_says_everything(tables: list[Table]) -> None:
    content = json.loads(FORMATS["json"](tables), parse_constant=pytest.fail)
    assert content["schema"] == 1
    first, second = content["tables"]
    assert (second["dataset"], [row["label"] for row in second["rows"]]) == ("zsre", ["rome"])
    assert [column["name"] for column in first["columns"]] == ["efficacy", "drift", "score", "units"]
    rose = first["rows"][2]
    assert (rose["label"], rose["cases"], rose["failed"], rose["finished"]) == ("rose", 4, 0, True)
    efficacy = rose["values"]["efficacy"]
    assert (efficacy["value"], efficacy["n"], efficacy["best"], efficacy["difference"]) == (0.75, 4, True, False)
    assert 0 <= efficacy["low"] <= 0.75 <= efficacy["high"] <= 1
    assert first["footnotes"] and first["caption"]


def test_csv_begins_no_formula(tmp_path: Path) -> None:
    write_run(tmp_path / "a", efficacies([1, 0]), "=cmd|' /C calc'!A0")
    rows = list(csv.DictReader(io.StringIO(FORMATS["csv"](build_tables([read_run(tmp_path / "a")])))))
    assert {row["method"] for row in rows} == {"'=cmd|' /C calc'!A0"}


@pytest.fixture
def three(tmp_path: Path) -> list[Table]:
    """Three methods of which the first has two rivals; differences are marked."""
    for method, right in (("none", 0), ("rome", 10), ("rets", 30), ("rose", 38)):
        write_run(tmp_path / method, efficacies([float(i < right) for i in range(40)]), method)
    runs = [read_run(path) for path in find_runs([tmp_path])]
    return build_tables(runs, View(metrics=("efficacy",), against="rome", plain=True))


class TestMarks:
    def test_second_best_and_significance(self, three: list[Table]) -> None:
        cells = {line.label: line.cells[0] for line in three[0].lines}
        assert [label for label, cell in cells.items() if cell.best] == ["rose"]
        assert [label for label, cell in cells.items() if cell.second] == ["rets"]
        assert [label for label, cell in cells.items() if cell.significant] == ["none", "rets", "rose"]

    @pytest.mark.parametrize(
        ("name", "best", "second", "mark"),
        [
            ("markdown", "**95**\N{DAGGER} [", "<ins>75</ins>\N{DAGGER} [", "\N{DAGGER}"),
            ("latex", r"\textbf{95}$^{\dagger}$ &", r"\underline{75}$^{\dagger}$ &", r"$^{\dagger}$"),
            ("html", "<b>95</b><sup>\N{DAGGER}</sup>", "<u>75</u><sup>\N{DAGGER}</sup>", "<sup>"),
        ],
    )
    def test_in_files(self, three: list[Table], name: str, best: str, second: str, mark: str) -> None:
        body = FORMATS[name](three)
        assert best in body
        assert second in body
        rows = [line for line in body.splitlines() if "rome" in line and "25" in line]
        assert len(rows) == 1
        assert mark not in rows[0].replace(r"\phantom{$^{\dagger}$}", "")

    def test_on_a_terminal(self, three: list[Table]) -> None:
        console = Console(file=io.StringIO(), force_terminal=True, color_system="standard", width=200)
        print_tables(three, console)
        text = console.file.getvalue()  # type: ignore[attr-defined]
        assert re.search(r"\x1b\[1m *95\x1b\[0m\N{DAGGER}", text)
        assert re.search(r"\x1b\[4m *75\x1b\[0m\N{DAGGER}", text)
        plain = to_text(three, 200)
        assert re.search(r"^rome +25 {2,}\[", plain, re.MULTILINE)  # the place of the mark is left free

    def test_two_rivals_have_no_second(self, tmp_path: Path) -> None:
        for method, right in (("rome", 1), ("rose", 2)):
            write_run(tmp_path / method, efficacies([float(i < right) for i in range(4)]), method)
        (table,) = build_tables([read_run(path) for path in find_runs([tmp_path])])
        assert not any(cell.second for line in table.lines for cell in line.cells)


class TestTerminal:
    def test_intervals_go_before_columns(self, tmp_path: Path) -> None:
        columns = [{"name": f"c{i}", "title": f"C{i}"} for i in range(6)]
        for method in ("rome", "rose"):
            lines = [case(f"c{i}", metrics={f"c{j}": (i + j) % 2 for j in range(6)}) for i in range(30)]
            write_run(tmp_path / method, lines, method, metrics={"m": {"version": 1, "columns": columns}})
        made = build_tables([read_run(tmp_path / name) for name in ("rome", "rose")], View(digits=1))
        heads = {
            width: [line for line in to_text(made, width).splitlines() if line.startswith("Method")]
            for width in (150, 110, 60, 30)
        }
        assert {width: len(found) for width, found in heads.items()} == {150: 1, 110: 1, 60: 1, 30: 6}
        texts = {width: " ".join(to_text(made, width).split()) for width in heads}
        assert [len(re.findall(r"\[3\d\.\d, ", texts[width])) for width in heads] == [12, 12, 0, 12]
        assert [NARROW in texts[width] for width in heads] == [False, False, True, False]

    @pytest.mark.parametrize("width", [200, 80, 40])
    def test_fits_the_width_and_drops_nothing(self, tmp_path: Path, width: int) -> None:
        columns = [{"name": f"column{i}", "title": f"Column {i}"} for i in range(9)]
        for method in ("rome", "rose"):
            lines = [case(f"c{i}", metrics={f"column{j}": (i + j) % 2 for j in range(9)}) for i in range(30)]
            write_run(tmp_path / method, lines, method, metrics={"m": {"version": 1, "columns": columns}})
        text = to_text(build_tables([read_run(tmp_path / name) for name in ("rome", "rose")], View(digits=1)), width)
        assert max(map(len, text.splitlines())) <= width
        flat = re.sub(r"\s+", " ", text)
        assert all(f"Column {i} ↑" in flat for i in range(9))
        assert len(re.findall(r"50\.0", flat)) >= 18
        assert len(re.findall(r"\[\d\d\.\d, \d\d\.\d\]", flat)) == 18

    def test_interval_behind_or_under_the_value(self, tables: list[Table]) -> None:
        assert re.search(r"75\.0 \[25\.0, 100\.0\]", to_text(tables, 200))
        narrow = to_text(tables, 80)
        assert not re.search(r"75\.0 \[", narrow)
        assert re.search(r"\[25\.0, 100\.0\]", narrow)

    def test_best_is_bold(self, tables: list[Table]) -> None:
        console = Console(file=io.StringIO(), force_terminal=True, color_system="standard", width=200)
        print_tables(tables, console)
        text = console.file.getvalue()  # type: ignore[attr-defined]
        assert re.search(r"\x1b\[1m *75\.0", text)
        assert not re.search(r"\x1b\[1m *25\.0", text)

    def test_names_are_text_not_markup(self, tmp_path: Path) -> None:
        write_run(tmp_path / "a", [case("1")], "[bold]x[/nope] \x1b[31m")
        text = to_text(build_tables([read_run(tmp_path / "a")]))
        assert "[bold]x[/nope] \N{REPLACEMENT CHARACTER}[31m" in text


def test_print_run_table_has_a_row_per_run_and_tells_problems(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / method, efficacies([1, 0]), method) for method in ("rome", "rose")]
    with (folders[1] / "cases.jsonl").open("ab") as stream:
        stream.write(b"?\n")
    console = Console(file=io.StringIO(), width=100)
    print_run_table([*folders, tmp_path / "absent"], console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(r"^rome +50 \[0, 100\]", text, re.MULTILINE)
    assert re.search(r"^rose +50 \[0, 100\]", text, re.MULTILINE)
    assert "1 line(s) left out that cannot be read" in text
    assert "run.json: No such file or directory" in text
