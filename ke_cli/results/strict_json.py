"""JSON that every program can read: no NaN, no infinities; and a decoder that has one way to fail."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json


def load_object(text: bytes, *, sealed: bool = False) -> dict[str, Any]:
    """Decode one JSON object; NaN, infinities and whole numbers of any size are taken as they are written.

    Where a checksum says that the text is as this program wrote it, a compiled parser goes first. It gives what
    Python's own gives, but refuses a little more (text with half a surrogate pair, deep nesting), so what it refuses is
    judged again by Python's, whose reasons are also easier to read. It does not see keys that stand twice, which
    nobody but this program can be trusted not to write.

    Args:
        text: In UTF-8.
        sealed: Whether it is as this program wrote it.

    Raises:
        ValueError: The text is not UTF-8, not JSON, nested too deeply, or not an object, or an object has a key twice.
    """
    try:
        value = from_json(text) if sealed else _load_slowly(text)
    except ValueError:
        if not sealed:
            raise
        value = _load_slowly(text)
    if not isinstance(value, dict):
        raise ValueError(f"a JSON object was expected, not a {type(value).__name__}")
    return value


def _load_slowly(text: bytes) -> Any:
    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make the object; which of two values of a key was meant, nobody can know."""
    made = dict(pairs)
    if len(made) < len(pairs):
        (key, times), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {key!r:.60} stands {times} times in one object")
    return made


def dump(value: Mapping[str, Any], indent: int | None = None) -> bytes:
    """Encode as ASCII, so that no text can break the encoding; compact without ``indent``.

    Each NaN and infinity becomes null, with a line under the top-level key ``notes``.

    Raises:
        TypeError: The value holds something JSON has no word for.
    """
    separators = (",", ":") if indent is None else None
    try:
        text = json.dumps(value, allow_nan=False, indent=indent, separators=separators)
    except ValueError:
        text = json.dumps(_noted(value), allow_nan=False, indent=indent, separators=separators)
    return text.encode("ascii")


def _noted(value: Mapping[str, Any]) -> dict[str, Any]:
    lost: list[str] = []
    clean: dict[str, Any] = _finite(value, "", lost)
    return {**clean, "notes": [*(clean.get("notes") or []), *lost]}


def _finite(value: Any, where: str, lost: list[str]) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        lost.append(f"{where} was {value}: stored as null")
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item, f"{where}.{key}".lstrip("."), lost) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item, f"{where}[{index}]", lost) for index, item in enumerate(value)]
    return value
