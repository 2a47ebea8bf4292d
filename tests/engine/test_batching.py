"""Batches under a token budget, and what happens when memory runs out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ke_cli.engine.batching import by_length, halving


@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 2000))
def test_batches_hold_every_row_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = by_length(lengths, budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[index] for index in batch)
        assert longest * len(batch) <= budget or len(batch) == 1
    sizes = [max(lengths[index] for index in batch) for batch in batches]
    assert sizes == sorted(sizes, reverse=True), "the largest memory is needed first"


@given(st.lists(st.integers(1, 40), min_size=2, max_size=40))
def test_no_two_neighbouring_batches_would_fit_together(lengths: list[int]) -> None:
    batches = by_length(lengths, 64)
    for first, second in pairwise(batches):
        assert lengths[first[0]] * (len(first) + 1) > 64 or len(second) == 0


@pytest.mark.parametrize("fits", [1, 2, 3, 5, 100])
def test_halves_until_it_fits(fits: int) -> None:
    tried: list[int] = []

    def work(items: Sequence[int]) -> list[int]:
        tried.append(len(items))
        if len(items) > fits:
            raise torch.OutOfMemoryError
        return [item * item for item in items]

    assert halving(work, range(11)) == [item * item for item in range(11)]
    assert tried[0] == 11


def test_one_item_that_does_not_fit_is_an_error() -> None:
    def work(_items: Sequence[int]) -> list[int]:
        raise torch.OutOfMemoryError("too big")

    with pytest.raises(torch.OutOfMemoryError, match="too big"):
        halving(work, range(4))


def test_other_errors_are_passed_on_at_once() -> None:
    tried: list[int] = []

    def work(items: Sequence[int]) -> list[int]:
        tried.append(len(items))
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        halving(work, range(8))
    assert tried == [8]
