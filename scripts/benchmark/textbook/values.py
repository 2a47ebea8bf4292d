"""The optimisation of one value: Adam, and at each step the whole model over all rows of one fact.

The gradient goes down to the edited layer only, because no weight asks for one; the forward pass begins at the bottom
every time and ends with log-probabilities of the whole vocabulary at all positions of all rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ke_cli.engine.problems import EssenceRow, Objective, TargetRow
from ke_cli.models.editable import EditableModel

from .passes import Batch, by_rows, exact, watched, whole_pass


@dataclass(frozen=True, eq=False)
class Path:
    """Where an optimisation has led.

    Args:
        delta: ``[d]``.
        init: ``[d]`` unedited activation at the lookup position of the first row.
        losses: Total loss (nats) at each evaluation.
        kept: ``[V]`` unedited log-probabilities at the essence row, if there is one.
    """

    delta: Tensor
    init: Tensor
    losses: tuple[float, ...]
    kept: Tensor | None = None

    @property
    def value(self) -> Tensor:
        """``v* = v_init + delta``."""
        return self.init + self.delta


class Moved:
    """A hook that adds ``delta [d]`` to a module's output in place, at the lookup positions of all rows.

    The first time it also remembers what stood in the first row (``target_init`` of the published programs).
    """

    def __init__(self, delta: Tensor, lookups: Sequence[int]) -> None:
        self.delta, self.lookups = delta, torch.tensor(lookups, device=delta.device)
        self.rows = torch.arange(len(lookups), device=delta.device)
        self.init: Tensor | None = None

    def __call__(self, _module: nn.Module, _args: Any, output: Any) -> None:
        """Add."""
        hidden = by_rows(output, len(self.rows))
        if self.init is None:
            self.init = exact(hidden[0, self.lookups[0]].detach().clone()).to(self.delta.device)
        where = self.rows.to(hidden.device), self.lookups.to(hidden.device)
        hidden[where] += self.delta.to(hidden)

    @property
    def first(self) -> Tensor:
        """``v_init [d]``, known after the first pass."""
        assert self.init is not None
        return self.init


def optimise_value(
    model: EditableModel,
    module: nn.Module,
    rows: Sequence[TargetRow],
    essence: EssenceRow,
    numbers: Objective,
    before: Path | None = None,
) -> Path:
    """Make the rows' targets likely, while the essence row's distribution stays.

    Mirrors ``compute_v``, ``compute_z``, ``compute_vr`` and ``compute_v_s1``. As there, the unedited distribution of
    the essence row and ``v_init`` come out of the first evaluation, at ``delta = 0``.

    Args:
        model: The model as it is now.
        module: Whose output the value is added to.
        rows: The rows; the first is the un-prefixed prompt.
        essence: The last row of the batch.
        numbers: Hyper-parameters.
        before: Begin at its ``delta``; its essence distribution was that of the unedited model.
    """
    batch = Batch.of([*(row.ids for row in rows), essence.ids], model.device)
    targets, weights = _targets(rows, batch)
    delta = _beginning(model, before)
    moved = Moved(delta, [*(row.lookup for row in rows), essence.lookup])
    kept = before.kept if before else None

    def loss() -> Tensor:
        nonlocal kept
        with watched((module, moved)):
            logits = exact(whole_pass(model, batch))
        log_probabilities = logits.log_softmax(dim=-1)  # [b, t, V]
        said = log_probabilities.gather(2, targets.to(logits.device)[..., None])[..., 0]  # [b, t]
        now = logits[-1, essence.position].log_softmax(dim=-1)
        kept = now.detach() if kept is None else kept
        drift = F.kl_div(kept, now, log_target=True, reduction="sum")
        return -(said * weights.to(said)).sum() + numbers.kl_factor * drift

    losses = _descend(delta, moved, numbers, loss)
    return Path(delta.detach(), moved.first, losses, kept)


def optimise_feature(
    model: EditableModel,
    module: nn.Module,
    rows: Sequence[TargetRow],
    feature: nn.Module,
    position: int,
    goal: Tensor,
    factor: float,
    numbers: Objective,
) -> Path:
    """Bring the output of ``feature`` at ``position`` of the first row to ``goal [d]``.

    Mirrors ``compute_v_s2`` of TOP, which runs all templates to the head at each step and reads the first row.
    """
    batch = Batch.of([row.ids for row in rows], model.device)
    delta = _beginning(model, None)
    moved = Moved(delta, [row.lookup for row in rows])
    seen: list[Tensor] = []

    def note(_module: nn.Module, _args: Any, output: Any) -> None:
        seen[:] = [exact(by_rows(output, len(rows))[0, position])]

    def loss() -> Tensor:
        with watched((module, moved), (feature, note)):
            whole_pass(model, batch)
        return factor * F.pairwise_distance(seen[0][None], goal.to(seen[0])[None])[0]

    losses = _descend(delta, moved, numbers, loss)
    return Path(delta.detach(), moved.first, losses)


def _targets(rows: Sequence[TargetRow], batch: Batch) -> tuple[Tensor, Tensor]:
    """Token to predict and its share in the mean NLL, ``[b, t]`` each; share 0 where nothing is asked."""
    targets, weights = torch.zeros_like(batch.ids).cpu(), torch.zeros(batch.ids.shape, dtype=torch.float64)
    for b, row in enumerate(rows):
        targets[b, list(row.positions)] = torch.tensor(row.targets)
        weights[b, list(row.positions)] = row.weight / len(row.targets)
    return targets.to(batch.ids.device), weights.to(batch.ids.device)


def _beginning(model: EditableModel, before: Path | None) -> Tensor:
    dtype = torch.promote_types(model.dtype, torch.float32)
    zero = torch.zeros(model.width, dtype=dtype, device=model.device)
    return (zero if before is None else before.delta.to(zero).clone()).requires_grad_()


def _descend(delta: Tensor, moved: Moved, numbers: Objective, loss_of: Callable[[], Tensor]) -> tuple[float, ...]:
    """Evaluate, stop or step, clamp, in the order of the published programs.

    Returns:
        The total loss at each evaluation.
    """
    adam, losses = torch.optim.Adam([delta], lr=numbers.lr), []
    for step in range(numbers.steps):
        adam.zero_grad()
        loss = loss_of().to(delta.device)
        loss = loss + numbers.weight_decay * delta.norm() / moved.first.norm() ** 2
        losses.append(loss.item())
        if losses[-1] < numbers.threshold or step == numbers.steps - 1:
            break
        torch.autograd.backward(loss)
        adam.step()
        with torch.no_grad():
            limit = numbers.clamp * moved.first.norm()
            if delta.norm() > limit:
                delta.mul_(limit / delta.norm())
    return tuple(losses)
