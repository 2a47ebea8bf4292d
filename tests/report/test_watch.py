"""``ke-summarize --watch``: what it shows of runs and sweeps that are going on, and when it ends."""

from __future__ import annotations

import fcntl
import io
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from ke_cli.report.watch.command import PATIENCE_S, STOPPED, watch
from ke_cli.report.watch.groups import chosen
from ke_cli.results.lock import LOCK_FILE
from ke_cli.results.store import RunStore
from ke_cli.results.sweep_log import JobFile, held_sweep
from ke_cli.results.sweeps import Cases
from ke_cli.summarize import main
from results.runs import efficacies, record, write_run
from screens import Screen, in_a_terminal

NEVER = 2**22 + 1
"""More than any process has as its number."""

JOBS = [["x=1", f"method=rome seed={seed}"] for seed in range(4)]


class Play:
    """Looks at an output folder while a test writes into it: each step is done in a pause of the watcher."""

    def __init__(self, outputs: Path, width: int = 80, *, terminal: bool = False, height: int = 24) -> None:
        self.outputs, self.now, self.pauses, self.shown = outputs, 100.0, list[float](), list[str]()
        size: dict[str, Any] = {"width": width, "height": height, "color_system": None, "legacy_windows": False}
        self.console = Console(file=io.StringIO(), force_terminal=terminal, _environ={"TERM": "xterm"}, **size)
        self.complaints = Console(file=io.StringIO(), width=200)
        self.steps: Iterator[Callable[[], object]] = iter(())

    def watch(self, *steps: Callable[[], object], every_s: float = 2) -> int:
        self.steps = iter(steps)
        doors = {"console": self.console, "complaints": self.complaints}
        return watch([self.outputs], every_s, **doors, clock=lambda: self.now, sleep=self._pause)  # type: ignore[arg-type]

    def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds
        self.shown.append(self.out)
        next(self.steps, lambda: None)()

    @property
    def out(self) -> str:
        text = cast(io.StringIO, self.console.file).getvalue()
        if not self.console.is_terminal:
            return text
        screen = Screen(self.console.width)
        screen.feed(text)
        return screen.text

    @property
    def lines(self) -> list[str]:
        """The lines without the times at which they were printed."""
        return [line[10:] for line in self.out.splitlines()]

    @property
    def err(self) -> str:
        return cast(io.StringIO, self.complaints.file).getvalue()


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return tmp_path / "outputs"


class Stage:
    """A sweep as its processes would write it."""

    def __init__(self, outputs: Path, stack: ExitStack, name: str = "2025-01-01_10-00-00") -> None:
        self.outputs, self.stack, self.folder = outputs, stack, outputs / ".sweeps" / name
        self.held = ExitStack()
        stack.enter_context(self.held)
        about: dict[str, Any] = {"command": ["ke-run"], "files": {}, "started_at": "2025-01-01T10:00:00+00:00"}
        self.held.enter_context(held_sweep(self.folder, JOBS, **about))
        self.files: dict[int, JobFile] = {}
        self.stores: dict[int, RunStore] = {}

    def begin(self, number: int) -> None:
        self.files[number] = JobFile(self.folder, number, JOBS[number], "")
        self.stack.callback(self.files[number].close)

    def load(self, number: int, total: int = 4) -> None:
        """Write down what the run is, as when its model was loaded."""
        directory = self.outputs / f"run{number}"
        self.files[number].know(Path("outputs") / directory.name)  # as seen from elsewhere
        self.stores[number] = self.stack.enter_context(RunStore.open(directory, resume=True))
        self.say(number, "running", model={"fingerprint": "f"}, total=total)

    def say(self, number: int, status: str, **more: Any) -> None:
        name = f"run{number}"
        self.stores[number].write_record({"name": name, **record("rome", status=status, **{"total": 4, **more})})

    def store(self, number: int, *values: float, first: int = 0) -> None:
        self.stores[number].append(efficacies(values, first))

    def end(self, number: int, status: str, done: int, **more: Any) -> None:
        self.files[number].end(status, cases=Cases(done, 0, 4), **more)
        if number in self.stores:
            self.say(number, status)
            self.stores[number].close()


