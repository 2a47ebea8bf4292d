"""The options of ``ke-summarize`` that lay tables out."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from ke_cli.report.cells import MOST_DIGITS
from ke_cli.report.clusters import CHOICES
from ke_cli.report.keys import full_name
from ke_cli.results.reader import Run


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


def in_full(
    conditions: Sequence[tuple[str, tuple[str, ...]]], runs: Sequence[Run]
) -> list[tuple[str, tuple[str, ...]]]:
    """Write the settings of conditions in full; see `full_name`."""
    known = {key for run in runs for key in run.record.settings}
    return [(full_name(key, known), values) for key, values in conditions]
