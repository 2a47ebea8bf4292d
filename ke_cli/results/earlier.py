"""What a writer finds in a run directory and goes on with: plain files, and a record of the form that is written."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from ke_cli.errors import UserError
from ke_cli.results.journal import CASES_FILE
from ke_cli.results.lock import LOCK_FILE
from ke_cli.results.record import RUN_FILE
from ke_cli.results.recovery import REJECTED_FILE


def refuse_odd_files(directory: Path) -> None:
    """Look at the files that a run writes, before any of them is opened.

    A link would lead the writer to a file outside the directory, and a pipe would keep it waiting.

    Raises:
        UserError: One of them is no plain file.
        OSError: The file system refuses.
    """
    for path in (directory / name for name in (LOCK_FILE, RUN_FILE, CASES_FILE, REJECTED_FILE)):
        try:
            kind = os.lstat(path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
        if not stat.S_ISREG(kind):
            found = "a link" if stat.S_ISLNK(kind) else "a folder" if stat.S_ISDIR(kind) else "a pipe or device"
            raise UserError(
                f"a file of the run is {found}; only plain files are written to",
                where=str(path),
                hint="remove it, or choose another folder with output_dir=...",
            )


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _fingerprinted(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("fingerprint", ""), str)


def _amount(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e18


FORMS: Final[Mapping[str, tuple[str, Callable[[object], bool]]]] = MappingProxyType(
    {
        "status": ("a text", lambda value: isinstance(value, str)),
        "config": ("an object", lambda value: isinstance(value, dict)),
        "model": ("an object with a fingerprint", _fingerprinted),
        "dataset": ("an object with a fingerprint", _fingerprinted),
        "references": ("an object with a fingerprint", _fingerprinted),
        "notes": ("a list of texts", _texts),
        "context_templates": ("a list of texts", _texts),
        "started_at": ("a text", lambda value: isinstance(value, str)),
        "wall_s": ("a number from 0", _amount),
        "peak_memory_bytes": ("a number from 0", _amount),
    }
)
"""The parts of a record with which a run goes on: what each must be, in words and as a test."""


def malformed(record: Mapping[str, Any]) -> str:
    """Return what is wrong with a record that a run is to go on with; nothing if it is as it is written.

    Args:
        record: Decoded; parts that are missing or null are taken for not written yet.
    """
    for key, (words, fits) in FORMS.items():
        if record.get(key) is not None and not fits(record[key]):
            return f"is damaged: {key} is not {words}"
    return "" if record.get("config") is not None else "is damaged: it lacks the configuration"
