from __future__ import annotations

import pickle
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ke_cli.results.cases import CaseTable
from ke_cli.results.journal import CaseLine
from ke_cli.results.reader import read_run
from results.runs import case, write_run

LINES = [
    CaseLine("a.0", "a", 2, True, "", "00", {"efficacy": 1.0, "drift": 0.25}),
    CaseLine("a.1", "a", 2, True, "", "01", {"drift": None, "other": 3.0}),
    CaseLine("b", "b", 1, True, "", "00", {}),
]


def same(table: CaseTable, lines: list[CaseLine]) -> bool:
    """Whether the table holds these lines, a missing value standing for None."""
    filled = [replace(line, metrics={name: line.metrics.get(name) for name in table.names}) for line in lines]
    return list(table) == filled


def test_holds_the_lines_with_the_columns_wanted() -> None:
    table = CaseTable.gather(LINES, {"drift", "efficacy", "absent"})
    assert (table.names, len(table), same(table, LINES)) == (("efficacy", "drift"), 3, True)
    np.testing.assert_array_equal(table.column("drift"), [0.25, np.nan, np.nan])
    np.testing.assert_array_equal(table.column("absent"), [np.nan] * 3)


@pytest.mark.parametrize("lines", [[], LINES[2:]])
def test_of_nothing(lines: list[CaseLine]) -> None:
    table = CaseTable.gather(lines, {"efficacy"})
    assert (table.values.shape, bool(table), list(table)) == ((len(lines), 0), bool(lines), lines)


def test_from_another_process_it_is_the_same_and_shares_its_texts() -> None:
    table = CaseTable.gather(LINES, {"drift", "efficacy"})
    other: CaseTable = pickle.loads(pickle.dumps(table))
    assert same(other, LINES) and other.names == table.names
    assert all(mine is its for mine, its in zip(table.ids + table.prompts, other.ids + other.prompts, strict=True))


def test_a_run_keeps_what_its_columns_are_made_of(tmp_path: Path) -> None:
    derived = [{"name": "units", "kind": "all_in_unit", "of": ["hidden", "left_out"]}]
    metrics = {"success": {"version": 1, "columns": [{"name": "shown"}], "derived": derived}}
    values = {"shown": 1.0, "hidden": 2.0, "left_out": 3.0, "unknown": 4.0}
    run = read_run(write_run(tmp_path, [case("1", metrics=values)], metrics=metrics))
    assert run.done[0].metrics == {"shown": 1.0, "hidden": 2.0}


def test_what_is_kept_grows_neither_with_raw_answers_nor_with_equal_runs(tmp_path: Path) -> None:
    ids = [f"case-{number:04d}" for number in range(300)]
    for name, raw in (("thin", "x"), ("thick", "x" * 20_000), ("again", "x")):
        write_run(tmp_path / name, [case(case_id, before=[{"text": raw}]) for case_id in ids])
    kept, runs = {}, []
    tracemalloc.start()
    try:
        for name in ("thin", "thick", "again"):
            before = tracemalloc.get_traced_memory()[0]
            runs.append(read_run(tmp_path / name))
            kept[name] = (tracemalloc.get_traced_memory()[0] - before) / len(ids)
    finally:
        tracemalloc.stop()
    assert kept["thick"] < 1.5 * kept["again"]
    assert kept["again"] < 100  # bytes for a case: two values, its unit's size, and three references
    assert [run.done.ids for run in runs] == [tuple(ids)] * 3
