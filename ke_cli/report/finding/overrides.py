"""What tells runs apart: the settings in which each differs from the others that it can be compared with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ke_cli.report.rows import as_typed, setting
from ke_cli.results.reader import Run

NAMED = ("model", "method", "dataset", "protocol")
_FOLLOWS = {
    "method": ("model", "method"),
    "model": ("model",),
    "dataset": ("dataset",),
    "protocol": ("protocol",),
    "statistics": ("model",),
}
"""Settings below such a name are compared only among runs with the same names here, because the others have other
settings, or other defaults for them."""

_TOLD_ELSEWHERE = ("metrics.", "metric_versions.")
DIGEST = 8
"""Characters of a fingerprint that are shown."""


def overrides(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """Return for each run the settings that tell it from the others, as they are typed: ``method=rome``, ``seed=1``.

    Model, method, data set and protocol are told wherever they differ.
    """
    readable = [run for run in runs if run.readable]
    others = sorted(_keys(readable), key=lambda key: key == "seed")
    keys = [*(f"{part}.name" for part in NAMED), *(key for key in others if not key.endswith(".name"))]
    telling = {key: _differing(readable, key) for key in keys}
    return [tuple(_told(run, key) for key in keys if _group(run, key) in telling[key]) for run in runs]


def common(runs: Sequence[Run]) -> tuple[str, ...]:
    """Return which of model, method, data set and protocol all runs have in common, as they are typed."""
    readable = [run for run in runs if run.readable]
    keys = [f"{part}.name" for part in NAMED]
    return tuple(_told(readable[0], key) for key in keys if readable and len({setting(r, key) for r in readable}) == 1)


def labels(runs: Sequence[Run]) -> list[str]:
    """Return what each run is called beside the others: its method, with the settings that tell it from the others.

    Runs that nothing tells apart are called by their names.
    """
    found = [_label(run, told) for run, told in zip(runs, overrides(runs), strict=True)]
    return [
        label if found.count(label) == 1 else f"{label} ({run.record.name})"
        for label, run in zip(found, runs, strict=True)
    ]


def _label(run: Run, told: Sequence[str]) -> str:
    others = [part.removeprefix("method.").replace("_=", "=", 1) for part in told if not part.startswith("method=")]
    method = run.record.named("method")
    return f"{method} ({', '.join(others)})" if others else method


def _keys(runs: Sequence[Run]) -> Iterator[str]:
    """Yield the scientific settings of any run, those of metrics apart, and those that only repeat the seed."""
    for key in dict.fromkeys(key for run in runs for key in run.record.identity):
        if not key.startswith(_TOLD_ELSEWHERE) and not (key.endswith("_seed") and _repeats(runs, key)):
            yield key


def _repeats(runs: Sequence[Run], key: str) -> bool:
    return all(setting(run, key) == setting(run, "seed") for run in runs if key in run.record.identity)


def _differing(runs: Sequence[Run], key: str) -> set[tuple[str, ...]]:
    """Return the groups of comparable runs that have a setting and differ in it."""
    found: dict[tuple[str, ...], set[str]] = {}
    for run in runs:
        if key in run.record.identity:
            found.setdefault(_group(run, key), set()).add(setting(run, key))
    return {group for group, values in found.items() if len(values) > 1}


def _group(run: Run, key: str) -> tuple[str, ...]:
    """Return what a run must share with another one for the two to be compared in a setting."""
    part, _, rest = key.partition(".")
    if key not in run.record.identity:
        return ("without", key)
    return () if rest in ("", "name") else tuple(run.record.named(name) for name in _FOLLOWS.get(part, ()))


def _told(run: Run, key: str) -> str:
    value = as_typed(run.record.settings.get(key))
    return f"{key.removesuffix('.name')}={value[:DIGEST] if key.endswith('fingerprint') else value}"
