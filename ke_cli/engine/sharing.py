"""Which leading tokens rows have in common, so that they run once: context templates, subjects, relations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

Key = tuple[int, tuple[int, ...]]
"""The edit a row runs with, and its token ids: equal tokens under different edits share nothing."""

PASS_IN_TOKENS = {"cpu": 64}
"""Tokens that run in the time of one more forward pass on a CPU, where starting kernels is cheap beside the work."""

PASS_IN_TOKENS_ELSEWHERE = 512
"""Likewise on accelerators: a pass is worth its start if it saves at least so many tokens."""


def pass_in_tokens(device_type: str) -> int:
    """About how many tokens cost as much as the start of one more pass."""
    return PASS_IN_TOKENS.get(device_type, PASS_IN_TOKENS_ELSEWHERE)


@dataclass(frozen=True, slots=True)
class Sharing:
    """How rows are cut in two: a prefix that several of them share, and the rest of their own.

    Args:
        prefixes: Each shared prefix once.
        prefix: Per row the index of its prefix; -1 for none.
        cuts: Per row the number of leading tokens that its prefix holds.
    """

    prefixes: tuple[Key, ...]
    prefix: tuple[int, ...]
    cuts: tuple[int, ...]

    @classmethod
    def none(cls, rows: int) -> Sharing:
        """Every row runs whole."""
        return cls((), (-1,) * rows, (0,) * rows)


def worthwhile_prefixes(rows: Sequence[Key], limits: Sequence[int], device_type: str) -> Sharing:
    """Shared prefixes, if running them saves more than one more pass costs, padding included.

    Args:
        rows: The rows, which run as one batch.
        limits: Most tokens of each row that may belong to a prefix.
        device_type: Of the device they run on.
    """
    worth = pass_in_tokens(device_type)
    sharing = shared_prefixes(rows, limits, worth)
    lengths = [len(ids) for _, ids in rows]
    rests = [length - cut for length, cut in zip(lengths, sharing.cuts, strict=True)]
    first = [len(ids) for _, ids in sharing.prefixes]
    return sharing if _padded(lengths) - _padded(rests) - _padded(first) >= worth else Sharing.none(len(rows))


def _padded(lengths: Sequence[int]) -> int:
    """Tokens of a batch with its padding."""
    return len(lengths) * max(lengths, default=0)


def shared_prefixes(rows: Sequence[Key], limits: Sequence[int], worth: int) -> Sharing:
    """Cut rows so that the fewest tokens run, each row having at most one shared prefix.

    Args:
        rows: The rows.
        limits: Most tokens of each row that may belong to a prefix.
        worth: Tokens that must be saved in all; with less, nothing is shared.

    Returns:
        The cuts. A prefix of ``c`` tokens that ``k`` rows have in common saves ``(k - 1) c`` tokens; among nested
        choices the ones with the greatest sum are taken.
    """
    heads = [(edit, ids[:limit]) for (edit, ids), limit in zip(rows, limits, strict=True)]
    order = sorted(range(len(rows)), key=lambda row: heads[row])
    common = [0, *(_common(heads[a], heads[b]) for a, b in pairwise(order))]
    saved, groups = _best(common, 0, len(order)) if order else (0, [])
    if saved < worth:
        return Sharing.none(len(rows))
    prefixes: list[Key] = []
    prefix, cuts = [-1] * len(rows), [0] * len(rows)
    for first, last, length in groups:
        edit, head = heads[order[first]]
        for place in range(first, last):
            prefix[order[place]], cuts[order[place]] = len(prefixes), length
        prefixes.append((edit, head[:length]))
    return Sharing(tuple(prefixes), tuple(prefix), tuple(cuts))


def _common(a: Key, b: Key) -> int:
    """Leading tokens that two heads have in common."""
    if a[0] != b[0]:
        return 0
    shorter = min(len(a[1]), len(b[1]))
    return next((i for i in range(shorter) if a[1][i] != b[1][i]), shorter)


def _best(common: Sequence[int], first: int, last: int) -> tuple[int, list[tuple[int, int, int]]]:
    """Tokens saved among the sorted heads ``first`` to ``last``, and the groups ``(first, last, length)`` that do it.

    ``common[i]`` is what head ``i`` has in common with the one before it. The heads have the least of these in common
    all together; where it is reached they fall into groups that have more in common.
    """
    if last - first < 2:
        return 0, []
    length = min(common[first + 1 : last])
    borders = [first, *(i for i in range(first + 1, last) if common[i] == length), last]
    parts = [_best(common, a, b) for a, b in pairwise(borders)]
    apart, together = sum(saved for saved, _ in parts), (last - first - 1) * length
    if together >= apart:
        return together, [(first, last, length)] if length else []
    return apart, [group for _, groups in parts for group in groups]
