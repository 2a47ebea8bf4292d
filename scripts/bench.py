"""Times the textbook loop of knowledge editing and the engine side by side, and compares their numbers.

    python scripts/bench.py end_to_end --model gpt2-small --method rome --cases 8 --textbook-cases 2 --json rome.json
    python scripts/bench.py --help

Exit status: 0 if the numbers agree (or, where nothing is compared, what was asked for holds), 1 if not, 2 if something
cannot be done.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ke_cli.errors import UserError

sys.path.insert(0, str(Path(__file__).resolve().parent))

from benchmark.arguments import parse
from benchmark.comparing import JOBS, compare_sides
from benchmark.moments import compare_covariances
from benchmark.profiling import profile_sides
from benchmark.report import Report, show, write_json
from benchmark.scaling import measure_scale
from benchmark.summaries import measure_summaries
from benchmark.texts import compare_texts_of_sides

AGREES, DIFFERS, IMPOSSIBLE = 0, 1, 2
WIDE = 140
"""Columns of a table that is not printed to a terminal."""


def run(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Does one sub-benchmark, prints what came out, and returns it as plain values.

    Raises:
        UserError: If something that is asked for is impossible.
    """
    if options.command == "scale":
        return measure_scale(options, console)
    if options.command == "summarize":
        return measure_summaries(options, console)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    report = compared(options, console)
    show(report, console)
    return report.to_json()


def compared(options: argparse.Namespace, console: Console) -> Report:
    """Does one of the sub-benchmarks that compare the two sides."""
    if options.command in JOBS:
        return compare_sides(options)
    if options.command == "covariance":
        return compare_covariances(options)
    if options.command == "generate":
        return compare_texts_of_sides(options)
    report, tables = profile_sides(options)
    console.print(tables, markup=False, highlight=False, soft_wrap=True)
    if options.markdown is not None:
        options.markdown.write_text(tables + "\n", encoding="utf-8")
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a sub-benchmark and returns the exit status."""
    options = parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else WIDE)
    try:
        report = run(options, console)
    except UserError as error:
        print(error, file=sys.stderr)
        return IMPOSSIBLE
    if options.json is not None:
        write_json(report, options.json)
    return AGREES if report["agreement"]["agrees"] else DIFFERS


if __name__ == "__main__":
    sys.exit(main())
