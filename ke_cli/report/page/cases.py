"""The cases that can be looked at on the page: a limited number of each table, those that went wrong first."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ke_cli.report.aggregate import merged_columns
from ke_cli.report.page.answers import Answers, before_of
from ke_cli.report.rows import UNEDITED, Row, group_runs, make_rows
from ke_cli.report.tables import heading
from ke_cli.report.view import View, settled
from ke_cli.results.details import CaseDetail, details
from ke_cli.results.reader import Run
from ke_cli.results.record import ColumnRecord

MOST_ROWS = 24
"""Rows of a table whose answers are on the page."""

WORST = 0.75
"""Share of the places for cases that go to those that went wrong most; the others go to cases drawn evenly."""

MOST_COLUMNS = 10

MOST_BYTES = 24_000_000
"""Of the cases of all tables together."""


@dataclass(frozen=True, slots=True)
class _Standing:
    """How a case fares: in how many rows it failed, its mean over rows and columns, its place in a fixed shuffle."""

    case_id: str
    failures: int
    mean: float
    draw: str


def case_groups(
    runs: Sequence[Run], view: View, visible: Sequence[Sequence[str]], *, most: int
) -> list[dict[str, Any]]:
    """Return the cases of each table.

    Args:
        runs: As `read_run` returns them.
        view: Which rows and tables.
        visible: For each table, the names of the columns that it shows.
        most: How many cases of each table at most.
    """
    readable = [run for run in runs if run.readable]
    layout = settled(view, readable)
    groups = group_runs(readable, layout.split)
    found = []
    for (group, members), names in zip(groups, visible, strict=True):
        rows = make_rows([run for run in members if run.count], layout.by)
        columns = [column for column in merged_columns(members) if column.kind == "mean" and column.name in names]
        if rows and columns and most:
            found.append(_group(group.title, rows, columns[:MOST_COLUMNS], most, MOST_BYTES // len(groups)))
    return found


def _group(title: str, rows: Sequence[Row], columns: Sequence[ColumnRecord], most: int, room: int) -> dict[str, Any]:
    kept = _kept(rows)
    standings = _standings(kept, columns)
    chosen = choose(standings, most)
    read = [_read(row, [standing.case_id for standing in chosen]) for row in kept]
    cases = [case for standing in chosen for case in [_case(standing, kept, read, columns)] if case]
    fitting = _fitting(cases, room)
    return {
        "title": title,
        "rows": [row.label for row in kept],
        "columns": [{"head": heading(column), "scale": column.scale} for column in columns],
        "note": _note(len(fitting), len(standings), len(kept), len(rows), most),
        "cases": fitting,
    }


def _kept(rows: Sequence[Row]) -> Sequence[Row]:
    """Return the first rows, the unedited model last: it has its place in the column `before`."""
    edited = [row for row in rows if row.method != UNEDITED][:MOST_ROWS]
    return [*edited, *(row for row in rows if row.method == UNEDITED)][: MOST_ROWS + 1]


def _standings(rows: Sequence[Row], columns: Sequence[ColumnRecord]) -> list[_Standing]:
    """Return every case of any row, in the order in which they are shown: failures first."""
    shares = [column for column in columns if column.scale == 100 and column.direction == "up"] or list(columns)
    values: dict[str, list[float]] = {}
    failures: dict[str, int] = {}
    for row in rows:
        if row.method != UNEDITED or len(rows) == 1:
            for run in row.runs:
                _count(run, shares, values, failures)
    standings = [
        _Standing(case_id, failures.get(case_id, 0), sum(found) / len(found) if found else 0.0, _draw(case_id))
        for case_id, found in values.items()
    ]
    return sorted(standings, key=lambda standing: (-standing.failures, standing.mean, standing.draw))


def _count(run: Run, columns: Sequence[ColumnRecord], values: dict[str, list[float]], failures: dict[str, int]) -> None:
    """Add what a run says about its cases; failed is a case without an edit, or whose first column is not full."""
    for case in run.failed:
        values.setdefault(case.case_id, [])
        failures[case.case_id] = failures.get(case.case_id, 0) + 1
    for place, case_id in enumerate(run.done.ids):
        numbers = [float(run.done.column(column.name)[place]) for column in columns]
        known = [number for number in numbers if number == number]
        values.setdefault(case_id, []).extend(known)
        if known and known[0] < 1:
            failures[case_id] = failures.get(case_id, 0) + 1


def _draw(case_id: str) -> str:
    return hashlib.sha256(case_id.encode("utf-8", errors="replace")).hexdigest()


def choose(standings: Sequence[_Standing], most: int) -> list[_Standing]:
    """Return at most ``most`` cases: the worst, and some of the others whatever they are; in the order given."""
    if len(standings) <= most:
        return list(standings)
    worst = list(standings[: max(1, round(most * WORST))])
    others = sorted(standings[len(worst) :], key=lambda standing: standing.draw)[: most - len(worst)]
    drawn = {standing.case_id for standing in others}
    return [*worst, *(standing for standing in standings[len(worst) :] if standing.case_id in drawn)]


def _fitting(cases: Sequence[dict[str, Any]], room: int) -> list[dict[str, Any]]:
    """Return the first cases that have room, in bytes, together."""
    ends = itertools.accumulate(len(json.dumps(case)) for case in cases)
    return [case for case, end in zip(cases, ends, strict=True) if end <= room]


def _note(shown: int, cases: int, kept: int, rows: int, most: int) -> str:
    if shown == cases:
        text = f"All {cases:,} cases"
    else:
        text = (
            f"{shown:,} of {cases:,} cases (the limit is {most:,}, --cases sets it, and {MOST_BYTES // 1_000_000} MB"
            f" for all tables): {WORST:.0%} of the places go to cases that went wrong most, the others to cases drawn"
            " from the rest whatever became of them"
        )
    less = f", for {kept} of {rows} rows" if kept < rows else ""
    return f"{text}{less}. Of a row that pools several runs the answers are those of the first."


def _read(row: Row, ids: Sequence[str]) -> dict[str, CaseDetail]:
    """Return the cases of a row, each from its first run that has it."""
    found: dict[str, CaseDetail] = {}
    for run in row.runs:
        if missing := [case_id for case_id in ids if case_id not in found]:
            found |= details(run, missing)
    return found


def _case(
    standing: _Standing,
    rows: Sequence[Row],
    read: Sequence[Mapping[str, CaseDetail]],
    columns: Sequence[ColumnRecord],
) -> dict[str, Any] | None:
    cases = [of_row.get(standing.case_id) for of_row in read]
    known = [case for case in cases if case]
    if not known:
        return None
    unedited = [case for case, row in zip(cases, rows, strict=True) if case and row.method == UNEDITED]
    answers = Answers()
    after = [answers.add(case.after) if case else [] for case in cases]
    before = answers.matching(before_of(known, unedited))
    return {
        "id": standing.case_id,
        "failures": standing.failures,
        **{name: text for name, text in known[0].texts.items()},
        "asked": answers.described(known[0], before_of(known, [])),
        "before": before,
        "after": [answers.padded(found) for found in after],
        "metrics": [[_metric(case, column) for column in columns] for case in cases],
        "errors": [case.error if case else "not done" for case in cases],
    }


def _metric(case: CaseDetail | None, column: ColumnRecord) -> float | None:
    value = case.metrics.get(column.name) if case else None
    finite = value is not None and abs(value) < float("inf")
    return round(value * column.scale, 4) if value is not None and finite else None
