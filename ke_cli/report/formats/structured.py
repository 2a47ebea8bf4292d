"""Tables as JSON: everything a table knows, unscaled, for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ke_cli.report.tables import Line, Table


def to_json(tables: Sequence[Table]) -> str:
    """Return ``{"schema": 1, "tables": [...]}``."""
    return json.dumps({"schema": 1, "tables": [_table(table) for table in tables]}, indent=2) + "\n"


def _table(table: Table) -> dict[str, Any]:
    return {
        "model": table.group.model,
        "dataset": table.group.dataset,
        "protocol": table.group.protocol,
        "split": dict(table.group.split),
        "caption": table.caption,
        "footnotes": list(table.footnotes),
        "against": table.against,
        "columns": [asdict(column) for column in table.columns],
        "rows": [_row(table, line) for line in table.lines],
    }


def _row(table: Table, line: Line) -> dict[str, Any]:
    return {
        "label": line.row.label,
        "method": line.row.method,
        "settings": dict(line.row.values),
        "runs": [run.record.name for run in line.row.runs],
        "finished": line.row.finished,
        "cases": line.cases,
        "failed": line.failed,
        "values": {
            column.name: {
                **asdict(cell.estimate),
                "best": cell.best,
                "difference": cell.is_difference,
                "published": published,
                "second": cell.second,
                "significant": cell.significant,
                "paired_difference": asdict(cell.difference) if cell.difference else None,
                "test": {**asdict(cell.outcome), "p_adjusted": cell.adjusted} if cell.outcome else None,
            }
            for column, cell, published in zip(table.columns, line.cells, line.figures, strict=True)
        },
    }
