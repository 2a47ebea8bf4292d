"""What makes two runs the same experiment, and the name of the folder they share."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from ke_cli.config.plugins import Plugin, operational_settings, unused_settings
from ke_cli.config.schema import CAMP, SCHEMA_VERSION, RunConfig, Settings

ID_LENGTH = 10

SETTINGS = tuple(item.name for item in fields(Settings))
"""Parts of a configuration in which nothing is pluggable."""


def config_dict(config: RunConfig) -> dict[str, Any]:
    """Return the whole resolved configuration as plain JSON values, shaped like the YAML."""
    return {**_plain(config, SETTINGS), **_plugins(config, everything=True)}


def run_identity(config: RunConfig) -> dict[str, Any]:
    """Return everything that can change a number: scientific settings, versions of metrics and schema."""
    versions = {name: metric.build().version for name, metric in config.metrics.items()}
    settings = _plain(config, SETTINGS, scientific=True)
    if config.edits_from is None:
        del settings["edits_from"]  # runs that compute their edits are named as they were before there was a choice
    if config.model.quantization is None:
        del settings["model"]["quantization"]  # likewise
    return {
        **settings,
        **_plugins(config, everything=False),
        "metric_versions": versions,
        "schema": SCHEMA_VERSION,
    }


def run_id(config: RunConfig) -> str:
    """Return the first ten hexadecimal digits of the SHA-256 of the identity as canonical JSON."""
    canonical = json.dumps(run_identity(config), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()[:ID_LENGTH]


def run_name(config: RunConfig) -> str:
    """Return the name of the run's folder: ``<model>_<dataset>_<method>_<run id>``, then ``_shard-3-of-8`` if split."""
    parts = (config.model.name, config.dataset.name, config.method.name)
    shard = [f"shard-{config.shard.index}-of-{config.shard.count}"] if config.shard.count > 1 else []
    return "_".join((*(_safe(part) for part in parts), run_id(config), *shard))


def run_dir(config: RunConfig) -> Path:
    """Return the folder of the run; nothing is created."""
    return config.output_dir / run_name(config)


def _safe(part: str) -> str:
    """Replace what a file name cannot hold everywhere; keep the part short, visible and not empty."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", part).strip(".-")[:60] or "unnamed"


def _plain(part: Any, names: tuple[str, ...] | None = None, *, scientific: bool = False) -> dict[str, Any]:
    """Return the fields of a dataclass as plain JSON values, at every depth; perhaps only the scientific."""
    return {
        item.name: _value(getattr(part, item.name), scientific)
        for item in fields(part)
        if (names is None or item.name in names) and not (scientific and item.metadata[CAMP] == "operational")
    }


def _value(value: Any, scientific: bool) -> Any:
    if is_dataclass(value):
        return _plain(value, scientific=scientific)
    return str(value) if isinstance(value, Path) else value


def _plugins(config: RunConfig, *, everything: bool) -> dict[str, Any]:
    """Return the pluggable parts as in the YAML, on request without settings that change no number."""
    return {
        "method": _plugin(config.method, everything),
        "dataset": _plugin(config.dataset, everything),
        "metrics": {name: _plugin(metric, everything) for name, metric in config.metrics.items()},
        "protocol": _plugin(config.protocol, everything),
    }


def _plugin(plugin: Plugin[Any], everything: bool) -> dict[str, Any]:
    left_out = frozenset[str]()
    if not everything:
        left_out = operational_settings(plugin.target) | unused_settings(plugin.target, plugin.settings)
    kept = {key: value for key, value in plugin.settings.items() if key not in left_out}
    return {**kept, "name": plugin.name, "target": plugin.target}
