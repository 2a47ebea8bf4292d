"""Heat maps: a column by relation and row, on the cases that all rows have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ke_cli.report.aggregate import common_cases, merged_columns
from ke_cli.report.plots.figures import Figure, HeatMap, LeftOut, group_slug, slug
from ke_cli.report.rows import Group, Row, group_runs, make_rows
from ke_cli.report.tables import heading
from ke_cli.report.view import View, settled
from ke_cli.results.details import details
from ke_cli.results.reader import Run
from ke_cli.results.record import ColumnRecord
from ke_cli.results.text import printable

MOST_RELATIONS = 40
MOST_ROWS = 24
MOST_MAPS = 12
TITLE = "By relation"


def heat_maps(runs: Sequence[Run], view: View) -> Iterator[Figure | LeftOut]:
    """Every main column that is a mean over cases, a figure for each table."""
    layout = settled(view, runs)
    groups = group_runs(runs, layout.split)
    for group, members in groups:
        rows = make_rows(members, layout.by)
        relations = relations_of(members)
        ids, _ = common_cases(rows)
        counts = Counter(relations[case_id] for case_id in ids if relations.get(case_id))
        if len(counts) < 2:
            yield LeftOut(f"{TITLE}: {group.title}", "the cases common to all rows have fewer than two relations")
            continue
        kept = [name for name, _ in counts.most_common(MOST_RELATIONS)]
        columns = [column for column in merged_columns(members) if _is_mapped(column)]
        cases, most = _members(ids, relations, kept), max(1, MOST_MAPS // len(groups))
        for column in columns[:most]:
            yield _figure(group, column, rows[:MOST_ROWS], cases, len(counts), len(rows))
        if names := ", ".join(column.name for column in columns[most:]):
            yield LeftOut(
                f"{TITLE}: {names} of {group.title}", f"more than {MOST_MAPS} maps in all: ask for fewer tables"
            )


def _is_mapped(column: ColumnRecord) -> bool:
    return column.kind == "mean" and column.main and column.scale == 100


def relations_of(runs: Sequence[Run]) -> dict[str, str]:
    """Return the relation of each finished case; each case is read in one run only."""
    found: dict[str, str] = {}
    for run in runs:
        missing = [case_id for case_id in run.done.ids if case_id not in found]
        if missing:
            read = details(run, missing, answers=False)
            found |= {case_id: printable(read[case_id].texts["relation"]) for case_id in missing if case_id in read}
    return found


def _members(ids: Sequence[str], relations: Mapping[str, str], kept: Sequence[str]) -> dict[str, list[str]]:
    return {name: [case_id for case_id in ids if relations.get(case_id) == name] for name in kept}


def _figure(
    group: Group, column: ColumnRecord, rows: Sequence[Row], cases: Mapping[str, Sequence[str]], of: int, all_rows: int
) -> Figure:
    by_row = [_means(row, column, cases) for row in rows]
    content = HeatMap(
        title=group.title,
        relations=tuple(f"{name} ({len(members):,})" for name, members in cases.items()),
        labels=tuple(row.label for row in rows),
        values=tuple(tuple(means[name] for means in by_row) for name in cases),
        heading=f"{heading(column)} [%]",
        limits=(0.0, 100.0),
    )
    less = [f"the {len(cases)} relations with most cases, of {of}"] if of > len(cases) else []
    less += [f"the first {len(rows)} rows, of {all_rows}"] if all_rows > len(rows) else []
    caption = f"{group.title}: mean {column.title} by relation (in brackets: its cases) and row, on common cases."
    caption += f" Shown: {'; '.join(less)}." if less else ""
    name = f"relations-{slug(column.name)}-{group_slug(group)}"
    return Figure(name, f"{TITLE}: {column.title}", caption, content)


def _means(row: Row, column: ColumnRecord, cases: Mapping[str, Sequence[str]]) -> dict[str, float | None]:
    """Average over all cases of a relation in all runs of a row."""
    values: dict[str, list[float]] = {}
    for run in row.runs:
        for case_id, value in zip(run.done.ids, run.done.column(column.name).tolist(), strict=True):
            values.setdefault(case_id, []).append(value)
    means: dict[str, float | None] = {}
    for name, members in cases.items():
        found = np.array([value for case_id in members for value in values.get(case_id, ())])
        found = found[~np.isnan(found)]
        means[name] = float(found.mean()) * column.scale if found.size else None
    return means
