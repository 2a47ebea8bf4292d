"""What ``ke-summarize`` does for --list, --diff, --cases and --export."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from ke_cli.errors import UserError, visible
from ke_cli.report.finding import case_list, difference_view, listing
from ke_cli.report.finding.conditions import Condition
from ke_cli.report.finding.difference import difference
from ke_cli.report.finding.exporting import export
from ke_cli.report.finding.fields import narrowed
from ke_cli.report.finding.picking import pick
from ke_cli.report.options import limit
from ke_cli.report.rows import UNEDITED
from ke_cli.report.view import EVERY, check_columns
from ke_cli.results.files import write_output
from ke_cli.results.frames import FRAMES
from ke_cli.results.reader import Run
from ke_cli.results.strict_json import dump
from ke_cli.results.text import printable

USUAL_CHANGES = 20
"""Cases that --diff lists unless told otherwise."""

WIDTH = 120
"""Of text that is written to a file."""

Print = Callable[[Console], None]
Data = Callable[[], dict[str, Any]]


def find(arguments: argparse.Namespace, runs: Sequence[Run], conditions: Sequence[Condition], console: Console) -> int:
    """Do what was asked for.

    Args:
        arguments: Of ``ke-summarize``.
        runs: Those that are wanted.
        conditions: About their cases.
        console: For what is no result.

    Returns:
        The exit code: 0, or 1 where there is nothing to show.

    Raises:
        UserError: Options do not go together, or name what is not there.
    """
    _check(arguments, conditions)
    readable = [run for run in runs if run.readable]
    check_columns([name for name in arguments.metrics or () if name != EVERY], readable, "--metrics")
    if arguments.diff:
        return _diff(arguments, runs)
    if arguments.list:
        return _list(arguments, runs)
    chosen = narrowed(readable, conditions)
    if arguments.export:
        return _export(arguments, chosen, console)
    return _cases(arguments, chosen, readable)


def _check(arguments: argparse.Namespace, conditions: Sequence[Condition]) -> None:
    for option in ("list", "export"):
        if getattr(arguments, option) and arguments.cases is not None:
            raise UserError(f"--cases does not go with --{option}", where="--cases", hint="leave one of them out")
    for option in ("list", "diff"):
        if conditions and getattr(arguments, option):
            raise UserError(
                f"--{option} knows no conditions about cases",
                where=f"--where {conditions[0].text!r}",
                allowed="--where KEY=VALUES, which chooses runs by their settings",
            )
    for option in ("html", "plots", "scatter", "curve"):
        if getattr(arguments, option):
            raise UserError(f"--{option} does not go with --list, --diff, --cases or --export", where=f"--{option}")


def _list(arguments: argparse.Namespace, runs: Sequence[Run]) -> int:
    now = time.time()
    _show(arguments, lambda console: listing.print_list(runs, now, console), lambda: listing.to_data(runs, now))
    return 0 if runs else 1


def _diff(arguments: argparse.Namespace, runs: Sequence[Run]) -> int:
    one, other = (pick(name, runs) for name in arguments.diff)
    found = difference(one, other, arguments.metrics or (), arguments.cluster)
    most = limit(arguments, USUAL_CHANGES)
    _show(
        arguments,
        lambda console: difference_view.print_difference(found, most, console),
        lambda: difference_view.to_data(found),
    )
    return 0


def _cases(arguments: argparse.Namespace, runs: Sequence[Run], others: Sequence[Run]) -> int:
    edited = [run for run in runs if run.record.named("method") != UNEDITED]
    if edited and not any(UNEDITED in text for text in arguments.where):
        runs = edited  # the unedited model fails every edit, and stands beside the others as what was before
    total, most = case_list.count_cases(runs), limit(arguments, case_list.USUAL)
    if not total:
        where = f" fulfils {' and '.join(arguments.where)}" if arguments.where else ""
        Console(stderr=True).print(Text(f"no case of {len(others):,} run(s){visible(where)}"), soft_wrap=True)
        return 1
    found = list(case_list.find_cases(runs, most, arguments.metrics or (), others))

    def prints(out: Console) -> None:
        for case in found:
            case_list.print_case(case, out)
        out.print()
        out.print(Text(f"{case_list.LEGEND} {_counted(len(found), total)}".strip(), style="dim"))

    _show(arguments, prints, lambda: {"schema": 1, "total": total, "cases": [*map(case_list.to_data, found)]})
    return 0


def _counted(shown: int, total: int) -> str:
    if shown == total:
        return f"All {total:,} cases." if total > 1 else ""
    return f"{shown:,} of {total:,} cases: --cases {total} shows all, --export FILE writes them."


def _export(arguments: argparse.Namespace, runs: Sequence[Run], console: Console) -> int:
    path: Path = arguments.export
    frame: str = arguments.frame or FRAMES[0]
    rows = export(runs, path, frame)
    console.print(Text(f"written: {printable(path)} ({rows:,} rows: {frame})"), soft_wrap=True)
    return 0 if rows else 1


def _show(arguments: argparse.Namespace, prints: Print, data: Data) -> None:
    """Print, or write to a file, as text or as JSON."""
    output: Path | None = arguments.output
    suffix = output.suffix.lower() if output else ""
    name = arguments.format or {".json": "json", ".txt": "terminal", "": "terminal"}.get(suffix, suffix)
    if name not in ("terminal", "json"):
        raise UserError(
            f"--list, --diff and --cases are not written as {name}",
            where="--format" if arguments.format else "--output",
            allowed="--output FILE.txt, --output FILE.json, --format json",
            hint="--export FILE.csv writes every case with its values",
        )
    if output is None and name == "terminal":
        prints(Console())
        return
    text = f"{dump(data(), indent=2).decode()}\n" if name == "json" else _text(prints)
    if output is None:
        Console().out(text, end="", highlight=False)
        return
    write_output(output, text.encode("utf-8", errors="replace"))
    Console(stderr=True).print(Text(f"written: {printable(output)}"), soft_wrap=True)


def _text(prints: Print) -> str:
    stream = StringIO()
    prints(Console(file=stream, width=WIDTH, color_system=None))
    return stream.getvalue()
