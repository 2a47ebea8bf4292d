"""PMET: precise model editing with values of attention and MLP (Li et al. 2024, arXiv 2308.08742).

One delta is added to the attention's output and one to the MLP's, both at the last edited layer, and optimised
together (section 4.2); only the MLP's is written:

    R = (Z_mlp - MLP_now) / sqrt(layers left)        Delta_l = R K^T (lambda C_l + K K^T)^-1

Of the published program: the decay is summed over both deltas, each is clamped by its own activation; once the target
is the arg-max on every row, the next evaluation weighs its NLL by 0.1, and the optimisation ends if the KL is at most
0.01 (the paper's condition; the program compares the KL times its weight, which differs where that is not 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from ke_cli.checks import check_above_zero, check_at_least
from ke_cli.engine.problems import Objective, Problem, Solution, Where
from ke_cli.engine.workbench import Workbench
from ke_cli.methods.memit import Memit


@dataclass(frozen=True, kw_only=True)
class Pmet(Memit):
    """MEMIT with values of MLP outputs that were found beside values of attention outputs.

    Args:
        confident_factor: Weight of the NLL after an evaluation with the target as arg-max on every row.
        kl_stop: A fact that is there ends if its KL (nats) is at most this.
    """

    value_at: ClassVar[Where] = "mlp"

    confident_factor: float
    kl_stop: float

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        super().__post_init__()
        check_above_zero(self, "confident_factor")
        check_at_least(self, 0, "kl_stop")

    @property
    def objective(self) -> Objective:
        """The shared one, with PMET's weights and stop."""
        return replace(super().objective, sure_factor=self.confident_factor, sure_kl=self.kl_stop)

    def layers_left(self, count: int) -> float:
        """The square root of the layers left."""
        return math.sqrt(count)

    def optimise(self, bench: Workbench, problems: Sequence[Problem], layer: int | None = None) -> list[Solution]:
        """Values of both modules found together; the MLP's part is returned."""
        d = bench.model.width
        return [
            replace(both, delta=both.delta[d:], initial=both.initial[d:])
            for both in self.optimise_at(bench, problems, "attention_and_mlp", layer)
        ]
