"""Putting the page together from its parts: markup, style, script, and the data as JSON."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

PLACEHOLDER = re.compile(r"@@([a-z_]+)@@")
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def page(data: Mapping[str, Any], title: str) -> str:
    """Return the whole page as text.

    Args:
        data: What the script shows; see `ke_cli.report.page.payload`.
        title: Of the window.
    """
    style, script = _part("page.css"), _part("page.js")
    parts = {
        "title": html.escape(title),
        "policy": html.escape(_policy(style, script)),
        "style": style,
        "script": script,
        "data": embedded(data),
    }
    # Filled in at one go, so that no part is searched for the placeholders of another.
    return PLACEHOLDER.sub(lambda found: parts[found[1]], _part("page.html"))


def embedded(data: Mapping[str, Any]) -> str:
    """Return JSON that cannot end its script element, whatever its texts are."""
    text = json.dumps(data, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    return re.sub("[<>&\u2028\u2029]", lambda found: _ESCAPES[found[0]], text)


def _part(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """Allow exactly this style and this script, pictures that are part of the page, and nothing else."""
    return f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