@pytest.fixture
def stage(outputs: Path) -> Iterator[Stage]:
    with ExitStack() as stack:
        yield Stage(outputs, stack)


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def all_of(*steps: Callable[[], object]) -> Callable[[], object]:
    return lambda: [step() for step in steps]


def story(stage: Stage) -> list[Callable[[], object]]:
    """Three jobs that end in different ways, and one that never begins."""
    return [
        lambda: stage.load(0),
        lambda: stage.store(0, 1, 0),
        all_of(lambda: stage.store(0, 1, first=2), lambda: stage.begin(1)),
        all_of(lambda: stage.store(0, 1, first=3), lambda: stage.end(0, "complete", 4), lambda: stage.load(1)),
        all_of(lambda: stage.end(1, "failed", 0, error="no layer 9\n  allowed: 0 to 4"), lambda: stage.begin(2)),
        all_of(lambda: stage.files[2].close(), lambda: stage.held.close()),
    ]


def test_lines_for_a_log_tell_what_begins_and_ends(stage: Stage, outputs: Path) -> None:
    stage.begin(0)
    play = Play(outputs, 200)
    assert play.watch(*story(stage), every_s=4) == 1, "not everything is complete"
    assert play.lines == [
        "job 0 (method=rome seed=0): starting",
        "0 of 4 jobs complete, 1 starting, 3 not begun",
        "job 0 (method=rome seed=0): running, 0/4 cases",
        "job 0 (method=rome seed=0): running, 3/4 cases, 15/min, 0:00:04 left  Efficacy 66.7  Drift 0.5  Score 66.7",
        "job 1 (method=rome seed=1): starting",
        "0 of 4 jobs complete, 1 running, 1 starting, 2 not begun · 3/16 cases · 15/min · about 0:00:52 left",
        "job 0 (method=rome seed=0): complete, 4/4 cases in 0:00:00  Efficacy 75.0  Drift 0.5  Score 75.0",
        "job 1 (method=rome seed=1): running, 0/4 cases",
        "1 of 4 jobs complete, 1 running, 2 not begun · 4/16 cases",
        "job 1 (method=rome seed=1): failed, 0/4 cases in 0:00:00: no layer 9",
        "job 2 (method=rome seed=2): starting",
        "1 of 4 jobs complete, 1 failed, 1 starting, 1 not begun · 4/12 cases",
        "job 2 (method=rome seed=2): died: its process is gone: killed, perhaps for want of memory",
        "1 of 4 jobs complete, 1 failed, 1 died, 1 not begun · 4/8 cases",
    ]
    assert set(play.pauses[:-1]) == {4} and play.pauses[-1] == 2, "the end is not waited for longer than need be"


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_terminal_shows_one_picture_that_fits(stage: Stage, outputs: Path, width: int) -> None:
    stage.begin(0)
    play = Play(outputs, width, terminal=True)
    assert play.watch(*story(stage), every_s=4) == 1
    assert all(len(line) <= width for shown in play.shown for line in shown.splitlines())
    assert all(shown.count("sweep x=1 (2025-01-01_10-00-00)") == 1 for shown in play.shown)
    assert "every 4 s" in play.shown[3] and "every" not in play.out
    place = next(place for place, line in enumerate(play.shown[3].splitlines()) if line.startswith("Job "))
    head, _, *rows = play.shown[3].splitlines()[place : place + 6]
    words = ["Job", "Overrides", "Status", "Cases", *["Rate"] * (width > 100), "Time", "Efficacy", "Drift", "Score"]
    assert head.split() == words[: None if width > 70 else -3]
    fast = ["15/min"] * (width > 100)
    row = ["0", "method=rome", "seed=0", "running", "3/4", *fast, "0:00:04", "left", "66.7", "0.5"]
    assert rows[0].split()[: None if width > 70 else 7] == [*row, "66.7"][: None if width > 70 else 7]
    assert rows[3].split() == ["3", "method=rome", "seed=3", "not", "begun"]
    assert "job 1: no layer 9" in play.out and "job 2: its process is gone" in play.out


