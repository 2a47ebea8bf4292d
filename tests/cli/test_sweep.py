"""Sweeps: every job gets its chance, one table at the end, and files that do not change on the way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ke_cli.config import run_dir
from ke_cli.sweep import Outcome, fingerprint, read_outcomes


def sweep_dir() -> Path:
    (folder,) = Path("outputs/.sweeps").iterdir()
    return folder


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> list[list[Path]]:
    """Collect what would be printed as one table."""
    shown: list[list[Path]] = []
    monkeypatch.setattr("ke_cli.sweep._print_table", shown.append)
    return shown


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch, executed) -> None:
    """Let every run leave a record behind, as a real one does."""
    import ke_cli.execute as stand_in

    inner = stand_in.execute

    def execute(config, *, show_table=True):
        directory = inner(config)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "run.json").write_text("{}", encoding="utf-8")
        return directory

    monkeypatch.setattr(stand_in, "execute", execute)


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
    assert ke_run("-m", "seed=1,2", "dry_run=true").code == 0
    assert len(executed) == 2
    assert tables == []


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


def test_how_each_job_ended_stays_on_disk_beside_the_sweep(ke_run, executed) -> None:
    ke_run("-m", "seed=1,13")
    assert (sweep_dir() / "multirun.yaml").is_file()
    good, bad = read_outcomes(sweep_dir())
    assert good.directory == str(run_dir(executed[0]))
    assert good.error is None
    assert good.overrides[-1] == "seed=1"
    assert bad.directory is None
    assert bad.error is not None
    assert str(bad).startswith("job 1 (model=tuned ")


def test_jobs_with_output_folders_of_their_own_are_not_lost(ke_run, executed, tables, recorded) -> None:
    result = ke_run("-m", "output_dir=a,b", "seed=1,13")
    assert result.code == 1
    assert "2 of 4 jobs failed" in result.err
    assert [path.parts[0] for path in tables[0]] == ["a", "b"]


def test_sweeps_do_not_overwrite_each_other(ke_run) -> None:
    ke_run("-m", "seed=1,2")
    ke_run("-m", "seed=3,4")
    assert len(list(Path("outputs/.sweeps").glob("*/multirun.yaml"))) == 2


def test_files_that_change_on_the_way_end_the_comparison(ke_run, executed, dummy_conf: Path, monkeypatch) -> None:
    import ke_cli.execute as stand_in

    inner = stand_in.execute

    def execute(config, *, show_table=True):
        path = dummy_conf / "method" / "dummy.yaml"
        path.write_text(path.read_text(encoding="utf-8").replace("lr: 0.5", "lr: 0.1"), encoding="utf-8")
        return inner(config)

    monkeypatch.setattr(stand_in, "execute", execute)
    result = ke_run("-m", "seed=1,2")
    assert result.code == 1
    assert [config.seed for config in executed] == [1]
    assert "the configuration files changed since the sweep began" in result.err


def test_the_fingerprint_sees_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: 1", encoding="utf-8")
    first = fingerprint([tmp_path])
    (tmp_path / "notes.txt").write_text("not a configuration", encoding="utf-8")
    assert fingerprint([tmp_path]) == first
    (tmp_path / "a.yaml").write_text("a: 2", encoding="utf-8")
    second = fingerprint([tmp_path])
    (tmp_path / "a.yaml").rename(tmp_path / "b.yaml")
    assert len({first, second, fingerprint([tmp_path])}) == 3


def test_outcomes_come_in_the_order_of_the_jobs(tmp_path: Path) -> None:
    for number in (10, 2):
        body = {"number": number, "overrides": [], "directory": "x", "error": None}
        (tmp_path / f"job-{number:04d}.json").write_text(json.dumps(body), encoding="utf-8")
    assert read_outcomes(tmp_path) == [Outcome(2, [], "x", None), Outcome(10, [], "x", None)]
