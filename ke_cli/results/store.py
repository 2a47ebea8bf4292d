"""The one writer of a run directory: what it has stored survives a kill, a full disk and a power cut."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from ke_cli.errors import UserError
from ke_cli.results.earlier import malformed, refuse_odd_files
from ke_cli.results.files import explained, remove_leftovers, sync_directory, undisturbed, write_atomic
from ke_cli.results.journal import CASES_FILE, SCHEMA, CaseLine, decode, encode
from ke_cli.results.lock import Held, is_still
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

    def __init__(self, directory: Path, held: Held) -> None:
        """Take over a directory that is held; call `open` instead."""
        self.directory, self._held = directory, held
        remove_leftovers(directory)
        self.record = _earlier_record(directory)
        found = recover(directory / CASES_FILE)
        self.notes = list(found.notes)
        self.done_units: set[str] = set(found.done)
        self.failed_units: set[str] = set(found.failed)
        if self.record is None and (found.done or found.failed):
            self.notes.append(f"{RUN_FILE} was gone: which model and data set the stored cases belong to is not known")
        held.follow()  # where bad lines were taken out it is a new file
        self._end = os.fstat(held.log).st_size
        for folder in (directory, *directory.resolve().parents[:2]):  # its own name must outlive a power cut as well
            sync_directory(folder)

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
            refuse_odd_files(directory)
            held = Held.of(directory)
            try:
                moved = None if resume else _move_aside(directory)
                if moved:
                    # The locks went with the folder: they are given up only once the new folder is ours.
                    held, old = Held.of(directory), held
                    old.release()
                store = cls(directory, held)
            except BaseException:
                held.release()
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
        with explained(self.directory / CASES_FILE), undisturbed():
            self._refuse_strangers()
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

    def _refuse_strangers(self) -> None:
        """Write nothing where nobody would find it, and nothing behind what somebody else wrote.

        Raises:
            UserError: The case log has another size than this store gave it.
            OSError: It is gone, or another file is in its place.
        """
        path = self.directory / CASES_FILE
        if not is_still(self._held.log, path):
            raise OSError(errno.ESTALE, "the case log was removed, moved or replaced while the run was going", path)
        if os.fstat(self._held.log).st_size != self._end:
            raise UserError(
                "the case log was changed by another program while the run was going",
                where=str(path),
                hint="start the same command again: it keeps what is whole and computes the rest again",
            )

    def _write(self, text: bytes) -> None:
        rest = memoryview(text)
        try:
            while rest:
                rest = rest[os.write(self._held.log, rest) :]
            os.fsync(self._held.log)
        except OSError:
            with suppress(OSError):  # if even this fails, nothing more is appended, and the next writer cuts it
                os.ftruncate(self._held.log, self._end)
            raise
        self._end += len(text)

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
        self._held.release()

    def __enter__(self) -> Self:
        """Return the store itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the store."""
        self.close()


def _earlier_record(directory: Path) -> dict[str, Any] | None:
    path = directory / RUN_FILE
    if not path.exists():
        return None
    try:
        record = load_object(path.read_bytes())
    except ValueError as error:
        raise _unusable(path, f"cannot be read ({error})") from None
    if record.get("schema") != SCHEMA:
        raise _unusable(path, f"was written by another version (schema {record.get('schema')!r:.40}, not {SCHEMA})")
    if damage := malformed(record):
        raise _unusable(path, damage)
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
