"""Results of any content: read without an error, told about calmly, and no number in a table that no line has."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from ke_cli.report.tables import View, build_tables
from ke_cli.results.reader import read_run
from ke_cli.summarize import main
from results.runs import case, efficacies, record, write_run
from safety.checks import GOOD, LINES, RECORD, check, check_tables, line, read
from safety.hostile import CLEAR, NUMBERS, TEXTS, damaged, files, is_calm, spelled, texts, values, why_not_calm


def logs(lines: list[Any]) -> st.SearchStrategy[bytes]:
    """Case logs in which lines are damaged, repeated, cut or strange."""
    good = st.sampled_from(lines).map(line)
    odd = st.sampled_from(lines).flatmap(lambda line: damaged(line).flatmap(spelled)).map(lambda text: text + b"\n")
    return st.lists(good | odd | st.binary(max_size=20), max_size=6).map(b"".join)


@given(content=files(RECORD))
@example(content=json.dumps({**RECORD, "config": {**RECORD["config"], "seed": 10**400}}).encode())
@example(content=json.dumps({**RECORD, "config": {**RECORD["config"], "seed": float("nan")}}).encode())
@example(content=json.dumps({**RECORD, "name": CLEAR, "run_id": CLEAR, "status": CLEAR}).encode())
@example(content=json.dumps({**RECORD, "metrics": {CLEAR: {"version": 1, "columns": [{"name": "x"}]}}}).encode())
@example(content=json.dumps({**RECORD, "metrics": {"m": {"columns": [{"name": CLEAR}]}}}).encode())
def test_any_record(tmp_path: Path, content: bytes) -> None:
    check(read(tmp_path / "run", content, GOOD), GOOD)


@given(log=logs(LINES))
@example(
    log=line(case("1", metrics={"efficacy": 1e308, "drift": -1e308})) + line(case("2", metrics={"efficacy": 1e308}))
)
@example(log=line(case("1")).replace(b'"drift":', b'"efficacy":'))
@example(log=line(case("1")).replace(b'"status":"ok"', b'"status":"failed","status":"ok"'))
@example(log=line(case("1")).replace(b'"after":', b'"metrics":{"efficacy":0.0},"after":'))
@example(log=line(case("1", metrics={"efficacy": True})))
def test_any_case_log(tmp_path: Path, log: bytes) -> None:
    check(read(tmp_path / "run", json.dumps(RECORD).encode(), log), log)


@given(raw=damaged(RECORD, times=4), lines=st.lists(damaged(case("1")) | values, max_size=3))
def test_any_record_and_log(tmp_path: Path, raw: Any, lines: list[Any]) -> None:
    log = b"".join(json.dumps(line).encode() + b"\n" for line in lines) + GOOD
    check(read(tmp_path / "run", json.dumps(raw).encode(), log), log)


NAMES = st.fixed_dictionaries({part: texts for part in ("model", "dataset", "protocol", "method", "setting", "title")})


def named(names: dict[str, Any]) -> dict[str, Any]:
    """A record with names of all kinds wherever a name may stand."""
    raw = record(names["method"], total=2)
    for part in ("model", "dataset", "protocol"):
        raw["config"][part]["name"] = names[part]
    raw["config"]["method"][names["setting"]] = names["setting"]
    columns = [{"name": "efficacy", "title": names["title"]}, {"name": "=drift", "title": "Drift"}]
    return {**raw, "name": names["title"], "metrics": {"success": {"version": 1, "columns": columns}}}


def every_name_is(text: str) -> dict[str, str]:
    return dict.fromkeys(("model", "dataset", "protocol", "method", "setting", "title"), text)


@given(names=st.lists(NAMES, min_size=1, max_size=3))
def test_any_names_in_every_format(tmp_path: Path, names: list[dict[str, str]]) -> None:
    check_named(tmp_path, names)


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: ascii(text)[:24])
def test_each_strange_name_in_every_format(tmp_path: Path, text: str) -> None:
    check_named(tmp_path, [every_name_is(text), {**every_name_is("plain"), "model": text}])


def check_named(folder: Path, names: list[dict[str, str]]) -> None:
    log = b"".join(line(case(str(i), metrics={"efficacy": i / 2, "=drift": 1.0})) for i in range(2))
    runs = [read(folder / str(i), json.dumps(named(name)).encode(), log) for i, name in enumerate(names)]
    assert all(run.readable and len(run.done) == 2 for run in runs)
    check_tables(build_tables(runs, View(metrics=("all",))))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".svg", ".png"])
@given(names=st.lists(NAMES, min_size=2, max_size=3))
@example(names=[every_name_is("$\\frac{"), every_name_is("_x$")])
@example(names=[every_name_is("$x$ and $"), every_name_is("x" * 900)])
@settings(max_examples=5, suppress_health_check=list(HealthCheck))
@pytest.mark.filterwarnings("ignore:Glyph:UserWarning")
def test_any_names_in_pictures(tmp_path: Path, suffix: str, names: list[dict[str, str]]) -> None:
    from ke_cli.report.plots.drawing import draw
    from ke_cli.report.plots.panels import curve, scatter

    log = b"".join(line(case(str(i), metrics={"efficacy": i / 2, "=drift": 1.0})) for i in range(3))
    runs = [read(tmp_path / str(i), json.dumps(named(name)).encode(), log) for i, name in enumerate(names)]
    for picture in (scatter(runs, View(), "efficacy", "=drift"), curve(runs, View(), "seed", "efficacy")):
        assert draw(picture, suffix)


@given(seeds=st.lists(st.sampled_from(NUMBERS) | values, min_size=2, max_size=4))
def test_any_values_of_a_setting(tmp_path: Path, seeds: list[Any]) -> None:
    log = line(case("1")) + line(case("2", metrics={"efficacy": 0.0}))
    runs = []
    for place, seed in enumerate(seeds):
        raw = record(total=2, seed=seed)
        runs.append(read(tmp_path / str(place), json.dumps(raw).encode(), log))
    assume(all(run.readable for run in runs))
    for view in (View(), View(by=("seed",)), View(split=("seed",)), View(sort="efficacy:desc")):
        try:
            tables = build_tables(runs, view)
        except Exception as error:
            assert type(error).__name__ == "UserError" and "seed" in str(error), error
        else:
            check_tables(tables)


def test_long_values_that_begin_alike_stay_apart(tmp_path: Path) -> None:
    for place, last in enumerate((1, 2)):
        write_run(tmp_path / str(place), efficacies([1, 0]), **{"method.prompts": ["x" * 600, last]})
    (table,) = build_tables([read_run(tmp_path / name) for name in "01"], View(by=("method.prompts",)))
    assert len(table.lines) == 2 and len({line.label for line in table.lines}) == 2


def test_numbers_that_would_overflow_are_left_out_and_told(tmp_path: Path) -> None:
    lines = [case("1", metrics={"efficacy": 1e308}), case("2", metrics={"efficacy": 0.5})]
    run = read_run(write_run(tmp_path / "run", lines))
    assert run.problems == ["cases.jsonl: 1 value(s) left out that are beyond 1e+100"]
    (table,) = build_tables([run], View(metrics=("efficacy",)))
    assert table.lines[0].cells[0].estimate.value == 0.5


def test_a_line_with_a_key_twice_is_left_out_and_told(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [])
    text = line(case("1")) + line(case("2"))
    (folder / "cases.jsonl").write_bytes(text.replace(b'"drift":', b'"efficacy":', 1))
    run = read_run(folder)
    assert [line.case_id for line in run.cases] == ["2"]
    assert "the key 'efficacy' stands 2 times in one object" in run.problems[0]


def test_a_record_without_end_is_not_read_into_memory(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [case("1")])
    os.truncate(folder / "run.json", 1 << 40)
    run = read_run(folder)
    assert run.problems == ["run.json: larger than 67,108,864 bytes"]


def test_a_line_without_end_is_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ke_cli.results.journal.LONGEST_LINE", 4096)
    folder = write_run(tmp_path / "run", [case("1")])
    with (folder / "cases.jsonl").open("ab") as stream:
        stream.write(b"\0" * 10_000 + b"\n" + line(case("2")))
    run = read_run(folder)
    assert [line.case_id for line in run.cases] == ["1", "2"]
    assert len(run.problems) == 1 and "3 line(s) left out that cannot be read" in run.problems[0]


JOB = {"number": 0, "overrides": ["seed=1"], "directory": None, "error": None, "status": "running", "pid": 1}
SWEEP = {
    "schema": 1,
    "started_at": "2025-01-01T00:00:00+00:00",
    "command": ["ke-run", "-m", "seed=1,2"],
    "config_fingerprint": "0",
    "jobs": [{"number": 0, "overrides": ["seed=1"]}, {"number": 1, "overrides": ["seed=2"]}],
}


@given(sweep=files(SWEEP), job=files(JOB), options=st.sampled_from([(), ("--format", "json"), ("--format", "csv")]))
@example(
    sweep=json.dumps({**SWEEP, "command": [CLEAR]}).encode(),
    job=json.dumps({**JOB, "error": CLEAR}).encode(),
    options=(),
)
def test_files_of_sweeps_of_any_content(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], sweep: bytes, job: bytes, options: tuple[str, ...]
) -> None:
    """Whatever stands in the folder of a sweep, the runs beside it are shown."""
    write_run(tmp_path / "run", [case("1")]) if not (tmp_path / "run").exists() else None
    folder = tmp_path / ".sweeps" / "2025-01-01_00-00-00_000000"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sweep.json").write_bytes(sweep)
    (folder / "job-0000.json").write_bytes(job)
    assert main([str(tmp_path), *options]) == 0
    shown = capsys.readouterr()
    assert is_calm(shown.out + shown.err), why_not_calm(shown.out + shown.err)
    assert "rose" in shown.out and "Traceback" not in shown.err


def odd_paths(folder: Path) -> Iterator[Path]:
    """Names that a program may stumble over."""
    yield folder / ("x" * 300)
    yield folder / "\x1b[2J"
    yield folder / os.fsdecode(b"\xff\xfe")
    yield folder / "[bold]"
    yield folder / "run.json" / "deeper"
    (folder / "loop").symlink_to("loop")
    yield folder / "loop"
    (folder / "closed").mkdir(0)
    yield folder / "closed" / "inside"


def test_odd_names_of_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, [case("1")])
    for path in odd_paths(tmp_path):
        assert main([str(path)]) == 1
        shown = capsys.readouterr()
        assert "no such folder" in shown.err and "nothing to show" in shown.err
        assert is_calm(shown.err), why_not_calm(shown.err)
    (tmp_path / "closed").chmod(0o700)


def test_runs_in_folders_with_odd_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("\x1b[2J", "\n", "[/bold]", os.fsdecode(b"\xff"), "=1+1"):
        folder = write_run(tmp_path / name, [case("1")])
        with (folder / "cases.jsonl").open("ab") as stream:
            stream.write(b"garbage\n")
    assert main([str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert is_calm(shown.out + shown.err), why_not_calm(shown.out + shown.err)
    assert shown.err.count("1 line(s) left out that cannot be read") == 5
