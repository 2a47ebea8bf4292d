"""From units to result lines: edit them together, ask the model, and lay out one line per case."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

from ke_cli.data.types import Case, EditUnit
from ke_cli.engine.edits import NO_EDIT, Edit
from ke_cli.engine.queries import Answers, Query
from ke_cli.engine.scoring import answer
from ke_cli.engine.workbench import Workbench
from ke_cli.errors import UserError
from ke_cli.methods.base import Editor
from ke_cli.metrics.base import Metric
from ke_cli.metrics.evaluate import measure_all, plan_after, plan_before, prompts_hash, to_json

log = logging.getLogger(__name__)


def result_lines(
    editor: Editor, metrics: Sequence[Metric], bench: Workbench, units: Sequence[EditUnit]
) -> list[dict[str, Any]]:
    """Edit and evaluate some units together.

    Returns:
        One line per case, the cases of a unit next to each other; failed lines with the reason where a unit could
        not be edited.
    """
    started = time.perf_counter()
    edits = edit_units(editor, bench, units)
    edited = time.perf_counter()
    pairs = [(unit, edit) for unit, edit in zip(units, edits, strict=True) if isinstance(edit, Edit)]
    measured = evaluate(bench, metrics, pairs)
    cases = sum(len(unit.cases) for unit in units)
    times = {"edit_s": (edited - started) / cases, "evaluate_s": (time.perf_counter() - edited) / cases}
    lines = []
    for unit, edit in zip(units, edits, strict=True):
        for case in unit.cases:
            body = measured[unit.unit_id, case.case_id] if isinstance(edit, Edit) else _nothing_measured()
            lines.append({**_head(unit, case), **_outcome(edit), **body, "time": times})
    return lines


def edit_units(editor: Editor, bench: Workbench, units: Sequence[EditUnit]) -> list[Edit | str]:
    """Edits of all units together; where that fails, one by one, so that one bad unit costs no other its result.

    Returns:
        Per unit its edit, or the reason why there is none.
    """
    try:
        edits = editor.edit(bench, units)
    except (UserError, KeyboardInterrupt):
        raise
    except Exception as error:
        if len(units) == 1:
            return [f"{type(error).__name__}: {error}"]
        log.warning("editing %d units together failed (%s): trying them one by one", len(units), error)
        return [one for unit in units for one in edit_units(editor, bench, [unit])]
    return [edit if edit.is_finite() else "the edit is not finite (the optimisation diverged)" for edit in edits]


def evaluate(
    bench: Workbench, metrics: Sequence[Metric], pairs: Sequence[tuple[EditUnit, Edit]]
) -> dict[tuple[str, str], dict[str, Any]]:
    """Ask the unedited and the edited model what the metrics want to know, all units together.

    Returns:
        By unit and case id, the part of a result line that metrics fill.
    """
    asked_before = [[query for case in unit.cases for query in plan_before(metrics, case)] for unit, _ in pairs]
    before = _answers(bench, asked_before, [NO_EDIT] * len(pairs))
    asked_after = [
        [query for case in unit.cases for query in plan_after(metrics, case, known)]
        for (unit, _), known in zip(pairs, before, strict=True)
    ]
    after = _answers(bench, asked_after, [edit for _, edit in pairs])
    return {
        (unit.unit_id, case.case_id): _measured(metrics, case, known, answers)
        for (unit, _), known, answers in zip(pairs, before, after, strict=True)
        for case in unit.cases
    }


def _answers(bench: Workbench, asked: Sequence[Sequence[Query]], edits: Sequence[Edit]) -> Sequence[Answers]:
    return answer(bench.model, asked, edits, budget=bench.budget) if any(asked) else [{} for _ in asked]


def _measured(metrics: Sequence[Metric], case: Case, before: Answers, after: Answers) -> dict[str, Any]:
    """Numbers and raw answers of one case."""
    asked_before, asked_after = plan_before(metrics, case), plan_after(metrics, case, before)
    return {
        "metrics": measure_all(metrics, case, before, after),
        "before": [to_json(query, before[query]) for query in asked_before],
        "after": [to_json(query, after[query]) for query in asked_after],
        "prompts_sha256": prompts_hash(case),
    }


def _nothing_measured() -> dict[str, Any]:
    return {"metrics": {}, "before": [], "after": [], "prompts_sha256": ""}


def _head(unit: EditUnit, case: Case) -> dict[str, Any]:
    request = case.request
    return {
        "schema": 1,
        "case_id": case.case_id,
        "unit": unit.unit_id,
        "unit_size": len(unit.cases),
        "subject": request.subject,
        "relation": request.relation,
        "prompt": request.prompt,
        "target_new": request.target_new,
        "target_true": request.target_true,
    }


def _outcome(edit: Edit | str) -> dict[str, Any]:
    if isinstance(edit, str):
        return {"status": "failed", "error": edit, "edit": {}}
    return {"status": "ok", "error": None, "edit": {"norm": edit.norm, "rank": edit.rank, **edit.info}}
