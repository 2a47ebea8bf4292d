"""Small runs for tests, written by the real store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ke_cli.results.reader import Run, read_run
from ke_cli.results.store import RunStore

COLUMNS = [
    {"name": "efficacy", "title": "Efficacy", "direction": "up", "scale": 100.0},
    {"name": "drift", "title": "Drift", "direction": "down", "scale": 1.0},
]
DERIVED = [
    {"name": "score", "title": "Score", "kind": "harmonic", "of": ["efficacy", "absent"], "direction": "up"},
    {"name": "units", "title": "Units", "kind": "all_in_unit", "of": ["efficacy"], "direction": "up", "scale": 100.0},
]


def case(case_id: str, unit: str | None = None, **changes: Any) -> dict[str, Any]:
    """A line of the case log as `ke-run` makes it; a unit of its own unless told otherwise."""
    return {
        "schema": 1,
        "case_id": case_id,
        "unit": unit or f"unit-{case_id}",
        "unit_size": 1,
        "status": "ok",
        "error": None,
        "subject": "Zürich",
        "relation": "P17",
        "prompt": "{} lies in",
        "target_new": "Peru",
        "target_true": "Switzerland",
        "metrics": {"efficacy": 1.0, "drift": 0.25},
        "before": [{"ask": "target", "prompt": "p", "target": "t", "nlls": [1.5], "hits": [False]}],
        "after": [{"ask": "target", "prompt": "p", "target": "t", "nlls": [0.5], "hits": [True]}],
        "prompts_sha256": "00",
        "edit": {"norm": 1.0},
        "time": {"edit_s": 0.1, "evaluate_s": 0.1},
        **changes,
    }


def unit(name: str, size: int, **changes: Any) -> list[dict[str, Any]]:
    """The lines of one unit of several cases."""
    return [case(f"{name}.{i}", name, unit_size=size, **changes) for i in range(size)]


def record(method: str = "rose", *, total: int = 0, **changes: Any) -> dict[str, Any]:
    """A run record; keys like ``method.steps`` go into the configuration."""
    config: dict[str, Any] = {
        "model": {"name": "gpt2"},
        "method": {"name": method},
        "dataset": {"name": "counterfact"},
        "protocol": {"name": "single"},
        "metrics": {},
        "seed": 0,
        "device": "cpu",
    }
    for key in [key for key in changes if "." in key]:
        part, _, name = key.partition(".")
        config[part][name] = changes.pop(key)
    for name in ("seed", "device"):
        config[name] = changes.pop(name, config[name])
    if "experiment" in changes:
        config["experiment"] = changes.pop("experiment")
    return {
        "schema": 1,
        "status": "complete",
        "run_id": "abc",
        "config": config,
        "metrics": {"success": {"version": 1, "columns": COLUMNS, "derived": DERIVED}},
        "totals": {"cases": total, "units": total},
        "started_at": "2025-01-01T00:00:00+00:00",
        **changes,
    }


def write_run(directory: Path, lines: Sequence[Mapping[str, Any]], method: str = "rose", **changes: Any) -> Path:
    """Write a run directory; by default a complete one."""
    with RunStore.open(directory, resume=True) as store:
        store.write_record(
            {"name": directory.name, **record(method, total=changes.pop("total", len(lines)), **changes)}
        )
        if lines:
            store.append(lines)
    return directory


def shard(folder: Path, index: int, lines: list[dict[str, Any]], count: int = 3, whole: int = 6, **changes: Any) -> Run:
    """Write and read one shard of a run of six cases."""
    config = record()["config"] | {"shard": {"count": count, "index": index}}
    totals = {"cases": changes.pop("total", 2), "units": 2, "whole": {"cases": whole, "units": whole}}
    path = folder / f"gpt2_rose_abc_shard-{index}-of-{count}"
    return read_run(write_run(path, lines, **({"config": config, "totals": totals} | changes)))


def efficacies(values: Sequence[float | None], first: int = 0) -> list[dict[str, Any]]:
    """One case per value, named ``c0``, ``c1``, ..."""
    return [case(f"c{i}", metrics={"efficacy": value, "drift": 0.5}) for i, value in enumerate(values, first)]


def log_of(directory: Path) -> Path:
    """The case log of a run directory."""
    return directory / "cases.jsonl"


def unsealed(text: bytes) -> bytes:
    """A line without its checksum, as they were once written."""
    content, sealed, _ = text.rpartition(b',"check"')
    assert sealed
    return content + b"}\n"


def stored(directory: Path) -> list[dict[str, Any]]:
    """The lines of the case log, decoded."""
    return [json.loads(line) for line in log_of(directory).read_bytes().splitlines()]


def filled(directory: Path, *groups: list[dict[str, Any]]) -> bytes:
    """Append units to a run one after the other; returns the bytes of its case log."""
    with RunStore.open(directory, resume=True) as store:
        for group in groups:
            store.append(group)
    return log_of(directory).read_bytes()
