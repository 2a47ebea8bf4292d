from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ke_cli.errors import UserError
from ke_cli.results.reader import read_run
from ke_cli.results.store import RunStore
from results.runs import case, filled, log_of, record, stored, unit


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Make the system refuse to let a file grow: what a full disk does."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


class TestAppend:
    def test_stores_units_and_finds_them_again(self, tmp_path: Path) -> None:
        with RunStore.open(tmp_path / "run", resume=True) as store:
            assert (store.done_units, store.failed_units, store.record, store.notes) == (set(), set(), None, [])
            store.append([*unit("a", 2), *unit("b", 1)])
            store.append(unit("c", 2, status="failed", error="no luck"))
            assert (store.done_units, store.failed_units) == ({"a", "b"}, {"c"})
            store.write_record(record())
        with RunStore.open(tmp_path / "run", resume=True) as store:
            assert (store.done_units, store.failed_units, store.notes) == ({"a", "b"}, {"c"}, [])
            assert store.record == record()
        assert [line["case_id"] for line in stored(tmp_path / "run")] == ["a.0", "a.1", "b.0", "c.0", "c.1"]

    def test_keeps_every_field_and_puts_raw_answers_last(self, tmp_path: Path) -> None:
        line = case("1")
        filled(tmp_path, [line])
        (found,) = stored(tmp_path)
        assert found == line | {"check": found["check"]}
        assert list(found)[-3:] == ["before", "after", "check"]

    def test_values_json_cannot_hold_become_null_with_a_note(self, tmp_path: Path) -> None:
        metrics = {"efficacy": float("nan"), "drift": float("-inf")}
        filled(tmp_path, [case("1", metrics=metrics, after=[{"nlls": [float("inf"), 1.0]}])])
        (found,) = stored(tmp_path)
        assert found["metrics"] == {"efficacy": None, "drift": None}
        assert found["after"] == [{"nlls": [None, 1.0]}]
        assert sorted(found["notes"]) == [
            "after[0].nlls[0] was inf: stored as null",
            "metrics.drift was -inf: stored as null",
            "metrics.efficacy was nan: stored as null",
        ]
        assert "NaN" not in log_of(tmp_path).read_text()
        assert read_run_of(tmp_path).cases[0].metrics == {"efficacy": None, "drift": None}

    def test_text_that_is_no_unicode_is_stored(self, tmp_path: Path) -> None:
        filled(tmp_path, [case("1", subject="\ud800 \u2028 ü")])
        assert stored(tmp_path)[0]["subject"] == "\ud800 \u2028 ü"

    @pytest.mark.parametrize(
        ("lines", "message"),
        [
            (unit("a", 3)[:2], "unit 'a' is not whole: 2 of 3"),
            ([*unit("a", 2)[:1], case("b"), *unit("a", 2)[1:]], "not whole"),
            ([case("x", "a", unit_size=2), case("x", "a", unit_size=2)], "not whole"),
            ([case("1"), case("2", "other"), case("1")], "already stored"),
            ([case("1", status="fine")], "status"),
            ([case("1", unit_size=0)], "unit_size"),
            ([case("1", metrics={"efficacy": "high"})], "not a number"),
            ([case("1", schema=2)], "schema 2"),
            ([{"case_id": "1"}], "status"),
        ],
    )
    def test_refuses_what_a_reader_would_reject(
        self, tmp_path: Path, lines: list[dict[str, Any]], message: str
    ) -> None:
        with RunStore.open(tmp_path, resume=True) as store, pytest.raises(ValueError, match=message):
            store.append(lines)
        assert log_of(tmp_path).read_bytes() == b""

    def test_refuses_a_unit_that_is_done(self, tmp_path: Path) -> None:
        filled(tmp_path, [case("1")])
        with RunStore.open(tmp_path, resume=True) as store, pytest.raises(ValueError, match="already stored"):
            store.append([case("1")])

    def test_a_failed_unit_can_be_tried_again(self, tmp_path: Path) -> None:
        failure = unit("a", 2, status="failed", error="oom", metrics={})
        with RunStore.open(tmp_path, resume=True) as store:
            store.write_record(record())
            store.append(failure)
            store.append(unit("b", 1))
            store.append(unit("a", 2))
            assert (store.done_units, store.failed_units) == ({"a", "b"}, set())
        with RunStore.open(tmp_path, resume=True) as store:
            assert (store.done_units, store.failed_units) == ({"a", "b"}, set())
        run = read_run_of(tmp_path)
        assert sorted(line.case_id for line in run.done) == ["a.0", "a.1", "b.0"]
        assert (run.failed, run.problems) == ((), [])


