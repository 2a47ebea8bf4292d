"""Packages of value problems: the cheapest way to cut them, found by trying all ways."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import pytest

from ke_cli.engine.batching import Size
from ke_cli.engine.packages import thrifty


def cuts(items: Sequence[int]) -> Iterator[list[list[int]]]:
    """All ways to cut a sequence into consecutive groups."""
    if not items:
        yield []
        return
    for end in range(1, len(items) + 1):
        for rest in cuts(items[end:]):
            yield [list(items[:end]), *rest]


def fits(sizes: Sequence[Size], group: Sequence[int], budget: int) -> bool:
    rows = sum(sizes[i].rows for i in group)
    return len(group) == 1 or rows * max(sizes[i].length for i in group) <= budget


def cost(sizes: Sequence[Size], groups: Sequence[Sequence[int]], start: int) -> int:
    return sum(start + sum(sizes[i].rows for i in group) * max(sizes[i].tail for i in group) for group in groups)


@pytest.mark.parametrize("seed", range(40))
def test_no_cut_is_cheaper(seed: int) -> None:
    draw = random.Random(seed)
    sizes = []
    for _ in range(draw.randint(1, 8)):
        tail = draw.randint(1, 6)
        sizes.append(Size(rows=draw.randint(1, 22), length=tail + draw.randint(0, 20), tail=tail))
    budget, start = draw.choice([10, 200, 800, 10_000]), draw.choice([0, 5, 64, 512])
    groups = thrifty(sizes, budget, start=start)
    assert sorted(i for group in groups for i in group) == list(range(len(sizes)))
    assert all(fits(sizes, group, budget) for group in groups)
    order = sorted(range(len(sizes)), key=lambda i: (-sizes[i].tail, -sizes[i].length, i))
    possible = [way for way in cuts(order) if all(fits(sizes, group, budget) for group in way)]
    assert cost(sizes, groups, start) == min(cost(sizes, way, start) for way in possible)


def test_like_tails_go_together_where_a_pass_is_cheap() -> None:
    sizes = [Size(22, 20, tail) for tail in (4, 2, 4, 7, 2)]
    assert thrifty(sizes, 10_000, start=1) == [[3], [0, 2], [1, 4]]
    assert thrifty(sizes, 10_000, start=10_000) == [[3, 0, 2, 1, 4]]
    assert thrifty(sizes, 22 * 20, start=1) == [[3], [0], [2], [1], [4]]
    assert thrifty([], 100, start=1) == []


def test_long_lists_are_cut_in_reasonable_time() -> None:
    """Only as many beginnings are tried as fit the budget, so a thousand facts are no matter."""
    draw = random.Random(0)
    sizes = [Size(7, 30, draw.randint(1, 12)) for _ in range(2000)]
    groups = thrifty(sizes, 8192, start=64)
    assert sum(len(group) for group in groups) == 2000
