"""RoSE: robust same-subject editing, this project's reading of the paper's abstract (its equations are not public).

Setting: the facts ``(s, r_i, o_i)`` of one subject are written together, then asked in the edited form and as user
instructions. The abstract names two remedies.

Isotropic Geometric Alignment (IGA), the least-norm update, derivable: for ``Delta = r q^T``, ``q = M k / (k^T M k)``,
an input ``k + e`` yields ``r (1 + q^T e)``, and ``||q|| ||k|| >= 1`` with equality only for ``M = I``:

    Delta_l = R_l K^T (K K^T + lambda I)^-1          lambda in units of the mean ||k||^2

Hierarchical Knowledge Integration (HKI), our reading, one value per subject:

    joint      one value on all facts at once (as MEMIT-Merge)
    two_level  each fact's own delta_i first (a flat, easy problem); then the subject's delta starts from their mean and
               takes a few joint steps with a pull  mu * ||delta - mean(delta_i)||^2
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ke_cli.data.types import EditUnit
from ke_cli.engine.problems import Problem, Solution
from ke_cli.engine.value import optimise
from ke_cli.engine.workbench import Workbench
from ke_cli.methods.base import check_not_negative, check_positive
from ke_cli.methods.memit import Column, Facts, SpreadEditor, as_columns, regularised_solve, subjects_of


@dataclass(frozen=True, kw_only=True)
class Rose(SpreadEditor):
    """One value per subject, written with the least-norm update.

    Args:
        constraint: ``isotropic`` (IGA) or ``covariance`` (MEMIT's constraint, for ablation).
        integration: How one value is found for all facts of a subject.
        key: The subject's key: that of its first fact (as MEMIT-Merge), or the mean over its facts.
        lambda_: Isotropic: ridge in units of the mean ``||k||^2``. Covariance: weight of ``C``.
        joint_steps: Evaluations of the joint loss in the second level of ``two_level``.
        pull: ``mu`` of ``two_level``.
    """

    constraint: Literal["isotropic", "covariance"]
    integration: Literal["joint", "two_level"]
    key: Literal["first", "mean"]
    lambda_: float
    joint_steps: int
    pull: float

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        super().__post_init__()
        check_not_negative(self, "lambda_", "pull")
        check_positive(self, "joint_steps")

    def covariance_layers(self, depth: int) -> list[int]:
        """All edited layers, if the covariance constraint is asked for."""
        return self.edited_layers(depth) if self.constraint == "covariance" else []

    def columns(self, bench: Workbench, units: Sequence[EditUnit]) -> list[list[Column]]:
        """One column per subject."""
        groups = [subjects_of(unit) for unit in units]
        columns = as_columns(self._integrate(bench, [facts for unit in groups for facts in unit]), groups)
        if self.key == "first":
            return [[replace(column, facts=column.facts[:1]) for column in unit] for unit in columns]
        return columns

    def _integrate(self, bench: Workbench, groups: Sequence[Facts]) -> list[Solution]:
        joint = [self.joint_problem(bench, facts) for facts in groups]
        if self.integration == "joint":
            return self.optimise(bench, joint)
        single = [self.joint_problem(bench, (fact,)) for facts in groups for fact in facts]
        own = iter(self.optimise(bench, single))
        means = [torch.stack([next(own).delta for _ in facts]).mean(dim=0) for facts in groups]
        second = [Problem(p.rows, start=mean, anchor=mean) for p, mean in zip(joint, means, strict=True)]
        layer = self.edited_layers(bench.model.n_layers)[-1]
        objective = replace(self.objective, steps=self.joint_steps, pull=self.pull)
        return optimise(bench.model, second, objective, layer, "layer", budget=bench.budget)

    def solve(self, bench: Workbench, layer: int, keys: Tensor) -> Tensor:
        """``K^T (K K^T + lambda mean||k||^2 I)^-1``, from the ``[n, n]`` Gram matrix; or MEMIT's solve."""
        if self.constraint == "covariance":
            covariance = bench.covariances(self.edited_layers(bench.model.n_layers))[layer]
            return regularised_solve(covariance, self.lambda_, keys)
        return isotropic_solve(self.lambda_, keys)


def isotropic_solve(ridge: float, keys: Tensor) -> Tensor:
    """``K^T (K K^T + ridge * mean||k||^2 I)^-1`` ``[n, m]`` for keys ``[m, n]``.

    Equal to ``(K^T K + ridge * mean||k||^2 I)^-1 K^T``, which only needs an ``[n, n]`` solve. With ``ridge = 0`` and
    equal keys the system is singular; the pseudo-inverse then splits the value between them.
    """
    gram = keys.T @ keys  # [n, n]
    shift = ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    inverse: Tensor = torch.linalg.pinv(gram + shift, hermitian=True)
    return inverse @ keys.T
