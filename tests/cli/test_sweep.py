"""Sweeps: every job gets its chance, one table at the end, and files that do not change on the way."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest

from ke_cli.config import RunConfig, run_dir
from ke_cli.config.files import digests
from ke_cli.results.sweep_log import JobFile, held_sweep
from ke_cli.results.sweeps import SWEEP_FILE, Job, Sweep, read_sweep
from ke_cli.run import INTERRUPTED
from ke_cli.sweeping.sweep import FOLDER, note_lost

DASH = "\N{EN DASH}"


def sweep_dir() -> Path:
    (folder,) = Path("outputs/.sweeps").iterdir()
    return folder


def statuses() -> list[str]:
    return [job.status for job in read_sweep(sweep_dir()).jobs]


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> list[list[Path]]:
    """Collect what would be printed as one table."""
    shown: list[list[Path]] = []
    monkeypatch.setattr("ke_cli.sweeping.conduct._print_table", shown.append)
    return shown


@pytest.fixture
def recorded(at_each_run) -> None:
    """Let every run leave a record behind, as a real one does."""

    def record(config: RunConfig) -> None:
        run_dir(config).mkdir(parents=True, exist_ok=True)
        (run_dir(config) / "run.json").write_text("{}", encoding="utf-8")

    at_each_run(record)


def test_all_combinations_are_run_and_shown_together(ke_run, executed, tables, recorded) -> None:
    result = ke_run("-m", "seed=1,2", "method.steps=5,6")
    assert result.code == 0
    assert [(config.seed, config.method.settings["steps"]) for config in executed] == [(1, 5), (1, 6), (2, 5), (2, 6)]
    assert tables == [[run_dir(config) for config in executed]]


def test_the_same_run_is_shown_once(ke_run, executed, tables, recorded) -> None:
    assert ke_run("-m", "device=auto,cpu").code == 0
    assert len(executed) == 2
    assert tables == [[run_dir(executed[0])]]


def test_a_dry_run_has_no_table(ke_run, executed, tables) -> None:
    result = ke_run("-m", "seed=1,2", "dry_run=true")
    assert (result.code, len(executed), tables) == (0, 2, [])
    assert "Overrides" not in result.out
    assert (read_sweep(sweep_dir()).dry_run, statuses()) == (True, ["planned", "planned"])


def test_a_failed_job_does_not_stop_the_others(ke_run, executed, tables, recorded) -> None:
    result = ke_run("-m", "seed=1,13,abc,2")
    assert result.code == 1
    assert [config.seed for config in executed] == [1, 13, 2]
    assert tables == [[run_dir(executed[0]), run_dir(executed[2])]]
    at_once, _, in_the_end = result.err.partition("2 of 4 jobs failed:\n")
    for text in (at_once, in_the_end):
        assert "RuntimeError: the solve found a singular matrix" in text
        assert 'seed: expected an integer, got "abc"' in text
    assert "Traceback" not in result.err


def test_what_failed_alike_is_told_once_in_the_end(ke_run, executed, tables, recorded) -> None:
    result = ke_run("-m", "seed=1,13", "method.steps=5,6,7")
    in_the_end = result.err.partition("3 of 6 jobs failed:\n")[2]
    assert in_the_end.count("RuntimeError: the solve found a singular matrix") == 1
    assert in_the_end.startswith("- jobs 3, 4, 5: ")


def test_how_each_job_ended_stays_on_disk_beside_the_sweep(ke_run, executed) -> None:
    ke_run("-m", "seed=1,13,abc")
    assert (sweep_dir() / "multirun.yaml").is_file()
    good, bad, unread = read_sweep(sweep_dir()).jobs
    assert (good.status, good.directory, good.error) == ("complete", str(run_dir(executed[0])), "")
    assert good.overrides[-1] == "seed=1"
    assert good.wall_s is not None and good.wall_s > 0
    assert (bad.status, bad.directory) == ("failed", str(run_dir(executed[1])))
    assert bad.error.startswith("RuntimeError: the solve found a singular matrix\n  where: ")
    assert str(bad).startswith("job 1 (model=tuned ")
    assert (unread.status, unread.directory) == ("failed", "")


def test_the_jobs_are_written_down_before_the_first_begins(ke_run, at_each_run) -> None:
    seen: list[Sweep] = []
    at_each_run(lambda config: seen.append(read_sweep(sweep_dir())))
    ke_run("-m", "seed=1,2", "hydra.sweeper.max_batch_size=1")
    first = seen[0]
    assert (first.running, first.dry_run, first.problems) == (True, False, ())
    assert [(job.number, job.overrides[-1], job.status) for job in first.jobs] == [
        (0, "seed=1", "running"),
        (1, "seed=2", "not begun"),
    ]
    assert first.jobs[0].directory.startswith("outputs/tuned_dummy_dummy_")
    assert first.command[0] == "ke-run" and first.command[-2:] == ("seed=1,2", "hydra.sweeper.max_batch_size=1")
    assert first.started_at and any(path.endswith("method/dummy.yaml") for path in first.files)
    raw = json.loads((sweep_dir() / SWEEP_FILE).read_text(encoding="utf-8"))
    assert (raw["pid"], len(raw["fingerprint"])) == (os.getpid(), 64)
    after = read_sweep(sweep_dir())
    assert (after.running, [job.status for job in after.jobs]) == (False, ["complete", "complete"])


def test_the_end_table_has_a_row_for_each_job(ke_run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    result = ke_run("-m", "seed=1,13,2", "method.steps=5")
    title, head, _, *rows = result.out[result.out.index("sweep model=tuned") :].splitlines()
    assert title.endswith("method.steps=5") and "seed" not in title
    assert head.split() == ["Job", "Overrides", "Status", "Cases", "Time", "Error"]
    assert rows[0].split()[:4] == ["0", "seed=1", "complete", DASH]
    assert rows[1].split()[:4] == ["1", "seed=13", "failed", DASH]
    assert rows[1].endswith("RuntimeError: the solve found a singular matrix")
    assert rows[2].split()[:4] == ["2", "seed=2", "complete", DASH]
    assert all(re.search(rf"{DASH} +0:0\d:\d\d(  |$)", row) for row in rows)
    assert result.err.rstrip().endswith("and tries again what failed")
    left = ke_run("-m", "seed=1,13,2", "retry_failed=false")
    assert left.err.rstrip().endswith("; retry_failed=true also tries cases again that failed")


def test_a_mistake_on_the_command_line_begins_no_sweep(ke_run) -> None:
    assert ke_run("-m", "seed=1,2", "method=dumy").code == 1
    assert not list(Path().glob("outputs/.sweeps/*/sweep.json"))


def test_jobs_with_output_folders_of_their_own_are_not_lost(ke_run, executed, tables, recorded) -> None:
    result = ke_run("-m", "output_dir=a,b", "seed=1,13")
    assert result.code == 1
    assert "2 of 4 jobs failed" in result.err
    assert [path.parts[0] for path in tables[0]] == ["a", "b"]


def test_sweeps_do_not_overwrite_each_other(ke_run) -> None:
    ke_run("-m", "seed=1,2")
    ke_run("-m", "seed=3,4")
    assert len(list(Path("outputs/.sweeps").glob("*/multirun.yaml"))) == 2


def test_a_sweep_by_another_sweeper_ends_with_the_table_too(ke_run, executed, tables, recorded) -> None:
    result = ke_run("-m", "seed=1,13", "hydra/sweeper=basic")
    assert (result.code, len(executed)) == (1, 2)
    assert "1 of 2 jobs failed:" in result.err
    assert tables == [[run_dir(executed[0])]]


class TestInterrupted:
    def test_ctrl_c_says_how_the_jobs_stand(self, ke_run) -> None:
        result = ke_run("-m", "seed=1,14,2")
        assert (result.code, statuses()) == (130, ["complete", "interrupted", "not begun"])
        assert "2 of 3 jobs did not end (1 interrupted, 1 not begun)" in result.err
        assert result.err.rstrip().endswith(INTERRUPTED)
        assert [line.split()[2:4] for line in result.out.splitlines() if " seed=" in line and "tuned" not in line] == [
            ["complete", DASH],
            ["interrupted", DASH],
            ["not", "begun"],
        ]

    def test_sigterm_between_two_jobs(self, ke_run, executed, monkeypatch: pytest.MonkeyPatch) -> None:
        from hydra._internal.config_loader_impl import ConfigLoaderImpl

        real, calls = ConfigLoaderImpl.load_sweep_config, []

        def load(self, master_config, sweep_overrides):
            calls.append(sweep_overrides)
            if executed:
                os.kill(os.getpid(), signal.SIGTERM)
            return real(self, master_config, sweep_overrides)

        monkeypatch.setattr(ConfigLoaderImpl, "load_sweep_config", load)
        before = signal.getsignal(signal.SIGTERM)
        result = ke_run("-m", "seed=1,2,3")
        assert (result.code, statuses()) == (130, ["complete", "not begun", "not begun"])
        assert signal.getsignal(signal.SIGTERM) is before

    def test_a_job_that_cannot_say_that_it_begins(self, ke_run, executed, monkeypatch: pytest.MonkeyPatch) -> None:
        from ke_cli.results import sweep_log

        real = sweep_log.write_held

        def write(path, content):
            if path.name == "job-0001.json":
                raise PermissionError(13, "Permission denied", str(path))
            return real(path, content)

        monkeypatch.setattr(sweep_log, "write_held", write)
        result = ke_run("-m", "seed=1,2,3")
        assert (result.code, [config.seed for config in executed]) == (1, [1, 3])
        assert "error: the results cannot be written: Permission denied" in result.err
        assert statuses() == ["complete", "not begun", "complete"]

    def test_a_job_that_cannot_say_how_it_ended(self, ke_run, executed, monkeypatch: pytest.MonkeyPatch) -> None:
        from ke_cli.results import sweep_log

        real = sweep_log.write_atomic

        def write(path, chunks):
            if path.name == "job-0000.json":
                raise OSError(28, "No space left on device", str(path))
            real(path, chunks)

        monkeypatch.setattr(sweep_log, "write_atomic", write)
        result = ke_run("-m", "seed=1,2")
        assert (result.code, len(executed), statuses()) == (1, 2, ["died", "complete"])
        assert "ended cannot be written down: [Errno 28] No space left on device" in result.err


class TestLost:
    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Of a sweep of three jobs with one configuration file."""
        (tmp_path / "a.yaml").write_text("k: 1", encoding="utf-8")
        monkeypatch.setenv(FOLDER, str(tmp_path))
        jobs = [["seed=1"], ["seed=2"], ["seed=3"]]
        with held_sweep(tmp_path, jobs, command=[], files=digests([tmp_path])):
            return tmp_path

    def test_a_job_that_had_begun_died(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file = JobFile(folder, 1, ["seed=2"], "")
        file.know(Path("outputs/run"))
        note_lost(1, ["seed=2"], "out of memory")  # even if its process has not quite ended yet
        file.close()
        assert read_sweep(folder).jobs[1] == Job(1, ("seed=2",), "died", "outputs/run", error="out of memory")
        assert capsys.readouterr().err == "error in job 1 (seed=2): out of memory\n"

    def test_what_a_job_said_stays(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        JobFile(folder, 0, ["seed=1"], "").end("complete")
        before = read_sweep(folder)
        note_lost(0, ["seed=1"], "lost on the way back")
        assert (read_sweep(folder), capsys.readouterr().err) == (before, "")

    def test_a_job_that_could_not_begin_failed(self, folder: Path) -> None:
        note_lost(2, ["seed=3"], "no such key")
        assert read_sweep(folder).jobs[2] == Job(2, ("seed=3",), "failed", error="no such key")

    def test_because_files_changed(self, folder: Path) -> None:
        (folder / "a.yaml").write_text("k: [", encoding="utf-8")
        note_lost(2, ["seed=3"], "not valid YAML")
        error = read_sweep(folder).jobs[2].error
        assert error.startswith("the configuration files changed since the sweep began")
        assert f"  where:   {folder / 'a.yaml'}\n" in error and error.endswith("  because: not valid YAML")


def test_jobs_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 2):
        body = {"schema": 1, "number": number, "overrides": [], "status": "complete", "directory": "x"}
        (tmp_path / f"job-{number:04d}.json").write_text(json.dumps(body), encoding="utf-8")
    assert read_sweep(tmp_path).jobs == tuple(Job(number, (), "complete", "x") for number in (2, 10))
