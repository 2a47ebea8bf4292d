"""Ctrl-C, SIGTERM and a closed terminal, wherever they strike; output that cannot be shown; clocks that jump."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGTERM

import pytest

from faults.driver import Fault, notes, process, start
from ke_cli.command_line.streams import LastingStream
from ke_cli.interrupts import terminable
from ke_cli.results.files import undisturbed
from ke_cli.results.reader import read_run
from ke_cli.run import INTERRUPTED
from marks import rest_slow
from run import children
from run.children import Moment
from run.commands import ONE_BY_ONE, Command, arguments, lines_of, measured, only_run, record_of

IN_THE_STORE = [Moment("sync", turn, number) for turn, number in ((3, SIGINT), (3, SIGTERM), (4, SIGHUP), (7, SIGTERM))]
"""Signals that come while a unit is being stored, or its record."""


def check_clean(folder: Path, printed: str, code: int | None) -> int:
    """A clean end: the record counts what is stored, to the unit, and the message says how to go on."""
    assert (code, "Traceback" in printed) == (130, False), printed
    assert printed.rstrip().endswith(INTERRUPTED)
    record, lines = record_of(folder), lines_of(folder)
    assert record["status"] == "interrupted"
    assert record["counts"] == {"units_ok": len(lines), "units_failed": 0}
    assert read_run(folder).problems == []
    return len(lines)


@pytest.mark.parametrize("moment", IN_THE_STORE, ids=lambda moment: f"{moment}-{moment.what.name}")
def test_what_is_being_stored_is_stored_before_the_run_ends(
    ke_run: Command, outputs: Path, tmp_path: Path, tiny_gpt2_dir: Path, moment: Moment
) -> None:
    given = arguments(tiny_gpt2_dir, "rome", ONE_BY_ONE)
    code, printed = children.start(given, tmp_path / "log", moment).ended()
    stored = check_clean(only_run(outputs), printed, code)
    result = ke_run(*given)
    assert result.code == 0
    assert (f"going on: {stored} of 3 units" in result.out) == (stored > 0)
    assert len(lines_of(only_run(outputs))) == 3


def test_a_run_that_lacks_only_its_last_record_is_ended_cleanly(
    ke_run: Command, outputs: Path, tmp_path: Path, tiny_gpt2_dir: Path
) -> None:
    given = arguments(tiny_gpt2_dir, "rome", ONE_BY_ONE)
    code, printed = children.start(given, tmp_path / "log", Moment("store", 5, SIGTERM)).ended()
    assert check_clean(only_run(outputs), printed, code) == 3
    assert "this run is complete" in ke_run(*given).out
    assert record_of(only_run(outputs))["status"] == "complete"


@pytest.mark.slow
def test_signals_at_random_moments(ke_run: Command, tmp_path: Path, tiny_gpt2_dir: Path) -> None:
    """Twenty-four runs, each interrupted once in a while until it is complete."""
    given, dice, clean = arguments(tiny_gpt2_dir, "rome", "dataset.limit=4", ONE_BY_ONE), random.Random(2), 0
    assert ke_run(*given, "output_dir=expected").code == 0
    expected = measured(only_run(Path("expected")))
    for number in range(24):
        place = tmp_path / str(number)
        trace = tmp_path / f"trace{number}"
        child = start([*given, f"output_dir={place}"], tmp_path / f"log{number}", Fault(trace=trace))
        wait_for_calls(child, trace, dice.randrange(1, 40))
        child.process.join(dice.uniform(0, 0.05))
        kind = dice.choice([SIGINT, SIGTERM, SIGHUP])
        if child.process.is_alive():
            os.kill(child.process.pid or 0, kind)
        code, printed = child.ended()
        assert code in (0, 130, -kind), printed  # the last before the run has begun: nothing is there to be ended
        if code == 130 and any(place.glob("*/run.json")) and record_of(only_run(place))["status"] != "complete":
            check_clean(only_run(place), printed, code)
            clean += 1
        assert ke_run(*given, f"output_dir={place}").code == 0
        assert measured(only_run(place)) == expected
    assert clean >= 3


def wait_for_calls(child: children.Child, trace: Path, calls: int) -> None:
    """Until a run has made some calls, or has ended."""
    children.wait_for(lambda: len(notes(trace)) >= calls or not child.process.is_alive())


class TestDeferring:
    def test_a_signal_waits_until_the_body_is_through(self) -> None:
        done = []
        with pytest.raises(KeyboardInterrupt), undisturbed():
            signal.raise_signal(SIGINT)
            done.append("all")
        assert done == ["all"]
        assert signal.getsignal(SIGINT) is signal.default_int_handler

    def test_sigterm_too_where_it_would_interrupt(self) -> None:
        done, before = [], signal.getsignal(SIGTERM)
        with pytest.raises(KeyboardInterrupt), terminable(), undisturbed():
            signal.raise_signal(SIGTERM)
            done.append("all")
        assert (done, signal.getsignal(SIGTERM)) == (["all"], before)

    def test_an_error_in_the_body_is_not_lost(self) -> None:
        with pytest.raises(KeyboardInterrupt) as caught, undisturbed():
            signal.raise_signal(SIGINT)
            raise OSError("full")
        assert isinstance(caught.value.__context__, OSError)

    def test_an_ignored_signal_stays_ignored(self) -> None:
        before = signal.signal(SIGHUP, signal.SIG_IGN)
        try:
            with terminable():
                signal.raise_signal(SIGHUP)
                assert signal.getsignal(SIGHUP) is signal.SIG_IGN
        finally:
            signal.signal(SIGHUP, before)


class TestOutput:
    """What is shown of a run is worth less than the run."""

    @pytest.mark.parametrize("where", rest_slow(["full", "closed"], ["full"]))
    def test_a_run_outlives_its_output(self, outputs: Path, tiny_gpt2_dir: Path, where: str) -> None:
        given = arguments(tiny_gpt2_dir, "rome", ONE_BY_ONE)
        command = [sys.executable, "-m", "ke_cli.run", *given]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        if where == "full":
            with open("/dev/full", "wb") as full:
                code = subprocess.run(command, env=environment, stdout=full, stderr=full, timeout=120).returncode
        else:
            child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            assert child.stdout is not None
            child.stdout.close()
            code = child.wait(120)
        assert code == 0
        assert (record_of(only_run(outputs))["status"], len(lines_of(only_run(outputs)))) == ("complete", 3)

    def test_a_stream_fails_once_and_is_itself_in_everything_else(self) -> None:
        with open("/dev/full", "w", encoding="utf-8") as full:
            stream = LastingStream(full)
            assert (stream.write("x"), stream.encoding, stream.isatty()) == (1, "utf-8", False)
            stream.flush()
            assert stream.failed is not None
            assert stream.write("more") == 4
            stream.flush()
            os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())


def jumping(arguments_: list[str], log: str, folder: str, environment: dict[str, str]) -> None:
    """Be a ``ke-run`` whose clock is set back by an hour at every look."""
    jumps, real = iter(range(10**9)), time.time
    time.time = lambda: real() - 3600 * next(jumps)
    import ke_cli.provenance as provenance
    import ke_cli.running.execute
    import ke_cli.running.opening

    later = provenance.now

    def a_century_ago() -> str:
        return later().replace("20", "19", 1)

    provenance.now = ke_cli.running.execute.now = ke_cli.running.opening.now = a_century_ago
    children.command(arguments_, log, folder, environment, Moment("append", 2, SIGTERM))


def test_a_clock_that_is_set_back(ke_run: Command, outputs: Path, tmp_path: Path, tiny_gpt2_dir: Path) -> None:
    """Times in the record may be wrong then; durations, cases and their order are not."""
    given = arguments(tiny_gpt2_dir, "rome", "dataset.limit=4", ONE_BY_ONE)
    assert ke_run(*given).code == 0
    expected = measured(only_run(outputs))
    environment = {name: os.environ[name] for name in ("KE_CACHE", "HF_HUB_OFFLINE", "HYDRA_FULL_ERROR")}
    again = [*given, "output_dir=again"]
    child = process(jumping, again, str(tmp_path / "log"), os.getcwd(), environment)
    child.join(120)
    assert child.exitcode == 130, (tmp_path / "log").read_text()
    begun = record_of(only_run(Path("again")))
    assert begun["started_at"].startswith("19") and len(lines_of(only_run(Path("again")))) == 2
    assert ke_run(*again).code == 0
    record = record_of(only_run(Path("again")))
    assert (record["status"], record["started_at"]) == ("complete", begun["started_at"])
    assert record["wall_s"] > begun["wall_s"] > 0
    assert all(value >= 0 for line in lines_of(only_run(Path("again"))) for value in line["time"].values())
    assert measured(only_run(Path("again"))) == expected
