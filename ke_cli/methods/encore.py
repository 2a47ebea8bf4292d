"""ENCORE: MEMIT with a ridge and most-probable early stopping (Gupta et al. 2025, arXiv 2502.01636).

    Delta_l = R K^T (lambda C_l + C_prev + lambda_F I + K K^T)^-1

with ``C_prev`` the sum of ``K K^T`` over the earlier units of a sequence.

A fact's optimisation ends as soon as its target is the arg-max on every prefixed prompt in ``patience`` consecutive
evaluations. The published check counts right tokens over the prefixed prompts, which is exact for targets of one token
only, and never starts its count anew; ours looks at every token of the target, and at evaluations in a row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from ke_cli.checks import check_above_zero, check_at_least
from ke_cli.engine.edits import NO_EDIT, Edit
from ke_cli.engine.problems import Objective, Problem, TargetRow
from ke_cli.engine.workbench import Workbench
from ke_cli.methods.memit import Memit
from ke_cli.methods.solves import regularised_solve
from ke_cli.methods.spread import Facts


@dataclass(frozen=True, kw_only=True)
class Encore(Memit):
    """MEMIT with a norm constraint and early stopping.

    Args:
        lambda_f: Weight of the squared norm of the change (published name: ``update_norm_lambda``).
        patience: Consecutive evaluations in which every target token must be the arg-max.
    """

    remembers: ClassVar[bool] = True

    lambda_f: float
    patience: int

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        super().__post_init__()
        check_at_least(self, 0, "lambda_f")
        check_above_zero(self, "patience")

    @property
    def objective(self) -> Objective:
        """MEMIT's, with early stopping."""
        return replace(super().objective, patience=self.patience)

    def joint_problem(self, bench: Workbench, facts: Facts, edit: Edit = NO_EDIT) -> Problem:
        """MEMIT's, in which the un-prefixed prompt has no say in when to stop (unless there is no other)."""
        problem = super().joint_problem(bench, facts, edit)
        templates = len(bench.templates(self.context()))
        if templates == 1:
            return problem
        rows = [
            replace(row, asked=number % templates > 0) if isinstance(row, TargetRow) else row
            for number, row in enumerate(problem.rows)
        ]
        return replace(problem, rows=tuple(rows))

    def right(self, bench: Workbench, layer: int, keys: Tensor, earlier: Tensor | None = None) -> Tensor:
        """``K^T (lambda C + C_prev + lambda_F I + K K^T)^-1``."""
        before = None if earlier is None else earlier.double() / self.lambda_
        covariance = self.shifted_covariance(bench, layer, self.lambda_f / self.lambda_, before)
        return regularised_solve(covariance, self.lambda_, keys)
