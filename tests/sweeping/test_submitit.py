"""submitit: processes on this machine for real, and Slurm's script, which a made-up ``sbatch`` runs."""

from __future__ import annotations

import os
import re
import signal
import stat
import sys
from pathlib import Path

import pytest

from sweeping.plugins import write_conf
from sweeping.sweeps import SEEDS, Sweep, descendants, ended, wait_for

pytest.importorskip("submitit", reason="the extra slurm is not installed")

pytestmark = pytest.mark.slow

LOCAL = ("hydra/launcher=submitit_local", "hydra.launcher.array_parallelism=2")


def test_the_results_are_those_of_one_job_after_the_other(sweep: Sweep, in_turn: dict[int, list[str]]) -> None:
    code, out, err = sweep.run(*LOCAL, *SEEDS)
    assert code == 0, out + err
    assert sweep.results() == in_turn
    assert len(sweep.jobs()) == 4
    assert {tuple(record["command"][1:3]) for record in sweep.records().values()} == {("-m", "model=local")}
    logs = re.findall(r"job \d began: (\S+)", err)
    assert len(logs) == 4
    for seed, log in enumerate(logs):
        assert f"[{seed}] seed={seed}: 3/3 cases in " in Path(log).read_text(encoding="utf-8")


def test_a_job_that_is_killed_is_noted_and_the_others_are_done(sweep: Sweep, tmp_path: Path) -> None:
    conf = write_conf(tmp_path / "conf", tmp_path / "marker")
    swept = (f"--config-dir={conf}", *LOCAL, "method=deadly", "seed=0,1,2")
    code, out, err = sweep.run(*swept)
    assert code == 1, out + err
    assert "its process ended early" in err
    assert sorted(record["status"] for record in sweep.records().values()) == ["complete", "complete", "running"]
    code, out, err = sweep.run(*swept)
    assert code == 0, out + err
    assert {record["status"] for record in sweep.records().values()} == {"complete"}


@pytest.mark.parametrize("gpus", ["7,9", None])
def test_a_job_sees_the_gpus_that_the_sweep_sees(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: str | None
) -> None:
    """And not none, or always the first, as submitit has it."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    sweep.environment.update({"CUDA_VISIBLE_DEVICES": gpus} if gpus else {})
    conf = write_conf(tmp_path / "conf", tmp_path / "marker")
    code, out, err = sweep.run(f"--config-dir={conf}", *LOCAL, "method=slow", "dataset.limit=1")
    assert code == 0, out + err
    assert (tmp_path / "marker").read_text(encoding="utf-8") == (gpus or "not set")


def test_a_job_whose_time_is_up_is_started_again_and_goes_on(sweep: Sweep, tmp_path: Path) -> None:
    conf = write_conf(tmp_path / "conf", tmp_path / "marker")
    more = ("batch_tokens=256", "dataset.limit=8")
    process = sweep.start(f"--config-dir={conf}", *LOCAL, "method=slow", *more)
    wait_for(lambda: any(record["counts"]["units_ok"] for record in sweep.records().values()))
    pid = descendants(process.pid)[-1]
    os.kill(pid, signal.SIGUSR2)  # what submitit sends
    code, out, err = ended(process)
    assert code == 0, out + err
    (record,) = sweep.records().values()
    assert (record["status"], record["counts"]) == ("complete", {"units_ok": 8, "units_failed": 0})
    (lines,) = sweep.results().values()
    assert len(lines) == 8
    (log,) = sweep.folder.glob("outputs/.sweeps/*/.submitit/*/*_log.out")
    assert "going on: " in log.read_text(encoding="utf-8")


SBATCH = """\
#!{python}
import os, re, shutil, subprocess, sys
from pathlib import Path

script = Path(sys.argv[1])
home = Path({home!r})
shutil.copy(script, home / "script.sh")
text = script.read_text()
found = re.search(r"--array=0-(\\d+)", text)
common = dict(SLURM_JOB_ID="4242", SLURM_NTASKS="1", SLURM_JOB_NUM_NODES="1", SLURM_NODEID="0", SLURM_PROCID="0",
              SLURM_LOCALID="0", SLURM_JOB_NODELIST="node1")
