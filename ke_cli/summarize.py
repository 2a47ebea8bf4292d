"""``ke-summarize``: read runs, compare them on their common cases, print or write tables."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from ke_cli import __version__
from ke_cli.errors import UserError
from ke_cli.report.formats import FORMATS, SUFFIXES
from ke_cli.report.formats.terminal import print_tables, to_text
from ke_cli.report.summary import print_problems
from ke_cli.report.tables import Table, View, build_tables
from ke_cli.results.files import write_output
from ke_cli.results.reader import Run, find_runs, read_run
from ke_cli.results.record import printable

EXAMPLES = """examples:
  ke-summarize                              all runs below outputs/
  ke-summarize outputs --sort score:desc    the best method first
  ke-summarize a b --metrics efficacy,paraphrase
  ke-summarize outputs --by method.name     pool the seeds of each method
  ke-summarize outputs --by method.lambda_  one row per value of a setting
  ke-summarize outputs --against rome       paired differences to a row
  ke-summarize outputs --output table.tex   LaTeX, by the suffix of the file

Rows are compared on the cases that all of them have finished. Runs that were moved aside (*.old-N) are
shown only when named. The exit code is 0 when a run was shown, 1 when none was, 2 for wrong arguments."""


def main(argv: list[str] | None = None) -> int:
    """Run ``ke-summarize``; returns the exit code (0 shown, 1 nothing to show, 2 wrong arguments)."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that has no arrows still gets its table
    arguments = _parser().parse_args(argv)
    complaints = Console(stderr=True)
    try:
        return _summarize(arguments, complaints)
    except UserError as error:
        complaints.print(Text(f"error: {error.render()}"), soft_wrap=True)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ke-summarize",
        description="Compare finished and unfinished runs in tables with 95% intervals.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("paths", nargs="*", type=Path, help="folders with runs, at any depth (default: outputs)")
    add("--format", choices=("terminal", *FORMATS), help="default: by the suffix of --output, else terminal")
    add("--output", type=Path, metavar="FILE", help="write to a file instead of printing")
    add("--by", type=_names, default=(), metavar="KEYS", help="settings that make rows; other runs are pooled")
    add(
        "--metrics",
        type=_names,
        default=(),
        metavar="LIST",
        help="columns or metrics to show, in this order, or: all (default: the main columns)",
    )
    add("--sort", default="", metavar="COLUMN[:desc]", help="order of the rows (or: name)")
    add("--against", default="", metavar="ROW", help="show paired differences to this row or method")
    add("--all-cases", action="store_true", help="each row on all its own cases, not on the common ones")
    add("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _summarize(arguments: argparse.Namespace, complaints: Console) -> int:
    paths = arguments.paths or [Path("outputs")]
    runs = [read_run(path) for path in find_runs(paths)]
    _complain(paths, runs, complaints)
    metrics = arguments.metrics or (("all",) if _format(arguments) in ("csv", "json") else ())
    view = View(arguments.by, metrics, arguments.sort, arguments.all_cases, arguments.against)
    tables = build_tables(runs, view)
    if tables:
        _show(tables, _format(arguments), arguments.output)
    if any(table.lines for table in tables):
        return 0
    complaints.print(Text(_nothing(paths, runs)), soft_wrap=True)
    return 1


def _complain(paths: Sequence[Path], runs: Sequence[Run], complaints: Console) -> None:
    for path in paths:
        if not path.exists():
            complaints.print(Text(f"{printable(path)}: no such folder", style="yellow"), soft_wrap=True)
    print_problems(runs, complaints)


def _nothing(paths: Sequence[Path], runs: Sequence[Run]) -> str:
    searched = ", ".join(printable(path) for path in paths)
    found = f"{len(runs)} run(s), but none with a finished case" if runs else "no run (a folder with a run.json)"
    return (
        f"nothing to show: {found} was found in {searched}\n"
        "  try:     ke-run method=rose, or ke-summarize FOLDER with the folder of your runs"
    )


def _format(arguments: argparse.Namespace) -> str:
    """The format that was asked for, or that the output file's suffix suggests; data formats show every column."""
    output: Path | None = arguments.output
    suggested = SUFFIXES.get(output.suffix.lower()) if output else None
    return arguments.format or suggested or "terminal"


def _show(tables: Sequence[Table], name: str, output: Path | None) -> None:
    if output is None and name == "terminal":
        print_tables(tables, Console())
        return
    text = FORMATS[name](tables) if name in FORMATS else to_text(tables)
    if output is None:
        Console().out(text, end="", highlight=False)
    else:
        write_output(output, text.encode("utf-8", errors="replace"))
        Console(stderr=True).print(Text(f"written: {printable(output)}"), soft_wrap=True)


if __name__ == "__main__":
    raise SystemExit(main())
