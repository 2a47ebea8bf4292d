"""Writing files so that no reader ever sees half of one, and saying what to do when the disk refuses."""

from __future__ import annotations

import errno
import os
import secrets
import signal
import stat
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ke_cli.errors import UserError

GONE = (errno.ENOENT, errno.ESTALE)
"""With these the system says that a folder or file is no longer where it was."""


def write_atomic(path: Path, chunks: Iterable[bytes]) -> None:
    """Put a whole new file in the place of ``path``, durably; on an error the old one stays.

    Raises:
        OSError: The file system refuses.
    """
    write_whole(path, chunks)
    sync_directory(path.parent)


def write_whole(path: Path, chunks: Iterable[bytes], *, durable: bool = True) -> None:
    """Put a whole new file in the place of ``path``; its name is durable only after `sync_directory`.

    Args:
        path: The file.
        chunks: Its content.
        durable: Whether the content must be whole after a power cut.

    Raises:
        OSError: The file system refuses; the old file stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.writelines(chunks)
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(directory: Path) -> None:
    """Remove what killed calls of `write_whole` left in a folder whose only writer is the caller.

    Raises:
        OSError: The file system refuses.
    """
    for leftover in directory.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


def write_output(path: Path, content: bytes) -> None:
    """Write a file the user asked for: whole or not at all; a link keeps pointing to it.

    Raises:
        UserError: The path is a folder, lies in a folder that does not exist, or cannot be written.
    """
    target = path.resolve()
    if target.is_dir():
        raise UserError("the output is a folder", where=str(path), hint="name a file in it")
    try:
        if target.exists() and not target.is_file():
            target.write_bytes(content)  # a device or pipe, which must not be replaced by a file
        else:
            write_atomic(target, [content])
    except OSError as error:
        raise UserError(
            f"the output cannot be written: {error.strerror or error}",
            where=str(path),
            hint=f"make the folder {target.parent} and see that you may write in it",
        ) from error


def sync_directory(directory: Path) -> None:
    """Make the names in ``directory`` durable, where its file system knows how to."""
    # Some network file systems refuse to sync a folder, and some folders may be used but not read; the content of the
    # files is synced all the same.
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and SIGHUP wait until the body is through, so that it is done as a whole or not at all."""
    if threading.current_thread() is not threading.main_thread():  # such a thread is never interrupted
        yield
        return
    arrived: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        for number, handler in handlers.items():
            if callable(handler):
                signal.signal(number, lambda number, _: arrived.append(number))
        yield
    finally:
        for number, handler in handlers.items():
            if callable(handler):
                signal.signal(number, handler)
        if arrived:
            signal.raise_signal(arrived[0])


def open_plain(path: Path) -> BinaryIO:
    """Open a regular file only: no link that leads elsewhere, and no pipe that never ends.

    Raises:
        OSError: It cannot be opened.
        ValueError: It is something else.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError("not a plain file")
    return os.fdopen(descriptor, "rb", buffering=1 << 20)


@contextmanager
def explained(where: Path) -> Iterator[None]:
    """Turn an OSError of the body into a UserError that says what is safe and what to do.

    Raises:
        UserError: The body raised an OSError.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"the results cannot be written: {error.strerror or error}",
            where=str(error.filename or where),
            hint=f"{_what_is_safe(error.errno)}; {_advice(error.errno)}, then start the same command again",
        ) from error


def _what_is_safe(code: int | None) -> str:
    return "what was stored is where the folder is now" if code in GONE else "no finished case is lost"


def _advice(code: int | None) -> str:
    if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "free some space (or raise the quota)"
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "make the folder writable, or choose another one with output_dir=..."
    if code in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
        return "choose an output_dir=... on a file system that can lock files"
    if code in GONE:
        return "put it back where it was, if it was moved"
    return "check the folder and its disk, or choose another one with output_dir=..."
