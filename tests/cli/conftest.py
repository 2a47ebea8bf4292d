"""The command line in this process: `execute` is replaced, everything before it is real."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

from dummies import CHOICES, write_conf
from ke_cli import run as command
from ke_cli.config import RunConfig, run_dir
from ke_cli.sweeping.sweep import FINGERPRINT, FOLDER


class Result(NamedTuple):
    code: int
    out: str
    err: str


class Recorder(ModuleType):
    """Stands for ``ke_cli.running.execute``: notes the configurations, and fails as their seeds say."""

    def __init__(self) -> None:
        super().__init__("ke_cli.running.execute")
        self.configs: list[RunConfig] = []

    def execute(self, config: RunConfig, *, show_table: bool = True, job: str = "") -> Path:
        self.configs.append(config)
        match config.seed:
            case 13:
                raise RuntimeError("the solve found a singular matrix")
            case 14:
                raise KeyboardInterrupt
        return run_dir(config)


@pytest.fixture
def dummy_conf(tmp_path: Path) -> Path:
    return write_conf(tmp_path / "my conf")


@pytest.fixture
def own_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give back the environment and the log handlers, which Hydra and the command change."""
    monkeypatch.delenv("KE_TRACEBACK", raising=False)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setenv(FINGERPRINT, "")
    monkeypatch.setenv(FOLDER, "")
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    recorder = Recorder()
    monkeypatch.setitem(sys.modules, "ke_cli.running.execute", recorder)
    monkeypatch.setattr("ke_cli.running.execute", recorder, raising=False)
    return recorder.configs


@pytest.fixture
def at_each_run(monkeypatch: pytest.MonkeyPatch, executed) -> Callable[[Callable[[RunConfig], None]], None]:
    """Have something done in the place of each run, after what is done there anyway."""
    import ke_cli.running.execute as stand_in

    def do(something: Callable[[RunConfig], None]) -> None:
        inner = stand_in.execute

        def execute(config, *, show_table=True, job=""):
            directory = inner(config)
            something(config)
            return directory

        monkeypatch.setattr(stand_in, "execute", execute)

    return do


@pytest.fixture
def ke_run(
    dummy_conf: Path,
    tmp_path: Path,
    executed: list[RunConfig],
    own_environment: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Result]:
    """Run ``ke-run`` on the dummies in an empty folder and return exit code, stdout and stderr."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def called(*args: str, dummies: bool = True) -> Result:
        given = [f"--config-dir={dummy_conf}", *CHOICES, *args] if dummies else list(args)
        monkeypatch.setattr(sys, "argv", ["ke-run", *given])
        try:
            code: object = command.run(given)
        except SystemExit as stop:
            code = stop.code
        assert isinstance(code, int)
        return Result(code, *capsys.readouterr())

    return called
