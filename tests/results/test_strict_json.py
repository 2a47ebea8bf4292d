"""The compiled parser must say what Python's own says: same value, or the same reason against it."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ke_cli.results.strict_json import load_object

FUZZ = settings(max_examples=500, deadline=None, database=None)
NUMBERS = [
    *("0", "-0", "-0.0", "1E5", "1e-999", "4.9e-324", "2.2250738585072011e-308", "9007199254740993", "0.1" + "0" * 50),
    *("NaN", "Infinity", "-Infinity", "1e999", "-1E+400", "nan", "Inf", "-NaN"),
    *("+1", "01", "1.", ".5", "-", "1e", "0x1"),
    *(str(2**63), str(-(2**63) - 1), str(2**64), "1" + "0" * 400, "9" * 4300, "9" * 4301, "1" + "0" * 400 + ".5"),
]
TEXTS = [r"\ud800", r"\ud83d\ude00", r"\ud800\u0041", r"\ude00", r"\u0000", r"\x", r"\/", "\x01", "\x7f", "\u2028", "é"]
OTHERS: list[bytes] = [
    *(b"", b"null", b"[]", b'"x"', b"7", b"{}"),
    *(b" {} \n", b"\x0b{}", b"\xc2\xa0{}", b"{}\x00", b"{} x", b"{}{", b"{,}"),
    *(b"\xef\xbb\xbf{}", b"\xff\xfe{\x00}\x00", b'{"\xff":1}', b'{"a":"\xc0\x80"}', b'{"a":"\xed\xa0\x80"}'),
    *(b'{"a":1,"a":2}', b'{"a":1,"\\u0061":2}', b'{"a":1,}', b'{"a":[1,]}', b'{"a":tru}', b"{a:1}", b"{'a':1}"),
    *(b'{"a":1,"a" :2,"b":3}', b'{"a\\\\":1,"a\\\\":2}', b'{"a":"\\":","b":1,"b":1}', b'{"a":[0,{"b":1,"b":1}]}'),
    *(b'{"a":"x\\\\","b":1,"b":1}', b'{"a":[{"b":1},{"b":1}],"c":{"b":1}}', b'{"a\\"":1}', b'{"a\\"b":1,"a\\"b":1}'),
    *(b'{"schema":1,"met', b'{"a":' + b"[" * 300 + b"]" * 300 + b"}", b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
]


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, if it has every key once."""
    names = [key for key, _ in pairs]
    times = max(map(names.count, names), default=1)
    if times > 1:
        raise ValueError(f"the key {max(names, key=names.count)!r:.60} stands {times} times in one object")
    return dict(pairs)


def plainly(text: bytes, hook: Any = None) -> dict[str, Any]:
    """The slow way, which is the standard."""
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=hook)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"a JSON object was expected, not a {type(value).__name__}")
    return value


def check(text: bytes) -> None:
    assert outcome(partial(load_object, sealed=True), text) == outcome(plainly, text)
    assert outcome(load_object, text) == outcome(partial(plainly, hook=once), text)


def outcome(load: Any, text: bytes) -> str:
    """The value with its types, NaN and signs of zero, or the reason against it."""
    try:
        return repr(load(text))
    except ValueError as error:
        return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize(
    "text",
    [
        *(f'{{"a":{number}}}'.encode() for number in NUMBERS),
        *(f'{{"{text}":"{text}"}}'.encode() for text in TEXTS),
        *OTHERS,
    ],
    ids=lambda text: repr(text[:30]),
)
def test_odd_texts(text: bytes) -> None:
    check(text)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A JSON object in which some bytes were replaced, dropped, or put in from elsewhere."""
    value = draw(st.dictionaries(st.text(max_size=8), VALUES, max_size=4))
    text = json.dumps(value, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    pieces = st.binary(max_size=2) | st.sampled_from([piece.encode() for piece in (*NUMBERS, *TEXTS)]) | st.just(text)
    for _ in range(draw(st.integers(0, 2))):
        start = draw(st.integers(0, len(text)))
        text = text[:start] + draw(pieces) + text[start + draw(st.integers(0, 3)) :]
    return text


@FUZZ
@given(damaged())
def test_damaged_texts(text: bytes) -> None:
    check(text)
