"""The cases behind a number: their prompts, what was asked, and what the model answered before and after the edit."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from ke_cli.report.aggregate import merged_columns
from ke_cli.report.cells import number
from ke_cli.report.finding.fields import ids_of
from ke_cli.report.finding.overrides import labels
from ke_cli.report.page.answers import Answers, Short, before_of
from ke_cli.report.rows import UNEDITED, group_runs
from ke_cli.results.details import CaseDetail, details
from ke_cli.results.reader import Run
from ke_cli.results.record import ColumnRecord
from ke_cli.results.text import natural, printable

USUAL = 10
"""Cases that are shown unless told otherwise."""

_DASH = "\N{EN DASH}"
_ARROW = "\N{RIGHTWARDS ARROW}"
_DOT = " \N{MIDDLE DOT} "
_PROMPTS = 54
"""Columns of a terminal that prompts, answers and the numbers before the edit take up."""

_WIDEST_ANSWER, _NARROWEST, _LONGEST_LABEL = 18, 11, 16
LEGEND = (
    "Numbers under Asked: mean NLL of the answer in nats per token; * where every token is the most likely one. "
    "Values above: as in tables."
)


@dataclass(frozen=True, slots=True)
class Found:
    """A case with all runs in which it was found.

    Args:
        title: Model, data set and protocol.
        case_id: Which.
        columns: What the runs have measured and tables show.
        labels: What the runs are called.
        runs: The names of their folders.
        cases: The case as each of them stored it.
        unedited: Whether a run is about the unedited model, for each.
        before: The case as runs about the unedited model stored it, those too in which it was not found.
    """

    title: str
    case_id: str
    columns: tuple[ColumnRecord, ...]
    labels: tuple[str, ...]
    runs: tuple[str, ...]
    cases: tuple[CaseDetail, ...]
    unedited: tuple[bool, ...]
    before: tuple[CaseDetail, ...] = ()


def count_cases(runs: Sequence[Run]) -> int:
    """Return how many cases runs have, those of several runs of a group once."""
    return sum(len(_places(members)) for _, members in group_runs(runs))


def find_cases(
    runs: Sequence[Run], most: int, metrics: Sequence[str] = (), others: Sequence[Run] = ()
) -> Iterator[Found]:
    """Yield cases with their raw answers, those of several runs once, in natural order.

    Args:
        runs: With the cases that are wanted.
        most: How many at most.
        metrics: The columns that are shown, by their names or those of their metrics; the main ones without.
        others: Runs of which those about the unedited model tell what it answered.
    """
    for group, members in group_runs(runs):
        places = _places(members)
        chosen = sorted(places, key=natural)[: max(0, most)]
        most -= len(chosen)
        wanted = [[case_id for case_id in chosen if place in places[case_id]] for place in range(len(members))]
        read = [details(run, ids) if ids else {} for run, ids in zip(members, wanted, strict=True)]
        before = [details(run, chosen) for run in others if chosen and _is_unedited(run, members[0])]
        called, columns = labels(members), _shown(members, metrics)
        for case_id in chosen:
            having = [place for place in places[case_id] if case_id in read[place]]
            yield Found(
                title=group.title,
                case_id=case_id,
                columns=columns,
                labels=tuple(called[place] for place in having),
                runs=tuple(members[place].record.name for place in having),
                cases=tuple(read[place][case_id] for place in having),
                unedited=tuple(members[place].record.named("method") == UNEDITED for place in having),
                before=tuple(found[case_id] for found in before if case_id in found),
            )


def _is_unedited(run: Run, like: Run) -> bool:
    """Whether a run is about the unedited model of another one."""
    return run.record.named("method") == UNEDITED and all(
        run.record.settings.get(key) == like.record.settings.get(key) for key in ("model.name", "model.fingerprint")
    )


def _places(runs: Sequence[Run]) -> dict[str, list[int]]:
    """Return for each case the places of the runs that have it."""
    found: dict[str, list[int]] = {}
    for place, run in enumerate(runs):
        for case_id in ids_of(run):
            found.setdefault(case_id, []).append(place)
    return found


def _shown(runs: Sequence[Run], metrics: Sequence[str]) -> tuple[ColumnRecord, ...]:
    columns = [column for column in merged_columns(runs) if column.kind == "mean"]
    if metrics:
        return tuple(c for c in columns if {c.name, c.metric, "all"} & set(metrics))
    return tuple(column for column in columns if column.main)


def print_case(found: Found, console: Console) -> None:
    """Print one case: the fact, its values in each run, and every question with its answers."""
    console.print()
    console.print(Text(printable(found.case_id), style="bold").append(f"   {found.title}", style="not bold dim"))
    if not found.cases:
        console.print(Text("  its line cannot be read again", style="dim"))
        return
    console.print(Padding(_fact(found.cases[0]), (0, 0, 0, 2)))
    for label, case in zip(found.labels, found.cases, strict=True):
        if case.error:
            console.print(Padding(Text(f"{label} failed: {printable(case.error)}", style="red"), (0, 0, 0, 2)))
    if any(case.metrics for case in found.cases):
        console.print()
        console.print(Padding(_values(found), (0, 0, 0, 2)))
    for grid in _questions(found, console):
        console.print()
        console.print(Padding(grid, (0, 0, 0, 2)))


def _fact(case: CaseDetail) -> Text:
    """Return the prompt with its subject, the new object, and the true one."""
    texts = {name: printable(text) for name, text in case.texts.items()}
    before, hole, behind = texts["prompt"].partition("{}")
    line = Text.assemble(before, (texts["subject"] if hole else "", "underline"), behind)
    line.append(f" {_ARROW} {texts['target_new'] or _DASH}", style="bold")
    told = [f"before: {texts['target_true']}" if texts["target_true"] else "", texts["relation"]]
    return line.append(f"   ({_DOT.join(filter(None, told))})" if any(told) else "", style="dim")


def _values(found: Found) -> Grid:
    """Return a row for each run that finished the case: its values as tables show them."""
    grid = Grid(box=None, show_edge=False, pad_edge=False)
    for title in ("", *(column.title for column in found.columns)):
        grid.add_column(Text(title), justify="right" if title else "left", overflow="fold", header_style="dim")
    for label, case in zip(found.labels, found.cases, strict=True):
        if case.metrics:
            texts = [_value(case.metrics.get(column.name), column) for column in found.columns]
            grid.add_row(Text(label), *map(Text, texts))
    return grid


def _value(value: float | None, column: ColumnRecord) -> str:
    finite = value is not None and abs(value) < float("inf")
    return number(value, column) if value is not None and finite else _DASH


def _questions(found: Found, console: Console) -> Iterator[Grid]:
    """Yield tables of questions; as many runs beside each other as there is room for."""
    answers = Answers()
    edited = [place for place, unedited in enumerate(found.unedited) if not unedited] or list(range(len(found.cases)))
    after = [answers.add(found.cases[place].after) for place in edited]
    before = answers.matching(before_of(found.cases, found.before))
    asked = answers.described(found.cases[0], before_of(found.cases, []))
    names = [found.labels[place][:_LONGEST_LABEL] for place in edited]
    room = max(1, (console.width - _PROMPTS) // (max(_NARROWEST, *map(len, names), 0) + 2))
    for start in range(0, len(names) if asked else 0, room):
        columns = [answers.padded(answer) for answer in after[start : start + room]]
        yield _grid(asked, ["before", *names[start : start + room]], [before, *columns], console)


def _grid(
    asked: Sequence[Sequence[str]], names: Sequence[str], columns: Sequence[Sequence[Short]], console: Console
) -> Grid:
    """Return a row for each question, with the answers that were looked at under each other."""
    answers = [Text(printable(target)).wrap(console, _WIDEST_ANSWER, overflow="fold") for *_, target in asked]
    grid = Grid(box=None, show_edge=False, pad_edge=False)
    grid.add_column("Asked", overflow="fold", header_style="dim", min_width=12)
    grid.add_column(
        "Answer", header_style="dim", width=max([6, *(line.cell_len for found in answers for line in found)])
    )
    for name in names:
        width = max(_NARROWEST, len(name))
        grid.add_column(Text(name), justify="right", overflow="fold", header_style="dim", max_width=width)
    questions: dict[tuple[str, str], list[int]] = {}
    for place, (about, prompt, _) in enumerate(asked):
        questions.setdefault((about, prompt), []).append(place)
    for kind, alike in itertools.groupby(questions.items(), key=lambda question: question[0][0]):
        grid.add_row(Text(kind, style="dim italic"))
        for (_, prompt), places in alike:
            below = [Text("\n" * (len(answers[place]) - 1)) for place in places]  # numbers stay beside their answers
            cells = [
                Text("\n").join(_short(column[place]) + lines for place, lines in zip(places, below, strict=True))
                for column in columns
            ]
            targets = Text("\n").join(line for place in places for line in answers[place])
            grid.add_row(Padding(Text(printable(prompt)), (0, 0, 0, 1)), targets, *cells)
    return grid


def _short(answer: Short) -> Text:
    if answer is None:
        return Text(_DASH, style="dim")
    if isinstance(answer, str):
        return Text(printable(answer) or "(nothing)", style="italic")
    nll, is_first = answer
    return Text(f"{nll:.2f}{'*' if is_first else ' '}", style="bold" if is_first else "")


def to_data(found: Found) -> dict[str, Any]:
    """Return a case for programs, with its raw answers as they were stored."""
    return {
        "group": found.title,
        "case_id": found.case_id,
        "runs": [
            {
                "run": run,
                "label": label,
                "error": case.error,
                **case.texts,
                "metrics": dict(case.metrics),
                "before": list(case.before),
                "after": list(case.after),
            }
            for run, label, case in zip(found.runs, found.labels, found.cases, strict=True)
        ],
    }
