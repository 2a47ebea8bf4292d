"""Output formats: each turns tables into one text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ke_cli.report.formats.delimited import to_csv
from ke_cli.report.formats.html import to_html
from ke_cli.report.formats.latex import to_latex
from ke_cli.report.formats.markdown import to_markdown
from ke_cli.report.formats.structured import to_json

FORMATS: Mapping[str, Callable[[Sequence[Any]], str]] = MappingProxyType(
    {"markdown": to_markdown, "latex": to_latex, "html": to_html, "csv": to_csv, "json": to_json}
)
"""Name of a format to its renderer, of tables or (those in `SHEETS`) of sheets."""

SHEETS = ("markdown", "latex", "html")
"""Those that have the layout of a table; the others are one record per number, whatever the layout."""

SUFFIXES: Mapping[str, str] = MappingProxyType(
    {".md": "markdown", ".tex": "latex", ".html": "html", ".csv": "csv", ".json": "json"}
)
"""The format that the name of an output file suggests."""
