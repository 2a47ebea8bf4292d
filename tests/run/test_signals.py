"""Ctrl-C and SIGTERM: everything finished is kept, the record says so, and the message says how to go on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from signal import SIGINT, SIGTERM

import pytest

from ke_cli.run import INTERRUPTED
from marks import rest_slow
from run.children import Moment, start, wait_for
from run.commands import ONE_BY_ONE, Command, arguments, lines_of, only_run, record_of

SIGNALLED = [
    (Moment("load", 0, SIGTERM), 0),
    (Moment("edit", 1, SIGINT), 1),
    (Moment("append", 1, SIGTERM), 1),
    (Moment("replace", 3, SIGINT), 2),
]
"""When a run is interrupted, and how many of its three units are stored by then."""


@pytest.mark.parametrize(("moment", "stored"), rest_slow(SIGNALLED, SIGNALLED[1:3]), ids=str)
def test_an_interrupted_run_says_so_and_goes_on(
    ke_run: Command, outputs: Path, tmp_path: Path, tiny_llama_dir: Path, moment: Moment, stored: int
) -> None:
    given = arguments(tiny_llama_dir, "rose", ONE_BY_ONE)
    code, printed = start(given, tmp_path / "log", moment).ended()
    assert (code, "Traceback" in printed) == (130, False), printed
    assert printed.rstrip().endswith(INTERRUPTED)
    record = check_interrupted(only_run(outputs), stored)

    result = ke_run(*given)
    assert result.code == 0
    assert (f"going on: {stored} of 3 units are stored already" in result.out) == (stored > 0)
    complete = record_of(only_run(outputs))
    assert (complete["status"], complete["counts"]) == ("complete", {"units_ok": 3, "units_failed": 0})
    if stored:
        assert complete["started_at"] == record["started_at"]
        assert complete["wall_s"] > record["wall_s"]
        assert complete["peak_memory_bytes"] >= record["peak_memory_bytes"]


def check_interrupted(folder: Path, stored: int) -> dict[str, object]:
    record = record_of(folder)
    assert record["status"] == "interrupted"
    assert record["counts"] == {"units_ok": stored, "units_failed": 0}
    assert len(lines_of(folder)) == stored
    assert record["wall_s"] > 0
    return record


def test_the_installed_command_is_interrupted_in_the_middle(
    ke_run: Command, outputs: Path, tiny_gpt2_dir: Path
) -> None:
    given = arguments(tiny_gpt2_dir, "rome", "dataset.limit=12", ONE_BY_ONE)
    process = subprocess.Popen(
        [sys.executable, "-m", "ke_cli.run", *given],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(lambda: process.poll() is not None or any(outputs.glob("*/cases.jsonl")), timeout_s=120)
        wait_for(lambda: process.poll() is not None or (only_run(outputs) / "cases.jsonl").stat().st_size)
        process.send_signal(SIGTERM)
        _, complaints = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, complaints
    assert complaints.strip() == INTERRUPTED
    folder = only_run(outputs)
    begun = (folder / "cases.jsonl").read_bytes()
    check_interrupted(folder, stored := len(lines_of(folder)))
    assert 1 <= stored < 12
    assert f"going on: {stored} of 12 units" in ke_run(*given).out
    assert (folder / "cases.jsonl").read_bytes().startswith(begun)
    assert len({line["case_id"] for line in lines_of(folder)}) == len(lines_of(folder)) == 12
