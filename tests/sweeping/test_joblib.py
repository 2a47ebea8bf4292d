"""Worker processes on this machine, for real."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from sweeping.plugins import write_conf
from sweeping.sweeps import SEEDS, Sweep, alive, descendants, wait_for

pytest.importorskip("joblib", reason="the extra joblib is not installed")

pytestmark = pytest.mark.slow

TWO = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")


def test_the_results_are_those_of_one_job_after_the_other(sweep: Sweep, in_turn: dict[int, list[str]]) -> None:
    code, out, err = sweep.run(*TWO, *SEEDS)
    assert code == 0, out + err
    assert sweep.results() == in_turn
    assert len(in_turn) == 4 and all(len(lines) == 3 for lines in in_turn.values())
    assert "4 jobs in 2 worker processes" in err
    assert all(f"[{seed}] seed={seed}: 3/3 cases in " in out for seed in range(4))
    assert len(sweep.jobs()) == 4
    for record in sweep.records().values():
        assert record["command"][1:3] == ["-m", "model=local"]
        assert record["hardware"]["threads"] == 1

    code, out, err = sweep.run(*TWO, *SEEDS)
    assert (code, out.count("this run is complete")) == (0, 4)
    assert sweep.results() == in_turn


def test_a_worker_that_is_killed_costs_no_other_job_its_run(sweep: Sweep, tmp_path: Path) -> None:
    conf = write_conf(tmp_path / "conf", tmp_path / "marker")
    swept = (f"--config-dir={conf}", *TWO, "method=none,deadly", "seed=0,1")
    code, out, err = sweep.run(*swept)
    assert code == 1, out + err
    assert "its worker process died" in err
    complete = [record for record in _records(sweep) if record["status"] == "complete"]
    assert sorted(record["config"]["method"]["name"] for record in complete) == ["deadly", "none", "none"]
    assert len(sweep.jobs()) == 4
    code, out, err = sweep.run(*swept)
    assert code == 0, out + err
    assert {record["status"] for record in _records(sweep)} == {"complete"}


def _records(sweep: Sweep) -> list[dict]:
    import json

    return [json.loads(path.read_text(encoding="utf-8")) for path in sweep.folder.glob("outputs/*/run.json")]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_an_interruption_lets_every_run_store_what_it_has(sweep: Sweep, tmp_path: Path, how: signal.Signals) -> None:
    conf = write_conf(tmp_path / "conf", tmp_path / "marker")
    printed, statuses = sweep.interrupt(how, f"--config-dir={conf}", *TWO)
    assert "Traceback" not in printed
    assert "3 of 3 jobs did not end (2 interrupted, 1 not begun)" in printed
    assert statuses == ["interrupted", "interrupted"]


def test_workers_end_with_a_sweep_that_is_killed_and_the_same_sweep_goes_on(sweep: Sweep, tmp_path: Path) -> None:
    conf = write_conf(tmp_path / "conf", tmp_path / "marker")
    swept = (f"--config-dir={conf}", *TWO, "method=slow", "seed=0,1,2", "batch_tokens=256", "dataset.limit=12")
    process = sweep.start(*swept)
    wait_for(lambda: len([r for r in _records(sweep) if r["counts"]["units_ok"]]) == 2)
    workers = descendants(process.pid)
    process.kill()
    process.communicate()
    wait_for(lambda: not any(alive(pid) for pid in workers), 20)
    kept = sum(record["counts"]["units_ok"] for record in _records(sweep))
    assert [record["status"] for record in _records(sweep)] == ["interrupted", "interrupted"] and kept >= 2
    code, out, err = sweep.run(*swept)
    assert code == 0, out + err
    assert [record["counts"]["units_ok"] for record in _records(sweep)] == [12, 12, 12]
    assert out.count("going on: ") == 2
