"""Batches under a token budget that shrinks when memory runs out, with the work redone and nothing lost."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ke_cli.models.memory import OutOfMemory, ran_out_of_memory, release_unused

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


@dataclass(eq=False, slots=True)
class Budget:
    """Padded tokens per batch. It only ever shrinks: what did not fit once is not tried again.

    Args:
        tokens: At least 1.
    """

    tokens: int

    @classmethod
    def of(cls, budget: int | Budget) -> Budget:
        """The same budget, or a new one that starts at a number."""
        return budget if isinstance(budget, Budget) else cls(budget)

    def shrink(self, failed: int) -> None:
        """Stay at or below half of a batch of ``failed`` tokens that did not fit."""
        self.tokens = max(1, min(self.tokens, failed // 2))


@dataclass(frozen=True, slots=True)
class Size:
    """What an item takes up in a batch.

    Args:
        rows: Rows it has.
        length: Tokens of its longest row.
        tail: Tokens that cost time, where that is only a part of them; items of like tails go together.
    """

    rows: int
    length: int
    tail: int = 0


Layout = Callable[[Sequence[Size], int], list[list[int]]]
"""Groups the indices of items into batches under a budget."""


def rows_of(lengths: Iterable[int]) -> list[Size]:
    """Sizes of items of one row each."""
    return [Size(1, length, length) for length in lengths]


def packed(sizes: Sequence[Size], budget: int) -> list[list[int]]:
    """Group indices of similar length so that ``rows * longest`` stays within ``budget`` tokens.

    Args:
        sizes: Of the items.
        budget: Padded tokens per batch; an item beyond the budget gets a batch of its own.

    Returns:
        Index lists, longest tails and rows first (so that memory peaks at once, not after hours).
    """
    order = sorted(range(len(sizes)), key=lambda i: (-sizes[i].tail, -sizes[i].length, i))
    batches: list[list[int]] = []
    rows, longest = 0, 0
    for index in order:
        size = sizes[index]
        if batches and (rows + size.rows) * max(longest, size.length) <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
            rows, longest = 0, 0
        rows, longest = rows + size.rows, max(longest, size.length)
    return batches


def in_batches(
    work: Callable[[Sequence[T]], Sequence[R]],
    items: Sequence[T],
    sizes: Sequence[Size],
    budget: int | Budget,
    *,
    layout: Layout = packed,
) -> list[R]:
    """Run ``work`` batch by batch; a batch that memory is too small for is laid out anew under a smaller budget.

    The budget stays smaller for all that follows, here and (if it is a `Budget`) wherever else it is used.

    Args:
        work: Returns one result per item, in order; it must not keep state between calls.
        items: Any number.
        sizes: What each item takes up.
        budget: Padded tokens per batch.
        layout: How batches are put together.

    Returns:
        One result per item, in order.

    Raises:
        OutOfMemory: If a single item does not fit.
    """
    budget = Budget.of(budget)
    found: dict[int, R] = {}
    waiting = deque(_laid_out(range(len(sizes)), sizes, budget.tokens, layout))
    while waiting:
        batch = waiting.popleft()
        results = _attempt(work, [items[index] for index in batch])
        if not isinstance(results, str):
            found.update(zip(batch, results, strict=True))
            continue
        _refuse_one(sizes, batch, results)
        budget.shrink(_tokens(sizes, batch))
        log.warning("out of memory with %d tokens in a batch: going on with %d", _tokens(sizes, batch), budget.tokens)
        rest = [index for some in waiting for index in some]
        parts = _laid_out(batch, sizes, budget.tokens, layout)
        waiting = deque(_halves(batch) if len(parts) == 1 else parts)
        waiting.extend(_laid_out(rest, sizes, budget.tokens, layout))
    return [found[index] for index in range(len(items))]


def _laid_out(indices: Sequence[int], sizes: Sequence[Size], budget: int, layout: Layout) -> list[list[int]]:
    """Some of the items in batches."""
    groups = layout([sizes[index] for index in indices], budget) if indices else []
    return [[indices[place] for place in group] for group in groups]


def _halves(batch: Sequence[int]) -> list[list[int]]:
    """For a layout that does not mind the budget."""
    half = len(batch) // 2
    return [list(batch[:half]), list(batch[half:])]


def _tokens(sizes: Sequence[Size], batch: Sequence[int]) -> int:
    """Padded tokens of a batch."""
    return sum(sizes[index].rows for index in batch) * max(sizes[index].length for index in batch)


def _attempt(work: Callable[[Sequence[T]], Sequence[R]], items: Sequence[T]) -> list[R] | str:
    """The results, or the message with which memory ran out, after what the attempt held has been freed."""
    try:
        return list(work(items))
    except Exception as error:
        if not ran_out_of_memory(error):
            raise
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
    # Only here, behind the handler, is the traceback gone whose frames kept the tensors of the attempt alive.
    release_unused()
    return reason


def _refuse_one(sizes: Sequence[Size], batch: Sequence[int], reason: str) -> None:
    """Raise if a batch cannot be made smaller."""
    if len(batch) > 1:
        return
    size = sizes[batch[0]]
    raise OutOfMemory(
        f"out of memory with {size.rows} row{'s' * (size.rows > 1)} of up to {size.length} tokens, which can only be "
        "computed together",
        where=reason[:300],
        hint="model.dtype=bfloat16, model.device_map=auto (several GPUs), a smaller model, or a smaller batch_tokens "
        "if other programs use this memory",
    )
