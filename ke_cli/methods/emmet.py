"""EMMET: MEMIT's facts under equality constraints (Gupta et al. 2024, arXiv 2403.14236).

ROME's constraint with a batch of keys, published at one layer:

    Delta = R (K^T C^-1 K + ridge I)^-1 K^T C^-1        C = lambda E[k k^T] + C_prev (+ lambda_F I)

with ``C_prev`` the sum of ``K K^T`` over the earlier units of a sequence, nothing for the first one.

Values are those of MEMIT. Without the ridge, as in the paper, every key is mapped onto its value exactly; the published
code adds 0.1 for two facts and more, so that nearly equal keys can be solved for. As ``C`` carries ``lambda``, that is
no small correction: multiplied by ``lambda`` the system reads

    Delta = R (K^T E^-1 K + lambda ridge I)^-1 K^T E^-1  =  R K^T (lambda ridge E + K K^T)^-1        E = E[k k^T]

so for facts written at once EMMET is MEMIT at one layer with the weight ``lambda ridge``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ke_cli.checks import check_at_least
from ke_cli.engine.workbench import Workbench
from ke_cli.methods.memit import Memit
from ke_cli.methods.solves import regularised_solve


@dataclass(frozen=True, kw_only=True)
class Emmet(Memit):
    """Batched editing with equality constraints.

    Args:
        ridge: Added to the diagonal of the small system (published name: ``emmet_lambda``).
        ridge_for_one: Whether it is added for one fact alone, too; the published code leaves it out there.
        lambda_f: Added to the diagonal of ``C`` (published name: ``update_norm_lambda``).
    """

    remembers: ClassVar[bool] = True

    ridge: float
    ridge_for_one: bool
    lambda_f: float

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        super().__post_init__()
        check_at_least(self, 0, "ridge", "lambda_f")

    def right(self, bench: Workbench, layer: int, keys: Tensor, earlier: Tensor | None = None) -> Tensor:
        """``(K^T C^-1 K + ridge I)^-1 K^T C^-1``."""
        before = None if earlier is None else earlier.double() / self.lambda_
        covariance = self.shifted_covariance(bench, layer, self.lambda_f / self.lambda_, before)
        ridge = self.ridge if keys.shape[1] > 1 or self.ridge_for_one else 0.0
        return regularised_solve(covariance, self.lambda_ * ridge, keys)
