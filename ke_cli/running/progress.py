"""Progress of a run: a bar with running means on a terminal, plain lines in a log, or nothing."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ke_cli.data.types import EditUnit
from ke_cli.errors import visible
from ke_cli.models.memory import peak_memory
from ke_cli.report.pace import Pace, Seldom, lasting, per_time, sized
from ke_cli.report.standing import Standing, in_a_line

REFRESHES = 4
"""Of the bar, per second."""

NARROW = 60
"""Cells below which a terminal has no room for everything."""

Clock = Callable[[], float]


class Progress(ABC):
    """Follows a run: its cases, its pace, its memory, and the means over everything that is stored.

    Args:
        title: What the run is called.
        total: Its cases.
        standing: Those that are stored already.
        clock: Tells the time, in seconds.
    """

    def __init__(self, title: str, total: int, standing: Standing, clock: Clock = time.monotonic) -> None:
        """Begin where the run stands."""
        self.title, self.total, self._standing, self._clock = title, total, standing, clock
        self._peak, self._now, self._written = 0, "", 0
        self._began, self._pace, self._points = clock(), Pace(), standing.points()
        self._pace.note(self.count, self._began)

    @property
    def count(self) -> int:
        """Cases that were finished or have failed; in a sequence of edits those that were written, if they are more."""
        return max(self._written, self._standing.done + self._standing.failed)

    def begin(self, units: Sequence[EditUnit]) -> None:
        """Tell which units are computed from now on."""
        self._now = visible(units[0].unit_id) + (f" and {len(units) - 1} more" if len(units) > 1 else "")

    def advance(self, lines: Sequence[Mapping[str, Any]], *, written: int = 0) -> None:
        """Take in the result lines of some more units, and show where the run is.

        Args:
            lines: The cases of a unit next to each other.
            written: Cases that stand in the model by now, where all of them are evaluated at checkpoints only.
        """
        self._written = written
        for unit, members in groupby(lines, key=lambda line: line["unit"]):
            cases = list(members)
            values = [line["metrics"] if line["status"] == "ok" else None for line in cases]
            self._standing.take(unit, values, [line["subject"] for line in cases])
        self._pace.note(self.count, self._clock())
        self._peak, self._points, self._now = peak_memory(), self._standing.points(), ""
        self.show()

    def line(self, width: int | None = None) -> str:
        """Return everything in one line, for example ``rome on atlas: 8/40 cases, 3.3/s, 0:00:10 left  ES 99.0``.

        Args:
            width: Of the line, in which means are worth more than rate and memory; None for any.
        """
        parts = [f"{self.count}/{self.total} cases{self._time(' in ')}", *([] if width else self._figures())]
        parts += [f"{self._standing.failed} failed"] if self._standing.failed else []
        text = f"{self.title}: {', '.join(filter(None, parts))}"
        means = in_a_line(self._points, None if width is None else width - len(text) - 2)
        return f"{text}  {means}" if means else text

    def _time(self, before: str) -> str:
        return before + lasting(self._clock() - self._began) if self.count >= self.total else ""

    def _rate(self) -> str:
        rate = self._pace.rate
        return "" if rate is None else per_time(rate)

    def _left(self) -> str:
        left = self._pace.left(self.total - self.count, self._clock())
        return "" if left is None or self.count >= self.total else f"{lasting(left)} left"

    def _figures(self) -> list[str]:
        return [self._rate(), self._left(), self._memory()]

    def _memory(self) -> str:
        return f"peak {sized(self._peak)}" if self._peak else ""

    @abstractmethod
    def show(self) -> None:
        """Show where the run is."""

    def __enter__(self) -> Self:
        """Begin to show."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop showing."""
        return


class Silent(Progress):
    """Shows nothing."""

    def show(self) -> None:
        """Show nothing."""


class Lines(Progress):
    """Lines for a log: after the first units, after the last, and between them every few seconds, then minutes."""

    def __init__(self, title: str, total: int, standing: Standing, clock: Clock = time.monotonic) -> None:
        """Begin where the run stands."""
        super().__init__(title, total, standing, clock)
        self._seldom, self._said = Seldom(self._began), self.count

    def show(self) -> None:
        """Print a line if one is due."""
        if self.count >= self.total or self._seldom.due(self._clock()):
            self._say()

    def _say(self) -> None:
        print(self.line(), flush=True)
        self._seldom.said(self._clock())
        self._said = self.count

    def __exit__(self, *_: object) -> None:
        """Print how far the run came, unless the last line says so."""
        if self._said != self.count:
            self._say()


class Bar(Progress):
    """A bar with rate, elapsed and remaining time; below it the running means, memory and current units.

    Args:
        title: What the run is called.
        total: Its cases.
        standing: Those that are stored already.
        console: The terminal.
        one_of_many: Whether the bar gives way to a single line, so that a sweep shows a line for each of its jobs.
        clock: Tells the time, in seconds.
    """

    def __init__(
        self,
        title: str,
        total: int,
        standing: Standing,
        console: Console,
        *,
        one_of_many: bool = False,
        clock: Clock = time.monotonic,
    ) -> None:
        """Begin where the run stands."""
        super().__init__(title, total, standing, clock)
        self._console, self._one_of_many = console, one_of_many
        self._live = Live(
            console=console, refresh_per_second=REFRESHES, transient=one_of_many, get_renderable=self.picture
        )

    def show(self) -> None:
        """Nothing to do: the bar is drawn anew several times a second."""

    def picture(self) -> RenderableType:
        """Return what is drawn."""
        width = self._console.width
        grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
        grid.add_column(no_wrap=True, overflow="ellipsis", max_width=width // (4 if width < NARROW else 3))
        grid.add_column(ratio=1, min_width=4)
        grid.add_row(Text(self.title), ProgressBar(self.total, self.count), *self._columns(grid))
        failed, now = self._standing.failed, self._now if self.count < self.total else ""
        notes = [f"{failed} failed" if failed else "", self._memory(), f"computing {now}" if now else ""]
        below = {in_a_line(self._points, width): "cyan", " · ".join(filter(None, notes)): "dim"}
        lines = [Text(text, style, no_wrap=True, overflow="ellipsis") for text, style in below.items() if text]
        return Group(grid, *lines)

    def _columns(self, grid: Table) -> list[Text]:
        """Return cases, rate and times, with a column for each; on a narrow terminal the most important of them."""
        elapsed, left = lasting(self._clock() - self._began), self._left()
        time = self._time("in ") or (f"{elapsed}, {left}" if left else elapsed)
        texts = [f"{self.count}/{self.total}", self._rate(), time]
        if self._console.width < NARROW:
            texts = [texts[0], left or time]
        for text in (texts := [text for text in texts if text]):
            grid.add_column(no_wrap=True, justify="right", min_width=len(text))
        return [Text(text) for text in texts]

    def __enter__(self) -> Self:
        """Draw the bar."""
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the bar as it stands, or a line in its place."""
        self._live.stop()
        if self._one_of_many:
            self._console.print(Text(self.line(self._console.width)), soft_wrap=True)


def make_progress(
    kind: str, console: Console, title: str, total: int, standing: Standing, *, one_of_many: bool = False
) -> Progress:
    """The display for ``auto``, ``rich``, ``plain`` or ``none``; ``auto`` looks whether there is a terminal."""
    if kind == "none":
        return Silent(title, total, standing)
    if kind == "rich" or (kind == "auto" and sys.stdout.isatty() and not console.is_dumb_terminal):
        return Bar(title, total, standing, console, one_of_many=one_of_many)
    return Lines(title, total, standing)
