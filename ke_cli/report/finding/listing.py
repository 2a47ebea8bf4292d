"""The runs that there are: how each stands, how old it is, how many cases it has, and what tells it from the others."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from ke_cli.report.finding.overrides import common, overrides
from ke_cli.results.follow import writer_lives
from ke_cli.results.reader import Run
from ke_cli.results.surroundings import overrides_typed
from ke_cli.results.text import printable

DIED = "died"
_STYLES = {"complete": "green", "failed": "red", DIED: "red", "unreadable": "red"}
_DASH = "\N{EN DASH}"
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


@dataclass(frozen=True, slots=True)
class Entry:
    """One run in the list.

    Args:
        run: Its name.
        path: Its folder, the first of several for a run that was split.
        status: As the run says, but ``died`` where it says that it is running and its process is gone.
        age_s: Since it began; None where it does not say.
        done: Cases that were finished.
        failed: Cases that could not be.
        total: Cases it is about; 0 where it does not say.
        shards: How many of its parts were found, and of how many; None for a run that was not split.
        overrides: What tells it from the others, as it is typed; where nothing does, what was typed.
    """

    run: str
    path: str
    status: str
    age_s: float | None
    done: int
    failed: int
    total: int
    shards: tuple[int, int] | None
    overrides: tuple[str, ...]


def entries(runs: Sequence[Run], now: float) -> list[Entry]:
    """Return an entry for each run, in the order in which they began; those that do not say come last.

    Args:
        runs: Any.
        now: Unix time in seconds.
    """
    found = [(run, _entry(run, told, now)) for run, told in zip(runs, overrides(runs), strict=True)]
    return [entry for run, entry in sorted(found, key=lambda pair: (pair[0].record.started, pair[1].path))]


def _entry(run: Run, told: tuple[str, ...], now: float) -> Entry:
    started, shards = run.record.started, run.shards
    return Entry(
        run=run.record.name,
        path=printable(run.path),
        status=_status(run),
        age_s=max(0.0, now - started) if math.isfinite(started) else None,
        done=len(run.done),
        failed=len(run.failed),
        total=run.record.total,
        shards=(shards.count - len(shards.missing), shards.count) if shards else None,
        overrides=told or overrides_typed(run.path),
    )


def _status(run: Run) -> str:
    if run.record.status == "running" and all(writer_lives(folder) is False for folder in run.folders):
        return DIED
    return run.record.status


def print_list(runs: Sequence[Run], now: float, console: Console) -> None:
    """Print the list; what all runs have in common once, above."""
    grid = Grid(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for title in ("Run", "Status", "Age", "Cases", "What tells it apart"):
        right = title in ("Age", "Cases")
        grid.add_column(
            title, justify="right" if right else "left", overflow="fold", no_wrap=right or title == "Status"
        )
    found = entries(runs, now)
    for entry in found:
        status = Text(entry.status, style=_STYLES.get(entry.status, "yellow"))
        grid.add_row(Text(entry.run), status, _age(entry.age_s), "\n".join(_cases(entry)), Text(_apart(entry)))
    console.print()
    shared = common(runs)
    console.print(Text(f"{len(found):,} run{'s' * (len(found) != 1)}{', all with ' * bool(shared)}{' '.join(shared)}"))
    console.print()
    console.print(grid)


def to_data(runs: Sequence[Run], now: float) -> dict[str, Any]:
    """Return the list for programs."""
    return {"schema": 1, "common": list(common(runs)), "runs": [asdict(entry) for entry in entries(runs, now)]}


def _age(age_s: float | None) -> str:
    """Return an age in its largest unit: ``3 h``."""
    if age_s is None:
        return _DASH
    size, unit = next(((size, unit) for size, unit in _UNITS if age_s >= size), (1, "s"))
    return f"{int(age_s // size):,} {unit}"


def _cases(entry: Entry) -> Iterator[str]:
    of = f"/{entry.total:,}" if entry.total else ""
    yield f"{entry.done:,}{of}"
    if entry.failed:
        yield f"{entry.failed:,} failed"
    if entry.shards:
        found, count = entry.shards
        yield f"{count} shards" if found == count else f"{found} of {count} shards"


def _apart(entry: Entry) -> str:
    return " ".join(entry.overrides) or _DASH
