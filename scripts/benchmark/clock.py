"""Where time goes: a clock with phases, and functions that tell it in which phase they are."""

from __future__ import annotations

import functools
import importlib
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch

from benchmark.machine import synchronise

REST = "everything else"
OWN = ("ke_cli", "benchmark")
"""Packages in which a function that is watched may be known under some name."""


@dataclass(frozen=True)
class Place:
    """A function whose time is that of a phase, except for what it spends in other places.

    Args:
        path: ``module:name`` or ``module:Class.name``.
        phase: The phase.
        inside: Phases in which the function is part of what is going on and begins nothing new.
    """

    path: str
    phase: str
    inside: tuple[str, ...] = ()


class Clock:
    """Seconds by phase; of phases inside one another the innermost counts.

    Args:
        device: What is waited for whenever a phase begins or ends.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self.phases = [REST]
        self._since = 0.0

    @property
    def phase(self) -> str:
        """The present one."""
        return self.phases[-1]

    @property
    def total(self) -> float:
        """Seconds of all phases."""
        return sum(self.seconds.values())

    def _book(self) -> None:
        synchronise(self.device)
        now = time.perf_counter()
        self.seconds[self.phase] += now - self._since
        self._since = now

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the time inside the context."""
        synchronise(self.device)
        self._since = time.perf_counter()
        try:
            yield
        finally:
            self._book()

    @contextmanager
    def within(self, phase: str) -> Iterator[None]:
        """Count the time inside the context for ``phase``."""
        self._book()
        self.phases.append(phase)
        try:
            yield
        finally:
            self._book()
            self.phases.pop()


@contextmanager
def watched(places: Sequence[Place], clock: Clock) -> Iterator[None]:
    """Let the functions at ``places`` tell the clock, wherever they are known by name."""
    with ExitStack() as stack:
        for place in places:
            owner, name, function = resolved(place.path)
            telling = _telling(function, place, clock)
            for holder, known_as in [(owner, name), *_other_names(owner, name, function)]:
                stack.enter_context(patch.object(holder, known_as, telling))
        yield


def resolved(path: str) -> tuple[Any, str, Callable[..., Any]]:
    """The module or class, the name in it, and the function.

    Raises:
        AttributeError: If there is no such function.
        ImportError: If there is no such module.
    """
    module, _, dotted = path.partition(":")
    owner: Any = importlib.import_module(module)
    *classes, name = dotted.split(".")
    for part in classes:
        owner = getattr(owner, part)
    return owner, name, vars(owner)[name] if name in vars(owner) else getattr(owner, name)


def _other_names(owner: Any, name: str, function: Any) -> list[tuple[Any, str]]:
    """Modules that have imported the function."""
    modules = [module for key, module in list(sys.modules.items()) if key.partition(".")[0] in OWN and module]
    return [
        (module, known_as)
        for module in modules
        for known_as, value in list(vars(module).items())
        if value is function and not (module is owner and known_as == name)
    ]


def _telling(function: Callable[..., Any], place: Place, clock: Clock) -> Callable[..., Any]:
    @functools.wraps(function)
    def told(*args: Any, **kwargs: Any) -> Any:
        if clock.phase in place.inside:
            return function(*args, **kwargs)
        with clock.within(place.phase):
            return function(*args, **kwargs)

    return told
