"""Small files that tell, beside what they say, whether the process that wrote them is still there."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from contextlib import suppress
from pathlib import Path

from ke_cli.results.files import open_plain, sync_directory


def write_held(path: Path, content: bytes) -> int:
    """Put a whole new file in the place of ``path``, locked before anybody can see it.

    Returns:
        The descriptor that holds the lock while it is open; the system closes it when the process dies.

    Raises:
        OSError: The file system refuses; the old file stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        with suppress(OSError):  # where nothing can be locked, a process is taken to be there (see `_is_locked`)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
        os.replace(temporary, path)
    except BaseException:
        os.close(descriptor)
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
    return descriptor


def read_held(path: Path) -> tuple[bytes, bool]:
    """Return the content of a file and whether a living process holds it.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not a plain file.
    """
    while True:
        with open_plain(path) as stream:
            content, held = stream.read(), _is_locked(stream.fileno())
            # A writer lets go of the old file only once the new one is in its place.
            if held or os.path.samestat(os.fstat(stream.fileno()), os.stat(path)):
                return content, held


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


def why(error: Exception) -> str:
    """Return in some words why a file could not be read."""
    if isinstance(error, OSError):
        return "a link, which is not followed" if error.errno == errno.ELOOP else error.strerror or str(error)
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)
