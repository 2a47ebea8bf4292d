from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ke_cli.results.store import RunStore
from results.runs import case, filled, log_of, stored, unit

ROOT = Path(__file__).resolve().parents[2]

WRITER = """
import sys
from pathlib import Path
from ke_cli.results.store import RunStore

def lines(i):
    size = 1 + i % 3
    ballast = [{"ask": "target", "prompt": "x" * 40_000}]
    return [
        {"case_id": f"{i}.{j}", "unit": f"u{i}", "unit_size": size, "status": "ok", "error": None,
         "metrics": {"efficacy": 1.0}, "prompts_sha256": "00", "before": ballast, "after": ballast}
        for j in range(size)
    ]

with RunStore.open(Path(sys.argv[1]), resume=True) as store:
    print("open", flush=True)
    for i in range(100_000):
        if f"u{i}" not in store.done_units:
            store.append(lines(i))
            print(f"u{i}", flush=True)
"""


class TestRecovery:
    @pytest.mark.parametrize("cut", [1, 2, 50, -1])
    def test_cuts_a_torn_last_line(self, tmp_path: Path, cut: int) -> None:
        whole = filled(tmp_path, [case("1")])
        torn = filled(tmp_path, [case("2")])[len(whole) :]
        log_of(tmp_path).write_bytes(whole + torn[:cut])
        with RunStore.open(tmp_path, resume=True) as store:
            assert store.done_units == {"unit-1"}
            assert "unfinished unit" in store.notes[0]
        assert log_of(tmp_path).read_bytes() == whole
        assert not (tmp_path / "cases.rejected.jsonl").exists()

    @pytest.mark.parametrize("kept_lines", [1, 2])
    @pytest.mark.parametrize("torn", [b"", b'{"schema"'])
    def test_cuts_an_incomplete_unit_at_the_end(self, tmp_path: Path, kept_lines: int, torn: bytes) -> None:
        whole = filled(tmp_path, unit("a", 3))
        lines = filled(tmp_path, unit("b", 3))[len(whole) :].splitlines(keepends=True)
        log_of(tmp_path).write_bytes(whole + b"".join(lines[:kept_lines]) + torn)
        with RunStore.open(tmp_path, resume=True) as store:
            assert store.done_units == {"a"}
            store.append(unit("b", 3))
        assert log_of(tmp_path).read_bytes() == whole + b"".join(lines)

    @pytest.mark.parametrize("garbage", [b"\x00\x00\xff\n", b"\n", b"[]\n", b'{"schema": 7}\n', b"[" * 100_000 + b"\n"])
    def test_garbage_in_the_middle_is_saved_elsewhere(self, tmp_path: Path, garbage: bytes) -> None:
        first = filled(tmp_path, [case("1")])
        both = filled(tmp_path, unit("a", 2))
        log_of(tmp_path).write_bytes(first + garbage + both[len(first) :])
        with RunStore.open(tmp_path, resume=True) as store:
            assert store.done_units == {"unit-1", "a"}
            assert "1 bad line(s)" in store.notes[0]
        assert log_of(tmp_path).read_bytes() == both
        assert (tmp_path / "cases.rejected.jsonl").read_bytes() == garbage

    def test_a_unit_hit_by_garbage_is_computed_again(self, tmp_path: Path) -> None:
        lines = filled(tmp_path, unit("a", 3), unit("b", 1)).splitlines(keepends=True)
        log_of(tmp_path).write_bytes(lines[0] + b"?\n" + lines[2] + lines[3])
        with RunStore.open(tmp_path, resume=True) as store:
            assert store.done_units == {"b"}
            store.append(unit("a", 3))
        assert [line["case_id"] for line in stored(tmp_path)] == ["b.0", "a.0", "a.1", "a.2"]
        assert (tmp_path / "cases.rejected.jsonl").read_bytes() == lines[0] + b"?\n" + lines[2]

    def test_a_unit_begun_twice_counts_from_its_second_beginning(self, tmp_path: Path) -> None:
        lines = filled(tmp_path, unit("a", 3)).splitlines(keepends=True)
        log_of(tmp_path).write_bytes(b"".join([lines[0], *lines]))
        with RunStore.open(tmp_path, resume=True) as store:
            assert store.done_units == {"a"}
        assert log_of(tmp_path).read_bytes() == b"".join(lines)
        assert (tmp_path / "cases.rejected.jsonl").read_bytes() == lines[0]

    def test_lines_of_another_version_are_saved_not_cut(self, tmp_path: Path) -> None:
        foreign = json.dumps(case("1", schema=2)).encode() + b"\n"
        log_of(tmp_path).write_bytes(foreign)
        RunStore.open(tmp_path, resume=True).close()
        assert log_of(tmp_path).read_bytes() == b""
        assert (tmp_path / "cases.rejected.jsonl").read_bytes() == foreign

    def test_leftovers_of_a_killed_record_writer_go(self, tmp_path: Path) -> None:
        (tmp_path / ".run.json.123.tmp").write_text("{")
        RunStore.open(tmp_path, resume=True).close()
        assert not (tmp_path / ".run.json.123.tmp").exists()


def test_survives_kill_9_at_random_moments(tmp_path: Path) -> None:
    moments = random.Random(0)
    acknowledged: list[str] = []
    for _ in range(15):
        acknowledged += run_and_kill(tmp_path, delay_s=moments.uniform(0.0, 0.15))
        with RunStore.open(tmp_path, resume=True) as store:
            assert set(acknowledged) <= store.done_units
            assert not any("bad line" in note for note in store.notes)
    ids = [line["case_id"] for line in stored(tmp_path)]
    assert len(ids) == len(set(ids))
    assert len(acknowledged) > 15
    # At most one unit a round was stored without the writer having lived to say so.
    assert len({line["unit"] for line in stored(tmp_path)}) <= len(acknowledged) + 15


def run_and_kill(directory: Path, delay_s: float) -> list[str]:
    """Start a writer, kill it some time after it began to write; returns the units it said were stored."""
    command = [sys.executable, "-c", WRITER, str(directory)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        time.sleep(delay_s)
        process.send_signal(signal.SIGKILL)
        # A name without its end of line was cut by the kill itself.
        return [line.strip() for line in process.stdout if line.endswith("\n")]
