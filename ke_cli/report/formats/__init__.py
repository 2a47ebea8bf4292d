"""Output formats: each turns tables into one text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from ke_cli.report.formats.delimited import to_csv
from ke_cli.report.formats.latex import to_latex
from ke_cli.report.formats.markdown import to_markdown
from ke_cli.report.formats.structured import to_json
from ke_cli.report.tables import Table

FORMATS: Mapping[str, Callable[[Sequence[Table]], str]] = MappingProxyType(
    {"markdown": to_markdown, "latex": to_latex, "csv": to_csv, "json": to_json}
)
"""Name of a format to its renderer."""

SUFFIXES: Mapping[str, str] = MappingProxyType({".md": "markdown", ".tex": "latex", ".csv": "csv", ".json": "json"})
"""The format that the name of an output file suggests."""
