"""Tasks of a local Ray, for real."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from sweeping.plugins import write_conf
from sweeping.sweeps import SEEDS, Sweep

pytest.importorskip("ray", reason="the extra ray is not installed")

pytestmark = pytest.mark.slow

RAY = ("hydra/launcher=ray", "hydra.launcher.remote.num_cpus=1", "+hydra.launcher.init.num_cpus=2")


def test_the_results_are_those_of_one_job_after_the_other(sweep: Sweep, in_turn: dict[int, list[str]]) -> None:
    code, out, err = sweep.run(*RAY, *SEEDS)
    assert code == 0, out + err
    assert sweep.results() == in_turn
    assert len(sweep.jobs()) == 4
    assert {tuple(record["command"][1:3]) for record in sweep.records().values()} == {("-m", "model=local")}
    for number in range(4):  # those of the last job, too
        assert f"[{number}] seed={number}: 3/3 cases in " in out
        assert f"job {number} (seed={number}): complete, 3/3 cases in " in err
    assert "\x1b[" not in out + err


def test_a_worker_that_is_killed_is_replaced_and_its_job_goes_on(sweep: Sweep, tmp_path: Path) -> None:
    conf = write_conf(tmp_path / "conf", tmp_path / "marker")
    swept = (f"--config-dir={conf}", *RAY, "method=deadly", "seed=0,1,2")
    code, out, err = sweep.run(*swept, "hydra.launcher.remote.max_retries=1")
    assert code == 0, out + err
    assert {record["status"] for record in sweep.records().values()} == {"complete"}


def test_where_it_may_not_be_replaced_its_job_is_noted(sweep: Sweep, tmp_path: Path) -> None:
    conf = write_conf(tmp_path / "conf", tmp_path / "marker")
    swept = (f"--config-dir={conf}", *RAY, "method=deadly", "seed=0,1,2")
    code, out, err = sweep.run(*swept, "hydra.launcher.remote.max_retries=0")
    assert code == 1, out + err
    assert "its worker process died" in err
    assert sorted(record["status"] for record in sweep.records().values()) == ["complete", "complete", "running"]


def test_what_could_never_start_is_refused(sweep: Sweep) -> None:
    code, _, err = sweep.run(*RAY, "hydra.launcher.remote.num_cpus=4", *SEEDS)
    assert code == 1
    assert "no task of Ray could start: there are 2 CPUs here" in err


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_an_interruption_lets_every_run_store_what_it_has(sweep: Sweep, tmp_path: Path, how: signal.Signals) -> None:
    conf = write_conf(tmp_path / "conf", tmp_path / "marker")
    printed, statuses = sweep.interrupt(how, f"--config-dir={conf}", *RAY)
    assert "Traceback" not in printed
    assert "3 of 3 jobs did not end (2 interrupted, 1 not begun)" in printed
    assert statuses == ["interrupted", "interrupted"]
