"""The one writer of a run directory: what it has stored survives a kill, a full disk and a power cut."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ke_cli.errors import UserError
from ke_cli.results.files import explained, sync_directory, write_atomic
from ke_cli.results.journal import CASES_FILE, SCHEMA, CaseLine, decode, encode
from ke_cli.results.lock import acquire
from ke_cli.results.record import RUN_FILE
from ke_cli.results.recovery import recover
from ke_cli.results.strict_json import dump, load_object


class RunStore:
    """The results of one run, held by one process from `open` to `close`.

    Attributes:
        directory: Where the results are.
        record: The ``run.json`` that was found, or None in a new run.
        done_units: Units whose cases are all stored and ok.
        failed_units: Units that are stored, but with failed cases; they may be appended once more.
        notes: What was found wrong with earlier results and how it was put right.
    """

    def __init__(self, directory: Path, lock: int) -> None:
        """Take over a locked directory; call `open` instead."""
        self.directory = directory
        self._lock = lock
        self.record = _earlier_record(directory)
        found = recover(directory / CASES_FILE)
        self.notes = list(found.notes)
        self.done_units: set[str] = set(found.done)
        self.failed_units: set[str] = set(found.failed)
        self._log = os.open(directory / CASES_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        sync_directory(directory)

    @classmethod
    def open(cls, directory: Path, resume: bool) -> Self:
        """Lock the run directory, creating it if need be, and repair what a killed writer left.

        Args:
            directory: The run directory.
            resume: Continue what is there; otherwise it is moved aside to ``<directory>.old-N`` first.

        Raises:
            UserError: Another process is writing this run, another version wrote it, or the disk refuses.
        """
        with explained(directory):
            lock = acquire(directory)
            try:
                moved = None if resume else _move_aside(directory)
                if moved:
                    # The lock went with the folder: it is given up only once the new folder is ours.
                    lock, old = acquire(directory), lock
                    os.close(old)
                store = cls(directory, lock)
            except BaseException:
                os.close(lock)
                raise
        if moved:
            store.notes.append(f"the earlier results were moved to {moved}")
        return store

    def append(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Store the cases of one or several whole units: written at once, durable when this returns.

        A NaN or infinity is stored as null with a note in its line.

        Args:
            lines: One mapping per case, the cases of a unit next to each other.

        Raises:
            ValueError: A line is not one that a reader accepts, a unit is not whole or is already done.
            TypeError: A line holds something JSON has no word for, such as a tensor.
            UserError: The disk refuses; then none of the lines is stored.
        """
        texts = [encode(line) for line in lines]
        outcomes = self._outcomes([decode(text, whole=False) for text in texts])
        with explained(self.directory / CASES_FILE):
            self._write(b"".join(texts))
        for unit, ok in outcomes.items():  # in place: a copy per call would cost more with every unit stored
            (self.done_units if ok else self.failed_units).add(unit)
            if ok:
                self.failed_units.discard(unit)

    def _outcomes(self, lines: Sequence[CaseLine]) -> dict[str, bool]:
        outcomes: dict[str, bool] = {}
        for unit, members in itertools.groupby(lines, key=lambda line: line.unit):
            cases = list(members)
            names = {case.case_id for case in cases}
            if not len(names) == len(cases) == cases[0].unit_size:
                raise ValueError(f"unit {unit!r} is not whole: {len(names)} of {cases[0].unit_size} cases")
            if unit in self.done_units or unit in outcomes:
                raise ValueError(f"unit {unit!r} is already stored")
            outcomes[unit] = all(case.ok for case in cases)
        return outcomes

    def _write(self, text: bytes) -> None:
        before = os.fstat(self._log).st_size
        rest = memoryview(text)
        try:
            while rest:
                rest = rest[os.write(self._log, rest) :]
            os.fsync(self._log)
        except OSError:
            with suppress(OSError):  # if even this fails, the next writer cuts the torn end
                os.ftruncate(self._log, before)
            raise

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Replace ``run.json``: a reader sees the old record or the new one, never a part.

        Raises:
            UserError: The disk refuses; the old record stays.
        """
        text = dump({"schema": SCHEMA, **record}, indent=2) + b"\n"
        with explained(self.directory / RUN_FILE):
            write_atomic(self.directory / RUN_FILE, [text])

    def close(self) -> None:
        """Give the directory free for the next writer; a second call does nothing."""
        for descriptor in (self._log, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._log = self._lock = -1

    def __enter__(self) -> Self:
        """Return the store itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the store."""
        self.close()


def _earlier_record(directory: Path) -> dict[str, Any] | None:
    path = directory / RUN_FILE
    for leftover in directory.glob(f".{RUN_FILE}.*.tmp"):
        leftover.unlink()
    if not path.exists():
        return None
    try:
        record = load_object(path.read_bytes())
    except ValueError as error:
        raise _unusable(path, f"cannot be read ({error})") from None
    if record.get("schema") != SCHEMA:
        raise _unusable(path, f"was written by another version (schema {record.get('schema')!r:.40}, not {SCHEMA})")
    return record


def _unusable(path: Path, why: str) -> UserError:
    return UserError(
        f"the record of the earlier run {why}",
        where=str(path),
        hint="resume=false keeps it under another name and starts anew",
    )


def _move_aside(directory: Path) -> Path | None:
    files = [directory / name for name in (RUN_FILE, CASES_FILE)]
    if not any(file.exists() and file.stat().st_size for file in files):
        return None
    names = (directory.with_name(f"{directory.name}.old-{n}") for n in itertools.count(1))
    target = next(name for name in names if not name.exists())
    os.rename(directory, target)
    sync_directory(directory.parent)
    return target
