"""``ke-export``: saved edits of a run as a LoRA adapter of PEFT, or merged into a checkpoint."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ke_cli import __version__
from ke_cli.command_line.parser import Parser
from ke_cli.command_line.streams import outlast_streams, show_what_can_be_shown, tell
from ke_cli.errors import UserError, did_you_mean
from ke_cli.results.source import SourceRun, read_source
from ke_cli.results.text import printable

EXAMPLES = """examples:
  ke-export outputs/RUN --list                                    the units of a run and what they wrote
  ke-export outputs/RUN --units 17 --to adapter --as peft         one edit as a LoRA adapter
  ke-export outputs/RUN --units 17 23 --to merged --as checkpoint two edits, added up, in a checkpoint
  ke-export outputs/RUN --all --to adapter --as peft --check      all edits; then load the adapter and compare logits

The run must have been computed with save_edits=true. The exit code is 0 when everything was written (and agrees,
with --check), 1 when not, 2 for wrong arguments."""

DTYPES = ("float32", "bfloat16", "float16", "float64")


def main(argv: list[str] | None = None) -> int:
    """Run ``ke-export``; returns the exit code."""
    show_what_can_be_shown()
    if argv is None:
        outlast_streams()  # ke-export RUN --list | head
    try:
        arguments = _parser().parse_args(argv)
        _check(arguments)
    except UserError as error:
        tell(error)
        return 2
    try:
        source = read_source(arguments.run)
        lines = _listed(source) if arguments.list else _exported(arguments, source)
        for line in lines:
            print(printable(line), flush=True)
    except UserError as error:
        tell(error)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted: the folder is written as a whole, or not at all", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="ke-export",
        description="Export saved edits of a run.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("run", type=Path, help="the directory of a run, or the name that the parts of a split run have in common")
    which = parser.add_mutually_exclusive_group().add_argument
    which("--units", nargs="+", metavar="ID", help="units or cases whose edits are exported, added up if several")
    which("--all", action="store_true", help="every unit that has an edit")
    which("--list", action="store_true", help="show the units and what they wrote, and stop")
    add("--to", type=Path, metavar="DIR", help="the folder to write; it must not exist, or be empty")
    add("--as", dest="form", choices=("peft", "checkpoint"), help="a LoRA adapter, or a whole model with tokenizer")
    add("--model", metavar="PATH", help="where the model is now (default: where it was in the run)")
    add("--device", default="cpu", help="where a model is loaded (default: cpu)")
    add("--dtype", choices=DTYPES, help="of the weights of a checkpoint (default: that of the run)")
    add("--shard-size", type=_size, default="5GB", metavar="SIZE", help="of one file of a checkpoint (default: 5GB)")
    add("--check", action="store_true", help="load what was written and compare its logits with the edited model's")
    add("--trust-remote-code", action="store_true", help="let code that comes with the model run")
    add("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def _size(text: str) -> str:
    if not re.fullmatch(r"[1-9]\d*([KMG]i?B)", text):
        raise argparse.ArgumentTypeError(f"expected a size like 5GB or 500MB, got {text!r}")
    return text


def _check(arguments: argparse.Namespace) -> None:
    """Refuse arguments that do not say what to write, before anything is read."""
    if arguments.list:
        return
    for given, name, allowed in ((arguments.to, "--to", "a folder"), (arguments.form, "--as", "peft, checkpoint")):
        if given is None:
            raise UserError(f"{name} is missing", allowed=allowed, hint="ke-export RUN --units ID --to DIR --as peft")
    if arguments.form == "peft" and arguments.dtype:
        raise UserError("--dtype is that of a checkpoint; an adapter keeps the edit as it is", where="--dtype")


def _listed(source: SourceRun) -> Iterator[str]:
    for unit, found in source.units.items():
        state = "" if found.saved else f"  (no edit: {found.error or 'not saved'})"
        for case, (prompt, subject, target, *_) in found.facts.items():
            name = unit if case == unit else f"{unit}  {case}"
            yield f"{name}  {prompt.replace('{}', subject, 1)} -> {target}{state}"


def _chosen(source: SourceRun, names: Sequence[str] | None, everything: bool) -> list[str]:
    """Return the units that are exported, each once.

    Raises:
        UserError: They are not named, do not exist, or have no edit.
    """
    known = [unit for unit, found in source.units.items() if found.saved]
    if everything or (names is None and len(known) == 1):
        return known
    if names is None:
        raise UserError(
            f"this run has {len(known)} units with an edit",
            where=str(source.path),
            hint=f"--units {known[0]} for one of them, --all for their sum, --list to see them",
        )
    owners = {case: unit for unit, found in source.units.items() for case in found.facts} | {
        unit: unit for unit in source.units
    }
    return list(dict.fromkeys(_one(source, name, owners) for name in names))


def _refuse_nested(source: SourceRun, units: Sequence[str]) -> None:
    """Refuse to add up edits of which one holds another: the checkpoints of a sequence.

    Raises:
        UserError: It names the one that holds all.
    """
    facts = [case for unit in units for case in source.units[unit].facts]
    if len(facts) > len(set(facts)):
        largest = max(units, key=lambda unit: len(source.units[unit].facts))
        raise UserError(
            "these units are checkpoints of one sequence: each holds the edits of those before; they cannot be added",
            where=str(source.path),
            hint=f"--units {largest}",
        )


def _one(source: SourceRun, name: str, owners: Mapping[str, str]) -> str:
    if name not in owners:
        hint = did_you_mean(name, owners) or f"ke-export {source.path} --list"
        raise UserError(f"this run has no unit {name!r:.80}", where=str(source.path), hint=hint)
    found = source.units[owners[name]]
    if found.saved is None:
        raise UserError(f"the unit {name!r:.80} has no edit: {found.error or 'it was not saved'}")
    return owners[name]


def _exported(arguments: argparse.Namespace, source: SourceRun) -> Iterator[str]:
    units = _chosen(source, arguments.units, arguments.all)
    _refuse_nested(source, units)
    from ke_cli.exporting.artifacts import Order, export

    order = Order(
        to=arguments.to,
        form=arguments.form,
        model=arguments.model,
        device=arguments.device,
        dtype=arguments.dtype,
        shard_size=arguments.shard_size,
        check=arguments.check,
        trust_remote_code=arguments.trust_remote_code,
    )
    return export(order, source, units)


if __name__ == "__main__":
    raise SystemExit(main())
