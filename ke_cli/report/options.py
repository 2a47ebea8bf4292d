"""The options of ``ke-summarize`` that lay tables out, and those that find things."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ke_cli.errors import UserError
from ke_cli.report.cells import MOST_DIGITS
from ke_cli.report.clusters import CHOICES
from ke_cli.report.keys import full_name
from ke_cli.results.frames import FRAMES
from ke_cli.results.reader import Run

if TYPE_CHECKING:
    from ke_cli.report.finding.conditions import Condition

Setting = tuple[str, tuple[str, ...]]
"""A setting, and the values that are wanted of it."""

_SETTING = re.compile(r"\s*([\w.]+)\s*=(?!=)(.*)", re.DOTALL)


def add_layout(parser: argparse.ArgumentParser, names: Callable[[str], tuple[str, ...]]) -> None:
    """Add what lays tables out, and says how sure their numbers are.

    Args:
        parser: Of ``ke-summarize``.
        names: Reads a list of names.
    """
    add = parser.add_argument_group("layout and statistics").add_argument
    add("--rows", type=names, default=(), metavar="KEYS", help="settings whose values make rows, on several levels")
    add("--cols", type=names, default=(), metavar="KEYS", help="settings whose values make columns above the metrics")
    add("--values", action="store_true", help="with --baseline: show the numbers themselves, marked where they differ")
    add(
        "--cluster",
        choices=CHOICES,
        default="auto",
        help="cases that are not independent: those that share it are resampled together (auto: edited together, or "
        "about one subject)",
    )
    add("--digits", type=_digits, metavar="N", help="decimals (default: as many as the intervals support)")
    add("--no-intervals", action="store_true", help="leave the intervals out")


def add_finding(parser: argparse.ArgumentParser) -> None:
    """Add what finds runs and cases."""
    group = parser.add_argument_group("finding things")
    add = group.add_argument
    add(
        "--where",
        action="append",
        default=[],
        metavar="CONDITION",
        help="only runs with one of these values of a setting: KEY=VALUE[,VALUE]; with --cases or --export also only "
        "cases of which this is true: 'efficacy<1 and relation==\"P103\"'; may be given several times",
    )
    add(
        "--cases",
        type=_count,
        nargs="?",
        const=-1,
        metavar="N",
        help="show the prompts and answers behind the numbers, of N cases (10); with --diff: list N cases (20); with "
        "--html: N cases of each table on the page (200)",
    )
    one = group.add_mutually_exclusive_group().add_argument
    one("--list", action="store_true", help="list the runs: status, age, cases, what tells them apart")
    one(
        "--diff",
        nargs=2,
        metavar="RUN",
        help="how two runs differ, by folder, name or method: settings, columns, cases",
    )
    one("--export", type=Path, metavar="FILE", help="write every case with its values to FILE.parquet, .csv or .json")
    add("--frame", choices=FRAMES, help=f"what --export writes a row for (default: {FRAMES[0]})")


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number of cases, got {text!r}; folders stand before --cases")
    return int(text)


def _digits(text: str) -> int:
    if not (text.isdecimal() and int(text) <= MOST_DIGITS):
        raise argparse.ArgumentTypeError(f"expected a number from 0 to {MOST_DIGITS}, got {text!r}")
    return int(text)


def layout_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what these options say, as arguments of `View`."""
    return {
        "cluster": arguments.cluster,
        "plain": arguments.values,
        "digits": arguments.digits,
        "intervals": not arguments.no_intervals,
        "rows": arguments.rows,
        "cols": arguments.cols,
    }


def is_asked(arguments: argparse.Namespace) -> bool:
    """Whether runs or cases are to be found, listed or exported, and not tables, pictures or a page made."""
    listed = arguments.cases is not None and not arguments.html
    return bool(arguments.list or arguments.diff or arguments.export or listed)


def refuse_useless(arguments: argparse.Namespace) -> None:
    """Refuse options that would do nothing beside the others.

    Raises:
        UserError: It names one.
    """
    several = [name for name in ("plots", "html") if getattr(arguments, name)]
    is_plot = arguments.scatter or arguments.curve
    useless = {
        "frame": "--export FILE" if arguments.frame and not arguments.export else "",
        "output": "a table, --list, --diff or --cases" if arguments.output and several else "",
        "format": "a table, --list, --diff or --cases" if arguments.format and several else "",
        **{name: "no --scatter and no --curve" for name in several if is_plot},
    }
    for name, wanted in useless.items():
        if wanted:
            raise UserError(f"--{name} goes with {wanted}", where=f"--{name}", hint="leave it out, or call twice")


def limit(arguments: argparse.Namespace, usual: int) -> int:
    """Return how many cases --cases asks for; ``usual`` where it was given without a number, or not at all."""
    asked: int | None = arguments.cases
    return usual if asked is None or asked < 0 else asked


def wanted_of(texts: Sequence[str]) -> tuple[list[Setting], list[Condition]]:
    """Read what --where asks for: values of settings, which choose runs, and conditions, which choose cases.

    Raises:
        UserError: A condition is none.
    """
    from ke_cli.report.finding.grammar import read_condition  # late, because only few look for cases

    settings, conditions = list[Setting](), []
    for text in texts:
        if match := _SETTING.fullmatch(text):
            values = match[2].strip()
            each = [values] if values.startswith("[") else values.split(",")  # a list is one value
            settings.append((match[1], tuple(value.strip() for value in each)))
        else:
            conditions.append(read_condition(text))
    return settings, conditions


def in_full(settings: Sequence[Setting], runs: Sequence[Run]) -> list[Setting]:
    """Write settings in full; see `full_name`.

    Raises:
        UserError: One is no setting, but something that cases have.
    """
    from ke_cli.report.finding.fields import Fields

    known = {key for run in runs for key in run.record.settings}
    found = [(full_name(key, known), values) for key, values in settings]
    for key, values in found:
        if key not in known and Fields.of(runs).kind(key):
            raise UserError(
                f"{key} is no setting of a run, but something that each case has",
                where=f"--where {key}={','.join(values)}",
                hint=f"--where '{key}==...' with --cases or --export; texts stand in quotes",
            )
    return found


def refuse_conditions(conditions: Sequence[Condition]) -> None:
    """Refuse conditions about cases where tables are asked for, whose rows are compared on common cases.

    Raises:
        UserError: There is one.
    """
    if conditions:
        raise UserError(
            "a condition about cases chooses none for tables, pictures or a page",
            where=f"--where {conditions[0].text!r}",
            allowed="with tables: --where KEY=VALUES, which chooses runs by their settings",
            hint="add --cases to see these cases, or --export FILE to write them",
        )