for index in range(int(found[1]) + 1 if found else 1):
    own = dict(SLURM_ARRAY_JOB_ID="4242", SLURM_ARRAY_TASK_ID=str(index), SLURM_JOB_ID=str(4242 + index))
    own = own if found else {{}}
    with open(home / f"task-{{index}}.log", "wb") as log:
        subprocess.Popen(["bash", str(script)], env={{**os.environ, **common, **own}}, stdout=log, stderr=log,
                         start_new_session=True)
print("Submitted batch job 4242")
"""
SRUN = """\
#!{python}
import os, sys

rest = sys.argv[1:]
while rest[0].startswith("-"):
    rest = rest[1:] if rest[0] == "--unbuffered" else rest[2:]
os.execvp(rest[0], rest)
"""
SACCT = "#!/bin/sh\necho 'JobID|State|NodeList'\n"


@pytest.fixture
def slurm(tmp_path: Path, sweep: Sweep) -> Path:
    """A cluster of one machine that runs everything at once."""
    home = tmp_path / "slurm"
    home.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("sacct", SACCT)):
        path = home / name
        path.write_text(
            text.format(python=sys.executable, home=str(home)) if name != "sacct" else text, encoding="utf-8"
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    sweep.environment["PATH"] = f"{home}{os.pathsep}{os.environ['PATH']}"
    return home


def test_slurm_is_asked_for_what_was_configured_and_runs_the_jobs(
    sweep: Sweep, slurm: Path, in_turn: dict[int, list[str]]
) -> None:
    asked = ("partition=gpu", "account=lab", "gpus_per_node=2", "mem_gb=32", "timeout_min=90", "array_parallelism=3")
    given = [f"hydra.launcher.{option}" for option in asked]
    more = ("+hydra.launcher.additional_parameters.mail-type=END", "hydra.launcher.setup=[module load cuda || true]")
    code, out, err = sweep.run("hydra/launcher=submitit_slurm", *given, *more, *SEEDS)
    assert code == 0, out + err
    assert "4 jobs in the queue of Slurm: 4242" in err
    script = (slurm / "script.sh").read_text(encoding="utf-8")
    flags = dict(re.findall(r"^#SBATCH --([a-z-]+)=(.*)$", script, flags=re.MULTILINE))
    expected = {"partition": "gpu", "account": "lab", "gpus-per-node": "2", "mem": "32GB", "time": "90"}
    assert {name: flags[name] for name in expected} == expected
    assert flags["array"] == "0-3%3"
    assert (flags["nodes"], flags["ntasks-per-node"], flags["cpus-per-task"]) == ("1", "1", "8")
    assert (flags["job-name"], flags["signal"], flags["mail-type"]) == ("ke-run", "USR2@120", "END")
    assert "\nmodule load cuda || true\n" in script
    assert re.search(r"^srun .*-m submitit\.core\._submit ", script, flags=re.MULTILINE)
    assert sweep.results() == in_turn
    assert len(sweep.jobs()) == 4


def test_without_slurm_it_says_so(sweep: Sweep) -> None:
    sweep.environment["PATH"] = str(sweep.folder)
    code, _, err = sweep.run("hydra/launcher=submitit_slurm", *SEEDS)
    assert code == 1
    assert "Slurm cannot be used" in err and "hydra/launcher=submitit_local" in err


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_an_interruption_lets_every_run_store_what_it_has(sweep: Sweep, tmp_path: Path, how: signal.Signals) -> None:
    conf = write_conf(tmp_path / "conf", tmp_path / "marker")
    printed, statuses = sweep.interrupt(how, f"--config-dir={conf}", *LOCAL)
    assert "Traceback" not in printed
    assert "3 of 3 jobs did not end (2 interrupted, 1 not begun)" in printed
    assert statuses == ["interrupted", "interrupted"]
