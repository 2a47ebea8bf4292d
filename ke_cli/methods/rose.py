"""RoSE: robust same-subject editing, this project's reading of the paper's abstract (its equations are not public).

Setting: the facts ``(s, r_i, o_i)`` of one subject are written together, then asked in the edited form and as user
instructions. The abstract names two remedies.

Isotropic Geometric Alignment (IGA), derivable: for ``Delta = r q^T``, ``q = M^-1 k / (k^T M^-1 k)``, an input ``k + e``
yields ``r (1 + q^T e)``, and ``||q|| ||k|| >= 1`` with equality only for ``M = I``, the least-norm update. All three
constraints minimise, with ``tr M = m``,

    || Delta K - R ||^2  +  lambda mean||k||^2 tr(Delta M Delta^T)

    isotropic   M = I                  Delta = R K^T (K K^T + lambda mean||k||^2 I)^-1
    covariance  M = C m / tr C         MEMIT's constraint, for comparison
    nullspace   M = I, Delta = Delta P where P keeps the directions that plain text uses least

Hierarchical Knowledge Integration (HKI), our reading, one value per subject: see `ke_cli.methods.integration`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import Tensor

from ke_cli.checks import check_above_zero, check_at_least
from ke_cli.data.types import EditUnit
from ke_cli.engine.workbench import Workbench
from ke_cli.methods.integration import Integrating
from ke_cli.methods.solves import isotropic_solve, projected_solve, quiet_directions, regularised_solve
from ke_cli.methods.spread import Column, as_columns, subjects_of


@dataclass(frozen=True, kw_only=True)
class Rose(Integrating):
    """One value per subject, written with the update of least norm.

    Args:
        constraint: ``isotropic`` (IGA); ``covariance`` and ``nullspace`` for comparison.
        key: The subject's key: that of its first fact (as MEMIT-Merge), or the mean over its facts.
        lambda_: Weight of the constraint, in units of the mean ``||k||^2``.
        nullspace_share: Share of ``tr C`` that the directions open to ``nullspace`` hold at most.
    """

    holds_subject: ClassVar[bool] = True

    constraint: Literal["isotropic", "covariance", "nullspace"]
    key: Literal["first", "mean"]
    lambda_: float
    nullspace_share: float

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        super().__post_init__()
        check_at_least(self, 0, "lambda_")
        check_above_zero(self, "nullspace_share")

    def covariance_layers(self, depth: int) -> list[int]:
        """All edited layers, unless the constraint needs no covariance."""
        return [] if self.constraint == "isotropic" else self.edited_layers(depth)

    def columns(self, bench: Workbench, units: Sequence[EditUnit]) -> list[list[Column]]:
        """One column per subject."""
        groups = [subjects_of(unit) for unit in units]
        columns = as_columns(self.integrate(bench, [facts for unit in groups for facts in unit]), groups)
        if self.key == "first":
            return [[replace(column, facts=column.facts[:1]) for column in unit] for unit in columns]
        return columns

    def right(self, bench: Workbench, layer: int, keys: Tensor, earlier: Tensor | None = None) -> Tensor:
        """``K^T (K K^T + lambda mean||k||^2 M)^-1``, or the same within the null space."""
        weight = self.lambda_ * float(keys.pow(2).sum(dim=0).mean())
        if self.constraint == "isotropic":
            return isotropic_solve(weight, keys)
        if self.constraint == "nullspace":
            return projected_solve(self._open(bench, layer), weight, keys)
        covariance = self.covariance(bench, layer)
        return regularised_solve(covariance, weight * covariance.width / covariance.trace, keys)

    def _open(self, bench: Workbench, layer: int) -> Tensor:
        """Orthonormal basis of the directions that may be written to."""
        share = self.nullspace_share
        return bench.once(("quiet", layer, share), lambda: quiet_directions(self.covariance(bench, layer), share))
