"""Whole runs in this process, through the real command line; nothing is replaced unless a test says so."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from ke_cli import run as command
from ke_cli.export import main as export_command
from ke_cli.running.resident import this_worker
from ke_cli.sweeping.sweep import FINGERPRINT, FOLDER
from run.commands import Command, Export, Result, arguments, only_run


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache of statistics for all runs of this process."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_environment(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty working folder, and the environment and log handlers back, which Hydra and the command change."""
    monkeypatch.setenv("KE_CACHE", str(cache))
    monkeypatch.delenv("KE_TRACEBACK", raising=False)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    for name in (FINGERPRINT, FOLDER):
        monkeypatch.setenv(name, "")
    this_worker.cache_clear()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def outputs() -> Path:
    """The output folder of `ke_run`; nothing is made."""
    return Path("outputs").absolute()


@pytest.fixture
def ke_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run ``ke-run`` and return exit code, stdout and stderr."""

    def called(*args: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["ke-run", *args])
        capsys.readouterr()
        try:
            code: object = command.run(args)
        except SystemExit as stop:
            code = stop.code
        assert isinstance(code, int)
        result = Result(code, *capsys.readouterr())
        assert "Traceback" not in result.text, result.text
        return result

    return called


@pytest.fixture
def ke_export(capsys: pytest.CaptureFixture[str]) -> Export:
    """Run ``ke-export`` and return the exit code and everything it printed."""

    def called(*args: str | Path) -> tuple[int, str]:
        capsys.readouterr()
        try:
            code: object = export_command([str(arg) for arg in args])
        except SystemExit as stop:
            code = stop.code
        assert isinstance(code, int)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, " ".join(f"{out} {err}".split())

    return called


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the run of `source` lies that is copied for each test."""
    return tmp_path_factory.mktemp("made once")


@pytest.fixture
def source(ke_run: Command, outputs: Path, made_once: Path, tiny_gpt2_dir: Path) -> Path:
    """A run of ROME on the tiny GPT-2 whose edits were saved, for a test to use or to damage."""
    if not list(made_once.iterdir()):
        assert ke_run(*arguments(tiny_gpt2_dir, "rome", "save_edits=true", f"output_dir={made_once}")).code == 0
    run = only_run(made_once)
    return Path(shutil.copytree(run, outputs / run.name))


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths from which model weights are loaded."""
    loaded: list[str] = []
    real = transformers.AutoModelForCausalLM.from_pretrained

    def from_pretrained(path: Any, *args: Any, **kwargs: Any) -> Any:
        loaded.append(os.fspath(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    return loaded


@pytest.fixture(params=["gpt2", "llama"])
def tiny_dir(request: pytest.FixtureRequest) -> Path:
    """The folder of a tiny model: GPT-2-like (Conv1D, no BOS), then Llama-like (SentencePiece-like, BOS)."""
    return request.getfixturevalue(f"tiny_{request.param}_dir")
