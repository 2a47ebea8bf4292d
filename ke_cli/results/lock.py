"""One writer per run directory: advisory locks that the system itself drops when the writer dies."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ke_cli.errors import UserError
from ke_cli.results.journal import CASES_FILE
from ke_cli.results.text import printable

LOCK_FILE = ".lock"


@dataclass
class Held:
    """A run directory that belongs to this process: its lock file and its case log are open and locked.

    Both, because a lock file looks like something that may be deleted, and then a second writer makes its own.

    Args:
        directory: The run directory.
        lock: Descriptor of the lock file; -1 when it is given up.
        log: Descriptor of the case log, for appending; likewise.
    """

    directory: Path
    lock: int
    log: int = -1

    @classmethod
    def of(cls, directory: Path) -> Self:
        """Create the directory if need be, and take it.

        Raises:
            UserError: Another process is writing this run.
            OSError: The file system refuses.
        """
        held = cls(directory, acquire(directory))
        try:
            held.log = held._open_log()
        except BaseException:
            held.release()
            raise
        return held

    def _open_log(self) -> int:
        log = os.open(self.directory / CASES_FILE, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            hold(log, self.directory)
        except BaseException:
            os.close(log)
            raise
        return log

    def follow(self) -> None:
        """Take the case log anew if another file has come into its place.

        Raises:
            OSError: The file system refuses.
        """
        if not is_still(self.log, self.directory / CASES_FILE):
            self.log, old = self._open_log(), self.log
            os.close(old)

    def release(self) -> None:
        """Give the directory free; a second call does nothing."""
        descriptors, self.log, self.lock = (self.log, self.lock), -1, -1
        for descriptor in descriptors:
            if descriptor >= 0:
                os.close(descriptor)


def acquire(directory: Path) -> int:
    """Create ``directory`` if need be, lock it, and return the descriptor that holds the lock while open.

    Raises:
        UserError: Another process is writing this run.
        OSError: The file system refuses.
    """
    path = directory / LOCK_FILE
    while True:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            hold(descriptor, directory, path)
            # Between opening and locking, the previous holder may have moved the folder aside.
            if is_still(descriptor, path):
                _sign(descriptor)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def hold(descriptor: int, directory: Path, signed: Path | None = None) -> None:
    """Lock an open file of a run directory for as long as it is open.

    Args:
        descriptor: The file.
        directory: The run directory, for messages.
        signed: The file in which the other process may have said who it is.

    Raises:
        UserError: Another process is writing this run.
        OSError: The file system refuses.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"another process is writing this run{_holder(signed) if signed else ''}",
            where=str(directory),
            hint="wait for it to end, or stop it, then start the same command again",
        ) from None


def is_still(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one that a path leads to."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _sign(descriptor: int) -> None:
    text = json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode()
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text, 0)


def _holder(path: Path) -> str:
    """Who signed the lock, if it can be read."""
    try:
        with path.open("rb") as file:
            signed = json.loads(file.read(4096))
        return f" (process {int(signed['pid'])} on {printable(signed['host'])[:64]})"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""
