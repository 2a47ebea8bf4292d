"""Writing files so that no reader ever sees half of one, and saying what to do when the disk refuses."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ke_cli.errors import UserError


def write_atomic(path: Path, chunks: Iterable[bytes]) -> None:
    """Put a whole new file in the place of ``path``, durably; on an error the old one stays.

    Raises:
        OSError: The file system refuses.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.writelines(chunks)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


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
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        # Some network file systems refuse to sync a folder; the content of the files is synced all the same.
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
            hint=f"no finished case is lost; {_advice(error.errno)}, then start the same command again",
        ) from error


def _advice(code: int | None) -> str:
    if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "free some space (or raise the quota)"
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "make the folder writable, or choose another one with output_dir=..."
    if code in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
        return "choose an output_dir=... on a file system that can lock files"
    return "check the folder and its disk, or choose another one with output_dir=..."
