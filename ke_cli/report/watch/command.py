"""The loop of ``ke-summarize --watch``: look, show, wait."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from ke_cli.interrupts import terminable
from ke_cli.report.pace import Seldom
from ke_cli.report.watch.finder import Finder
from ke_cli.report.watch.groups import Group, ended_well
from ke_cli.report.watch.options import EVERY_S
from ke_cli.report.watch.run import UNDER_WAY
from ke_cli.report.watch.screen import picture
from ke_cli.results.files import undisturbed
from ke_cli.results.sweeps import NOT_BEGUN
from ke_cli.results.text import printable

PATIENCE_S = 30.0
"""Seconds for which something may still begin that was started just before."""

IDLE = 2
"""Looks in a row that find nothing going on before it has ended; between two jobs there may be nothing for a moment."""

WORK = 0.1
"""The share of the time that looking may take, however much there is to look at."""

STOPPED = "stopped watching; what is running goes on"


class Display(ABC):
    """Shows what is watched."""

    @abstractmethod
    def show(self, groups: Sequence[Group], now_s: float) -> None:
        """Show how everything stands.

        Args:
            groups: What is watched.
            now_s: The time, by the clock of `Group.look`.
        """

    def __enter__(self) -> Self:
        """Begin to show."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave what was shown last."""
        return


class Screen(Display):
    """A picture that is drawn anew in its place.

    Args:
        console: The terminal.
        footer: The last line of the picture.
    """

    def __init__(self, console: Console, footer: str) -> None:
        """Draw nothing yet."""
        self._console, self._footer = console, footer
        self._shown: tuple[Sequence[Group], float] | None = None
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="crop")

    def show(self, groups: Sequence[Group], now_s: float) -> None:
        """Draw anew."""
        self._draw(groups, now_s, self._footer)

    def _draw(self, groups: Sequence[Group], now_s: float, footer: str) -> None:
        self._shown = groups, now_s
        width, height = self._console.size
        whole = picture(groups, width, height, now_s, footer)
        with undisturbed():  # half a picture could not be drawn over
            self._live.update(whole, refresh=True)

    def __enter__(self) -> Self:
        """Take the lower part of the terminal."""
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Give it back, with the last picture on it, which no longer says how to end it."""
        if self._shown is not None:
            self._draw(*self._shown, "")
        self._live.stop()


class Lines(Display):
    """Lines for a log: whatever begins or ends, and from time to time how everything stands.

    Args:
        console: Where they go.
        now_s: The time.
    """

    def __init__(self, console: Console, now_s: float) -> None:
        """Print nothing yet."""
        self._console, self._seldom = console, Seldom(now_s)
        self._before: dict[tuple[str, str], str] = {}

    def show(self, groups: Sequence[Group], now_s: float) -> None:
        """Print what is new."""
        due = self._seldom.due(now_s)
        for group in groups:
            changed = [name for name, state in group.states.items() if self._is_news(group, name, state)]
            ended = any(group.states[name] not in UNDER_WAY for name in changed)
            if due:
                changed += [name for name, state in group.states.items() if state in UNDER_WAY]
            for name in [name for name in group.states if name in changed]:
                self._print(str(group.entry(name, now_s)))
            if changed and (due or ended):
                self._print(group.summary(now_s))
        if due and groups:
            self._seldom.said(now_s)

    def _is_news(self, group: Group, name: str, state: str) -> bool:
        before = self._before.get((group.title, name))
        self._before[group.title, name] = state
        return state != (before or NOT_BEGUN)

    def _print(self, line: str) -> None:
        self._console.print(Text(f"{datetime.now():%H:%M:%S}  {line}"), soft_wrap=True)


def watch(
    paths: Sequence[Path],
    every_s: float = EVERY_S,
    *,
    console: Console | None = None,
    complaints: Console | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Follow what is running until it has ended, or the user has had enough.

    Args:
        paths: Output folders, or single runs.
        every_s: Seconds between two looks.
        console: Where it is shown.
        complaints: Where problems go.
        clock: Tells the time, in seconds.
        sleep: Waits.

    Returns:
        The exit code: 0 when everything that was watched is complete, 1 when it is not or there was nothing, 130 after
        Ctrl-C.
    """
    console, complaints = console or Console(), complaints or Console(stderr=True)
    finder, footer = Finder(paths), f"every {every_s:g} s; Ctrl-C stops watching, and what is running goes on"
    is_screen = console.is_terminal and not console.is_dumb_terminal
    try:
        with terminable(), Screen(console, footer) if is_screen else Lines(console, clock()) as display:
            where = ", ".join(map(printable, paths))
            patience = f"nothing is running in {where} yet; waiting {PATIENCE_S:g} s for something to begin"
            waiting = partial(complaints.print, Text(patience, style="dim"), soft_wrap=True)
            groups = _until_the_end(finder, display, waiting, every_s, clock, sleep)
    except KeyboardInterrupt:
        complaints.print(STOPPED, highlight=False)
        return 130
    return _conclude(paths, finder, groups, complaints)


def _until_the_end(
    finder: Finder,
    display: Display,
    waiting: Callable[[], None],
    every_s: float,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> list[Group]:
    began = looked = clock()
    idle = 0
    while True:
        groups = finder.look(looked)
        idle = 0 if finder.active else idle + 1
        if groups:
            display.show(groups, looked)
        elif looked == began:
            waiting()
        if idle >= IDLE and (groups or looked - began >= PATIENCE_S):
            return groups
        sleep(max(min(every_s, EVERY_S) if idle else every_s, (clock() - looked) / WORK))
        looked = clock()


def _conclude(paths: Sequence[Path], finder: Finder, groups: Sequence[Group], complaints: Console) -> int:
    where = ", ".join(map(printable, paths))
    if finder.died:
        some = ", ".join(finder.died[:3]) + (f" and {len(finder.died) - 3} more" if len(finder.died) > 3 else "")
        complaints.print(Text(f"died before, and not gone on with: {some}", style="yellow"), soft_wrap=True)
    if not groups:
        complaints.print(Text(f"nothing is running in {where}\n  try:     ke-summarize {where}"), soft_wrap=True)
        return 1
    if ended_well(groups):
        return 0
    complaints.print("not everything is complete: the command that began it goes on with what is not", highlight=False)
    return 1
