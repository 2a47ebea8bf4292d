"""``run.json`` as tables see it: whatever the file says, these fields have these types."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ke_cli.results.experiment import ExperimentRecord
from ke_cli.results.journal import SCHEMA
from ke_cli.results.text import printable

RUN_FILE = "run.json"
LARGEST_RECORD = 1 << 26
"""Bytes of a ``run.json`` that are read."""

STATUSES = ("running", "complete", "interrupted", "failed")
KINDS = ("mean", "harmonic", "arithmetic", "all_in_unit")
OPERATIONAL = frozenset(
    {
        "device",
        "gpu",
        "gpu.jobs_per_gpu",
        "gpu.wait_min",
        "cpu_threads",
        "save_edits",
        "output_dir",
        "batch_tokens",
        "dry_run",
        "resume",
        "retry_failed",
        "progress",
        "unedited_cache",
        "stop_failed",
        "stop_failed.share",
        "stop_failed.after",
    }
)
"""Settings that say how a run was computed, not what; needed for records that do not tell their identity."""

EDITS_FROM = "edits_from.fingerprint"
"""Tells a run whose edits were stored from the one that made them, whose identity does not speak of it."""

LONGEST = 400
"""Characters of a name or a setting that tables show."""

Scalar = str | float | int | bool | None


@dataclass(frozen=True, slots=True)
class ColumnRecord:
    """A column of a metric as a run recorded it.

    Args:
        name: Key in the case lines (kind ``mean``) or of a derived number (all other kinds).
        title: Heading.
        direction: ``up`` or ``down``: which way is better.
        scale: Factor applied when shown.
        metric: The metric it belongs to.
        kind: One of `KINDS`.
        of: The columns that a derived number is computed from.
        main: Whether tables show it unasked.
    """

    name: str
    title: str
    direction: str
    scale: float
    metric: str
    kind: str = "mean"
    of: tuple[str, ...] = ()
    main: bool = True


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What tables need of ``run.json``.

    Args:
        name: Name of the run.
        run_id: Hash of the scientific configuration.
        status: One of `STATUSES`, ``unknown``, or ``unreadable`` when there is no usable record.
        settings: The configuration, flat: dotted key to value (lists as JSON text), with the fingerprints of
            model and data set under ``model.fingerprint`` and ``dataset.fingerprint``.
        identity: Those settings that can change a number.
        columns: All columns in the order of the metrics, derived ones behind those of their metric.
        versions: Metric name to version.
        total: How many cases the run is about; 0 when it does not say.
        shard: Into how many shards the whole run is split, and which of them this is, from 0; None for a whole run.
        whole: How many cases the whole run is about, where this is a shard of it; 0 when it does not say.
        started: Unix time in seconds; infinite when it does not say.
        checkpoints: Numbers of facts after which a sequence of edits is evaluated, ascending; empty for other runs.
        experiment: The experiment it belongs to, if any. Of it only ``experiment.name`` is among the settings.
    """

    name: str
    run_id: str = ""
    status: str = "unreadable"
    settings: Mapping[str, Scalar] = field(default_factory=dict)
    identity: Mapping[str, Scalar] = field(default_factory=dict)
    columns: tuple[ColumnRecord, ...] = ()
    versions: Mapping[str, int] = field(default_factory=dict)
    total: int = 0
    shard: tuple[int, int] | None = None
    whole: int = 0
    started: float = math.inf
    experiment: ExperimentRecord | None = None
    checkpoints: tuple[int, ...] = ()

    @classmethod
    def parse(cls, raw: Mapping[str, Any], name: str) -> RunRecord:
        """Check a decoded ``run.json``; ``name`` is used when it has none.

        Raises:
            ValueError: A part without which no table can be made is missing or malformed.
            RecursionError: A part is nested too deeply.
        """
        if raw.get("schema") != SCHEMA:
            raise ValueError(f"written by another version (schema {raw.get('schema')!r:.40}, not {SCHEMA})")
        prints = dict(_fingerprints(raw))
        config = dict(_mapping(raw, "config"))
        experiment = ExperimentRecord.parse(config.pop("experiment", None))
        settings = dict(flat(config)) | prints
        identity = dict(flat(_mapping(raw, "identity"))) | prints if "identity" in raw else settings
        metrics = {_name(key, "metric"): value for key, value in _mapping(raw, "metrics").items()}
        return cls(
            name=printable(raw.get("name") or name),
            run_id=printable(raw.get("run_id") or ""),
            status=raw["status"] if raw.get("status") in STATUSES else "unknown",
            settings=settings if experiment is None else settings | {"experiment.name": experiment.name},
            identity={key: value for key, value in ({EDITS_FROM: None} | identity).items() if key not in OPERATIONAL},
            columns=tuple(column for key, value in metrics.items() for column in _columns(key, value)),
            versions={key: int(_number(value.get("version", 0))) for key, value in metrics.items()},
            total=_cases(raw.get("totals")),
            shard=_shard(config.get("shard")),
            whole=_cases(_part(raw.get("totals"), "whole")),
            started=_timestamp(raw.get("started_at")),
            experiment=experiment,
            checkpoints=_checkpoints(_part(raw.get("totals"), "checkpoints")),
        )

    def named(self, part: str) -> str:
        """The name of the model, method, dataset or protocol of this run."""
        return str(self.settings.get(f"{part}.name") or "unknown")


