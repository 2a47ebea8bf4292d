"""Reading runs, whatever state they are in: bad content becomes a list of problems, never an exception."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from ke_cli.results.cases import CaseTable
from ke_cli.results.files import open_plain
from ke_cli.results.held import why
from ke_cli.results.journal import CASES_FILE, Block, CaseLine, scan, without_tail
from ke_cli.results.record import LARGEST_RECORD, RUN_FILE, RunRecord
from ke_cli.results.strict_json import load_object
from ke_cli.results.text import printable

HUGE = 1e100
"""From here on sums of values may overflow; no metric comes near it."""

_MOVED_ASIDE = re.compile(r"\.old-\d+$")


@dataclass(frozen=True, slots=True)
class Shards:
    """How the shards of a run stand that was split.

    Args:
        count: How many there are when all are there.
        missing: The numbers, from 0, of those that were not found.
        unfinished: The numbers of those that are not finished, by their status.
        folders: The directories of those that were found, in the order of their numbers.
    """

    count: int
    missing: tuple[int, ...]
    unfinished: Mapping[str, tuple[int, ...]]
    folders: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Run:
    """One run directory.

    Args:
        path: The directory.
        record: What ``run.json`` says; status ``unreadable`` when it cannot be used.
        done: The cases that were finished, each ``case_id`` once (as in ``failed``), with the values that the
            columns of the record are made of, all finite or missing.
        failed: The cases that failed.
        problems: What was wrong with the files, for people.
        shards: What the run was put together from, where it was split (see `ke_cli.results.shards`).
        earlier: Of a sequence of edits the finished cases at each checkpoint before the one that ``done`` is of, by the
            number of facts in the model; ascending (see `ke_cli.results.checkpoints`).
    """

    path: Path
    record: RunRecord
    done: CaseTable
    failed: tuple[CaseLine, ...]
    problems: list[str]
    shards: Shards | None = None
    earlier: Mapping[int, CaseTable] = field(default_factory=dict)

    @property
    def folders(self) -> tuple[Path, ...]:
        """The directories in which its cases are."""
        return (self.shards and self.shards.folders) or (self.path,)

    @property
    def readable(self) -> bool:
        """Whether a table can be made of it."""
        return self.record.status != "unreadable"

    @property
    def cases(self) -> tuple[CaseLine, ...]:
        """All cases as lines, the finished ones first."""
        return (*self.done, *self.failed)

    @property
    def count(self) -> int:
        """How many cases were finished or failed."""
        return len(self.done) + len(self.failed)

    @property
    def finished(self) -> bool:
        """Whether nothing is left to compute."""
        return self.record.status == "complete" and self.count >= self.record.total


@dataclass(frozen=True, slots=True)
class Cases:
    """What a case log came to.

    Args:
        done: As in `Run`, like all that follow.
        failed: Cases.
        problems: What was wrong with lines.
        earlier: Tables.
    """

    done: CaseTable
    failed: tuple[CaseLine, ...] = ()
    problems: tuple[str, ...] = ()
    earlier: Mapping[int, CaseTable] = field(default_factory=dict)


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """Return the run directories at or below ``paths``, sorted, each once.

    Links below ``paths`` are not followed; hidden folders, and runs that were moved aside (``*.old-N``), are
    skipped unless named themselves. A path to ``run.json`` stands for its directory.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        root = path.parent if path.name in (RUN_FILE, CASES_FILE) else path
        for folder in _run_folders(root):
            found.setdefault(folder.resolve(), folder)
    return sorted(found.values())


def _run_folders(root: Path) -> Iterator[Path]:
    for folder, _, files in visible_folders(root):
        if RUN_FILE in files or CASES_FILE in files:
            yield folder


def visible_folders(root: Path) -> Iterator[tuple[Path, tuple[str, ...], tuple[str, ...]]]:
    """Yield ``root`` and the folders below it, as `find_runs` looks at them, each with what is in it.

    Yields:
        The folder, the names of the folders in it (those that are not entered too), and those of its files.
    """
    for folder, below, files in os.walk(root):
        yield Path(folder), tuple(below), tuple(files)
        below[:] = [name for name in below if not name.startswith(".") and not _MOVED_ASIDE.search(name)]


