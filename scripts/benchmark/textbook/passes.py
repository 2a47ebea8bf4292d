"""Passes of the whole model over padded rows, and activations read in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ke_cli.engine.reading import Token
from ke_cli.models.editable import EditableModel

Side = Literal["input", "output"]

AT_ONCE = 128
"""Prompts per batch when activations are read, as in MEMIT's program (512 in the others, which read 21 at most)."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows padded on the right to the longest.

    Args:
        ids: ``[b, t]`` token ids.
        mask: ``[b, t]`` 1 on tokens, 0 on padding.
    """

    ids: Tensor
    mask: Tensor

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], device: torch.device) -> Batch:
        """Pad rows of token ids."""
        longest = max(len(row) for row in rows)
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        return cls(ids.to(device), mask.to(device))


def whole_pass(model: EditableModel, batch: Batch) -> Tensor:
    """Run all layers and the head: logits ``[b, t, V]`` at all positions, in the model's own precision."""
    logits: Tensor = model.hf(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).logits
    return logits


def exact(tensor: Tensor) -> Tensor:
    """Float32 at least."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def by_rows(value: Any, rows: int) -> Tensor:
    """``[b, t, width]`` of what goes into or comes out of a module (a view); some models flatten it."""
    found: Tensor = value[0] if isinstance(value, tuple) else value
    return found.view(rows, -1, found.shape[-1]) if found.dim() == 2 else found


@contextmanager
def watched(*hooks: tuple[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Call ``hook(module, args, output)`` behind modules."""
    with ExitStack() as stack:
        for module, hook in hooks:
            stack.callback(module.register_forward_hook(hook).remove)
        yield


@torch.no_grad()
def read(
    model: EditableModel, module: nn.Module, tokens: Sequence[Token], sides: Sequence[Side] = ("input",)
) -> list[Tensor]:
    """Activations of a module at single tokens, from whole-model passes over whole prompts.

    Mirrors ``get_reprs_at_idxs``: prompts in batches in the order given, the pass goes on to the head.

    Args:
        model: The model as it is now.
        module: What to look at.
        tokens: ``n`` prompts with the index of the token in each.
        sides: What goes into the module, what comes out of it, or both.

    Returns:
        Per side ``[n, width]``.
    """
    found: dict[Side, list[Tensor]] = {side: [] for side in sides}
    for start in range(0, len(tokens), AT_ONCE):
        part = tokens[start : start + AT_ONCE]

        def note(_module: nn.Module, args: Any, output: Any, part: Sequence[Token] = part) -> None:
            rows, at = torch.arange(len(part)), torch.tensor([token.index for token in part])
            for side in sides:  # picked out at once: some models go on computing in place
                found[side].append(by_rows(args if side == "input" else output, len(part))[rows, at])

        with watched((module, note)):
            whole_pass(model, Batch.of([token.ids for token in part], model.device))
    return [torch.cat(found[side]) for side in sides]
