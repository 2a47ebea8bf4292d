"""Putting the shards of a run together again, which were computed by several jobs, perhaps in several folders."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ke_cli.results.cases import CaseTable
from ke_cli.results.journal import CaseLine
from ke_cli.results.reader import Run, Shards
from ke_cli.results.record import RunRecord, Scalar
from ke_cli.results.text import printable

_SUFFIX = re.compile(r"_shard-\d+-of-\d+$")
INCOMPLETE = "incomplete"
"""The status of a run of which shards are missing, though all that were found are complete."""

Family = tuple[Scalar, ...]


def join_shards(runs: Sequence[Run]) -> list[Run]:
    """Return the runs with the shards of each put together; a joined run stands where the first of its shards stood.

    Shards belong together that have the same run id, are of the same number of shards, and were made with the same
    model and data; in which folders they are does not matter.
    """
    models = _models(runs)
    families: dict[Family | int, list[Run]] = {}
    for place, run in enumerate(runs):
        families.setdefault(_family(run, models) if run.record.shard else place, []).append(run)
    return [_joined(members) if members[0].record.shard else members[0] for members in families.values()]


def each_once(runs: Sequence[Run]) -> list[Run]:
    """Return joined runs without those that a finished one holds too, done whole or in another number of shards.

    The one that has come furthest stays, and tells of the others. Copies of a whole run all stay, to be compared.
    """
    return list(_each_once(runs, _models(runs)))


def _each_once(runs: Sequence[Run], models: Mapping[str, Scalar]) -> Iterator[Run]:
    alike: dict[Family, list[Run]] = {}
    for run in runs:
        alike.setdefault(_identity(run, models), []).append(run)
    for run in runs:
        same = alike[_identity(run, models)]
        kept = max(same, key=lambda one: (one.finished, one.count, one.shards is None))
        if run is not kept and _repeats(run, kept):
            continue
        others = [other for other in same if run is kept and other is not run and _repeats(other, run)]
        told = [_left_out(other, run, "run") for other in others]
        yield replace(run, problems=[*run.problems, *told]) if told else run


def _repeats(run: Run, kept: Run) -> bool:
    return kept.finished and (run.shards is not None or kept.shards is not None)


def _left_out(run: Run, kept: Run, what: str) -> str:
    return f"{printable(run.path)} is left out: {printable(kept.path)} is the same {what} and has as many cases or more"


def _models(runs: Sequence[Run]) -> Mapping[str, Scalar]:
    """Return, by run id, the first fingerprint of a model; shards that have not loaded theirs yet are taken to fit."""
    found: dict[str, Scalar] = {}
    for run in runs:
        if (model := run.record.settings.get("model.fingerprint")) is not None:
            found.setdefault(run.record.run_id, model)
    return found


def _family(run: Run, models: Mapping[str, Scalar]) -> Family:
    count, _ = run.record.shard or (1, 0)
    return count, *_identity(run, models)


def _identity(run: Run, models: Mapping[str, Scalar]) -> Family:
    record = run.record
    model = record.settings.get("model.fingerprint", models.get(record.run_id))
    return record.run_id, record.settings.get("dataset.fingerprint"), model


def _joined(members: Sequence[Run]) -> Run:
    parts, problems = _one_of_each(members)
    count, _ = members[0].record.shard or (1, 0)
    missing = tuple(index for index in range(count) if index not in parts)
    unfinished: dict[str, tuple[int, ...]] = {}
    for index, run in parts.items():
        if not run.finished:
            status = INCOMPLETE if run.record.status == "complete" else run.record.status
            unfinished[status] = (*unfinished.get(status, ()), index)
    runs = list(parts.values())
    done, failed = _cases(runs, problems)
    status = next(iter(unfinished), INCOMPLETE if missing else "complete")
    return Run(
        runs[0].path,
        _record(runs, status),
        done,
        failed,
        problems,
        Shards(count, missing, unfinished, tuple(run.path for run in runs)),
    )


def _record(runs: Sequence[Run], status: str) -> RunRecord:
    """Return the record of the whole run, after that of the shard that has come furthest."""
    records = [run.record for run in runs]
    model = max(runs, key=lambda run: run.count).record
    return replace(
        model,
        name=_SUFFIX.sub("", model.name),
        status=status,
        settings={key: value for key, value in model.settings.items() if key != "shard.index"},
        total=max(record.whole for record in records) or sum(record.total for record in records),
        started=min(record.started for record in records),
    )


def _one_of_each(members: Sequence[Run]) -> tuple[dict[int, Run], list[str]]:
    """Return the shards by their numbers; of copies the one that has come furthest, and a word about the others."""
    problems = [f"{printable(run.path.name)}: {problem}" for run in members for problem in run.problems]
    numbered = [(run.record.shard[1] if run.record.shard else 0, run) for run in members]
    found: dict[int, Run] = {}
    for index, run in sorted(numbered, key=lambda pair: (pair[0], not pair[1].finished, -pair[1].count)):
        if index in found:
            problems.append(_left_out(run, found[index], "shard"))
        found.setdefault(index, run)
    return found, problems


def _cases(runs: Sequence[Run], problems: list[str]) -> tuple[CaseTable, tuple[CaseLine, ...]]:
    """Return all cases, each once, and as finished where any shard finished it."""
    seen: set[str] = set()
    places: list[list[int]] = []
    for run in runs:
        places.append([place for place, case_id in enumerate(run.done.ids) if case_id not in seen])
        seen.update(run.done.ids)
    failed = {line.case_id: line for run in runs for line in run.failed if line.case_id not in seen}
    twice = sum(run.count for run in runs) - sum(map(len, places)) - len(failed)
    if twice:
        problems.append(f"{twice:,} case(s) left out that stand in several shards")
    return _table([run.done for run in runs], places), tuple(failed.values())


def _table(tables: Sequence[CaseTable], places: Sequence[Sequence[int]]) -> CaseTable:
    """Return the chosen rows of tables, one behind the other, with the columns of all."""
    chosen = [(table, place) for table, rows in zip(tables, places, strict=True) for place in rows]
    names = tuple(dict.fromkeys(name for table in tables for name in table.names))
    columns = [
        np.concatenate([table.column(name)[list(rows)] for table, rows in zip(tables, places, strict=True)])
        for name in names
    ]
    return CaseTable(
        ids=tuple(table.ids[place] for table, place in chosen),
        units=tuple(table.units[place] for table, place in chosen),
        prompts=tuple(table.prompts[place] for table, place in chosen),
        sizes=np.array([table.sizes[place] for table, place in chosen], dtype=np.intp),
        names=names,
        values=np.array(columns, dtype=np.float64).reshape(len(names), len(chosen)).T,
        subjects=tuple(table.subjects[place] for table, place in chosen),
        relations=tuple(table.relations[place] for table, place in chosen),
    )
