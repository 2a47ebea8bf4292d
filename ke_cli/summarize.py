"""``ke-summarize``: read runs, compare them on their common cases, print or write tables."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.text import Text

from ke_cli import __version__
from ke_cli.command_line.parser import Parser
from ke_cli.command_line.streams import show_what_can_be_shown, tell
from ke_cli.errors import UserError
from ke_cli.report.formats import FORMATS, SHEETS, SUFFIXES
from ke_cli.report.formats.body import Sheet
from ke_cli.report.formats.terminal import print_tables, to_text
from ke_cli.report.options import (
    Setting,
    add_finding,
    add_layout,
    in_full,
    is_asked,
    layout_of,
    limit,
    refuse_conditions,
    refuse_useless,
    wanted_of,
)
from ke_cli.report.pivot import build_sheets
from ke_cli.report.pivot_plan import in_plain_rows
from ke_cli.report.plots.drawing import SUFFIXES as PICTURES
from ke_cli.report.plots.drawing import draw
from ke_cli.report.plots.panels import curve, scatter
from ke_cli.report.publish import CASES, publish
from ke_cli.report.rows import select
from ke_cli.report.summary import print_problems
from ke_cli.report.sweeps import print_owed
from ke_cli.report.tables import Table, build_tables
from ke_cli.report.view import View
from ke_cli.report.watch.options import add_watch, refuse_beside_watch
from ke_cli.results.checkpoints import parted
from ke_cli.results.files import write_output
from ke_cli.results.parallel import read_runs
from ke_cli.results.reader import Run, find_runs
from ke_cli.results.shards import each_once, join_shards
from ke_cli.results.sweeps import find_sweeps, read_sweep
from ke_cli.results.text import printable

BESIDE_WATCH = ("output", "format", "plots", "html", "scatter", "curve", "where", "list", "diff", "cases", "export")
"""Options that ask for something else than to watch."""

PLAIN = ("", ".txt", ".log")
"""Suffixes of files that hold what a terminal shows."""

EXAMPLES = """examples:
  ke-summarize                                     all runs below outputs/
  ke-summarize outputs --sort score:desc           the best method first
  ke-summarize a b --metrics efficacy,paraphrase   these columns of the runs in two folders
  ke-summarize outputs --by seed                   one row per seed, which share a row unasked
  ke-summarize outputs --by method.lambda_         one row per value of a setting
  ke-summarize outputs --split protocol.max_facts  one table per value of a setting
  ke-summarize outputs --baseline rome             paired differences to a row, tested
  ke-summarize outputs --baseline rome --values    the numbers themselves, marked where they differ
  ke-summarize outputs --rows model,method --cols dataset       a table over models and data sets
  ke-summarize outputs --cols method.lambda --metrics efficacy  a setting across
  ke-summarize outputs --output table.tex          LaTeX, by the suffix of the file
  ke-summarize outputs --where experiment.name=rose_ablation --where seed=0,1
  ke-summarize outputs --scatter drift_gain:instruction_exact --output gain.pdf
  ke-summarize outputs --curve protocol.max_facts:instruction_exact --output size.png
  ke-summarize outputs --plots pictures            every picture there is data for, as PDF and PNG
  ke-summarize outputs --html report.html          a page of tables, pictures, cases and settings
  ke-summarize outputs --list                      which runs there are, how they stand, what tells them apart
  ke-summarize outputs --diff rome rose            how two runs differ, and which cases each wins
  ke-summarize outputs --cases --where 'efficacy<1 and relation=="P103"'   the prompts and answers behind a number
  ke-summarize outputs --export cases.parquet      every case with its values, for pandas (or .csv, .json)
  ke-summarize outputs --watch                     follow the sweep or run that is going on there

Where all runs shown belong to one experiment, it says what --by, --split, --metrics and --baseline are unless
they are given; --by '' and the like ask for nothing of the kind. Plots need matplotlib: pip install 'ke-run[plots]'.

