from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ke_cli.results.cases import CaseTable
from ke_cli.results.details import details, tells_edits
from ke_cli.results.reader import Shards, find_runs, read_run
from results.runs import case, log_of, unit, write_run


def test_texts_and_answers_of_the_cases_asked_for(tmp_path: Path) -> None:
    write_run(tmp_path / "run", [case("a"), case("b", relation="P9", n_edits=7), case("c")])
    run = read_run(tmp_path / "run")
    found = details(run, ["b", "unknown"])
    assert list(found) == ["b"]
    assert found["b"].texts["relation"] == "P9" and found["b"].texts["target_new"] == "Peru"
    assert found["b"].after[0]["nlls"] == [0.5] and found["b"].edits == 7
    assert found["b"].metrics == {"efficacy": 1.0, "drift": 0.25}
    assert details(run, ["b"], answers=False)["b"].after == ()


def test_of_several_attempts_it_is_the_one_that_counts(tmp_path: Path) -> None:
    torn, whole = unit("u", 2, metrics={"efficacy": 0.0}), unit("u", 2, metrics={"efficacy": 1.0})
    failed = case("f", status="failed", error="no memory", metrics={})
    write_run(tmp_path / "run", [case("a")])
    lines = [torn[0], failed, *whole, case("f", metrics={"efficacy": 0.5})]
    with log_of(tmp_path / "run").open("ab") as stream:
        for line in lines:
            stream.write(json.dumps(line).encode() + b"\n")
    run = read_run(tmp_path / "run")
    found = details(run, ["u.0", "u.1", "f"])
    assert {case_id: item.metrics["efficacy"] for case_id, item in found.items()} == {"u.0": 1.0, "u.1": 1.0, "f": 0.5}
    assert not any(item.error for item in found.values())


def test_a_failed_case_says_why(tmp_path: Path) -> None:
    write_run(tmp_path / "run", [case("a"), case("f", status="failed", error="no memory", metrics={})])
    assert details(read_run(tmp_path / "run"), ["f"])["f"].error == "no memory"


@pytest.mark.parametrize("case_id", ['quote " and \\', "Z\u00fcrich \u2028", "../up", '","case_id":"other'])
def test_odd_ids_are_found(tmp_path: Path, case_id: str) -> None:
    write_run(tmp_path / "run", [case("other"), case(case_id, "u", relation="here")])
    assert details(read_run(tmp_path / "run"), [case_id])[case_id].texts["relation"] == "here"


def test_lines_that_cannot_be_read_and_missing_logs_are_passed_over(tmp_path: Path) -> None:
    write_run(tmp_path / "run", [case("a")])
    run = read_run(tmp_path / "run")
    log = log_of(tmp_path / "run")
    log.write_bytes(
        b'\xff{"case_id":"a"\n' + b'{"case_id":"a","status":"ok","metrics":[]}\n' + log.read_bytes() + b"[1]\n"
    )
    assert list(details(run, ["a"])) == ["a"]
    log.unlink()
    assert details(run, ["a"]) == {} and not tells_edits(run.path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, False),
        ({"n_edits": 3}, True),
        ({"checkpoint": 100}, True),
        ({"n_edits": True}, False),
        ({"n_edits": "3"}, False),
    ],
)
def test_a_run_says_whether_it_counts_its_edits(tmp_path: Path, changes: dict[str, object], told: bool) -> None:
    write_run(tmp_path / "run", [case("a", **changes)])
    assert tells_edits(tmp_path / "run") is told


def test_cases_of_all_shards_are_found(tmp_path: Path) -> None:
    for index in (0, 1):
        write_run(tmp_path / f"run_shard-{index}-of-2", [case(f"c{index}", relation=f"P{index}")])
    parts = [read_run(path) for path in find_runs([tmp_path])]
    first, second = parts
    done = CaseTable.gather([*first.done, *second.done], {"efficacy"})
    whole = replace(first, done=done, shards=Shards(2, (), {}, tuple(run.path for run in parts)))
    found = details(whole, ["c0", "c1"])
    assert {case_id: item.texts["relation"] for case_id, item in found.items()} == {"c0": "P0", "c1": "P1"}