def test_many_jobs_leave_room_for_those_under_way(stage: Stage, outputs: Path) -> None:
    stage.begin(0)
    play = Play(outputs, 80, terminal=True, height=13)
    play.watch(*story(stage), every_s=4)
    for shown in play.shown:
        assert len(shown.splitlines()) <= 13
    assert "and 1 more: 1 not begun" in play.shown[0] and "seed=0" in play.shown[0]
    assert chosen(dict(a="complete", b="complete", c="running", d="not begun", e="died"), 3) == (
        ["b", "c", "e"],
        {"complete": 1, "not begun": 1},
    )


def test_everything_complete_ends_with_success(stage: Stage, outputs: Path) -> None:
    for number in range(4):
        stage.begin(number)
        stage.load(number)
    ends = [lambda number=number: stage.end(number, "complete", 4) for number in range(4)]
    play = Play(outputs, 120, terminal=True)
    assert play.watch(*ends, stage.held.close) == 0
    assert "4 of 4 jobs complete · 16/16 cases" in play.out


def run_folder(outputs: Path, name: str, pid: int, host: str = "") -> Path:
    """A run that a process says to be writing."""
    about: dict[str, Any] = {"status": "running", "total": 4, "model": {"fingerprint": "f"}}
    folder = write_run(outputs / name, efficacies([1, 0]), **about)
    (folder / LOCK_FILE).write_text(json.dumps({"pid": pid, "host": host or socket.gethostname()}), encoding="utf-8")
    return folder


def older(folder: Path, seconds: float) -> None:
    stat = os.stat(folder / "run.json")
    os.utime(folder / "run.json", (stat.st_atime - seconds, stat.st_mtime - seconds))


def test_runs_by_themselves(outputs: Path) -> None:
    write_run(outputs / "old", efficacies([1]))
    older(run_folder(outputs, "long-dead", NEVER), 60)
    folder = run_folder(outputs, "mine", os.getpid())
    play = Play(outputs, 150)

    def finish() -> None:
        with RunStore.open(folder, resume=True) as store:
            store.append(efficacies([1, 1], first=2))
            store.write_record({"name": "mine", **record(status="complete", total=4, wall_s=61.2)})

    assert play.watch(finish) == 0
    assert play.lines == [
        "mine: running, 2/4 cases  Efficacy 50.0  Drift 0.5  Score 50.0",
        "0 of 1 run complete, 1 running",
        "mine: complete, 4/4 cases in 0:01:01  Efficacy 75.0  Drift 0.5  Score 75.0",
        "1 of 1 run complete",
    ]
    assert play.err == "died before, and not gone on with: long-dead\n"


def test_a_run_whose_process_dies_is_noticed(outputs: Path) -> None:
    run_folder(outputs, "mine", os.getpid())
    play = Play(outputs, 150, terminal=True)

    def die() -> None:
        (outputs / "mine" / LOCK_FILE).write_text(json.dumps({"pid": NEVER, "host": socket.gethostname()}))

    assert play.watch(die) == 1
    assert play.shown[1].count("  running  ") == 1, "for some seconds it may only seem so"
    assert "died" in play.out and "0 of 1 run complete, 1 died" in play.out


def test_a_run_on_another_machine_is_believed_for_an_hour(outputs: Path) -> None:
    folder = run_folder(outputs, "mine", NEVER, host="elsewhere")
    older(folder, 3000)
    play = Play(outputs, 150)
    assert play.watch(every_s=400) == 1
    assert play.lines[-2:] == [
        "mine: silent, 2/4 cases  Efficacy 50.0  Drift 0.5  Score 50.0",
        "0 of 1 run complete, 1 silent",
    ]


def test_the_runs_of_a_sweep_are_not_shown_twice(stage: Stage, outputs: Path) -> None:
    stage.begin(0)
    stage.load(0)
    play = Play(outputs, 150)
    play.watch(lambda: stage.end(0, "complete", 4), stage.held.close)
    assert "run0" not in play.out


