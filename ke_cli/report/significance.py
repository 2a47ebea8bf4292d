"""Tests of paired differences, and Holm's correction for many of them.

All of them ask the same question: if it made no difference which of two methods had edited a group of cases, how often
would exchanging the two in some groups make a difference as large as the one that was measured? Cases of one
group are exchanged together, because they are not independent. No distribution of the numbers is assumed.

- Zeros and ones, each case a group of its own: McNemar's test, exact (McNemar 1947; binomial in the pairs that differ).
- A mean of values on a grid (shares of prompts): the exact distribution of all sign flips (Fisher 1935) by the product
  of its characteristic functions (Pagano and Tritchler 1983).
- Anything else: all flips where there are few groups, otherwise random ones, counted with the measured one
  (Phipson and Smyth 2010). For a mean of means, such as the harmonic Score, all its sources are exchanged together.

Shapes: ``k`` groups of cases, ``s`` sources of a number, ``r`` flips.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ke_cli.report.statistics import SEED, FloatArray, IntArray

ALPHA = 0.05
FLIPS = 9999
"""Random flips; with the measured one the smallest p is 1 in 10,000."""

MOST_ENUMERATED = 14
"""Groups that differ, up to which all flips are gone through."""

FLOOR = 1e-12
"""Below it, rounding decides about the sum of an exact distribution."""

_GRIDS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 20, 24, 30, 60, 120)
_MOST_WORK = 1 << 24
_FLIPS_AT_ONCE = 1 << 21
_TOLERANCE = 1e-9

MCNEMAR, SIGN_FLIP, EXCHANGE = "mcnemar", "sign_flip", "exchange"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a test came to.

    Args:
        p: Two-sided.
        test: `MCNEMAR`, `SIGN_FLIP`, or `EXCHANGE` for a number that is no mean over cases.
        exact: Whether all flips were gone through; otherwise ``FLIPS`` random ones.
        groups: How many groups of cases differ at all.
    """

    p: float
    test: str
    exact: bool
    groups: int


@dataclass(frozen=True, slots=True)
class Problem:
    """Two rows of a table in one number.

    Args:
        one: ``[k, s]``: for each group of cases the sum of each source of the number, in one row.
        other: ``[k, s]``: the same in the other row.
        sizes: ``[s]``: how many cases have a value in both rows; not 0.
        combine: Makes the number of the means of its sources, ``[..., s]`` to ``[...]``.
        test: The name of the test.
    """

    one: FloatArray
    other: FloatArray
    sizes: FloatArray
    combine: Callable[[FloatArray], FloatArray]
    test: str = EXCHANGE

    def statistic(self, gaps: FloatArray) -> FloatArray:
        """Return the absolute difference of the two rows when their sources differ by ``gaps``, ``[..., s]``."""
        middle = (self.one + self.other).sum(axis=0) / 2
        first, second = (middle + gaps / 2) / self.sizes, (middle - gaps / 2) / self.sizes
        return np.abs(self.combine(first) - self.combine(second))


def mcnemar(b: int, c: int) -> float:
    """Return the exact two-sided p of McNemar's test.

    Args:
        b: Cases that only one method gets right.
        c: Cases that only the other gets right.
    """
    n, term, tail = b + c, 1, 1
    for i in range(min(b, c)):
        term = term * (n - i) // (i + 1)
        tail += term
    return float(min(1.0, 2 * tail / 2**n))


def sign_flip(differences: FloatArray) -> Outcome | None:
    """Test the sum of differences, ``[k]``, by flipping their signs in all ways.

    Returns:
        None where that takes too long: where they are many and on no grid.
    """
    sizes = np.abs(differences[differences != 0])
    if sizes.sum() * _GRIDS[-1] > 1 << 53:  # beyond it whole numbers are not told apart
        return None
    for grid in _GRIDS:
        steps = np.rint(sizes * grid)
        if np.allclose(steps, sizes * grid, rtol=0, atol=_TOLERANCE * grid) and steps.all():
            p = _on_a_grid(steps.astype(np.intp), round(abs(float(differences.sum())) * grid))
            return None if p is None else Outcome(p, SIGN_FLIP, exact=True, groups=sizes.size)
    return None


