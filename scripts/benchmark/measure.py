"""Timing of several sides in one process, one after the other and again, so that a busy machine meets all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmark.machine import MatmulRate, peak_bytes, reset_peak, synchronise
from benchmark.operations import counted


@dataclass(frozen=True)
class Work:
    """What one side does.

    Args:
        do: The work; called once for each pass.
        amount: How many cases (layers, answers) it does, to compare sides that do not do the same number.
        ready: Called untimed before each pass, so that none profits from what an earlier one has found.
    """

    do: Callable[[], Any]
    amount: int
    ready: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Numbers:
    """What was measured of one side.

    Args:
        amount: Cases of each pass.
        seconds: Of each timed pass.
        flops: Floating-point operations of one pass, counted in a pass that was not timed; None if not counted.
        peak_bytes: Highest use of memory over the timed passes; None where it cannot be measured.
        result: What the last timed pass returned.
    """

    amount: int
    seconds: tuple[float, ...]
    flops: int | None
    peak_bytes: int | None
    result: Any

    @property
    def each(self) -> tuple[float, ...]:
        """Seconds per case of each timed pass."""
        return tuple(one / self.amount for one in self.seconds)

    @property
    def seconds_each(self) -> float:
        """Median seconds per case."""
        return statistics.median(self.each)

    @property
    def flops_each(self) -> float | None:
        """Floating-point operations per case."""
        return None if self.flops is None else self.flops / self.amount

    def share_of(self, rate: float) -> float | None:
        """Share of ``rate`` (operations per second) that is reached."""
        return None if self.flops_each is None else self.flops_each / self.seconds_each / rate


@dataclass(frozen=True)
class Ratio:
    """How many times as long one side takes, pair by pair."""

    pairs: tuple[float, ...]

    @classmethod
    def of(cls, slow: Numbers, fast: Numbers) -> Ratio:
        """Seconds per case of ``slow`` in those of ``fast``, for passes that followed one another."""
        return cls(tuple(a / b for a, b in zip(slow.each, fast.each, strict=True)))

    @property
    def median(self) -> float:
        """The median over the pairs."""
        return statistics.median(self.pairs)


@dataclass(frozen=True)
class Passes:
    """How often.

    Args:
        repeats: Timed passes of each side, interleaved.
        warmup: Untimed passes of each side before them.
        rate: Sampled around the timed passes if operations are counted (in one more pass, before all others); None
            counts nothing.
    """

    repeats: int
    warmup: int
    rate: MatmulRate | None

    def look(self) -> None:
        """Look how fast the machine is now."""
        if self.rate is not None:
            self.rate.sample()


def measure(works: Mapping[str, Work], passes: Passes, device: torch.device) -> dict[str, Numbers]:
    """Count, warm up, and time all sides in turn."""
    flops = {name: _flops(work) if passes.rate else None for name, work in works.items()}
    for _ in range(passes.warmup):
        for work in works.values():
            _timed(work, device)
    taken: dict[str, list[_Pass]] = {name: [] for name in works}
    passes.look()
    for _ in range(passes.repeats):
        for name, work in works.items():
            if taken[name]:  # what a pass returned must not count as memory of the next one
                taken[name][-1] = taken[name][-1].without_result()
            taken[name].append(_timed(work, device))
        passes.look()
    return {name: _numbers(works[name], taken[name], flops[name]) for name in works}


@dataclass(frozen=True)
class _Pass:
    seconds: float
    peak_bytes: int | None
    result: Any

    def without_result(self) -> _Pass:
        return _Pass(self.seconds, self.peak_bytes, None)


def _flops(work: Work) -> int:
    work.ready()
    return counted(work.do).flops


def _timed(work: Work, device: torch.device) -> _Pass:
    work.ready()
    measurable = reset_peak(device)
    synchronise(device)
    began = time.perf_counter()
    result = work.do()
    synchronise(device)
    seconds = time.perf_counter() - began
    return _Pass(seconds, peak_bytes(device) if measurable else None, result)


def _numbers(work: Work, taken: Sequence[_Pass], flops: int | None) -> Numbers:
    peaks = [one.peak_bytes for one in taken if one.peak_bytes is not None]
    seconds = tuple(one.seconds for one in taken)
    return Numbers(work.amount, seconds, flops, max(peaks, default=None), taken[-1].result)
