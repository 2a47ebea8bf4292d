"""ROME: rank-one model editing (Meng et al. 2022, arXiv 2202.05262).

One layer ``l``, lookup position ``subject_last``:

    k* = mean over context templates of the key          u = C^-1 k* / ||C^-1 k*||
    v* = v_init + delta                                  (section 3.1, equation 4: value optimisation at the MLP output)
    W + r u^T      with  r = (v* - W k) / (k . u)        k = key of the un-prefixed prompt (equation 2)

``W k`` is the projection's output for ``k``, its bias included; at the same token that is ``v_init``, so
``v* - W k = delta``. ROME as published thus mixes two keys: ``k*`` in ``u`` and ``k`` in ``r``.

r-ROME (Gupta et al. 2024, arXiv 2403.07175) has ``k*`` in both: ``r = (v* - W k*) / (k* . u)``.

Facts of one unit are written one after another, each seeing the earlier writes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ke_cli.data.types import EditUnit, Request
from ke_cli.engine.covariance import Covariance
from ke_cli.engine.edits import NO_EDIT, Edit, LowRank, sum_of
from ke_cli.engine.problems import Problem, Solution
from ke_cli.engine.reading import Site, read
from ke_cli.engine.workbench import Workbench
from ke_cli.methods.base import ValueEditor
from ke_cli.methods.rows import Lookup, lookup_tokens, target_rows
from ke_cli.models.editable import EditableModel

WriteTurn = Callable[[int, Sequence[EditUnit], int, Sequence[Edit]], list[Edit]]
"""Writes at a layer, of some units, the fact with a number; the edits that are already in place come last."""


@dataclass(frozen=True, kw_only=True)
class Rome(ValueEditor):
    """Rank-one editing at the last subject token.

    Args:
        covariance: Whether ``u = C^-1 k*`` (else ``u = k*``).
        key: Which key ``r`` is computed from: of the un-prefixed ``prompt`` (ROME), or the mean over all
            ``templates`` (r-ROME).
    """

    holds_subject: ClassVar[bool] = False

    covariance: bool
    key: Literal["prompt", "templates"]

    def covariance_layers(self, depth: int) -> list[int]:
        """The edited layers, if their covariance is used."""
        return self.edited_layers(depth) if self.covariance else []

    def edit(self, bench: Workbench, units: Sequence[EditUnit]) -> list[Edit]:
        """Write the facts of a unit one after another, each seeing the earlier writes; all units together."""

        def write(layer: int, members: Sequence[EditUnit], turn: int, before: Sequence[Edit]) -> list[Edit]:
            return self.write(bench, layer, [unit.requests[turn] for unit in members], before)

        return in_turns(units, self.edited_layers(bench.model.n_layers), write)

    def write(self, bench: Workbench, layer: int, requests: Sequence[Request], before: Sequence[Edit]) -> list[Edit]:
        """One rank-one edit per request, with ``before[i]`` already in place for request ``i``."""
        tokenizer, templates = bench.model.tokenizer, bench.templates(self.context())
        problems = [
            Problem(
                (*target_rows(tokenizer, request, templates, "subject_last"), self.essence(tokenizer, request)),
                edit=edit,
            )
            for request, edit in zip(requests, before, strict=True)
        ]
        solutions = bench.optimise(problems, self.objective, layer, "mlp", keys=self.key == "prompt")
        return self.insert(bench, layer, requests, before, solutions)

    def insert(
        self,
        bench: Workbench,
        layer: int,
        requests: Sequence[Request],
        before: Sequence[Edit],
        solutions: Sequence[Solution],
    ) -> list[Edit]:
        """The rank-one updates that turn each subject's key into its optimised value.

        The keys are those the solutions hold, if they hold any: they were read with the same edits in place.
        """
        templates = bench.templates(self.context())
        if solutions[0].keys is None:
            keys, outputs = template_activations(bench, layer, requests, before, templates, "subject_last")
        else:
            keys = kept_keys(solutions, len(templates))
        covariance = bench.covariances(self.edited_layers(bench.model.n_layers))[layer] if self.covariance else None
        directions = update_directions(keys.mean(dim=1), covariance)  # [n, m]
        if self.key == "prompt":  # W k is v_init, so delta is all that is missing
            used, missing = keys[:, 0], [solution.delta for solution in solutions]
        else:
            used = keys.mean(dim=1)
            reached = outputs.mean(dim=1)
            missing = [solution.value - now for solution, now in zip(solutions, reached, strict=True)]
        return [
            rank_one(bench.model, layer, residual, key, direction, losses=solution.losses)
            for residual, key, direction, solution in zip(missing, used, directions, solutions, strict=True)
        ]


def in_turns(units: Sequence[EditUnit], layers: Sequence[int], write: WriteTurn) -> list[Edit]:
    """Write the first fact of every unit, then the second of every unit that has one, and so on; layer by layer."""
    edits = [NO_EDIT] * len(units)
    for layer in layers:
        for turn in range(max(len(unit.requests) for unit in units)):
            members = [i for i, unit in enumerate(units) if len(unit.requests) > turn]
            written = write(layer, [units[i] for i in members], turn, [edits[i] for i in members])
            for i, edit in zip(members, written, strict=True):
                edits[i] = sum_of(edits[i], edit)
    return edits


def kept_keys(solutions: Sequence[Solution], templates: int) -> Tensor:
    """Keys ``[n, t, m]`` of the problems' first ``t`` rows, which are those of the context templates."""
    kept = [solution.keys for solution in solutions if solution.keys is not None]
    assert len(kept) == len(solutions), "the solutions were asked for without their keys"
    return torch.stack([keys[:templates] for keys in kept])


def template_activations(
    bench: Workbench,
    layer: int,
    requests: Sequence[Request],
    before: Sequence[Edit],
    templates: Sequence[str],
    lookup: Lookup,
) -> tuple[Tensor, Tensor]:
    """Keys ``[n, t, m]`` and projection outputs ``[n, t, d]`` of ``n`` requests in ``t`` context templates.

    The first template is the un-prefixed prompt.
    """
    tokenizer = bench.model.tokenizer
    tokens = [
        token
        for index, request in enumerate(requests)
        for token in lookup_tokens(tokenizer, request, templates, lookup, index)
    ]
    name = bench.model.projection_name(layer)
    sites = [Site(name, "input"), Site(name, "output")]
    found = read(bench.model, tokens, sites, edits=before, budget=bench.budget)
    keys, outputs = (found[site].reshape(len(requests), len(templates), -1) for site in sites)  # from [n * t, _]
    return keys, outputs


def update_directions(keys: Tensor, covariance: Covariance | None) -> Tensor:
    """``u = C^-1 k*`` (or ``k*``), normalised to length 1, for keys ``[n, m]``; in float64."""
    directions = keys.double() if covariance is None else covariance.solve(keys.T).T
    lengths: Tensor = directions.norm(dim=-1, keepdim=True)
    return directions / lengths


def rank_one(
    model: EditableModel, layer: int, missing: Tensor, key: Tensor, direction: Tensor, *, losses: Sequence[float]
) -> Edit:
    """The update ``r u^T`` with ``r = missing / (k . u)``; ``missing [d]``, ``key [m]``, ``direction [m]``."""
    left = missing.double() / (key.double() @ direction)
    dtype = torch.promote_types(missing.dtype, torch.float32)
    pair = LowRank(left.to(dtype)[:, None], direction.to(dtype)[None])  # [d, 1], [1, m]
    return Edit({model.projection_name(layer): pair}, {"loss": losses[-1], "steps": len(losses)})
