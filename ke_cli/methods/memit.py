"""MEMIT and MEMIT-Merge: many facts at once, spread over several layers.

MEMIT (Meng et al. 2023, arXiv 2210.07229): one value per fact, and

    Delta_l = R K^T (lambda C_l + K K^T)^-1  (equation 14)

MEMIT-Merge (Dong et al. 2025, arXiv 2502.07322): one value ``z`` per subject, optimised on all its facts together;
``balance`` writes one column per subject with the key of its first fact, else the same ``z`` once for each fact's key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from ke_cli.checks import check_above_zero
from ke_cli.data.types import EditUnit
from ke_cli.engine.workbench import Workbench
from ke_cli.methods.solves import regularised_solve
from ke_cli.methods.spread import Column, SpreadEditor, subjects_of


@dataclass(frozen=True, kw_only=True)
class Memit(SpreadEditor):
    """Mass editing with one value per fact.

    Args:
        lambda_: Weight of the covariance (published name: ``mom2_update_weight``).
    """

    lambda_: float

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        super().__post_init__()
        check_above_zero(self, "lambda_")

    def right(self, bench: Workbench, layer: int, keys: Tensor, earlier: Tensor | None = None) -> Tensor:
        """``K^T (lambda C + K K^T)^-1``."""
        return regularised_solve(self.covariance(bench, layer), self.lambda_, keys)


@dataclass(frozen=True, kw_only=True)
class MemitMerge(Memit):
    """MEMIT with one value per subject.

    Args:
        balance: One column per subject (key of its first fact); else one per fact, all with the same value.
    """

    holds_subject: ClassVar[bool] = True

    balance: bool

    def columns(self, bench: Workbench, units: Sequence[EditUnit]) -> list[list[Column]]:
        """One value per subject of a unit."""
        merged = self.solved(bench, [subjects_of(unit) for unit in units])
        if self.balance:
            return [[replace(column, facts=column.facts[:1]) for column in unit] for unit in merged]
        return [[replace(column, facts=(fact,)) for column in unit for fact in column.facts] for unit in merged]
