"""A job on its way: what it takes along, and how a signal of submitit ends it."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.core.singleton import Singleton

from ke_cli.errors import UserError
from ke_cli.paths import SWEEP_FOLDER
from ke_cli.sweeping.jobs import GPUS, Job, QueuedJob, Surroundings
from ke_cli.sweeping.sweep import FOLDER


@pytest.fixture(autouse=True)
def own_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Give environment, folder, arguments and signals back."""
    environment, arguments, folder = dict(os.environ), list(sys.argv), Path.cwd()
    handler = signal.getsignal(signal.SIGUSR2)
    yield
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[:] = arguments
    os.chdir(folder)
    signal.signal(signal.SIGUSR2, handler)


def elsewhere() -> None:
    """Be another process, of another machine."""
    for name in ("KE_CACHE", "KE_SWEEP_FOLDER", "HF_HUB_OFFLINE", "OMP_WAIT_POLICY", GPUS):
        os.environ.pop(name, None)
    os.environ["UNRELATED"] = "its own"
    os.chdir("/")
    sys.argv[:] = ["worker.py"]


def test_a_worker_gets_what_the_sweep_has(tmp_path: Path) -> None:
    given = {"KE_CACHE": "c", "KE_SWEEP_FOLDER": "s", "HF_HUB_OFFLINE": "1", "UNRELATED": "mine", GPUS: "3"}
    given["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.update(given)
    os.chdir(tmp_path)
    sys.argv[:] = ["ke-run", "-m", "seed=1,2"]
    with_gpus, without = Surroundings.here(GPUS), Surroundings.here()

    elsewhere()
    without.take()
    assert {name: os.environ.get(name) for name in given} == {**given, "UNRELATED": "its own", GPUS: None}
    assert (Path.cwd(), sys.argv) == (tmp_path, ["ke-run", "-m", "seed=1,2"])

    elsewhere()
    with_gpus.take()
    assert os.environ[GPUS] == "3"


def test_a_variable_that_is_not_set_is_not_set_there(monkeypatch: pytest.MonkeyPatch) -> None:
    os.environ.pop(GPUS, None)
    here = Surroundings.here(GPUS)
    os.environ[GPUS] = ""  # submitit hides all GPUs
    here.take()
    assert GPUS not in os.environ


def test_a_folder_that_the_machines_do_not_share_is_named(tmp_path: Path) -> None:
    here = Surroundings(str(tmp_path / "gone"), (), {})
    with pytest.raises(UserError, match="a worker cannot enter the folder that the sweep was started in"):
        here.take()


def job(tmp_path: Path, kind: type[Job] = Job) -> Job:
    """One that cannot be composed."""
    nothing: Any = None
    surroundings = Surroundings(str(tmp_path), ("ke-run",), {FOLDER: str(tmp_path)})
    return kind(3, ("seed=1",), nothing, nothing, nothing, Singleton.get_state(), surroundings)


@pytest.fixture
def hydra_state() -> Iterator[None]:
    state = Singleton.get_state()
    yield
    Singleton.set_state(state)


def test_a_job_that_cannot_be_composed_says_so_in_its_file(tmp_path: Path, hydra_state: None, capsys) -> None:
    job(tmp_path)()
    found = json.loads((tmp_path / "job-0003.json").read_text(encoding="utf-8"))
    assert (found["number"], found["overrides"]) == (3, ["seed=1"])
    assert "'NoneType' object has no attribute 'config_loader'" in found["error"]
    assert "error in job 3 (seed=1): " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "expected"), [(RuntimeError("time is up"), KeyboardInterrupt), (SystemExit(144), SystemExit)]
)
def test_an_error_of_submitits_handler_is_none_of_a_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: BaseException, expected: type[BaseException]
) -> None:
    def handler(number: int, frame: object) -> None:
        raise raised

    signal.signal(signal.SIGUSR2, handler)
    monkeypatch.setattr(Job, "__call__", lambda self: os.kill(os.getpid(), signal.SIGUSR2))
    with pytest.raises(expected):
        job(tmp_path, QueuedJob)()


def test_the_name_of_the_folder_is_the_same_everywhere() -> None:
    assert FOLDER == SWEEP_FOLDER == "KE_SWEEP_FOLDER"