def test_what_begins_later_is_seen(outputs: Path) -> None:
    with ExitStack() as stack:
        play = Play(outputs, 150)
        stages: list[Stage] = []

        def begin() -> None:
            stages.append(Stage(outputs, stack))
            stages[0].begin(0)

        assert (
            play.watch(
                begin, *[lambda: None] * 9, lambda: stages[0].held.close(), lambda: stages[0].end(0, "failed", 0)
            )
            == 1
        )
    assert play.lines[0] == "job 0 (method=rome seed=0): starting"
    first, last = play.err.splitlines()
    assert "waiting" in first and last.startswith("not everything is complete")


@pytest.mark.parametrize("what", ["nothing", "ended"])
def test_where_nothing_is_running_it_does_not_wait_for_long(outputs: Path, stage: Stage, what: str) -> None:
    stage.held.close()
    write_run(outputs / "run", efficacies([1]))
    play = Play(outputs if what == "ended" else outputs / "none")
    assert play.watch() == 1
    assert PATIENCE_S <= sum(play.pauses) <= PATIENCE_S + 4
    wait, *nothing = play.err.splitlines()
    assert wait == f"nothing is running in {play.outputs} yet; waiting 30 s for something to begin"
    assert nothing == [f"nothing is running in {play.outputs}", f"  try:     ke-summarize {play.outputs}"]
    assert play.out == ""


@pytest.mark.parametrize("terminal", [True, False])
def test_ctrl_c_ends_it_cleanly(stage: Stage, outputs: Path, terminal: bool) -> None:
    stage.begin(0)
    play = Play(outputs, terminal=terminal)

    assert play.watch(interrupt) == 130
    assert play.err == f"{STOPPED}\n" and "starting" in play.out and "Ctrl-C" not in play.out
    assert cast(io.StringIO, play.console.file).getvalue().count("\x1b[?25h") == terminal, "the cursor is back"


def written(folder: Path) -> dict[Path, tuple[int, ...]]:
    """What writing to the files of a folder changes, and reading does not."""
    stats = {path: path.stat() for path in folder.iterdir()}
    return {path: (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for path, stat in stats.items()}


def test_nothing_is_locked_or_written(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run_folder(outputs, "mine", os.getpid())
    before = written(folder)
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", lambda *_: pytest.fail("a lock was tried"))
        assert Play(outputs).watch(lambda: None, interrupt) == 130
    assert written(folder) == before


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 9999, b'{"schema": 9}'])
def test_files_that_cannot_be_read_do_not_end_it(stage: Stage, outputs: Path, content: bytes) -> None:
    stage.begin(0)
    stage.load(0)
    play = Play(outputs, 150)
    assert (
        play.watch(
            lambda: (outputs / "run0" / "run.json").write_bytes(content),
            lambda: (outputs / "run0" / "cases.jsonl").write_bytes(content),
            lambda: (stage.folder / "job-0000.json").write_bytes(content),
            stage.held.close,
        )
        == 1
    )
    assert "job 0 (method=rome seed=0): running" in play.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--watch", "x"], "expected seconds, got 'x' (folders go before --watch)"),
        (["--watch", "0"], "expected 0.1 to 3600 seconds, got 0"),
        (["--watch", "nan"], "expected 0.1 to 3600 seconds, got nan"),
    ],
)
def test_seconds_that_are_none(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_it_only_shows(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--watch", "--html", "x.html", "--scatter", "a:b"]) == 2
    assert "it cannot be combined with --html, --scatter" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("width", [80, 120])
def test_the_command_in_a_terminal(stage: Stage, outputs: Path, width: int) -> None:
    stage.begin(0)
    stage.load(0)
    stage.store(0, 1, 0)

    interrupted: list[int] = []

    def look(screen: Screen, process: int) -> None:
        if "2/4" in screen.text and not interrupted:
            interrupted.append(process)
            os.kill(process, signal.SIGINT)

    command = [sys.executable, "-m", "ke_cli.summarize", str(outputs), "--watch", "0.5"]
    code, screen = in_a_terminal(command, width, dict(os.environ), look)
    assert (code, screen.cursor) == (130, True), screen.text
    assert screen.text.count("sweep x=1") == 1 and screen.text.endswith(STOPPED)