Rows are compared on the cases that all of them have finished. Runs that were moved aside (*.old-N) are
shown only when named. The shards of a run are put together. Jobs of a sweep that never began, died or failed
are named unless a later sweep completed them; without the sweep's folder in .sweeps they are forgotten.
The exit code is 0 when a run was shown, 1 when none was, 2 for wrong arguments."""


def main(argv: list[str] | None = None) -> int:
    """Run ``ke-summarize``; returns the exit code (0 shown, 1 nothing to show, 2 wrong arguments)."""
    show_what_can_be_shown()  # a terminal that has no arrows still gets its table
    parser = _parser()
    add_watch(parser)
    try:
        return _summarize(parser.parse_args(argv), Console(stderr=True))
    except UserError as error:
        tell(error)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
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
    add("--by", type=_names, metavar="KEYS", help="settings that make rows; other runs are pooled")
    add("--split", type=_names, metavar="KEYS", help="settings that make tables, one for each of their values")
    add(
        "--metrics",
        type=_names,
        metavar="LIST",
        help="columns or metrics to show, in this order, or: all (default: the main columns)",
    )
    add("--sort", default="", metavar="COLUMN[:desc]", help="order of the rows (or: name)")
    add(
        "--baseline",
        "--against",
        dest="against",
        metavar="ROW",
        help="show paired differences to this row or method, with tests",
    )
    add_layout(parser, _names)
    add_finding(parser)
    plot = parser.add_mutually_exclusive_group().add_argument
    plot("--scatter", type=_pair, metavar="X:Y", help="plot one column against another, a point per row")
    plot("--curve", type=_pair, metavar="KEY:COLUMN", help="plot a column over a setting, a line per row")
    add("--plots", type=Path, metavar="DIR", help="draw everything there is data for, as PDF and PNG, into a folder")
    add("--html", type=Path, metavar="FILE", help="write a page with tables, pictures, cases and settings")
    add("--all-cases", action="store_true", help="each row on all its own cases, not on the common ones")
    add("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _pair(text: str) -> tuple[str, str]:
    first, colon, second = text.partition(":")
    if not (first and colon and second):
        raise argparse.ArgumentTypeError(f"expected two names with a colon between them, got {text!r}")
    return first.strip(), second.strip()


def _summarize(arguments: argparse.Namespace, complaints: Console) -> int:
    paths = arguments.paths or [Path("outputs")]
    if arguments.watch is not None:
        from ke_cli.report.watch.command import watch

        refuse_beside_watch(arguments, BESIDE_WATCH)
        return watch(paths, arguments.watch, complaints=complaints)
    refuse_useless(arguments)
    settings, conditions = wanted_of(arguments.where)
    if not is_asked(arguments):
        refuse_conditions(conditions)
    parts = read_runs(find_runs(paths))
    joined = join_shards(parts)
    found = parted(joined if arguments.list or arguments.diff else each_once(joined), _asked(arguments, settings))
    _complain(paths, found, complaints)
    print_owed([read_sweep(sweep) for sweep in find_sweeps(paths)], parts, complaints)
    runs = select(found, in_full(settings, found))
    if is_asked(arguments):
        from ke_cli.report.finding.commands import find

        return find(arguments, runs, conditions, complaints)
    view, is_plot = _view(arguments), bool(arguments.scatter or arguments.curve)
    if is_plot and any(run.done for run in runs):
        _plot(arguments, runs, view)
        return 0
    if not is_plot:
        _refuse_suffix(arguments)
    if (arguments.plots or arguments.html) and any(run.done for run in runs):
        view = replace(view, metrics=arguments.metrics, against=arguments.against)
        publish(runs, view, complaints, plots=arguments.plots, html=arguments.html, most_cases=limit(arguments, CASES))
        return 0
    tables = [] if is_plot else _tables(arguments, runs, view)
    if tables:
        _show(tables, _format(arguments), arguments.output)
    if any(table.lines for table in tables):
        return 0
    complaints.print(Text(_nothing(paths, found, runs)), soft_wrap=True)
    return 1


def _asked(arguments: argparse.Namespace, settings: Sequence[Setting]) -> list[str]:
    """The settings that the tables or the picture are laid out by, as they were typed."""
    keys = (arguments.by, arguments.split, arguments.rows, arguments.cols)
    named = [key for names in keys for key in names or ()]
    return [*named, *(key for key, _ in settings), *(arguments.curve or ())[:1]]


def _view(arguments: argparse.Namespace) -> View:
    """What was asked for; files for programs have every column, and plain values unless asked otherwise."""
    metrics, against = arguments.metrics, arguments.against
    if _format(arguments) in ("csv", "json"):
        metrics, against = metrics or ("all",), against or ""
    return View(
        arguments.by,
        arguments.split,
        metrics,
        against,
        arguments.sort,
        arguments.all_cases,
        **layout_of(arguments),
    )


def _tables(arguments: argparse.Namespace, runs: Sequence[Run], view: View) -> Sequence[Table | Sheet]:
    """Lay tables out as asked for; formats for programs have a record for every number in any case."""
    if not (view.rows or view.cols):
        return build_tables(runs, view)
    if _format(arguments) in (*SHEETS, "terminal"):
        return build_sheets(runs, view)
    return build_tables(runs, in_plain_rows(view, runs))


def _plot(arguments: argparse.Namespace, runs: Sequence[Run], view: View) -> None:
    """Write a picture; matplotlib is loaded only here."""
    output: Path | None = arguments.output
    if output is None or output.suffix.lower() not in PICTURES or arguments.format:
        raise UserError(
            "a plot is written to a file whose suffix says its format",
            where="--format" if arguments.format else "--output",
            allowed=", ".join(f"--output FILE{suffix}" for suffix in PICTURES),
        )
    picture = scatter(runs, view, *arguments.scatter) if arguments.scatter else curve(runs, view, *arguments.curve)
    _write(output, draw(picture, output.suffix.lower()))


def _refuse_suffix(arguments: argparse.Namespace) -> None:
    """Refuse to write a table into a file that would not open as what its name says."""
    suffix = arguments.output.suffix.lower() if arguments.output else ""
    if suffix not in (*SUFFIXES, *PLAIN) and not arguments.format:
        is_picture = suffix in PICTURES
        raise UserError(
            f"a table cannot be written as {suffix}",
            where="--output",
            allowed=", ".join((*SUFFIXES, ".txt")),
            hint="--scatter X:Y or --curve KEY:COLUMN for a plot" if is_picture else "--format says what it is",
        )


def _complain(paths: Sequence[Path], runs: Sequence[Run], complaints: Console) -> None:
    for path in paths:
        if not os.path.exists(path):  # which also takes a name that is too long, or a folder that is closed
            complaints.print(Text(f"{printable(path)}: no such folder", style="yellow"), soft_wrap=True)
    print_problems(runs, complaints)


def _nothing(paths: Sequence[Path], found: Sequence[Run], runs: Sequence[Run]) -> str:
    searched = ", ".join(printable(path) for path in paths)
    if found and not runs:
        return (
            f"nothing to show: none of the {len(found):,} run(s) in {searched} has the values that --where asks for\n"
            f"  try:     ke-summarize {searched.replace(',', '')} --list, which shows what tells the runs apart"
        )
    what = f"{len(runs)} run(s), but none with a finished case" if runs else "no run (a folder with a run.json)"
    return (
        f"nothing to show: {what} was found in {searched}\n"
        "  try:     ke-run method=rose, or ke-summarize FOLDER with the folder of your runs"
    )


def _format(arguments: argparse.Namespace) -> str:
    """The format that was asked for, or that the output file's suffix suggests; data formats show every column."""
    output: Path | None = arguments.output
    suggested = SUFFIXES.get(output.suffix.lower()) if output else None
    return arguments.format or suggested or "terminal"


def _show(tables: Sequence[Table | Sheet], name: str, output: Path | None) -> None:
    if output is None and name == "terminal":
        print_tables(tables, Console())
        return
    text = FORMATS[name](tables) if name in FORMATS else to_text(tables)
    if output is None:
        Console().out(text, end="", highlight=False)
    else:
        _write(output, text.encode("utf-8", errors="replace"))


def _write(output: Path, content: bytes) -> None:
    write_output(output, content)
    Console(stderr=True).print(Text(f"written: {printable(output)}"), soft_wrap=True)


if __name__ == "__main__":
    raise SystemExit(main())
