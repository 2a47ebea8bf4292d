"""Names of settings as people type them."""

from __future__ import annotations

from collections.abc import Collection


def full_name(key: str, known: Collection[str]) -> str:
    """Return the setting that a short name means, or the name itself where it means none.

    ``method`` is ``method.name``; ``method.lambda`` is ``method.lambda_``, as Python has taken the word; ``lambda_`` is
    the one setting that ends so, if there is just one.
    """
    for candidate in (key, f"{key}.name", f"{key}_"):
        if candidate in known:
            return candidate
    ends = [name for name in known if name.endswith((f".{key}", f".{key}_"))]
    return ends[0] if len(ends) == 1 else key


def short_name(key: str) -> str:
    """Return what a setting is called at the head of a column: ``method`` for ``method.name``, ``layers``."""
    return key.removesuffix(".name").rpartition(".")[2].rstrip("_")