def _on_a_grid(steps: IntArray, reached: int) -> float | None:
    """Return the chance that ``steps`` with random signs add up to ``reached`` or more, in either direction."""
    divisor = max(1, int(np.gcd.reduce(steps)))
    steps, reached = steps // divisor, reached // divisor
    total = int(steps.sum())
    n = 1 << (2 * total + 1).bit_length()
    values, counts = np.unique(steps, return_counts=True)
    if n * values.size > _MOST_WORK:
        return None
    if reached == 0:
        return 1.0
    angles = np.arange(n // 2 + 1) * (2 * np.pi / n)
    characteristic = np.ones(n // 2 + 1)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        characteristic *= np.cos(angles * value) ** count
    tail = float(np.fft.irfft(characteristic, n)[reached : total + 1].sum())
    return min(1.0, max(2 * tail, FLOOR))


def exchange(problems: Sequence[Problem]) -> list[Outcome | None]:
    """Test numbers of pairs of rows by exchanging the two rows in groups of cases.

    Args:
        problems: All about the same groups.

    Returns:
        For each an outcome; None where the number itself is not defined.
    """
    found: list[Outcome | None] = [None] * len(problems)
    many: list[int] = []
    for place, problem in enumerate(problems):
        if not np.isfinite(problem.statistic((problem.one - problem.other).sum(axis=0))):
            continue
        if (groups := _differing(problem).size) <= MOST_ENUMERATED:
            found[place] = Outcome(_enumerated(problem), problem.test, exact=True, groups=groups)
        else:
            many.append(place)
    for place, p in zip(many, _by_chance([problems[place] for place in many]), strict=True):
        groups = _differing(problems[place]).size
        found[place] = Outcome(p, problems[place].test, exact=False, groups=groups)
    return found


def _differing(problem: Problem) -> IntArray:
    """Return the groups in which the two rows differ."""
    return np.flatnonzero((problem.one != problem.other).any(axis=1))


def _enumerated(problem: Problem) -> float:
    gaps = (problem.one - problem.other)[_differing(problem)]
    if not len(gaps):
        return 1.0
    bits = np.arange(1 << (len(gaps) - 1))[:, None] >> np.arange(len(gaps)) & 1  # the last sign is never flipped
    return float(_reaches(problem, (1.0 - 2.0 * bits) @ gaps).mean())


def _reaches(problem: Problem, gaps: FloatArray) -> FloatArray:
    """Say of each of ``gaps``, ``[r, s]``, whether the difference is then as large as the one that was measured."""
    measured = problem.statistic((problem.one - problem.other).sum(axis=0))
    return np.asarray(problem.statistic(gaps) >= measured - _TOLERANCE * max(1.0, float(measured)))


def _by_chance(problems: Sequence[Problem]) -> list[float]:
    """Return the p of each problem from random flips, the same ones for all."""
    if not problems:
        return []
    gaps = np.concatenate([problem.one - problem.other for problem in problems], axis=1)
    ends = np.cumsum([problem.one.shape[1] for problem in problems])[:-1]
    reached = np.ones(len(problems))
    for signs in _random_signs(len(gaps)):
        parts = np.split(signs @ gaps, ends, axis=1)
        reached += [_reaches(problem, part).sum() for problem, part in zip(problems, parts, strict=True)]
    return [float(p) for p in reached / (FLIPS + 1)]


def _random_signs(k: int) -> Iterator[FloatArray]:
    """Yield ``FLIPS`` rows of ``k`` random signs, some at a time."""
    random = np.random.default_rng(SEED)
    step = max(1, _FLIPS_AT_ONCE // max(k, 1))
    for start in range(0, FLIPS, step):
        drawn = random.integers(0, 256, size=(min(step, FLIPS - start), -(-k // 8)), dtype=np.uint8)
        yield 1.0 - 2.0 * np.unpackbits(drawn, axis=1, count=k).astype(np.float64)


def holm(values: Sequence[float]) -> list[float]:
    """Return p-values corrected such that any false alarm among all of them is as rare as each says (Holm 1979)."""
    order = sorted(range(len(values)), key=lambda place: values[place])
    adjusted, largest = [1.0] * len(values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - rank) * values[place]))
        adjusted[place] = largest
    return adjusted
