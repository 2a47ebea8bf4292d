"""Batches by length under a token budget, halved when memory runs out, with nothing lost."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


def by_length(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group indices of similar length so that ``rows * longest`` stays within ``budget`` tokens.

    Args:
        lengths: Tokens per row.
        budget: Padded tokens per batch; a row longer than the budget gets a batch of its own.

    Returns:
        Index lists, longest rows first (so that memory peaks at once, not after hours).
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    batches: list[list[int]] = []
    for index in order:
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def halving(work: Callable[[Sequence[T]], Sequence[R]], items: Sequence[T]) -> list[R]:
    """Run ``work`` on all items at once; when memory runs out, on each half, and so on.

    Args:
        work: Returns one result per item, in order; it must not keep state between calls.
        items: At least one item.

    Returns:
        One result per item, in order.

    Raises:
        torch.OutOfMemoryError: If a single item does not fit.
    """
    try:
        return list(work(items))
    except torch.OutOfMemoryError:
        if len(items) < 2:
            raise
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    half = len(items) // 2
    log.warning("out of memory with %d rows in a batch: going on with %d", len(items), half)
    return halving(work, items[:half]) + halving(work, items[half:])
