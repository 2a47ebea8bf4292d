"""Tensors that are costly to make, kept within a number of bytes: the least recently used go first."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")


@dataclass(eq=False)
class Shelf:
    """Values by key, made when they are asked for and not there.

    Args:
        limit: Bytes that all values together may take up; None for no limit. The value asked for last stays in any
            case, so one that is larger than the limit is held alone.
    """

    limit: int | None = None
    _held: dict[Hashable, Any] = field(default_factory=dict)  # least recently used first

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of ``key``. One without tensors (a number, a handle) takes up nothing and is never dropped."""
        value: T = self._held.pop(key) if key in self._held else make()
        self._held[key] = value
        self._drop(0, spare=1)
        return value

    def make_room(self, size: int) -> None:
        """Drop what must go for ``size`` more bytes, before they are taken."""
        self._drop(size, spare=0)

    def held(self) -> int:
        """Bytes held now."""
        return sum(bytes_of(value) for value in self._held.values())

    def _drop(self, size: int, spare: int) -> None:
        """Drop the least recently used values, but for the last ``spare`` ones, until ``size`` bytes fit as well."""
        if self.limit is None:
            return
        taken = {key: taken for key, value in self._held.items() if (taken := bytes_of(value))}
        total = sum(taken.values()) + size
        for key in list(taken)[: len(taken) - spare]:
            if total <= self.limit:
                return
            del self._held[key]
            total -= taken[key]


def bytes_of(value: Any) -> int:
    """Bytes of the tensors in a value: a tensor, or a tuple, list or mapping of them."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        return sum(map(bytes_of, value.values()))
    return sum(map(bytes_of, value)) if isinstance(value, tuple | list) else 0
