"""What a value optimisation is asked: rows, problems, hyper-parameters, and the solution it returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from ke_cli.engine.edits import NO_EDIT, Edit

Where = Literal["mlp", "layer", "attention_and_mlp"]
"""Where a value is added: the MLP projection's output, the layer's output, or (a part each) the outputs of the
attention and of the MLP."""

Distance = Literal["euclidean", "squared"]


@dataclass(frozen=True, slots=True)
class TargetRow:
    """A prompt with its target: the logits at ``positions`` shall predict ``targets``.

    Args:
        ids: Token ids without the last target token.
        lookup: Index of the token at which the value is added.
        positions: Where each target token is predicted.
        targets: The target's token ids.
        weight: Share in the problem's mean.
        asked: Whether the row has a say in whether the problem is sure.
    """

    ids: tuple[int, ...]
    lookup: int
    positions: tuple[int, ...]
    targets: tuple[int, ...]
    weight: float
    asked: bool = True


@dataclass(frozen=True, slots=True)
class EssenceRow:
    """A prompt whose next-token distribution shall stay: ``KL(current || unedited)`` at token ``position``."""

    ids: tuple[int, ...]
    lookup: int
    position: int


@dataclass(frozen=True, eq=False, slots=True)
class MatchRow:
    """A prompt whose residual stream behind ``layer`` shall reach ``goal [d]`` at token ``position``."""

    ids: tuple[int, ...]
    lookup: int
    layer: int
    position: int
    goal: Tensor
    weight: float
    distance: Distance = "euclidean"


Row = TargetRow | EssenceRow | MatchRow


def read_part(row: Row) -> tuple[int, ...]:
    """Token ids up to the last one that is read: what follows changes nothing (causality)."""
    last = row.positions[-1] if isinstance(row, TargetRow) else row.position
    return row.ids[: max(last, row.lookup) + 1]


@dataclass(frozen=True, eq=False, slots=True)
class Problem:
    """One value to find. ``rows[0]`` is the un-prefixed prompt: its activation is ``v_init``.

    Args:
        rows: Target and essence rows, or match rows of one layer.
        start: ``[d]`` first value of delta (zero without).
        anchor: ``[d]`` point that the pull term draws towards.
        edit: An edit that is already in place when the value is looked for.
    """

    rows: tuple[Row, ...]
    start: Tensor | None = None
    anchor: Tensor | None = None
    edit: Edit = NO_EDIT


@dataclass(frozen=True, slots=True)
class Objective:
    """Hyper-parameters of the optimisation; the loss is evaluated ``steps`` times, delta updated one time fewer.

    Args:
        steps: Evaluations of the loss.
        lr: Adam's step size.
        threshold: A problem ends as soon as its total loss is below.
        clamp: ``||delta|| <= clamp * ||v_init||`` after each update.
        kl_factor: Weight of the essence rows.
        weight_decay: Weight of ``||delta|| / ||v_init||^2`` (norm over squared norm, as the published code does).
        pull: Weight of ``||delta - anchor||^2``.
        patience: A problem ends once it has been *sure* (every target token of every row asked the arg-max) in so many
            consecutive evaluations.
        sure_factor: Weight of the target rows in the evaluation after one that was sure.
        sure_kl: A problem that is sure ends if the KL of its essence row (nats, without its weight) is at most this.
    """

    steps: int
    lr: float
    threshold: float
    clamp: float
    kl_factor: float
    weight_decay: float
    pull: float = 0.0
    patience: int | None = None
    sure_factor: float = 1.0
    sure_kl: float | None = None

    @property
    def asks_if_sure(self) -> bool:
        """Whether anything depends on the targets being the arg-max."""
        return self.patience is not None or self.sure_kl is not None or self.sure_factor != 1.0


@dataclass(frozen=True, eq=False, slots=True)
class Solution:
    """The value found.

    Args:
        delta: ``[d]`` float32; ``[2 d]`` where one part is added to the attention's output and one to the MLP's.
        initial: ``v_init``, shaped like ``delta``.
        losses: Total loss at each evaluation, in nats.
        keys: ``[r, m]`` keys of the problem's rows at their lookup positions, if they were asked for.
    """

    delta: Tensor
    initial: Tensor
    losses: tuple[float, ...] = field(default=())
    keys: Tensor | None = None

    @property
    def value(self) -> Tensor:
        """``v* = v_init + delta``."""
        return self.initial + self.delta
