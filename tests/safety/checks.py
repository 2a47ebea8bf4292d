"""What must hold of anything that was read from the files of a run, and of every table of it."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from pathlib import Path
from typing import Any

from ke_cli.report.formats import FORMATS, latex
from ke_cli.report.formats.terminal import to_text
from ke_cli.report.summary import print_problems
from ke_cli.report.tables import Table, View, build_tables
from ke_cli.results.reader import Run, read_run
from results.runs import case, record, unit
from safety.hostile import is_calm, why_not_calm

LINES = [case("1"), *unit("two", 2), case("4", status="failed", error="why", metrics={})]


RECORD = record(
    total=4,
    experiment={
        "name": "study",
        "report": {"by": ["method.name"], "split": ["seed"], "against": "rose", "metrics": ["efficacy"]},
        "published": {"source": "a paper", "rows": {"rose": {"efficacy": 99.0}}, "model": "gpt2"},
    },
)


def line(case: dict[str, Any]) -> bytes:
    """A line of the case log as somebody else may have written it: nothing seals it."""
    raw = {key: case[key] for key in ("before", "after") if key in case}
    rest = {key: value for key, value in case.items() if key not in raw}
    return json.dumps({**rest, **raw}, separators=(",", ":")).encode() + b"\n"


def read(folder: Path, record_text: bytes, log: bytes) -> Run:
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_bytes(record_text)
    (folder / "cases.jsonl").write_bytes(log)
    return read_run(folder)


def strictly(text: str) -> Any:
    """Decode JSON as the standard has it."""

    def refuse(word: str) -> float:
        raise ValueError(word)

    return json.loads(text, parse_constant=refuse)


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def check_lines(run: Run, log: bytes) -> None:
    """Every case that is kept stands in a line that Python's own parser reads, with the same numbers."""
    plain = []
    for text in log.split(b"\n"):
        head = text.partition(b',"before":')[0] + b"}"  # raw answers are not looked at
        for part in (text, head):
            try:
                plain.append(json.loads(part.decode("utf-8"), object_pairs_hook=once))
            except (ValueError, RecursionError):
                continue
    plain = [line for line in plain if isinstance(line, dict)]
    for found in run.done:
        stored = [line for line in plain if line.get("case_id") == found.case_id and line.get("unit") == found.unit]
        assert any(agrees(dict(found.metrics), line.get("metrics")) for line in stored)
    ids = [line.case_id for line in run.cases]
    assert len(set(ids)) == len(ids)


def agrees(found: dict[str, float | None], stored: Any) -> bool:
    return isinstance(stored, dict) and all(
        value == stored[key] if value is not None else not is_usable(stored.get(key)) for key, value in found.items()
    )


def is_usable(value: Any) -> bool:
    try:
        return value is not None and abs(float(value)) < 1e100
    except OverflowError:
        return False


def check_tables(tables: list[Table]) -> None:
    """Nothing in any format can be taken for anything but text and numbers."""
    calm = [to_text(tables), *(FORMATS[name](tables) for name in ("markdown", "latex", "json"))]
    for text in calm:
        assert is_calm(text), why_not_calm(text)
        text.encode("utf-8")
    check_json(strictly(calm[3]))
    check_csv(FORMATS["csv"](tables))
    check_latex(calm[2])
    check_markdown(calm[1])


def check_json(content: Any) -> None:
    for table in content["tables"]:
        for row in table["rows"]:
            for cell in row["values"].values():
                assert all(cell[key] is None or math.isfinite(cell[key]) for key in ("value", "low", "high"))


def check_csv(text: str) -> None:
    assert is_calm(text), why_not_calm(text)
    for row in csv.DictReader(io.StringIO(text)):
        for name, cell in row.items():
            assert name is not None and cell is not None
            if name not in ("value", "low", "high", "published"):
                assert not cell.lstrip().startswith(("=", "+", "-", "@")), cell
            elif cell:
                assert math.isfinite(float(cell))


COMMANDS = {
    *(
        "begin",
        "end",
        "centering",
        "caption",
        "toprule",
        "midrule",
        "bottomrule",
        "par",
        "footnotesize",
        "quad",
        "textit",
    ),
    *("textbf", "scriptsize", "uparrow", "downarrow", "cdot", "pm", "dagger", "underline", "phantom"),
    *("textbackslash", "textasciitilde", "textasciicircum", "textless", "textgreater", "textbar", "textasciigrave"),
    *("multicolumn", "cmidrule", "smallskip", "medskip"),
}
"""All that a table in LaTeX asks for, besides what stands around every table."""


FRAME = (
    latex._BEGIN,
    latex._END,
    r"\sbox0{%",
    r"\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi",
)
"""What stands around every table, whatever is in it."""


def check_latex(text: str) -> None:
    plain = re.sub(r"\\[\\{}&%$#_]", "", text)
    depth = 0
    for character in plain:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0
    for part in FRAME:
        plain = plain.replace(part, "")
    assert set(re.findall(r"\\([A-Za-z]+)", plain)) <= COMMANDS


def check_markdown(text: str) -> None:
    rows = 0
    for line in text.splitlines():
        if line.startswith("| Method"):
            rows = len(re.findall(r"(?<!\\)(?:\\\\)*\|", line))
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == rows
    bare = re.sub(r"\\.", "", text)
    assert not re.search(r"[<>`\]]\(|<|`", bare)


def check(run: Run, log: bytes) -> None:
    if run.readable:
        check_lines(run, log)
    tables = build_tables([run], View(metrics=("all",)))
    check_tables(tables)
    check_tables(build_tables([run]))
    from rich.console import Console

    console = Console(file=io.StringIO(), width=200, color_system=None)
    print_problems([run], console)
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert is_calm(told) and len(told) < 20_000, why_not_calm(told)


GOOD = b"".join(map(line, LINES))
