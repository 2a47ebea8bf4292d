"""Processes in which a system call goes wrong: they are killed at it, or it fails, or only half of it is done.

A `Fault` names the call by its number among all calls that change files. The calls of an undisturbed process are
counted first, so that a test can go through every one of them.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Final

from ke_cli.results.store import RunStore
from run import children

CALLS: Final = ("write", "fsync", "replace", "rename", "ftruncate", "unlink")
"""Functions of `os` that change files; what Python's own file objects write becomes visible by one of them."""

REAL: Final = {name: getattr(os, name) for name in CALLS}
"""What they are before anything is put in their place."""

MANNERS: Final = ("before", "after", "torn")


@dataclass(frozen=True)
class Fault:
    """What happens at a call.

    Args:
        call: Its number, from 0; -1 for none.
        manner: ``before``: instead of the call; ``after``: once it is done; ``torn``: a write has done half its work.
        code: The error number that the call fails with; None kills the process.
        trace: The file that calls are listed in, one line each.
        stored: The file that the units are listed in that the store said were safe.
    """

    call: int = -1
    manner: str = "before"
    code: int | None = None
    trace: Path | None = None
    stored: Path | None = None

    def __str__(self) -> str:
        return f"{self.manner}-{self.call}" + (f"-{os.strerror(self.code)}" if self.code else "")


def arm(fault: Fault) -> None:
    """Put the fault into this process."""
    numbers = itertools.count()
    for name in CALLS:
        setattr(os, name, _trap(name, REAL[name], numbers, fault))
    if fault.stored:
        RunStore.append = _telling(RunStore.append, fault.stored)  # type: ignore[method-assign]


def disarm() -> None:
    """Put the real calls back."""
    for name, real in REAL.items():
        setattr(os, name, real)


def _trap(name: str, real: Callable[..., Any], numbers: Any, fault: Fault) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        number = next(numbers)
        if fault.trace:
            _note(fault.trace, f"{name} {_place(args[0])}")
        if number != fault.call:
            return real(*args, **kwargs)
        if fault.manner == "after":
            with suppress(FileNotFoundError):  # what is to go may be gone
                real(*args, **kwargs)
        if fault.manner == "torn" and name == "write":
            real(args[0], bytes(args[1])[: len(args[1]) // 2])
        if fault.code is not None:
            raise OSError(fault.code, os.strerror(fault.code))
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("nobody survives this")

    return call


def _place(target: Any) -> str:
    path = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else os.fspath(target)
    return os.path.basename(path)


def _telling(append: Callable[..., None], stored: Path) -> Callable[..., None]:
    def told(self: RunStore, lines: Any) -> None:
        append(self, lines)
        for unit in dict.fromkeys(line["unit"] for line in lines):
            _note(stored, unit)

    return told


def _note(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    REAL["write"](descriptor, f"{text}\n".encode())
    os.close(descriptor)


def notes(path: Path) -> list[str]:
    """The lines of a file that may not be there."""
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def process(target: Callable[..., Any], *args: Any) -> ForkServerProcess:
    """Start a function in a process that has imported everything."""
    context = get_context("forkserver")
    context.set_forkserver_preload(list(children.PRELOADED))
    started = context.Process(target=target, args=args)
    started.start()
    return started


def start(arguments: list[str], log: Path, fault: Fault) -> children.Child:
    """Start a ``ke-run`` with a fault in it."""
    log.touch()  # a process may be killed before it makes one
    inherited = {name: os.environ[name] for name in ("KE_CACHE", "HF_HUB_OFFLINE", "HYDRA_FULL_ERROR")}
    return children.Child(process(_faulty, fault, arguments, str(log), os.getcwd(), inherited), log)


def _faulty(fault: Fault, arguments: list[str], log: str, folder: str, environment: dict[str, str]) -> None:
    arm(fault)
    children.command(arguments, log, folder, environment, None)
