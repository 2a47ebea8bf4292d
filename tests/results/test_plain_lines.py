"""A line that the compiled reader accepts must be what the plain one makes of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ke_cli.results.journal import CaseLine, decode, encode
from ke_cli.results.strict_json import load_object
from results.runs import case

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=2**62)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["ok", "failed", 1, 1.0, True, "x" * 1001, 10**400]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """The head of a line, with fields changed, left out, added or given twice."""
    line = {key: value for key, value in case("1").items() if key not in ("before", "after")}
    metrics = draw(st.just(line["metrics"]) | st.dictionaries(st.text(max_size=3), VALUES, max_size=4))
    fields = [*{**line, "metrics": metrics}.items()]
    for _ in range(draw(st.integers(0, 3))):
        fields.insert(draw(st.integers(0, len(fields))), (draw(st.sampled_from([*line, "other"])), draw(VALUES)))
    kept = [field for field in fields if draw(st.integers(0, 30))]
    return b"{" + b",".join(f"{json.dumps(key)}:{json.dumps(value)}".encode() for key, value in kept) + b"}"


def plainly(text: bytes) -> CaseLine:
    return CaseLine.parse(load_object(text, sealed=True))


def accepted(text: bytes) -> Any:
    try:
        return repr(plainly(text))
    except ValueError:
        return None


@settings(max_examples=1000, deadline=None, database=None)
@given(heads())
def test_agrees_with_the_plain_reader(text: bytes) -> None:
    try:
        line = CaseLine.parse_plain(text)
    except ValueError:
        pass
    else:
        assert repr(line) == accepted(text)


@pytest.mark.parametrize(
    "changes", [{}, {"error": "why", "status": "failed"}, {"metrics": {"a": None, "b": 1, "c": 0.5}}]
)
def test_accepts_what_is_written(changes: dict[str, Any]) -> None:
    text = encode(case("1", **changes))
    head = text.partition(b',"before":')[0] + b"}"
    assert CaseLine.parse_plain(head) == decode(text, whole=True)
