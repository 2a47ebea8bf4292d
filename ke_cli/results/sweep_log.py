"""Writing the files of a sweep (`ke_cli.results.sweeps` says what they are)."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ke_cli.results.files import write_atomic
from ke_cli.results.held import write_held
from ke_cli.results.strict_json import dump
from ke_cli.results.sweeps import RUNNING, SCHEMA, SWEEP_FILE, Cases, Job


@contextmanager
def held_sweep(
    folder: Path, jobs: Sequence[Sequence[str]], *, command: Sequence[str], files: Mapping[str, str], **more: Any
) -> Iterator[None]:
    """Write which jobs a sweep has, and hold that while the body runs.

    Args:
        folder: Of the sweep; made if need be.
        jobs: The overrides of each.
        command: The command line.
        files: Path to SHA-256 of each configuration file.
        more: ``started_at`` and ``dry_run``.

    Raises:
        OSError: The file system refuses.
    """
    listed = [{"number": number, "overrides": list(job)} for number, job in enumerate(jobs)]
    process = {"pid": os.getpid(), "host": socket.gethostname()}
    manifest = {"schema": SCHEMA, **more, "command": list(command), **process, "files": dict(files), "jobs": listed}
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = write_held(folder / SWEEP_FILE, dump(manifest, indent=1) + b"\n")
    try:
        yield
    finally:
        os.close(descriptor)


class JobFile:
    """What one job says about itself from its beginning to its end; one object per attempt."""

    def __init__(self, folder: Path, number: int, overrides: Sequence[str], started_at: str) -> None:
        """Say that the job has begun.

        Raises:
            OSError: The file system refuses.
        """
        self.job = Job(number, tuple(overrides), RUNNING)
        self._path = _path(folder, number)
        self._process = {"pid": os.getpid(), "host": socket.gethostname(), "started_at": started_at}
        self._began, self._held = time.monotonic(), -1
        folder.mkdir(parents=True, exist_ok=True)
        self._hold()

    def know(self, directory: Path) -> None:
        """Say where the results of the job go."""
        self.job = replace(self.job, directory=str(directory))
        self._hold()

    def end(self, status: str, *, cases: Cases | None = None, error: str = "") -> None:
        """Say how the job ended, and let go of the file.

        Raises:
            OSError: The file system refuses; then the job will be taken to have died.
        """
        wall_s = time.monotonic() - self._began
        self.job = replace(self.job, status=status, cases=cases, error=error, wall_s=wall_s)
        try:
            write_atomic(self._path, [self._text()])
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the file; a job that has not said how it ended will be taken to have died."""
        if self._held >= 0:
            os.close(self._held)
        self._held = -1

    def _hold(self) -> None:
        before, self._held = self._held, write_held(self._path, self._text())
        if before >= 0:
            os.close(before)

    def _text(self) -> bytes:
        return _encoded(self.job, **self._process)


def note(folder: Path, job: Job, noted_at: str) -> None:
    """Write how a job stands that cannot do so itself.

    Raises:
        OSError: The file system refuses.
    """
    write_atomic(_path(folder, job.number), [_encoded(job, noted_at=noted_at)])


def _path(folder: Path, number: int) -> Path:
    return folder / f"job-{number:04d}.json"


def _encoded(job: Job, **process: Any) -> bytes:
    cases = {"done": job.cases.done, "failed": job.cases.failed, "total": job.cases.total} if job.cases else None
    fields = {"number": job.number, "overrides": list(job.overrides), "status": job.status, **process}
    found = {"directory": job.directory or None, "cases": cases, "wall_s": job.wall_s, "error": job.error or None}
    return dump({"schema": SCHEMA, **fields, **found}, indent=1) + b"\n"