def gather_cases(stream: BinaryIO, record: RunRecord) -> Cases:
    """Read a case log.

    Args:
        stream: The log, from its beginning.
        record: What the run says.

    Raises:
        OSError: The file cannot be read.
    """
    blocks: Sequence[Block] = list(scan(stream, whole=False))
    problems: list[str] = []
    # The torn end of a run that is still being written, or was killed, is nothing to worry about.
    stages = _whole_units(blocks if record.status == "complete" else without_tail(blocks), record, problems)
    columns = measured(record)
    tables = {at: CaseTable.gather([case for case in found if case.ok], columns) for at, found in stages.items()}
    *before, last = tables or (0,)
    return Cases(
        done=tables.get(last) or CaseTable.gather((), ()),
        failed=tuple(case for case in stages.get(last, ()) if not case.ok),
        problems=tuple(problems),
        earlier={at: tables[at] for at in before},
    )


def read_run(path: Path, gather: Callable[[BinaryIO, RunRecord], Cases] = gather_cases) -> Run:
    """Read one run directory; what cannot be read is told in ``problems``.

    Args:
        path: The directory.
        gather: Reads the open case log.
    """
    problems: list[str] = []
    record, cases = RunRecord(path.name), Cases(CaseTable.gather((), ()))
    name = RUN_FILE
    try:
        with open_plain(path / RUN_FILE) as stream:
            record = RunRecord.parse(load_object(_bounded(stream)), path.name)
        name = CASES_FILE
        with suppress(FileNotFoundError), open_plain(path / CASES_FILE) as stream:  # none: a run that only just began
            cases = gather(stream, record)
    except (ValueError, OSError, RecursionError) as error:
        problems.append(f"{name}: {why(error)}")
    problems += cases.problems
    return Run(path, record, cases.done, cases.failed, problems, earlier=cases.earlier)


def measured(record: RunRecord) -> frozenset[str]:
    """Return the values of a case that numbers of tables are made of."""
    plain = (column.name for column in record.columns if column.kind == "mean")
    shared = (source for column in record.columns if column.kind == "all_in_unit" for source in column.of[:1])
    return frozenset((*plain, *shared))


def _bounded(stream: BinaryIO) -> bytes:
    text = stream.read(LARGEST_RECORD + 1)
    if len(text) > LARGEST_RECORD:
        raise ValueError(f"larger than {LARGEST_RECORD:,} bytes")
    return text


def _whole_units(blocks: Sequence[Block], record: RunRecord, problems: list[str]) -> dict[int, tuple[CaseLine, ...]]:
    """Return the cases by the number of facts in the model, ascending; all under 0 where units are independent."""
    units: dict[str, Block] = {}
    counts: Counter[str] = Counter()
    unreadable = [block.problem for block in blocks if not block.lines]
    for block in blocks:
        if block.lines:
            _keep(block, units, counts)
    stages: dict[int, list[Block]] = {}
    for block in units.values():
        stages.setdefault(block.lines[0].unit_size if record.checkpoints else 0, []).append(block)
    cases = {at: tuple(_finite(case, counts) for case in _unique(stages[at], counts)) for at in sorted(stages)}
    if unreadable:
        counts[f"line(s) left out that cannot be read (the first: {printable(unreadable[0])})"] = len(unreadable)
    problems += [f"{CASES_FILE}: {count:,} {what}" for what, count in counts.items()]
    return cases


def _keep(block: Block, units: dict[str, Block], counts: Counter[str]) -> None:
    """Take the first attempt at each unit, or the first without a failure."""
    if not block.complete:
        counts["line(s) left out of a unit that is not whole"] += len(block.lines)
    elif (unit := block.lines[0].unit) not in units or (block.ok and not units[unit].ok):
        units[unit] = block
    elif units[unit].ok:
        counts["line(s) left out of a unit that was stored before"] += len(block.lines)


def _unique(blocks: Iterable[Block], counts: Counter[str]) -> Iterator[CaseLine]:
    seen: set[str] = set()
    for block in blocks:
        for case in block.lines:
            if case.case_id in seen:
                counts["case(s) left out whose case_id came before"] += 1
            else:
                seen.add(case.case_id)
                yield case


def _finite(case: CaseLine, counts: Counter[str]) -> CaseLine:
    bad = [key for key, value in case.metrics.items() if value is not None and not abs(value) < HUGE]  # true for NaN
    if not bad:
        return case
    for key in bad:
        beyond = math.isfinite(case.metrics[key] or 0)
        counts[f"value(s) left out that are {f'beyond {HUGE:g}' if beyond else 'not finite'}"] += 1
    return replace(case, metrics={**case.metrics, **dict.fromkeys(bad)})
