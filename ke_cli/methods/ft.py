"""FT and FT-L: fine-tuning one layer's down-projection on the fact (baseline of arXiv 2202.05262, section 3.3).

    minimise  nll(o_new | prompt)  over  W_l   with Adam;   FT-L keeps  || W - W_0 ||_inf <= norm_constraint

The loss is the mean NLL over the target's tokens under teacher forcing. (The authors' code scores every target token
from the last prompt token, which is the same for targets of one token only.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ke_cli.checks import check_above_zero, check_at_least
from ke_cli.data.types import EditUnit, Request
from ke_cli.engine.edits import Dense, Edit, attached
from ke_cli.engine.forward import Padded, gathered_logits, run
from ke_cli.engine.tokens import continuation
from ke_cli.engine.workbench import Workbench
from ke_cli.methods.base import Editor, Layers, resolve_layers
from ke_cli.models.editable import EditableModel

ENTRIES = 1 << 26
"""Weight entries that may be trained in one batch of units (256 MiB of float32)."""


@dataclass(frozen=True, kw_only=True)
class FineTune(Editor):
    """Fine-tuning of one or more down-projections, every unit on its own copy.

    Args:
        layers: Trained layers.
        steps: Updates of the weights, as in the published code; each is preceded by an evaluation of the loss.
        lr: Adam's step size.
        threshold: Mean NLL (nats) under which the training ends.
        norm_constraint: Bound of the largest change of any weight entry; null for plain FT.
    """

    layers: Layers
    steps: int
    lr: float
    threshold: float
    norm_constraint: float | None

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        check_above_zero(self, "steps", "lr", "norm_constraint")
        check_at_least(self, 0, "threshold")

    def edited_layers(self, depth: int) -> list[int]:
        """The trained layers."""
        return resolve_layers(self.layers, depth)

    def edit(self, bench: Workbench, units: Sequence[EditUnit]) -> list[Edit]:
        """Train a copy of the weights per unit, several copies at once where memory allows."""
        names = [bench.model.projection_name(layer) for layer in self.edited_layers(bench.model.n_layers)]
        copy = sum(bench.model.weight(name).numel() for name in names)
        rows = max(len(unit.requests) for unit in units)
        together = max(1, ENTRIES // (copy * rows))
        edits: list[Edit] = []
        for start in range(0, len(units), together):
            edits += self._train(bench, units[start : start + together], names)
        return edits

    def _train(self, bench: Workbench, units: Sequence[EditUnit], names: list[str]) -> list[Edit]:
        deltas = [{name: _zero_like(bench.model, name) for name in names} for _ in units]
        adam = torch.optim.Adam([delta for unit in deltas for delta in unit.values()], lr=self.lr)
        active = list(range(len(units)))
        losses: list[list[float]] = [[] for _ in units]
        for _ in range(self.steps):
            loss = _unit_losses(bench.model, [units[i].requests for i in active], [deltas[i] for i in active])
            values = loss.detach().tolist()
            for i, value in zip(active, values, strict=True):
                losses[i].append(value)
            going = [k for k, value in enumerate(values) if not value < self.threshold]
            if not going:
                break
            adam.zero_grad(set_to_none=True)
            loss[going].sum().backward()  # type: ignore[no-untyped-call]
            for k in set(range(len(active))) - set(going):
                for delta in deltas[active[k]].values():
                    delta.grad = None  # Adam's momentum must not move what has converged
            adam.step()
            active = [active[k] for k in going]
            self._constrain([deltas[i] for i in active])
        return [
            Edit(
                {name: Dense(delta.detach()) for name, delta in unit.items()},
                {"loss": losses[i][-1], "steps": len(losses[i])},
            )
            for i, unit in enumerate(deltas)
        ]

    @torch.no_grad()
    def _constrain(self, deltas: Sequence[dict[str, Tensor]]) -> None:
        if self.norm_constraint is None:
            return
        for unit in deltas:
            for delta in unit.values():
                delta.clamp_(-self.norm_constraint, self.norm_constraint)


def _zero_like(model: EditableModel, name: str) -> Tensor:
    weight = model.weight(name)
    dtype = torch.promote_types(weight.dtype, torch.float32)
    return torch.zeros(weight.shape, dtype=dtype, device=weight.device, requires_grad=True)


def _unit_losses(
    model: EditableModel, units: Sequence[Sequence[Request]], deltas: Sequence[dict[str, Tensor]]
) -> Tensor:
    """Mean NLL ``[u]`` of each unit's facts with the unit's own change attached."""
    facts = [(u, continuation(model.tokenizer, r.text, r.target_new)) for u, unit in enumerate(units) for r in unit]
    edits = [Edit({name: Dense(delta) for name, delta in unit.items()}) for unit in deltas]
    padded = Padded.of([tokens.ids for _, tokens in facts], model.device)
    spots = [
        (row, position, token, u, 1 / len(tokens.targets) / len(units[u]))
        for row, (u, tokens) in enumerate(facts)
        for position, token in zip(tokens.positions, tokens.targets, strict=True)
    ]
    rows, positions, targets, owners = (
        torch.tensor([spot[i] for spot in spots], device=model.device) for i in range(4)
    )
    with attached(model, edits, [u for u, _ in facts]):
        logits = gathered_logits(model, rows, positions, lambda: run(model, padded))
    nll = -F.log_softmax(logits, dim=-1).gather(1, targets[:, None])[:, 0]
    shares = torch.tensor([spot[4] for spot in spots], device=model.device, dtype=nll.dtype)
    return nll.new_zeros(len(units)).index_add(0, owners, nll * shares)