def _mapping(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = raw.get(key)
    if not isinstance(value, Mapping):
        raise ValueError(f"{key} is missing, or not an object")
    return value


def _part(raw: object, key: str) -> object:
    return raw.get(key) if isinstance(raw, Mapping) else None


def _cases(totals: object) -> int:
    return max(0, int(_number(_part(totals, "cases") or 0)))


def _checkpoints(raw: object) -> tuple[int, ...]:
    found = raw if isinstance(raw, list) else []
    return tuple(sorted({count for count in found if type(count) is int and count > 0}))


def _shard(raw: object) -> tuple[int, int] | None:
    count, index = _part(raw, "count"), _part(raw, "index")
    if not (isinstance(count, int) and isinstance(index, int) and 0 <= index < count and 1 < count <= 1_000_000):
        return None
    return count, index


def _fingerprints(raw: Mapping[str, Any]) -> Iterator[tuple[str, Scalar]]:
    for part in ("model", "dataset"):
        if isinstance(found := raw.get(part), Mapping) and "fingerprint" in found:
            yield f"{part}.fingerprint", _scalar(found["fingerprint"])


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Scalar]]:
    """Yield the entries of a nested object: dotted key and value, lists as JSON text, all made safe to print."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{printable(key)}.")
        else:
            yield prefix + printable(key), _scalar(value)


def _scalar(value: object) -> Scalar:
    """Return a setting as tables show and sort it; a number that is none for JSON or a float becomes its text."""
    if value is None or isinstance(value, (bool, int, float)):
        plain = value is None or (math.isfinite(value) if isinstance(value, float) else abs(value) < 1 << 63)
        return value if plain else f"{value!r:.60}"
    text = value if isinstance(value, str) else json.dumps(value)
    if len(text) <= LONGEST:
        return printable(text)
    # Two long values must not look alike because their beginnings do.
    return f"{printable(text[:LONGEST])} #{hashlib.sha256(text.encode(errors='replace')).hexdigest()[:8]}"


def _name(text: str, kind: str) -> str:
    """Return a name that lines and tables go by, which therefore cannot be made printable, only refused.

    Raises:
        ValueError: It holds characters that cannot be printed, or is far too long.
    """
    if not text.isprintable() or len(text) > LONGEST:
        raise ValueError(f"the name of a {kind} cannot be printed: {text!r:.80}")
    return text


def _columns(metric: str, raw: object) -> Iterator[ColumnRecord]:
    if not isinstance(raw, Mapping):
        raise ValueError(f"metrics.{metric} is not an object")
    for key in ("columns", "derived"):
        for entry in _list(raw, key):
            if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
                raise ValueError(f"metrics.{metric}.{key} has an entry without a name")
            yield _column(metric, entry, "mean" if key == "columns" else str(entry.get("kind")))


def _column(metric: str, entry: Mapping[str, Any], kind: str) -> ColumnRecord:
    direction = entry.get("direction", "up")
    if kind not in KINDS or direction not in ("up", "down"):
        raise ValueError(f"metrics.{metric}: column {entry['name']!r:.80} has an unknown kind or direction")
    return ColumnRecord(
        name=_name(entry["name"], "column"),
        title=printable(entry.get("title") or entry["name"]),
        direction=direction,
        scale=_number(entry.get("scale", 100.0)),
        metric=metric,
        kind=kind,
        of=tuple(str(source) for source in _list(entry, "of")),
        main=entry.get("main") is not False,
    )


def _list(raw: Mapping[str, Any], key: str) -> list[Any]:
    value = raw.get(key) or []
    if not isinstance(value, list):
        raise ValueError(f"{key} is not a list")
    return value


def _number(value: object) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e15:  # false for NaN
        return float(value)
    raise ValueError(f"a number was expected, not {value!r:.40}")


def _timestamp(text: object) -> float:
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except (ValueError, OverflowError, OSError):
        return math.inf
