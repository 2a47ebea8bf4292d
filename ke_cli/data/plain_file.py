"""Open what a user named as a file, if it is one."""

from __future__ import annotations

import os
import stat
from io import BufferedReader
from pathlib import Path

from ke_cli.errors import UserError


def open_plain(path: Path) -> BufferedReader:
    """Open a plain file for reading: nothing that would wait for a writer, or never end.

    Raises:
        UserError: It is a folder, a pipe, a device or a socket.
        OSError: The file system refuses.
        ValueError: The path is none.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe without a writer would be waited for
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    found = "a folder" if stat.S_ISDIR(kind) else "a pipe or device"
    raise UserError(f"a file was expected, this is {found}", where=str(path))
