"""What the reader of the tables wants to see, and what the experiment says where the reader does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ke_cli.errors import UserError, unknown_name
from ke_cli.report.aggregate import merged_columns
from ke_cli.report.comparisons import Comparisons
from ke_cli.report.keys import full_name, known_settings, short_name
from ke_cli.report.rows import check_keys
from ke_cli.report.splitting import needed_split
from ke_cli.results.experiment import ExperimentRecord
from ke_cli.results.reader import Run

EVERY = "all"
"""Asks for every column that was measured."""


@dataclass(frozen=True, slots=True)
class View:
    """What the reader of the tables wants to see.

    Where one of the first four is None, the experiment that all runs belong to decides; an empty one wants nothing of
    the kind.

    Args:
        by: Setting keys that make rows; see `make_rows`.
        split: Setting keys that make tables.
        metrics: Names of columns, or of metrics for all of theirs (where a column has the name of its metric, it is
            the column), in the order wanted; ``all``; the main columns when empty.
        against: A row or method: the other rows then show paired differences to it.
        sort: A column, or ``name``, with ``:desc`` behind it for the highest first.
        all_cases: Each row on all its own cases, not on the common ones.
        cluster: Which cases are resampled together: one of `ke_cli.report.clusters.CHOICES`.
        plain: With a row to compare with, show the numbers themselves all the same, marked where they differ.
        digits: Decimals; without, as many as the intervals support.
        intervals: Show them.
        rows: Setting keys whose values make rows, on as many levels; see `ke_cli.report.pivot`.
        cols: Setting keys whose values make columns.
        made: Comparisons that views made of this one by `dataclasses.replace` need not make again.
    """

    by: tuple[str, ...] | None = None
    split: tuple[str, ...] | None = None
    metrics: tuple[str, ...] | None = None
    against: str | None = None
    sort: str = ""
    all_cases: bool = False
    cluster: str = "auto"
    plain: bool = False
    digits: int | None = None
    intervals: bool = True
    rows: tuple[str, ...] = ()
    cols: tuple[str, ...] = ()
    made: Comparisons = field(default_factory=Comparisons, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Layout:
    """A view with nothing left open.

    Args:
        by: As in `View`, like all that follow.
        split: Setting keys.
        metrics: Names.
        against: Empty for plain values.
        sort: Empty for the order of the rows.
        all_cases: Whether.
        cluster: As in `View`, like the three that follow.
        plain: Whether.
        digits: How many.
        intervals: Whether.
        measured: Whether columns in which no row has a value are left out although they are named.
        source: A sentence that says where what was left open comes from; empty where nothing was.
        made: As in `View`.
    """

    by: tuple[str, ...] = ()
    split: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    against: str = ""
    sort: str = ""
    all_cases: bool = False
    cluster: str = "auto"
    plain: bool = False
    digits: int | None = None
    intervals: bool = True
    measured: bool = False
    source: str = ""
    made: Comparisons = field(default_factory=Comparisons, compare=False, repr=False)


def common_experiment(runs: Sequence[Run]) -> ExperimentRecord | None:
    """Return the experiment that all runs belong to, if its record is the same in all of them."""
    found = [run.record.experiment for run in runs]
    return found[0] if found and all(experiment == found[0] for experiment in found) else None


def settled(view: View, runs: Sequence[Run]) -> Layout:
    """Fill in what a view leaves open from the experiment that all runs belong to, if there is one."""
    experiment = common_experiment(runs)
    offered = _offered(experiment, runs) if experiment else Layout()
    left_open = {
        "rows": view.by is None and bool(offered.by),
        "tables": view.split is None and bool(offered.split),
        "columns": view.metrics is None and bool(offered.metrics),
        "comparison": view.against is None and bool(offered.against),
    }
    split = offered.split if view.split is None else view.split
    needed = () if split or view.all_cases or view.split is not None else needed_split(runs)
    sources = (_source(experiment, [part for part, taken in left_open.items() if taken]), _reason(needed))
    return Layout(
        by=offered.by if view.by is None else view.by,
        split=split or needed,
        metrics=offered.metrics if view.metrics is None else view.metrics,
        against=offered.against if view.against is None else view.against,
        sort=view.sort,
        all_cases=view.all_cases,
        cluster=view.cluster,
        plain=view.plain,
        digits=view.digits,
        intervals=view.intervals,
        measured=view.metrics is None,
        source=" ".join(filter(None, sources)),
        made=view.made,
    )


def _offered(experiment: ExperimentRecord, runs: Sequence[Run]) -> Layout:
    """Return the layout of an experiment without names that fit no run, because its settings may have been changed."""
    settings = known_settings(runs)
    columns = {name for column in merged_columns(runs) for name in (column.name, column.metric)} | {EVERY}
    return Layout(
        by=tuple(key for key in experiment.by if key in settings),
        split=tuple(key for key in experiment.split if key in settings),
        metrics=tuple(name for name in experiment.metrics if name in columns),
        against=experiment.against,
    )


def _source(experiment: ExperimentRecord | None, parts: Sequence[str]) -> str:
    if experiment is None or not parts:
        return ""
    return f"Laid out as the experiment {experiment.name} says ({', '.join(parts)}); options of ke-summarize win."


def _reason(split: Sequence[str]) -> str:
    if not split:
        return ""
    return f"Apart by {', '.join(map(short_name, split))}, because no case is asked the same in all runs."


def completed(view: View, runs: Sequence[Run]) -> View:
    """Write the settings that a view names in full; see `full_name`."""
    known = known_settings(runs)
    by, split = (
        None if keys is None else tuple(full_name(key, known) for key in keys) for keys in (view.by, view.split)
    )
    rows, cols = (tuple(full_name(key, known) for key in keys) for keys in (view.rows, view.cols))
    return replace(view, by=by, split=split, rows=rows, cols=cols)


def check(view: View, runs: Sequence[Run]) -> None:
    """Refuse names in a view that no run has, before anything is computed.

    Raises:
        UserError: It names the option and what is known.
    """
    check_keys(view.by or (), runs, "--by")
    check_keys(view.split or (), runs, "--split")
    check_keys(view.rows, runs, "--rows")
    check_keys(view.cols, runs, "--cols")
    check_columns([name for name in view.metrics or () if name != EVERY], runs, "--metrics")
    name, _, order = view.sort.partition(":")
    names = ["name", *(column.name for column in merged_columns(runs))]
    if name and name not in names:
        raise unknown_name("column", name, names, where="--sort")
    if order not in ("", "asc", "desc"):
        raise UserError(f"unknown order {order!r}", where="--sort", allowed="asc, desc")


def check_columns(names: Sequence[str], runs: Sequence[Run], where: str) -> None:
    """Refuse names of which no run has a column or a metric.

    Raises:
        UserError: It names the nearest one.
    """
    columns = merged_columns(runs)
    known = {column.name for column in columns} | {column.metric for column in columns}
    for name in names:
        if name not in known:
            raise unknown_name("metric", name, known, where=where)
