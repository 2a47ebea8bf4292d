"""AlphaEdit: changes inside the null space of preserved knowledge (Fang et al. 2025, arXiv 2410.02355).

``P`` projects on the eigenvectors of ``C_l`` whose eigenvalue is under a threshold; with ``X = Delta^T``:

    [P (K K^T + C_prev) + l2 I] X = P K R^T        (equation 14)

``C_prev`` is the sum of ``K K^T`` over the earlier units of a sequence, nothing for the first one.

Values and the split of the residual are MEMIT's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ke_cli.checks import check_above_zero
from ke_cli.engine.workbench import Workbench
from ke_cli.methods.solves import nullspace, projected_solve
from ke_cli.methods.spread import SpreadEditor


@dataclass(frozen=True, kw_only=True)
class AlphaEdit(SpreadEditor):
    """Null-space constrained editing.

    Args:
        l2: Ridge of the solve (published name: ``L2``).
        nullspace_threshold: Eigenvalues of ``C`` under it count as zero; one number, or one for each layer.
    """

    remembers: ClassVar[bool] = True

    l2: float
    nullspace_threshold: float | tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        super().__post_init__()
        check_above_zero(self, "l2")
        thresholds = self.nullspace_threshold
        if isinstance(thresholds, tuple) and len(thresholds) != len(self.layers):
            given = f"{len(thresholds)} for {len(self.layers)} layers"
            raise ValueError(f"nullspace_threshold: expected one number, or one for each layer, got {given}")

    def right(self, bench: Workbench, layer: int, keys: Tensor, earlier: Tensor | None = None) -> Tensor:
        """``K^T P (P (K K^T + C_prev) P + l2 I)^-1``."""
        basis = bench.once(("null space", layer, self._threshold(bench, layer)), lambda: self._basis(bench, layer))
        return projected_solve(basis, self.l2, keys, earlier)

    def _basis(self, bench: Workbench, layer: int) -> Tensor:
        return nullspace(self.covariance(bench, layer), self._threshold(bench, layer))

    def _threshold(self, bench: Workbench, layer: int) -> float:
        if isinstance(self.nullspace_threshold, tuple):
            return self.nullspace_threshold[self.edited_layers(bench.model.n_layers).index(layer)]
        return self.nullspace_threshold
