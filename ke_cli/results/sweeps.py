"""The files of a sweep: which jobs it has, written before the first one begins, and how each of them stands.

``<output_dir>/.sweeps/<time>/sweep.json`` lists the jobs, so that those that never began can be named.
``job-0003.json`` beside it says how a job stands; it is written when the job begins, when its run directory is known,
and when it ends (`ke_cli.results.sweep_log`). Both are held (`ke_cli.results.held`) while their process lives: a job
that is said to be running but is held by nobody has died.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ke_cli.results.held import read_held, why
from ke_cli.results.reader import visible_folders
from ke_cli.results.strict_json import load_object
from ke_cli.results.text import printable

SCHEMA = 1
SWEEPS = ".sweeps"
"""The folder in an output folder that holds a folder for each sweep."""

SWEEP_FILE = "sweep.json"
_JOB_FILE = re.compile(r"job-(\d{4,9})\.json")

NOT_BEGUN, RUNNING, DIED = "not begun", "running", "died"
COMPLETE, PLANNED, FAILED, INTERRUPTED = "complete", "planned", "failed", "interrupted"
ENDED = (COMPLETE, PLANNED, FAILED, INTERRUPTED)
"""How a job says that it ended; ``planned`` is the good end of a dry run."""


@dataclass(frozen=True, slots=True)
class Cases:
    """How far a run has come.

    Args:
        done: Cases that were finished.
        failed: Cases that could not be.
        total: Cases the run is about.
    """

    done: int
    failed: int
    total: int


@dataclass(frozen=True, slots=True)
class Job:
    """How one job of a sweep stands.

    Args:
        number: From 0.
        overrides: What was typed for it.
        status: One of `ENDED`, or ``not begun``, ``running`` or ``died``.
        directory: Of its run, as the job saw it; empty before it is known.
        cases: How far its run has come; None where nobody said.
        wall_s: From its beginning to its end; None before the end.
        error: Why it failed, or nothing.
    """

    number: int
    overrides: tuple[str, ...]
    status: str = NOT_BEGUN
    directory: str = ""
    cases: Cases | None = None
    wall_s: float | None = None
    error: str = ""

    def __str__(self) -> str:
        """Return number and overrides, with the error if there is one."""
        return f"job {self.number} ({' '.join(self.overrides)})" + (f": {self.error}" if self.error else "")


@dataclass(frozen=True, slots=True)
class Sweep:
    """A sweep as its files tell it; whatever they say, these fields have these types.

    Args:
        folder: Of its files.
        started_at: ISO 8601, as it was written.
        command: The command line that started it.
        files: Path to SHA-256 of each configuration file, as they were at its start.
        dry_run: Whether its jobs only show what they would do.
        running: Whether the process that started it lives.
        jobs: In the order of their numbers.
        problems: What is wrong with the files, for people.
    """

    folder: Path
    started_at: str = ""
    command: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    dry_run: bool = False
    running: bool = False
    jobs: tuple[Job, ...] = ()
    problems: tuple[str, ...] = ()


def find_sweeps(paths: Iterable[Path]) -> list[Path]:
    """Return the folders of the sweeps that wrote into output folders at or below ``paths``, oldest first."""
    found: dict[Path, Path] = {}
    for path in paths:
        for folder, below, _ in visible_folders(path):
            inside = folder / SWEEPS
            for sweep in _inside(inside) if SWEEPS in below and not inside.is_symlink() else ():
                if (sweep / SWEEP_FILE).is_file():
                    found.setdefault(sweep.resolve(), sweep)
    return sorted(found.values(), key=lambda sweep: (sweep.name, sweep))


def read_sweep(folder: Path) -> Sweep:
    """Read the files of a sweep; what cannot be read is told in ``problems``."""
    sweep, problems = read_list(folder), list[str]()
    told = {job.number: job for job in _told(folder, problems)}
    jobs = {job.number: job for job in sweep.jobs} | told
    return replace(sweep, jobs=tuple(jobs[number] for number in sorted(jobs)), problems=(*sweep.problems, *problems))


def read_list(folder: Path) -> Sweep:
    """Read only what was written at the start of a sweep, as if no job had begun."""
    problems: list[str] = []
    raw, running = _read(folder / SWEEP_FILE, problems)
    return Sweep(
        folder=folder,
        started_at=_text(raw.get("started_at")),
        command=_texts(raw.get("command")),
        files=_files(raw.get("files")),
        dry_run=raw.get("dry_run") is True,
        running=running,
        jobs=tuple(_listed(raw, problems)),
        problems=tuple(problems),
    )


def _told(folder: Path, problems: list[str]) -> Iterator[Job]:
    """Yield the jobs that have said something."""
    for path in _inside(folder):
        if not (name := _JOB_FILE.fullmatch(path.name)):
            continue
        raw, held = _read(path, problems)
        if raw:
            yield _job(raw, int(name[1]), held)


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _read(path: Path, problems: list[str]) -> tuple[dict[str, Any], bool]:
    try:
        content, held = read_held(path)
        raw = load_object(content)
        if raw.get("schema") != SCHEMA:
            raise ValueError(f"written by another version (schema {raw.get('schema')!r:.40}, not {SCHEMA})")
    except FileNotFoundError:
        return {}, False
    except (ValueError, OSError, RecursionError) as error:
        problems.append(f"{printable(path.name)}: {printable(why(error))}")
        return {}, False
    return raw, held


def _listed(raw: Mapping[str, Any], problems: list[str]) -> Iterator[Job]:
    jobs = raw.get("jobs", [])
    for number, entry in enumerate(jobs if isinstance(jobs, list) else [None]):
        if not isinstance(entry, Mapping) or entry.get("number") != number:
            problems.append(f"{SWEEP_FILE}: its list of jobs is not one")
            return
        yield Job(number, _texts(entry.get("overrides")))


def _job(raw: Mapping[str, Any], number: int, held: bool) -> Job:
    status = raw.get("status")
    return Job(
        number=number,
        overrides=_texts(raw.get("overrides")),
        status=status if status in ENDED else RUNNING if held else DIED,
        directory=str(raw.get("directory") or ""),
        cases=_cases(raw.get("cases")),
        wall_s=_seconds(raw.get("wall_s")),
        error="\n".join(map(printable, str(raw.get("error") or "").split("\n")[:20])),
    )


def _cases(raw: object) -> Cases | None:
    counts = [raw.get(key) for key in ("done", "failed", "total")] if isinstance(raw, Mapping) else [None]
    if not all(isinstance(count, int) and not isinstance(count, bool) and 0 <= count < 1e12 for count in counts):
        return None
    return Cases(*counts)


def _seconds(value: object) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9:
        return float(value)
    return None


def _text(raw: object) -> str:
    return printable(raw) if isinstance(raw, str) else ""


def _texts(raw: object) -> tuple[str, ...]:
    return (
        tuple(printable(text if isinstance(text, str) else json.dumps(text)) for text in raw)
        if isinstance(raw, list)
        else ()
    )


def _files(raw: object) -> dict[str, str]:
    pairs = raw.items() if isinstance(raw, Mapping) else ()
    return {path: digest for path, digest in pairs if isinstance(digest, str)}
