"""ROME: rank-one model editing (Meng et al. 2022, arXiv 2202.05262).

One layer ``l``, lookup position ``subject_last``:

    k* = mean over context templates of the key          u = C^-1 k* / ||C^-1 k*||
    v* = v_init + delta                                  (section 3.1, equation 4: value optimisation at the MLP output)
    W + r u^T      with  r = (v* - W k) / (k . u)        k = key of the un-prefixed prompt (equation 2)

``W k`` is the projection's output for ``k``, its bias included; at the same token that is ``v_init``, so
``v* - W k = delta``. Facts of one unit are written one after another, each seeing the earlier writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ke_cli.data.types import EditUnit, Request
from ke_cli.engine.covariance import Covariance
from ke_cli.engine.edits import NO_EDIT, Edit, LowRank, sum_of
from ke_cli.engine.problems import Problem, Solution
from ke_cli.engine.reading import Site, read
from ke_cli.engine.value import optimise
from ke_cli.engine.workbench import Workbench
from ke_cli.methods.base import ValueEditor
from ke_cli.methods.rows import Lookup, lookup_tokens, target_rows
from ke_cli.models.editable import EditableModel


@dataclass(frozen=True, kw_only=True)
class Rome(ValueEditor):
    """Rank-one editing at the last subject token.

    Args:
        covariance: Whether ``u = C^-1 k*`` (else ``u = k*``).
    """

    covariance: bool

    def covariance_layers(self, depth: int) -> list[int]:
        """The edited layers, if their covariance is used."""
        return self.edited_layers(depth) if self.covariance else []

    def edit(self, bench: Workbench, units: Sequence[EditUnit]) -> list[Edit]:
        """Write the first fact of every unit, then the second of every unit that has one, and so on."""
        edits = [NO_EDIT] * len(units)
        for layer in self.edited_layers(bench.model.n_layers):
            for turn in range(max(len(unit.requests) for unit in units)):
                members = [i for i, unit in enumerate(units) if len(unit.requests) > turn]
                requests = [units[i].requests[turn] for i in members]
                written = self.write(bench, layer, requests, [edits[i] for i in members])
                for i, edit in zip(members, written, strict=True):
                    edits[i] = sum_of(edits[i], edit)
        return edits

    def write(self, bench: Workbench, layer: int, requests: Sequence[Request], before: Sequence[Edit]) -> list[Edit]:
        """One rank-one edit per request, with ``before[i]`` already in place for request ``i``."""
        tokenizer, templates = bench.model.tokenizer, bench.templates(self.context())
        problems = [
            Problem(
                (
                    *target_rows(tokenizer, request, templates, "subject_last"),
                    self.essence(tokenizer, request),
                ),
                edit=edit,
            )
            for request, edit in zip(requests, before, strict=True)
        ]
        solutions = optimise(bench.model, problems, self.objective, layer, "mlp", budget=bench.budget)
        return self.insert(bench, layer, requests, before, solutions)

    def insert(
        self,
        bench: Workbench,
        layer: int,
        requests: Sequence[Request],
        before: Sequence[Edit],
        solutions: Sequence[Solution],
    ) -> list[Edit]:
        """The rank-one updates that turn each subject's key into its optimised value."""
        templates = bench.templates(self.context())
        keys = template_keys(bench, layer, requests, before, templates, "subject_last")  # [n, t, m]
        covariance = bench.covariances(self.edited_layers(bench.model.n_layers))[layer] if self.covariance else None
        directions = update_directions(keys.mean(dim=1), covariance)  # [n, m]
        return [
            rank_one(bench.model, layer, solution.delta, key, direction, losses=solution.losses)
            for solution, key, direction in zip(solutions, keys[:, 0], directions, strict=True)
        ]


def template_keys(
    bench: Workbench,
    layer: int,
    requests: Sequence[Request],
    before: Sequence[Edit],
    templates: Sequence[str],
    lookup: Lookup,
) -> Tensor:
    """Keys ``[n, t, m]`` of ``n`` requests in ``t`` context templates, the un-prefixed prompt first."""
    tokenizer = bench.model.tokenizer
    tokens = [
        token
        for index, request in enumerate(requests)
        for token in lookup_tokens(tokenizer, request, templates, lookup, index)
    ]
    site = Site(bench.model.projection_name(layer), "input")
    keys = read(bench.model, tokens, [site], edits=before, budget=bench.budget)[site]
    return keys.reshape(len(requests), len(templates), -1)  # [n * t, m] -> [n, t, m]


def update_directions(keys: Tensor, covariance: Covariance | None) -> Tensor:
    """``u = C^-1 k*`` (or ``k*``), normalised to length 1, for keys ``[n, m]``; in float64."""
    directions = keys.double() if covariance is None else covariance.solve(keys.T).T
    lengths: Tensor = directions.norm(dim=-1, keepdim=True)
    return directions / lengths


def rank_one(
    model: EditableModel, layer: int, delta: Tensor, key: Tensor, direction: Tensor, *, losses: Sequence[float]
) -> Edit:
    """The update ``r u^T`` with ``r = delta / (k . u)``; ``delta [d]``, ``key [m]``, ``direction [m]``."""
    residual = delta.double() / (key.double() @ direction)
    dtype = torch.promote_types(delta.dtype, torch.float32)
    pair = LowRank(residual.to(dtype)[:, None], direction.to(dtype)[None])  # [d, 1], [1, m]
    return Edit({model.projection_name(layer): pair}, {"loss": losses[-1], "steps": len(losses)})
