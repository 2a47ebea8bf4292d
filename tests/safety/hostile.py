"""What a file may hold that nobody who means well would write, as strategies."""

from __future__ import annotations

import copy
import json
import unicodedata
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

CLEAR, TITLE, RED = "\x1b[2J", "\x1b]0;a title\x07", "\x1b[31m"
"""What clears a terminal, names its window and colours what follows."""

TEXTS = (
    *(
        CLEAR,
        TITLE,
        RED,
        "\x9b31m",
        "\r",
        "\n",
        "\x00",
        "\x08",
        "\u2028",
        "\u202e",
        "\ufeff",
        "\ufffe",
        "\ud800",
        "\udcff",
    ),
    *("../../../etc/passwd", "/etc/passwd", "..", ".", "~", "C:\\x", "a/b", "CON", "-rf", "--output=x", "x" * 300),
    *("=1+1", "+1", "-1", "@SUM(A1)", "\t=1+1", " =1+1", '=HYPERLINK("http://x")', "|", "a|b", "`x`", "<b>", "[x](y)"),
    *(
        "$\\frac{",
        "$x$ and $",
        "\\input{x}",
        "\\\\",
        "%",
        "{",
        "}",
        "{}",
        "{} {}",
        "{0}",
        "%s",
        "${seed}",
        "[/]",
        "[bold]",
    ),
    *(
        "",
        " ",
        "\t",
        "null",
        "NaN",
        "Infinity",
        "true",
        "__class__",
        "__proto__",
        "\N{ARABIC LIGATURE SALLALLAHOU ALAYHE WASALLAM}",
    ),
    *("e\N{COMBINING ACUTE ACCENT}" * 3, "\N{ZERO WIDTH JOINER}", "\N{LATIN SMALL LIGATURE FI}", "日本", "a" * 30_000),
)
"""Texts that mean something to a terminal, a file system, a spreadsheet, a typesetter, or to Python."""

NUMBERS = (
    0,
    -0.0,
    -1,
    2**31,
    2**63,
    -(2**63) - 1,
    10**400,
    1e308,
    -1e308,
    5e-324,
    float("nan"),
    float("inf"),
    -float("inf"),
)

texts = st.sampled_from(TEXTS) | st.text(max_size=12)
numbers = st.sampled_from(NUMBERS) | st.integers() | st.floats()
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
"""Anything that JSON, or what passes for it, can hold."""


@st.composite
def damaged(draw: st.DrawFn, whole: Any, times: int = 2) -> Any:
    """A document with some values, at any depth, replaced, taken away, or given another name."""
    document = copy.deepcopy(whole)
    for _ in range(draw(st.integers(0, times))):
        document = draw(_once_damaged(document))
    return document


@st.composite
def _once_damaged(draw: st.DrawFn, document: Any) -> Any:
    if not (isinstance(document, (dict, list)) and document) or not draw(st.integers(0, 9)):
        return draw(values)
    key = (
        draw(st.sampled_from(sorted(document)))
        if isinstance(document, dict)
        else draw(st.sampled_from(range(len(document))))
    )
    what = draw(st.sampled_from(["inside", "inside", "replace", "drop", "rename", "repeat"]))
    if what == "inside":
        document[key] = draw(_once_damaged(document[key]))
    elif what == "replace":
        document[key] = draw(values)
    elif what == "drop":
        del document[key]
    elif isinstance(document, dict):
        document[draw(texts)] = document.pop(key) if what == "rename" else document[key]
    else:
        document.append(copy.deepcopy(document[key]))
    return document


@st.composite
def spelled(draw: st.DrawFn, document: Any) -> bytes:
    """A document as the bytes of a file: mostly as JSON is written, sometimes as it should not be."""
    kind = draw(st.sampled_from(["plain"] * 12 + ["bom", "utf-16", "latin-1", "cut", "flip", "twice", "deep", "tail"]))
    text = json.dumps(document, ensure_ascii=draw(st.booleans()))
    if kind == "twice":
        text = doubled(text, draw(st.integers(0, 30)))
    if kind == "deep":
        text = text.replace("null", "[" * 2000 + "]" * 2000) if "null" in text else "[" * 100_000 + text
    content = text.encode(
        {"utf-16": "utf-16", "latin-1": "latin-1"}.get(kind, "utf-8"),
        "surrogatepass" if kind != "latin-1" else "replace",
    )
    place = draw(st.integers(0, len(content)))
    match kind:
        case "bom":
            return b"\xef\xbb\xbf" + content
        case "cut":
            return content[:place]
        case "flip":
            return content[:place] + draw(st.binary(max_size=3)) + content[place + 1 :]
        case "tail":
            return content + draw(st.sampled_from([b"\x00", b"\n{}", b"]", b" ", content]))
    return content


def doubled(text: str, turn: int) -> str:
    """JSON in which one object has its first key twice, with another value first."""
    starts = [place for place in range(len(text) - 1) if text[place] == "{" and text[place + 1] == '"']
    if not starts:
        return text
    start = starts[turn % len(starts)] + 1
    end = text.find('"', start + 1)
    while end > 0 and text[end - 1] == "\\":
        end = text.find('"', end + 1)
    return f'{text[:start]}{text[start : end + 1]}: "another", {text[start:]}' if end > 0 else text


def files(whole: Any) -> st.SearchStrategy[bytes]:
    """Contents of files that were meant to hold a document."""
    documents = damaged(whole) | values
    return documents.flatmap(spelled) | st.binary(max_size=60)


def is_calm(text: str) -> bool:
    """Whether a text can go to a terminal: lines of printable characters."""
    return all(character.isprintable() for line in text.split("\n") for character in line)


def why_not_calm(text: str) -> list[str]:
    """The characters that must not reach a terminal, by name."""
    return sorted({f"U+{ord(c):04X} {unicodedata.name(c, '')}" for c in text if not c.isprintable() and c != "\n"})


Loading = Callable[[str], Any]
