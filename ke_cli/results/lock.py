"""One writer per run directory: an advisory lock that the system itself drops when the writer dies."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from pathlib import Path

from ke_cli.errors import UserError

LOCK_FILE = ".lock"


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
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between opening and locking, the previous holder may have moved the folder aside.
            if _is_still(descriptor, path):
                _sign(descriptor)
                return descriptor
        except BlockingIOError:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise UserError(
                f"another process is writing this run{holder}",
                where=str(directory),
                hint="wait for it to end, or stop it, then start the same command again",
            ) from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _sign(descriptor: int) -> None:
    text = json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode()
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text, 0)


def _holder(descriptor: int) -> str:
    try:
        signed = json.loads(os.pread(descriptor, 4096, 0))
        return f" (process {int(signed['pid'])} on {signed['host']!s:.64})"
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
