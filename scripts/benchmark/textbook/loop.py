"""The whole loop: one unit edited, one case asked, weights written and put back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ke_cli.data.types import EditUnit
from ke_cli.engine.edits import Edit, merged
from ke_cli.engine.queries import Answer, Generation, GeometryQuery, InstructionQuery, Query
from ke_cli.engine.workbench import Workbench
from ke_cli.errors import UserError
from ke_cli.methods.base import Editor
from ke_cli.methods.memit import Memit, MemitMerge
from ke_cli.methods.rets import Rets
from ke_cli.methods.rome import Rome
from ke_cli.methods.rose import Rose
from ke_cli.methods.top import Top

from .rank_one import RetsLoop, RomeLoop, TopLoop
from .scoring import Scored, scores
from .spread import MergeLoop, RoseLoop, SpreadLoop
from .writing import greedy

LOOPS: dict[type[Editor], Any] = {
    Memit: SpreadLoop,
    MemitMerge: MergeLoop,
    Rets: RetsLoop,
    Rome: RomeLoop,
    Rose: RoseLoop,
    Top: TopLoop,
}


class Textbook:
    """One fact at a time, the whole model at every step.

    Mirrors ``main`` of ``experiments/evaluate.py`` (ROME, MEMIT) and ``evaluate_rs.py`` (RETS, TOP): a unit is edited,
    written, evaluated case by case and taken back, and what the unedited model says is asked anew for each case.

    Args:
        bench: The engine's own workbench, so that model, covariances and templates are the same.
        editor: Its hyper-parameters are used, not its code.

    Raises:
        UserError: If there is no such loop for the editor.
    """

    def __init__(self, bench: Workbench, editor: Editor) -> None:
        if type(editor) not in LOOPS:
            known = ", ".join(sorted(kind.__name__ for kind in LOOPS))
            raise UserError(f"no textbook loop for {type(editor).__name__}", where="method", allowed=known)
        self._model = bench.model
        self._loop = LOOPS[type(editor)](bench, editor)
        self._prepared = False

    def prepare(self) -> None:
        """Make what published programs also make once per model: templates, inverses, reference keys."""
        if not self._prepared:
            self._loop.prepare()
            self._prepared = True

    def edit(self, unit: EditUnit) -> Edit:
        """Compute one unit's edit; the weights are written on the way and end as they were."""
        self.prepare()
        edit: Edit = self._loop.edit(unit)
        return edit

    def answers(self, queries: Sequence[Query], edit: Edit) -> dict[Query, Answer]:
        """Answer queries with ``edit`` written into the weights (which end as they were).

        All scores of a call come out of one padded batch; questions are answered one after another. For several cases
        of one unit write the edit once, with `merged`, and ask with ``NO_EDIT``, as published programs do.

        Raises:
            UserError: If a query is about geometry, which no published program measures.
        """
        asked = list(dict.fromkeys(queries))
        if any(isinstance(query, GeometryQuery) for query in asked):
            raise UserError("the textbook loop measures no geometry", where="metrics", hint="leave the metric out")
        with merged(self._model, edit):
            scored = scores(self._model, [query for query in asked if isinstance(query, Scored)])
            return {query: self._answer(query, scored) for query in asked}

    def _answer(self, query: Query, scored: dict[Scored, Answer]) -> Answer:
        if isinstance(query, InstructionQuery):
            return Generation(greedy(self._model, query.question, query.max_new_tokens))
        assert isinstance(query, Scored)
        return scored[query]
