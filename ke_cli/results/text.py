"""Text from files, made safe to print."""

from __future__ import annotations

import re


def printable(value: object) -> str:
    """Return text that is safe to print: on one line, without control characters or broken Unicode."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in str(value)[:500])


def natural(text: str) -> tuple[object, ...]:
    """A sort key under which ``case-9`` comes before ``case-10``; no two texts have the same."""
    parts: list[object] = re.split("([0-9]+)", text)  # words at even places, digits at odd ones
    for place in range(1, len(parts), 2):
        digits = str(parts[place]).lstrip("0")
        parts[place] = (len(digits), digits)  # not as a number: there may be thousands of digits
    return (tuple(parts), text)
