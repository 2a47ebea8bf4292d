"""Which runs share a table, which share a row, and what the row is called."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from ke_cli.errors import UserError, did_you_mean
from ke_cli.report.keys import known_settings, short_name
from ke_cli.results.reader import Run
from ke_cli.results.record import EDITS_FROM, Scalar
from ke_cli.results.text import printable

UNEDITED = "none"
"""The method that edits nothing: it comes first, and is never the best."""

SEED = "seed"
"""The setting of which a row has all values, unless they are asked for."""

_DOT = " \N{MIDDLE DOT} "


class Group(NamedTuple):
    """What the runs of one table have in common: three names, and the settings that make tables of their own."""

    model: str
    dataset: str
    protocol: str
    split: tuple[tuple[str, Scalar], ...]

    @property
    def title(self) -> str:
        """For example ``gpt2 · counterfact · same_subject · max_facts=4``."""
        return _DOT.join(filter(None, (self.names, self.part)))

    @property
    def names(self) -> str:
        """For example ``gpt2 · counterfact · same_subject``."""
        return _DOT.join(self[:3])

    @property
    def part(self) -> str:
        """For example ``max_facts=4``; empty for a table that is not one of several parts."""
        return _DOT.join(f"{short_name(key)}={as_typed(value)}" for key, value in self.split)


@dataclass(frozen=True, slots=True)
class Row:
    """The runs that are shown as one line of a table.

    Args:
        method: Name of the method.
        values: The settings that tell this row from others of the method, as ``(key, value)``.
        runs: Usually one; several are pooled, those of all seeds unasked.
        asked: Whether the reader chose the settings, and so knows what a word among their values is about.
    """

    method: str
    values: tuple[tuple[str, Scalar], ...]
    runs: tuple[Run, ...]
    asked: bool = False

    @property
    def label(self) -> str:
        """For example ``rose (lambda=0.1, seed=1)``, or ``rose (isotropic, joint)`` for settings asked for."""
        parts = [
            value
            if self.asked and isinstance(value, str)
            else f"{key.removeprefix('method.').rstrip('_')}={as_typed(value)}"
            for key, value in self.values
            if key != "method.name"
        ]
        return f"{self.method} ({', '.join(parts)})" if parts else self.method

    @property
    def are_seeds(self) -> bool:
        """Whether it pools several runs, one of each seed, that differ in nothing else."""
        return len(self.runs) > 1 and not parting(self.runs) and not _has_twins(self.runs)

    @property
    def finished(self) -> bool:
        """Whether all its runs are complete."""
        return all(run.finished for run in self.runs)

    @property
    def started(self) -> float:
        """When its first run started, Unix time in seconds."""
        return min(run.record.started for run in self.runs)


def group_runs(runs: Iterable[Run], split: Sequence[str] = ()) -> list[tuple[Group, list[Run]]]:
    """Gather runs by the names of their model, data set and protocol, in the order of their first start.

    Args:
        runs: Any.
        split: Setting keys that part them further, in the order of their values.
    """
    found: dict[tuple[str, ...], list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.record.started):
        found.setdefault((*_names(run), *(setting(run, key) for key in split)), []).append(run)
    groups = [(Group(*_names(members[0]), _settings(members[0], split)), members) for members in found.values()]
    started = list(dict.fromkeys(group[:3] for group, _ in groups))
    return sorted(groups, key=lambda pair: (started.index(pair[0][:3]), [*map(_order, pair[0].split)]))


def _names(run: Run) -> tuple[str, str, str]:
    return run.record.named("model"), run.record.named("dataset"), run.record.named("protocol")


def _settings(run: Run, keys: Sequence[str]) -> tuple[tuple[str, Scalar], ...]:
    return tuple((key, run.record.settings[key]) for key in keys if key in run.record.settings)


def make_rows(runs: Sequence[Run], by: Sequence[str] = ()) -> list[Row]:
    """Gather the runs of a group into rows: the unedited model first, then methods as they were started.

    Args:
        runs: All of one model, data set and protocol.
        by: Setting keys that tell the rows of a method apart; runs that agree in them are pooled. Without, runs that
            differ in nothing but the seed are a row, named by the settings in which the runs of its method differ.
    """
    methods: dict[str, list[Run]] = {}
    for run in runs:
        methods.setdefault(run.record.named("method"), []).append(run)
    rows = [row for method, members in methods.items() for row in _rows_of(method, members, by)]
    first = {method: min(run.record.started for run in members) for method, members in methods.items()}
    return sorted(
        rows,
        key=lambda row: (row.method != UNEDITED, first[row.method], row.method, *map(_order, row.values)),
    )


def _rows_of(method: str, runs: Sequence[Run], by: Sequence[str]) -> list[Row]:
    keys = by or parting(runs)
    rows = [_row(method, keys, members, bool(by)) for members in _pooled(runs, keys)]
    return rows if by else [single for row in rows for single in _apart(row)]


def _pooled(runs: Iterable[Run], keys: Sequence[str]) -> list[list[Run]]:
    """Gather runs that agree in settings."""
    pooled: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        pooled.setdefault(tuple(setting(run, key) for key in keys), []).append(run)
    return list(pooled.values())


def _row(method: str, keys: Sequence[str], runs: Sequence[Run], asked: bool) -> Row:
    settings = runs[0].record.settings
    return Row(method, tuple((key, settings[key]) for key in keys if key in settings), tuple(runs), asked)


def _apart(row: Row) -> list[Row]:
    """Part runs of which two have one seed: by seed, and those of one configuration by run id or name of the folder."""
    if not _has_twins(row.runs):
        return [row]
    if len(seeds := _pooled(row.runs, (SEED,))) > 1:
        parts = [_row(row.method, (SEED,), members, row.asked) for members in seeds]
        return [single for part in parts for single in _apart(replace(part, values=(*row.values, *part.values)))]
    ids = {run.record.run_id for run in row.runs}
    names = [run.record.run_id if len(ids) == len(row.runs) else printable(run.path) for run in row.runs]
    return [Row(row.method, (*row.values, ("run", name)), (run,)) for name, run in zip(names, row.runs, strict=True)]


def _has_twins(runs: Sequence[Run]) -> bool:
    """Whether two runs have the same seed, so that a mean over them would count it twice."""
    return len({setting(run, SEED) for run in runs}) < len(runs)


def differing(runs: Sequence[Run]) -> list[str]:
    """Return the scientific settings, those of metrics apart, in which the runs that have them differ."""
    first: dict[str, Scalar] = {}
    several: set[str] = set()
    for settings, identity in ((run.record.settings, run.record.identity) for run in runs):
        for key in identity:
            value = settings.get(key)
            other = first.setdefault(key, value)
            if other is not value and (other != value or type(other) is not type(value)):
                several.add(key)
    return [key for key in first if key in several and not key.startswith(("metrics.", "metric_versions."))]


def causes(runs: Sequence[Run]) -> list[str]:
    """Return the settings in which runs differ, without those that only follow the seed (``context_seed: ${seed}``)."""
    return [key for key in differing(runs) if not _follows_seed(key, runs)]


def parting(runs: Sequence[Run]) -> list[str]:
    """Return the settings in which runs differ, the seed and what follows it apart."""
    return [key for key in causes(runs) if key != SEED]


def _follows_seed(key: str, runs: Iterable[Run]) -> bool:
    """Whether a setting is named as a seed and is that of the run, or tells the edits that were made with that seed."""
    told = [run for run in runs if key in run.record.identity]
    if key == EDITS_FROM:
        is_given = all(run.record.settings.get(key) is not None for run in told)
        return is_given and len({setting(run, SEED) for run in told}) > 1
    return key.endswith(("_seed", ".seed")) and all(setting(run, key) == setting(run, SEED) for run in told)


def setting(run: Run, key: str) -> str:
    """Return a setting as text that tells 1, 1.0 and True apart."""
    return repr(run.record.settings.get(key))


def check_keys(keys: Sequence[str], runs: Sequence[Run], where: str) -> None:
    """Refuse a setting key that no run has.

    Raises:
        UserError: It names the key and the nearest known one.
    """
    known = known_settings(runs)
    for key in keys:
        if key not in known:
            telling = [name for name in causes(runs) if not name.endswith(".target")]
            names = dict.fromkeys(name.removesuffix(".name") for name in (*telling, "method.name", SEED))
            raise UserError(
                f"unknown setting {key!r}",
                where=where,
                allowed=f"{', '.join(names)}, or any other setting of the runs (ke-run --cfg job)",
                hint=did_you_mean(key, known),
            )


def select(runs: Sequence[Run], conditions: Iterable[tuple[str, Sequence[str]]]) -> list[Run]:
    """Return the runs whose settings are as asked for; unreadable ones have none.

    Args:
        runs: Any.
        conditions: Setting keys, each with the values that are wanted, as typed on the command line.

    Raises:
        UserError: A key that no run has.
    """
    conditions = list(conditions)
    if runs:
        check_keys([key for key, _ in conditions], runs, "--where")
    return [
        run
        for run in runs
        if all(key in run.record.settings and _is_among(run.record.settings[key], values) for key, values in conditions)
    ]


def _is_among(value: Scalar, texts: Sequence[str]) -> bool:
    """Whether a setting is one of those that were typed: 1, 1.0 and 1e0 are the same number."""
    if as_typed(value) in texts:
        return True
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and any(_number(text) == value for text in texts)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _order(value: tuple[str, Scalar]) -> tuple[str, float, str]:
    """Sort numbers as numbers and the rest as text."""
    key, setting = value
    is_number = isinstance(setting, (int, float)) and not math.isnan(setting)
    return key, float(setting) if is_number else math.inf, as_typed(setting)  # type: ignore[arg-type]


def as_typed(value: Scalar) -> str:
    """Return a setting as it is typed on the command line."""
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)
