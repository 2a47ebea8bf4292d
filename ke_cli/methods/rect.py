"""RECT: relative change in weight (Gu et al. 2024, arXiv 2401.04700).

After MEMIT has written all layers, of each matrix only the share ``keep`` of entries with the largest ``|Delta / W|``
stays, at its full value; the others become 0. What is left has no low rank. In a sequence ``W`` holds
the earlier edits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ke_cli.checks import check_above_zero
from ke_cli.data.types import EditUnit
from ke_cli.engine.edits import Dense, Edit
from ke_cli.engine.workbench import Workbench
from ke_cli.methods.memit import Memit


@dataclass(frozen=True, kw_only=True)
class Rect(Memit):
    """MEMIT whose small relative changes are dropped.

    Args:
        keep: Share of the entries of each matrix that stay.
    """

    keep: float

    def __post_init__(self) -> None:
        """Refuse a share that is none."""
        super().__post_init__()
        check_above_zero(self, "keep")
        if self.keep > 1:
            raise ValueError(f"keep: expected at most 1, got {self.keep}")

    def edit(self, bench: Workbench, units: Sequence[EditUnit]) -> list[Edit]:
        """MEMIT's edits, thinned."""
        return [
            Edit(
                {
                    name: Dense(thinned(update.delta(), bench.weight(name), self.keep))
                    for name, update in edit.updates.items()
                },
                edit.info,
            )
            for edit in super().edit(bench, units)
        ]


def thinned(delta: Tensor, weight: Tensor, keep: float) -> Tensor:
    """``delta [d, m]`` with all but the share ``keep`` of its entries, by ``|delta / weight|``, set to 0.

    Where both are 0 nothing changes, whatever is kept; a change of a weight that is 0 is infinitely large.
    """
    ratio = (delta.double() / weight.to(delta.device).double()).abs().nan_to_num(nan=0.0, posinf=torch.inf)
    kept = max(1, round(keep * ratio.numel()))
    threshold = ratio.flatten().kthvalue(ratio.numel() - kept + 1).values
    return torch.where(ratio >= threshold, delta, torch.zeros_like(delta))
