"""The contract of an editor, and what almost all of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor, inf
from typing import Any, ClassVar, Literal

from torch import Tensor

from ke_cli.checks import check_above_zero, check_at_least
from ke_cli.data.types import EditUnit, Request
from ke_cli.engine.edits import Edit
from ke_cli.engine.problems import EssenceRow, Objective
from ke_cli.engine.workbench import ContextSpec, Workbench
from ke_cli.errors import UserError
from ke_cli.methods.rows import Essence, essence_row

Layers = tuple[int | float, ...]
"""Layer numbers, or fractions of the model's depth (a rule of thumb where no published number exists)."""

Memory = Mapping[str, Tensor]
"""What an editor keeps in mind of the units it has written so far, by name; empty before the first one.

Of a size that does not grow with the number of units, in float32 or better, so that it can be stored beside the change.
"""


@dataclass(frozen=True, kw_only=True)
class Editor(ABC):
    """An editor is its hyper-parameters and a function from units to edits; it keeps no state.

    Attributes:
        holds_subject: Whether several facts of one subject can be kept apart in one unit.
    """

    holds_subject: ClassVar[bool] = True

    @abstractmethod
    def edit(self, bench: Workbench, units: Sequence[EditUnit]) -> list[Edit]:
        """Compute one independent edit per unit, all of them together. Nothing is written into the model.

        Args:
            bench: The model with its statistics and context templates.
            units: The requests that are written together, unit by unit.

        Returns:
            One `Edit` per unit, in order.
        """

    def follow(self, bench: Workbench, unit: EditUnit, memory: Memory) -> tuple[Edit, Memory]:
        """Compute one more edit of a sequence, on top of the earlier ones, which stand (see `Workbench.over`).

        Args:
            bench: As for `edit`.
            unit: What is written now.
            memory: What this function returned for the unit before; empty for the first one.

        Returns:
            The change to be added to those that stand, and what to keep in mind for the next unit.
        """
        return self.edit(bench, [unit])[0], memory

    def settled(self, bench: Workbench, total: Edit) -> Edit:
        """What the accumulated change of a sequence is made into before it is evaluated; itself unless told otherwise.

        Later units are written on top of ``total``, not of this.
        """
        return total

    def covariance_layers(self, depth: int) -> list[int]:
        """Layers whose covariance the editor will ask for, so that they can be computed in one pass."""
        return []

    def edited_layers(self, depth: int) -> list[int]:
        """Layers whose down-projection the editor writes to."""
        return []

    def context(self) -> ContextSpec | None:
        """The context templates the editor uses, if any."""
        return None

    def references(self) -> str | None:
        """A file of reference prompts to be used in place of the data set's edit prompts, if any."""
        return None


def resolve_layers(layers: Layers, depth: int) -> list[int]:
    """Turn numbers and fractions into layer numbers, ascending and without repetition.

    Args:
        layers: Integers, or fractions in ``[0, 1)`` of the depth. Fractions that lie less than two layers apart mean
            layers next to each other.
        depth: Number of decoder layers.

    Raises:
        UserError: If a layer does not exist.
    """
    numbers = [layer for layer in layers if isinstance(layer, int)]
    found = sorted({*numbers, *_without_gaps([layer * depth for layer in layers if isinstance(layer, float)])})
    wrong = [layer for layer in found if not 0 <= layer < depth]
    if wrong or not found:
        raise UserError(
            f"the model has no layer {', '.join(map(str, wrong))}" if wrong else "no layer to edit is given",
            where="method.layers",
            allowed=f"0 to {depth - 1}, or fractions of the depth such as 0.5",
            hint=f"method.layers=[{depth // 2}]",
        )
    return found


def _without_gaps(places: Sequence[float]) -> list[int]:
    """Round places down to layers; where rounding alone leaves a gap between two of them, the lower one moves up."""
    found: list[int] = []
    above = inf
    for place in sorted(places, reverse=True):
        found.append(max(floor(place), found[-1] - 1) if above - place < 2 else floor(place))
        above = place
    return found


@dataclass(frozen=True, kw_only=True)
class ValueEditor(Editor):
    """An editor that optimises a value vector (all but fine-tuning).

    Args:
        layers: Edited layers.
        steps: Evaluations of the loss.
        lr: Adam's step size.
        threshold: Loss (nats) under which the optimisation ends.
        clamp: Bound of ``||delta||`` in units of ``||v_init||``.
        kl_factor: Weight of the essence row.
        weight_decay: Weight of ``||delta|| / ||v_init||^2``.
        essence_read: Token at which the essence row's distribution is kept: the ``lookup`` position, as all
            published programs do, or the ``last`` one, as the papers describe it.
        context_prefixes: Groups ``[first word, tokens, number]`` of sampled prefixes.
        context_seed: Seed of their sampling.
    """

    layers: Layers
    steps: int
    lr: float
    threshold: float
    clamp: float
    kl_factor: float
    weight_decay: float
    essence_read: Literal["lookup", "last"]
    context_prefixes: tuple[tuple[str, int, int], ...]
    context_seed: int

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        check_above_zero(self, "steps", "lr", "clamp")
        check_at_least(self, 0, "kl_factor", "weight_decay")

    def essence(self, tokenizer: Any, request: Request, where: Essence = "subject") -> EssenceRow:
        """The essence row of a request."""
        return essence_row(tokenizer, request, where, self.essence_read)

    @property
    def objective(self) -> Objective:
        """The shared hyper-parameters as the engine takes them."""
        return Objective(
            steps=self.steps,
            lr=self.lr,
            threshold=self.threshold,
            clamp=self.clamp,
            kl_factor=self.kl_factor,
            weight_decay=self.weight_decay,
        )

    def edited_layers(self, depth: int) -> list[int]:
        """The configured layers as numbers."""
        return resolve_layers(self.layers, depth)

    def context(self) -> ContextSpec:
        """The configured context templates."""
        return ContextSpec(groups=self.context_prefixes, seed=self.context_seed)
