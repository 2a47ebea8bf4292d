"""RETS: relation-focused editing with a subject constraint (arXiv 2408.15091).

ROME's rank-one update at the *last token of the prompt* in a middle-late layer, with the second moment

    C = C_text + C_sub,   C_sub = sum over N reference prompts of k_i k_i^T   (not divided by N)

where ``k_i`` is the key at the last token of an un-prefixed prompt of the benchmark: the closed form of "keep the
values of other subjects at the last relation token".

The published code includes the edited prompt itself in ``C_sub``; its key also stands in the denominator of the update,
which drives ``k . u`` towards zero and blows the update up when prompts are few. Here the edited prompts are left out
unless ``own_prompts`` is set. In the essence row the whole prompt plays the subject, as in the published code
(``essence_at: prompt``); it thus holds on to the very distribution that is to be changed. ``subject`` avoids that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from ke_cli.data.types import EditUnit, Request
from ke_cli.engine.covariance import Covariance
from ke_cli.engine.edits import Edit
from ke_cli.engine.problems import Problem
from ke_cli.engine.workbench import Workbench
from ke_cli.errors import UserError
from ke_cli.methods.base import ValueEditor
from ke_cli.methods.rome import in_turns, kept_keys, rank_one
from ke_cli.methods.rows import Essence, target_rows


@dataclass(frozen=True, kw_only=True)
class Rets(ValueEditor):
    """Rank-one editing at the last prompt token under a subject constraint.

    Args:
        origin_mom: Whether ``C_text`` is part of ``C``.
        subject_const: Whether ``C_sub`` is part of ``C``.
        own_prompts: Whether the edited prompts count among the reference prompts (published behaviour).
        reference_file: A JSON list of reference prompts; null for the edit prompts of the data set.
        reference_prompts: At most this many of them; null takes all.
        essence_at: Where the value is added in the essence row.
    """

    origin_mom: bool
    subject_const: bool
    own_prompts: bool
    reference_file: str | None
    reference_prompts: int | None
    essence_at: Essence

    def __post_init__(self) -> None:
        """Refuse a constraint made of nothing."""
        super().__post_init__()
        if not (self.origin_mom or self.subject_const):
            raise ValueError("one of origin_mom and subject_const must be true, got neither")

    def references(self) -> str | None:
        """The file of reference prompts, if ``C_sub`` is used."""
        return self.reference_file if self.subject_const else None

    def covariance_layers(self, depth: int) -> list[int]:
        """The edited layers, if the text's covariance is used."""
        return self.edited_layers(depth) if self.origin_mom else []

    def edit(self, bench: Workbench, units: Sequence[EditUnit]) -> list[Edit]:
        """Write the facts of a unit one after another, each seeing the earlier writes; all units together."""
        return in_turns(units, self.edited_layers(bench.model.n_layers), partial(self._write, bench))

    def _write(
        self, bench: Workbench, layer: int, units: Sequence[EditUnit], turn: int, before: Sequence[Edit]
    ) -> list[Edit]:
        """Write fact number ``turn`` of every unit."""
        requests = [unit.requests[turn] for unit in units]
        problems = [self._problem(bench, request, edit) for request, edit in zip(requests, before, strict=True)]
        solutions = bench.optimise(problems, self.objective, layer, "mlp", keys=True)
        keys = kept_keys(solutions, len(bench.templates(self.context()))).double()  # [n, t, m]
        constraint = self._constraint(bench, layer)
        written = []
        for unit, solution, own in zip(units, solutions, keys, strict=True):
            left_out = self._own_reference_keys(bench, layer, unit)
            direction = constraint.solve(own.mean(dim=0)[:, None], without=left_out)[:, 0]  # [m]
            direction = direction / direction.norm()
            written.append(rank_one(bench.model, layer, solution.delta, own[0], direction, losses=solution.losses))
        return written

    def _problem(self, bench: Workbench, request: Request, edit: Edit) -> Problem:
        tokenizer, templates = bench.model.tokenizer, bench.templates(self.context())
        rows = target_rows(tokenizer, request, templates, "prompt_last")
        return Problem((*rows, self.essence(tokenizer, request, self.essence_at)), edit=edit)

    def _references(self, bench: Workbench) -> tuple[str, ...]:
        """The prompts behind ``C_sub``; none where it is not used."""
        if not self.subject_const:
            return ()
        texts = bench.reference_prompts[: self.reference_prompts]
        if not texts:
            raise UserError("RETS needs reference prompts", where="dataset", hint="method.subject_const=false")
        return texts

    def _constraint(self, bench: Workbench, layer: int) -> Covariance:
        """``C = C_text + C_sub`` with all reference prompts in it; the same for all facts of a layer."""
        text = bench.covariances([layer])[layer] if self.origin_mom else None
        return bench.with_last_token_keys(layer, self._references(bench), text)

    def _own_reference_keys(self, bench: Workbench, layer: int, unit: EditUnit) -> Tensor | None:
        """Keys ``[m, n]`` that the unit's own prompts have added to ``C_sub``, if they are to be left out."""
        if self.own_prompts:
            return None
        texts = self._references(bench)
        places = bench.once(("places", texts), lambda: _places(texts))
        own = [
            place for text in dict.fromkeys(request.text for request in unit.requests) for place in places.get(text, ())
        ]
        return bench.last_token_keys(layer, texts)[own].T.to(bench.model.device).double() if own else None


def _places(texts: Sequence[str]) -> dict[str, list[int]]:
    """Where each text stands."""
    places: defaultdict[str, list[int]] = defaultdict(list)
    for place, text in enumerate(texts):
        places[text].append(place)
    return places
