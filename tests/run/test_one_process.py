"""Job after job in one process, with one model: the results are to the byte those of a process for each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ke_cli.running.resident import this_worker
from ke_cli.sweeping.sweep import FOLDER
from run.children import start
from run.commands import Command, arguments, lines_of, only_run, record_of, run_folders
from run.test_methods import METHODS

EVERY = (*METHODS, *reversed(METHODS))
"""So that every method comes after every other one, at some distance."""

SOME = ("rose", "rome", "rose")

OWN = {"time"}
"""What a result line says about the moment it was computed in."""


def results(folder: Path) -> list[str]:
    return [json.dumps({key: line[key] for key in line if key not in OWN}) for line in lines_of(folder)]


def lines_and_notes(outputs: Path) -> tuple[list[str], Any]:
    """The result lines of the only run of a folder, and the notes in its record."""
    run = only_run(outputs)
    return results(run), record_of(run)["notes"]


@pytest.fixture
def in_a_sweep(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let this process believe that its runs are the jobs of a sweep."""
    monkeypatch.setenv(FOLDER, str(tmp_path))
    this_worker.cache_clear()


@pytest.mark.parametrize(
    ("model", "protocol", "order"),
    [
        pytest.param("gpt2", "single", SOME, id="some"),
        pytest.param("gpt2", "same_subject", EVERY, id="gpt2", marks=pytest.mark.slow),
        pytest.param("llama", "single", EVERY, id="llama", marks=pytest.mark.slow),
    ],
)
def test_no_state_leaks_from_job_to_job(
    ke_run: Command,
    in_a_sweep: None,
    tmp_path: Path,
    loads: list[str],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    protocol: str,
    order: tuple[str, ...],
) -> None:
    folder: Path = request.getfixturevalue(f"tiny_{model}_dir")
    more = ["unedited_cache=false", f"protocol={protocol}", *(["protocol.max_facts=2"] * (protocol != "single"))]
    monkeypatch.setenv("KE_CACHE", str(tmp_path / "shared cache"))
    after_others: list[tuple[str, list[str], Any]] = []
    for turn, method in enumerate(order):
        outputs = tmp_path / f"turn {turn}"
        assert ke_run(*arguments(folder, method, *more, f"output_dir={outputs}")).code == 0
        after_others.append((method, *lines_and_notes(outputs)))
    assert len(loads) == 1

    monkeypatch.setenv(FOLDER, "")
    for method in dict.fromkeys(order):
        monkeypatch.setenv("KE_CACHE", str(tmp_path / f"cache of {method}"))
        outputs = tmp_path / f"alone {method}"
        code, text = start(arguments(folder, method, *more, f"output_dir={outputs}"), tmp_path / "log").ended()
        assert code == 0, text
        alone = lines_and_notes(outputs)
        assert len(alone[0]) >= 2
        assert [found for name, *found in after_others if name == method] == [list(alone)] * order.count(method)


@pytest.mark.slow
def test_a_sweep_loads_its_model_once(ke_run: Command, outputs: Path, tiny_gpt2_dir: Path, loads: list[str]) -> None:
    this_worker.cache_clear()
    result = ke_run("-m", *arguments(tiny_gpt2_dir, "rome"), "seed=0,1", "model.dtype=float32,float64")
    assert (result.code, len(run_folders(outputs))) == (0, 4)
    assert len(loads) == 4  # the data type changes from job to job
    assert ke_run("-m", *arguments(tiny_gpt2_dir, "rome"), "model.dtype=float32,float64", "seed=3,4").code == 0
    assert len(loads) == 6
    assert "[HYDRA]" not in result.out


def test_memory_is_counted_from_the_beginning_of_a_run(
    ke_run: Command, outputs: Path, tiny_gpt2_dir: Path, in_a_sweep: None
) -> None:
    taken = bytearray(256 * 2**20)
    taken[::4096] = b"x" * len(taken[::4096])
    peak = 256 * 2**20
    assert ke_run(*arguments(tiny_gpt2_dir, "none")).code == 0
    del taken
    (first,) = run_folders(outputs)
    with_it = record_of(first)["peak_memory_bytes"]
    assert ke_run(*arguments(tiny_gpt2_dir, "none", "seed=1")).code == 0
    (second,) = set(run_folders(outputs)) - {first}
    assert record_of(second)["peak_memory_bytes"] < with_it - peak / 2
