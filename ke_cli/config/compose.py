"""From Hydra's configuration to a `RunConfig`; this package alone knows OmegaConf."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ke_cli.config.explain import explain
from ke_cli.config.plugins import Plugin, plugin
from ke_cli.config.schema import RunConfig, Settings
from ke_cli.config.source import with_source
from ke_cli.config.validation import Problem, as_json, raise_problems, unknown_key, validate
from ke_cli.errors import UserError
from ke_cli.paths import BUNDLED, conf_dir

TEXTS = ("wikipedia", "atlas")
PARTS = ("method", "dataset", "protocol")


def compose_run(overrides: Sequence[str] = (), config_dir: str | Path | None = None) -> RunConfig:
    """Compose a run as the command line would, for scripts, notebooks and tests.

    Args:
        overrides: As typed after ``ke-run``.
        config_dir: A further folder of configuration files.

    Raises:
        UserError: If an override or the configuration is wrong.
    """
    extra = [f"hydra.searchpath=['file://{Path(config_dir).resolve()}']"] if config_dir else []
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
            return run_config(compose("config", overrides=[*overrides, *extra]), overrides)
    except Exception as error:
        raise explain(error, overrides, str(config_dir) if config_dir else None) or error from error


def run_config(composed: DictConfig, typed: Sequence[str] = ()) -> RunConfig:
    """Resolve and validate a composed configuration.

    Args:
        composed: As Hydra returns it.
        typed: The overrides of the command line; they win over the run that ``edits_from`` names.

    Raises:
        UserError: With all problems of the configuration at once.
    """
    raw = with_source(_resolved(composed), typed)
    settings, problems = _settings(raw)
    problems += _unknown_keys(raw)
    parts: dict[str, Any] = {}
    for kind in PARTS:
        parts[kind], found = _part(kind, raw)
        problems += found
    parts["metrics"], found = _metrics(raw.get("metrics"))
    raise_problems(problems + found)
    values = {item.name: getattr(settings, item.name) for item in fields(Settings)}
    return RunConfig(**values, **parts)


def _resolved(composed: DictConfig) -> dict[str, Any]:
    """Return the configuration as plain values, with the model's entry adapted to its path."""
    raw = OmegaConf.to_container(composed, resolve=False)
    assert isinstance(raw, dict)
    raw.pop("hydra", None)
    try:
        _refuse_missing(raw)
        if isinstance(raw.get("model"), dict):
            raw["model"] = _model(raw["model"], OmegaConf.select(composed, "model.path"))
        plain = OmegaConf.to_container(OmegaConf.create(raw), resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        what = str(error).splitlines()[0]
        raise UserError(f"a value cannot be resolved: {what}", where=error.full_key) from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _refuse_missing(raw: Mapping[Any, Any]) -> None:
    missing = sorted(_missing(raw, ""))
    if missing:
        typed = " ".join(f"{key}=..." for key in missing)
        raise UserError(f"the configuration lacks a value for {', '.join(missing)}", hint=f"ke-run {typed}")


def _missing(part: object, key: str) -> Iterator[str]:
    """Yield the keys under ``key`` whose value is ``???``, which says that a user must give one."""
    if part == "???":
        yield key
    elif isinstance(part, Mapping):
        for name, value in part.items():
            yield from _missing(value, f"{key}.{name}" if key else str(name))
    elif isinstance(part, list):
        for index, value in enumerate(part):
            yield from _missing(value, f"{key}[{index}]")


def _model(model: dict[str, Any], path: object) -> dict[str, Any]:
    """Adapt a model's entry to the path it is given.

    Numbers that were tuned on one model are no defaults for another put in its place, and its name would be
    wrong: both go. A name that the user gave stays.
    """
    tuned_for = model.pop("tuned_for", None)
    if not isinstance(path, str):
        return model
    if tuned_for and path != tuned_for["path"]:
        model["editing"] = {}
        model["name"] = None if model.get("name") == tuned_for["name"] else model.get("name")
    model["path"] = _absolute(path)
    model["name"] = model.get("name") or os.path.basename(model["path"])
    return model


def _absolute(path: str) -> str:
    """Return the absolute path of a folder that exists; hub ids and bundled paths as they are."""
    folder = os.path.expanduser(path)
    if path.startswith(BUNDLED) or not os.path.isdir(folder):
        return path
    return os.path.abspath(folder)


def _unknown_keys(raw: Mapping[str, Any]) -> Iterator[Problem]:
    known = [item.name for item in fields(RunConfig)]
    for key in raw:
        if key not in known:
            yield Problem(key, unknown_key(key, known))


def _settings(raw: Mapping[str, Any]) -> tuple[Settings | None, list[Problem]]:
    """Validate the part of the configuration in which nothing is pluggable."""
    known = {item.name for item in fields(Settings)}
    settings, problems = validate(Settings, {key: raw[key] for key in raw if key in known}, "")
    return settings, [*problems, *_not_found(raw)]


def _not_found(raw: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield the local paths that lead nowhere, before a model is loaded for nothing."""
    path = _text(raw, "model", "path")
    if path and _looks_local(path) and not os.path.isdir(path):
        what = "a model is a folder, and this is a file" if os.path.exists(path) else "there is no such folder"
        yield Problem("model.path", f"{what}: {path}")
    text = _text(raw, "statistics", "text")
    if text and text not in TEXTS and not os.path.isfile(os.path.expanduser(text)):
        yield Problem("statistics.text", f"expected {', '.join(TEXTS)} or a text file that exists, got {text!r}")


def _text(raw: Mapping[str, Any], part: str, key: str) -> str | None:
    value = raw[part].get(key) if isinstance(raw.get(part), Mapping) else None
    return value if isinstance(value, str) else None


def _looks_local(path: str) -> bool:
    """Whether a model path cannot be a hub id (``name`` or ``owner/name``)."""
    if path.startswith(BUNDLED):
        return False
    return path.startswith(("/", "~", ".")) or path.count("/") > 1 or os.path.exists(path)


def _part(kind: str, raw: Mapping[str, Any]) -> tuple[Plugin[Any] | None, list[Problem]]:
    if raw.get(kind) is None:
        return None, [Problem(kind, "missing")]
    return plugin(kind, raw[kind], kind)


def _metrics(raw: object) -> tuple[dict[str, Plugin[Any]], list[Problem]]:
    """Validate the mapping from metric name to its target and settings."""
    if not isinstance(raw, Mapping) or not raw:
        return {}, [Problem("metrics", f"expected at least one metric, got {as_json(raw)}")]
    metrics: dict[str, Plugin[Any]] = {}
    problems: list[Problem] = []
    for name, settings in raw.items():
        metric, found = plugin("metrics", settings, f"metrics.{name}", name=str(name))
        problems += found
        if metric:
            metrics[str(name)] = metric
    return metrics, problems
