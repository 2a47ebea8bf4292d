"""What a case log holds beyond the numbers of tables: texts of the cases and raw answers, read only where asked for."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from ke_cli.results.files import open_plain
from ke_cli.results.journal import CASES_FILE, head_of, is_sealed
from ke_cli.results.reader import Run
from ke_cli.results.strict_json import load_object

_ID = re.compile(rb'"case_id":"((?:[^"\\]|\\.)*)"')
_COUNTS = ("n_edits", "checkpoint")


@dataclass(frozen=True, slots=True)
class CaseDetail:
    """One case as its run stored it.

    Args:
        case_id: Unique in its data set.
        texts: ``subject``, ``relation``, ``prompt``, ``target_new`` and ``target_true``; empty where missing.
        error: Why it failed; empty for a finished case.
        metrics: Column name to value.
        before: Raw answers of the unedited model.
        after: Raw answers of the edited one.
        edits: How many edits the model carried when the case was evaluated; None where the run does not say.
    """

    case_id: str
    texts: Mapping[str, str]
    error: str = ""
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    before: tuple[Mapping[str, Any], ...] = ()
    after: tuple[Mapping[str, Any], ...] = ()
    edits: int | None = None


def details(run: Run, ids: Collection[str], *, answers: bool = True) -> dict[str, CaseDetail]:
    """Read cases of a run again, with their texts; what cannot be read is left out.

    Args:
        run: As `read_run` returned it.
        ids: The ``case_id`` of each case that is wanted.
        answers: Whether to decode the raw answers, which make up most of a line.

    Returns:
        ``case_id`` to the case. Of several attempts at a case it is the one that tables count.
    """
    places = {case_id: place for place, case_id in enumerate(run.done.ids)}
    failed = {case.case_id for case in run.failed}
    wanted, found = set(ids), dict[str, CaseDetail]()
    for case_id, raw in _stored(run, wanted, answers):
        is_counted = raw.get("status") == "ok" and case_id in places and _agrees(run, places[case_id], raw)
        if run.record.checkpoints and run.done and _edits(raw) not in (None, int(run.done.sizes[0])):
            continue  # of another checkpoint
        if case_id not in found and (is_counted or (case_id in failed and raw.get("status") == "failed")):
            found[case_id] = _detail(case_id, raw)
    return found


def tells_edits(path: Path) -> bool:
    """Whether the first case of a run directory says how many edits the model carried."""
    with suppress(OSError, ValueError), open_plain(path / CASES_FILE) as stream:
        return _edits(load_object(head_of(stream.readline()))) is not None
    return False


def _stored(run: Run, wanted: Collection[str], answers: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Decode the lines of the wanted cases in all directories of a run."""
    for folder in run.folders:
        with suppress(OSError, ValueError), open_plain(folder / CASES_FILE) as stream:
            yield from _lines(stream, wanted, answers)


def _lines(stream: BinaryIO, wanted: Collection[str], answers: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Decode the lines of the wanted cases; the others are passed over without looking into them."""
    for text in stream:
        case_id = _id_of(text)
        if case_id is None or case_id in wanted:
            with suppress(ValueError, RecursionError):
                raw = load_object(text if answers else head_of(text), sealed=is_sealed(text))
                if raw.get("case_id") in wanted:
                    yield raw["case_id"], raw


def _id_of(text: bytes) -> str | None:
    """Return the id near the start of a line, or None where it takes decoding to know."""
    match = _ID.search(text, 0, 2048)
    if match is None or b"\\" in match[1]:
        return None
    return match[1].decode("utf-8", errors="replace")


def _agrees(run: Run, place: int, raw: Mapping[str, Any]) -> bool:
    """Whether a line has the values that the table of the run has for the case."""
    metrics = raw.get("metrics")
    kept = run.done[place].metrics
    return isinstance(metrics, dict) and all(
        value is None or metrics.get(name) == value for name, value in kept.items()
    )


def _detail(case_id: str, raw: Mapping[str, Any]) -> CaseDetail:
    names = ("subject", "relation", "prompt", "target_new", "target_true")
    metrics = raw.get("metrics")
    return CaseDetail(
        case_id=case_id,
        texts={name: str(raw.get(name) or "") for name in names},
        error=str(raw.get("error") or "no reason given") if raw.get("status") == "failed" else "",
        metrics={
            str(name): float(value) if isinstance(value, int | float) else None
            for name, value in (metrics.items() if isinstance(metrics, dict) else ())
        },
        before=_answers(raw.get("before")),
        after=_answers(raw.get("after")),
        edits=_edits(raw),
    )


def _answers(raw: object) -> tuple[Mapping[str, Any], ...]:
    return tuple(answer for answer in raw if isinstance(answer, dict)) if isinstance(raw, list) else ()


def _edits(raw: Mapping[str, Any]) -> int | None:
    counts = [raw[name] for name in _COUNTS if isinstance(raw.get(name), int) and not isinstance(raw[name], bool)]
    return counts[0] if counts else None
