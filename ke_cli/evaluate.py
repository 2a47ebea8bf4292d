"""From units to result lines: edit them together, ask the model, and lay out one line per case."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from ke_cli.data.types import Case, EditUnit
from ke_cli.engine.edits import Edit
from ke_cli.engine.queries import Answer, Answers, Query
from ke_cli.engine.scoring import answer
from ke_cli.engine.workbench import Workbench
from ke_cli.errors import UnitError, UserError
from ke_cli.methods.base import Editor
from ke_cli.metrics.base import Metric
from ke_cli.metrics.evaluate import measure_all, plan_after, plan_before, prompts_hash, to_json
from ke_cli.unedited import AnswerCache, unedited_answers

log = logging.getLogger(__name__)

HUGE = 1e4
"""Norm of an update in units of the weight's own, beyond which it is taken for a failed optimisation."""

DIVERGED = "the edit is not finite (the optimisation diverged)"

T = TypeVar("T")
R = TypeVar("R")
Body = dict[str, Any]
"""The part of a result line that metrics fill."""


def result_lines(
    editor: Editor,
    metrics: Sequence[Metric],
    bench: Workbench,
    units: Sequence[EditUnit],
    cache: AnswerCache | None = None,
) -> list[dict[str, Any]]:
    """Edit and evaluate some units together.

    Args:
        editor: The method.
        metrics: What is measured.
        bench: The model with what belongs to it.
        units: What is written together.
        cache: Where answers of the unedited model are kept, if anywhere.

    Returns:
        One line per case, the cases of a unit next to each other; failed lines with the reason where a unit could
        not be edited or evaluated.
    """
    started = time.perf_counter()
    edits = edit_units(editor, bench, units)
    edited = time.perf_counter()
    outcomes = evaluate_units(bench, metrics, units, edits, cache)
    cases = sum(len(unit.cases) for unit in units)
    times = {"edit_s": (edited - started) / cases, "evaluate_s": (time.perf_counter() - edited) / cases}
    return [
        {**_head(unit, case), **_body(case, outcome), "edit": _numbers(edit), "time": times}
        for unit, edit, outcome in zip(units, edits, outcomes, strict=True)
        for case in unit.cases
    ]


def edit_units(editor: Editor, bench: Workbench, units: Sequence[EditUnit]) -> list[Edit | str]:
    """Edits of all units together; where that fails, one by one.

    Returns:
        Per unit its edit, or the reason why there is none.
    """
    edits = _together_or_apart(lambda some: editor.edit(bench, some), units, "editing")
    return [_usable(bench, edit) if isinstance(edit, Edit) else edit for edit in edits]


def _usable(bench: Workbench, edit: Edit) -> Edit | str:
    """The edit, or the reason why it must not be used."""
    if not edit.is_finite():
        return DIVERGED
    for name, update in edit.updates.items():
        times = update.norm() / float(bench.model.weight(name).float().norm())
        if times > HUGE:
            return f"the edit of {name} is {times:.0f} times as large as the weight itself: it diverged"
    return edit


def evaluate_units(
    bench: Workbench,
    metrics: Sequence[Metric],
    units: Sequence[EditUnit],
    edits: Sequence[Edit | str],
    cache: AnswerCache | None = None,
) -> list[dict[str, Body] | str]:
    """What the metrics measure on all edited units together; where that fails, on one by one.

    Returns:
        Per unit the measurements by case id, or the reason why there are none.
    """
    pairs = [(unit, edit) for unit, edit in zip(units, edits, strict=True) if isinstance(edit, Edit)]
    measured = iter(_together_or_apart(lambda some: evaluate(bench, metrics, some, cache), pairs, "evaluating"))
    return [edit if isinstance(edit, str) else next(measured) for edit in edits]


def _together_or_apart(work: Callable[[Sequence[T]], Sequence[R]], items: Sequence[T], doing: str) -> list[R | str]:
    """Do all items together, or one by one where that fails, so that one bad unit costs no other its result.

    Returns:
        Per item the result, or the reason why there is none.
    """
    try:
        return list(work(items)) if items else []
    except UserError:
        raise
    except Exception as error:
        if len(items) == 1:
            return [str(error) if isinstance(error, UnitError) else f"{type(error).__name__}: {error}"]
        log.warning("%s %d units together failed (%s): trying them one by one", doing, len(items), error)
        return [one for item in items for one in _together_or_apart(work, [item], doing)]


def evaluate(
    bench: Workbench,
    metrics: Sequence[Metric],
    pairs: Sequence[tuple[EditUnit, Edit]],
    cache: AnswerCache | None = None,
) -> list[dict[str, Body]]:
    """Ask the unedited and the edited model what the metrics want to know, all units together.

    Returns:
        Per unit, by case id, the part of a result line that metrics fill.
    """
    cases = [case for unit, _ in pairs for case in unit.cases]
    before = unedited_answers(bench, [plan_before(metrics, case) for case in cases], cache)
    asked = [plan_after(metrics, case, known) for case, known in zip(cases, before, strict=True)]
    answers = _edited_answers(bench, _by_unit(pairs, asked), [edit for _, edit in pairs], cache)
    after = [found for (unit, _), found in zip(pairs, answers, strict=True) for _ in unit.cases]
    bodies = iter(map(partial(_measured, metrics), cases, before, after, asked))
    return [{case.case_id: next(bodies) for case in unit.cases} for unit, _ in pairs]


def _by_unit(pairs: Sequence[tuple[EditUnit, Edit]], asked: Sequence[Sequence[Query]]) -> list[list[Query]]:
    """What is asked about each case as what is asked about each unit."""
    queries = iter(asked)
    return [[query for _ in unit.cases for query in next(queries)] for unit, _ in pairs]


def _edited_answers(
    bench: Workbench, asked: Sequence[Sequence[Query]], edits: Sequence[Edit], cache: AnswerCache | None
) -> list[Answers]:
    """Answer the questions of each unit with its edit; one that changes nothing leaves the unedited model."""
    plain = [queries for queries, edit in zip(asked, edits, strict=True) if not edit.updates]
    questions = [queries for queries, edit in zip(asked, edits, strict=True) if edit.updates]
    changing = [edit for edit in edits if edit.updates]
    unedited = iter(unedited_answers(bench, plain, cache))
    none: list[dict[Query, Answer]] = [{} for _ in changing]
    edited = iter(answer(bench.model, questions, changing, budget=bench.budget) if any(questions) else none)
    return [next(edited) if edit.updates else next(unedited) for edit in edits]


def _measured(metrics: Sequence[Metric], case: Case, before: Answers, after: Answers, asked: Sequence[Query]) -> Body:
    """Numbers and raw answers of one case; ``asked`` is what was asked after the edit."""
    return {
        "metrics": measure_all(metrics, case, before, after),
        "before": [to_json(query, found) for query, found in before.items()],
        "after": [to_json(query, after[query]) for query in asked],
        "prompts_sha256": prompts_hash(case),
    }


def _body(case: Case, outcome: dict[str, Body] | str) -> Body:
    """What one case of a unit came to, or that the unit failed and why."""
    if isinstance(outcome, str):
        return {"status": "failed", "error": outcome, "metrics": {}, "before": [], "after": [], "prompts_sha256": ""}
    return {"status": "ok", "error": None, **outcome[case.case_id]}


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


def _numbers(edit: Edit | str) -> dict[str, Any]:
    return {} if isinstance(edit, str) else {"norm": edit.norm, "rank": edit.rank, **edit.info}
