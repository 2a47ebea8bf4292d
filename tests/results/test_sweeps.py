"""The files of sweeps: who holds them, what is read of them, and that nothing in them can do harm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from ke_cli.report.sweeps import print_jobs, print_owed
from ke_cli.results.held import read_held, write_held
from ke_cli.results.sweep_log import JobFile, held_sweep
from ke_cli.results.sweeps import Cases, Job, find_sweeps, read_sweep

ROOT = Path(__file__).resolve().parents[2]
JOBS = [["seed=1"], ["seed=2"], ["seed=3"]]


def begun(folder: Path, **more: Any) -> None:
    """Write down a sweep of three jobs."""
    with held_sweep(folder, JOBS, command=["ke-run", "-m", "seed=1,2,3"], files={"a.yaml": "00"}, **more):
        pass


def test_a_job_from_beginning_to_end(tmp_path: Path) -> None:
    begun(tmp_path)
    assert read_sweep(tmp_path).jobs == tuple(Job(number, tuple(job)) for number, job in enumerate(JOBS))
    file = JobFile(tmp_path, 1, JOBS[1], "2025-01-01T00:00:00+00:00")
    assert read_sweep(tmp_path).jobs[1] == Job(1, ("seed=2",), "running")
    file.know(Path("outputs/run"))
    assert read_sweep(tmp_path).jobs[1] == Job(1, ("seed=2",), "running", "outputs/run")
    file.end("failed", cases=Cases(2, 1, 5), error="what\n  where: here")
    job = read_sweep(tmp_path).jobs[1]
    assert (job.status, job.cases, job.error) == ("failed", Cases(2, 1, 5), "what\n  where: here")
    assert job.wall_s is not None and job.wall_s >= 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job-0001.json", "sweep.json"]
    raw = json.loads((tmp_path / "job-0001.json").read_text(encoding="utf-8"))
    assert (raw["pid"], raw["started_at"]) == (os.getpid(), "2025-01-01T00:00:00+00:00")


def test_a_new_attempt_takes_the_place_of_the_old(tmp_path: Path) -> None:
    JobFile(tmp_path, 0, ["seed=1"], "").end("failed", error="why")
    again = JobFile(tmp_path, 0, ["seed=1"], "")
    assert read_sweep(tmp_path).jobs == (Job(0, ("seed=1",), "running"),)
    again.end("complete")
    again.close()
    assert read_sweep(tmp_path).jobs[0].status == "complete"


def test_a_sweep_runs_while_it_is_held(tmp_path: Path) -> None:
    with held_sweep(tmp_path, JOBS, command=[], files={}, dry_run=True):
        assert (read_sweep(tmp_path).running, read_sweep(tmp_path).dry_run) == (True, True)
    assert not read_sweep(tmp_path).running


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "os._exit(0)"])
def test_a_job_whose_process_is_gone_has_died(tmp_path: Path, end: str) -> None:
    begun(tmp_path)
    script = (
        "import os; from pathlib import Path; from ke_cli.results.sweep_log import JobFile;"
        f"file = JobFile(Path({str(tmp_path)!r}), 2, ['seed=3'], ''); file.know(Path('run')); {end}"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False)
    assert read_sweep(tmp_path).jobs[2] == Job(2, ("seed=3",), "died", "run")


def test_nobody_sees_a_file_before_it_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real, seen = tmp_path / "file", os.replace, []

    def replace(source: Path, target: Path) -> None:
        seen.append(read_held(Path(source)))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    descriptor = write_held(path, b"what")
    assert seen == [(b"what", True)]
    assert read_held(path) == (b"what", True)
    os.close(descriptor)
    assert read_held(path) == (b"what", False)


@pytest.mark.parametrize("name", ["write", "fsync", "replace"])
def test_a_file_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    os.close(write_held(tmp_path / "file", b"old"))

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, name, refuse)
    with pytest.raises(OSError, match="No space left"):
        write_held(tmp_path / "file", b"new")
    monkeypatch.undo()
    assert read_held(tmp_path / "file") == (b"old", False)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_sweeps_are_found_in_output_folders_at_any_depth(tmp_path: Path) -> None:
    for name in ("b/.sweeps/2025-01-02", "a/deep/.sweeps/2025-01-03", ".sweeps/2025-01-01"):
        begun(tmp_path / name)
    begun(tmp_path / ".hidden" / ".sweeps" / "2025-01-01")
    (tmp_path / ".sweeps" / "2025-01-04").mkdir()
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / ".sweeps").symlink_to(tmp_path / ".hidden" / ".sweeps")
    assert [path.name for path in find_sweeps([tmp_path, tmp_path / "a", tmp_path / "absent"])] == [
        "2025-01-01",
        "2025-01-02",
        "2025-01-03",
    ]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "Expecting value"),
        (b"[]", "a JSON object was expected"),
        (b"\xff", "invalid"),
        (b'{"schema": 7}', "written by another version (schema 7, not 1)"),
        (b'{"schema": 1, "jobs": 5}', "its list of jobs is not one"),
        (b'{"schema": 1, "jobs": [{"number": 3}]}', "its list of jobs is not one"),
        (b"[" * 50_000 + b"]" * 50_000, "nested too deeply"),
    ],
)
def test_a_bad_list_is_told(tmp_path: Path, content: bytes, problem: str) -> None:
    JobFile(tmp_path, 0, ["seed=1"], "").end("complete")
    (tmp_path / "sweep.json").write_bytes(content)
    sweep = read_sweep(tmp_path)
    assert [job.status for job in sweep.jobs] == ["complete"]
    (told,) = sweep.problems
    assert told.startswith("sweep.json: ") and problem in told


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_reads_plain_files_only(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "job-0000.json"
    {"link": lambda: path.symlink_to("/etc/passwd"), "pipe": lambda: os.mkfifo(path), "folder": path.mkdir}[kind]()
    sweep = read_sweep(tmp_path)
    expected = "a link, which is not followed" if kind == "link" else "not a plain file"
    assert (sweep.jobs, sweep.problems) == ((), (f"job-0000.json: {expected}",))


def test_no_control_character_reaches_the_screen(tmp_path: Path) -> None:
    begun(tmp_path)
    JobFile(tmp_path, 0, ["seed=\x1b[31m1"], "").end("failed", error="bad\x1b]0;title\x07\nsecond\x9b line")
    console = Console(record=True, width=200, file=open(os.devnull, "w"))  # noqa: SIM115
    sweep = read_sweep(tmp_path)
    print_jobs(sweep.jobs, console)
    print_owed([sweep], [], console)
    text = console.export_text() + str(sweep.jobs[0])
    assert "title" in text
    assert not {char for char in text if not char.isprintable()} - {"\n"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
STATUS = st.sampled_from(["running", "complete", "failed"]) | JSON


@settings(max_examples=200, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sweep=st.fixed_dictionaries({"schema": st.just(1)}, optional={"jobs": JSON, "command": JSON, "files": JSON}) | JSON,
    job=st.fixed_dictionaries(
        {"schema": st.just(1)},
        optional={"status": STATUS} | dict.fromkeys(("overrides", "directory", "cases", "wall_s", "error"), JSON),
    )
    | JSON,
)
def test_whatever_the_files_say_is_shown_or_told(tmp_path: Path, sweep: Any, job: Any) -> None:
    (tmp_path / "sweep.json").write_text(json.dumps(sweep), encoding="utf-8")
    (tmp_path / "job-0000.json").write_text(json.dumps(job), encoding="utf-8")
    found = read_sweep(tmp_path)
    console = Console(file=open(os.devnull, "w"), width=80)  # noqa: SIM115
    print_jobs(found.jobs, console)
    print_owed([found, found], [], console)