class TestTrouble:
    def test_a_full_disk_leaves_nothing_half_written(self, tmp_path: Path) -> None:
        before = filled(tmp_path, [case("1")])
        with RunStore.open(tmp_path, resume=True) as store:
            with largest_file(len(before) + 100), pytest.raises(UserError) as caught:
                store.append([case("2")])
            assert "no finished case is lost" in str(caught.value)
            assert "space" in str(caught.value)
            assert log_of(tmp_path).read_bytes() == before
            assert store.done_units == {"unit-1"}
            store.append([case("2")])
        assert [line["case_id"] for line in stored(tmp_path)] == ["1", "2"]

    def test_a_record_that_cannot_be_written_leaves_the_old_one(self, tmp_path: Path) -> None:
        with RunStore.open(tmp_path, resume=True) as store:
            store.write_record(record())
            with largest_file(100), pytest.raises(UserError, match="cannot be written"):
                store.write_record(record("rome"))
            assert json.loads((tmp_path / "run.json").read_text()) == record()
        assert {path.name for path in tmp_path.iterdir()} == {".lock", "cases.jsonl", "run.json"}

    def test_a_value_without_json_leaves_the_old_record(self, tmp_path: Path) -> None:
        with RunStore.open(tmp_path, resume=True) as store:
            store.write_record(record())
            with pytest.raises(TypeError):
                store.write_record({"when": object()})
            assert json.loads((tmp_path / "run.json").read_text()) == record()

    def test_a_file_in_place_of_the_folder(self, tmp_path: Path) -> None:
        (tmp_path / "run").write_text("")
        with pytest.raises(UserError, match="cannot be written"):
            RunStore.open(tmp_path / "run", resume=True)

    def test_the_record_of_another_version_is_not_touched(self, tmp_path: Path) -> None:
        before = filled(tmp_path, [case("1")])
        (tmp_path / "run.json").write_text('{"schema": 2}')
        with pytest.raises(UserError, match="another version"):
            RunStore.open(tmp_path, resume=True)
        assert log_of(tmp_path).read_bytes() == before

    def test_an_unreadable_record_says_how_to_go_on(self, tmp_path: Path) -> None:
        (tmp_path / "run.json").write_text("{")
        with pytest.raises(UserError, match="resume=false"):
            RunStore.open(tmp_path, resume=True)
        RunStore.open(tmp_path, resume=False).close()  # the failed attempt has not kept the lock


class TestLock:
    def test_a_second_writer_is_told_who_the_first_is(self, tmp_path: Path) -> None:
        with RunStore.open(tmp_path, resume=True), pytest.raises(UserError) as caught:
            RunStore.open(tmp_path, resume=True)
        assert str(tmp_path) in str(caught.value)
        assert f"process {os.getpid()} on {os.uname().nodename}" in str(caught.value)
        RunStore.open(tmp_path, resume=True).close()

    def test_resume_false_does_not_move_a_run_that_is_being_written(self, tmp_path: Path) -> None:
        with RunStore.open(tmp_path / "run", resume=True) as store:
            store.append([case("1")])
            with pytest.raises(UserError, match="another process"):
                RunStore.open(tmp_path / "run", resume=False)
        assert [path.name for path in tmp_path.iterdir()] == ["run"]

    def test_an_unsigned_lock_is_a_lock_too(self, tmp_path: Path) -> None:
        with RunStore.open(tmp_path, resume=True):
            (tmp_path / ".lock").write_bytes(b"\xff")
            with pytest.raises(UserError, match="another process is writing this run\n"):
                RunStore.open(tmp_path, resume=True)

    def test_close_twice(self, tmp_path: Path) -> None:
        store = RunStore.open(tmp_path, resume=True)
        store.close()
        store.close()


class TestMovingAside:
    def test_keeps_every_earlier_run(self, tmp_path: Path) -> None:
        for name in "123":
            with RunStore.open(tmp_path / "run", resume=False) as store:
                assert store.done_units == set()
                store.append([case(name)])
        assert {path.name: stored(path)[0]["case_id"] for path in tmp_path.iterdir()} == {
            "run.old-1": "1",
            "run.old-2": "2",
            "run": "3",
        }

    def test_says_so(self, tmp_path: Path) -> None:
        filled(tmp_path / "run", [case("1")])
        with RunStore.open(tmp_path / "run", resume=False) as store:
            assert store.notes == [f"the earlier results were moved to {tmp_path / 'run.old-1'}"]

    def test_leaves_an_empty_run_where_it_is(self, tmp_path: Path) -> None:
        filled(tmp_path / "run")
        RunStore.open(tmp_path / "run", resume=False).close()
        assert [path.name for path in tmp_path.iterdir()] == ["run"]


def read_run_of(directory: Path) -> Any:
    if not (directory / "run.json").exists():
        with RunStore.open(directory, resume=True) as store:
            store.write_record(record())
    return read_run(directory)
