"""Rows cut in two at their lookup positions: tokens before it are left-padded, those from there on right-padded."""

from __future__ import annotations

import torch
from torch import Tensor

from ke_cli.engine.forward import Padded


def suffix_of(padded: Padded, starts: Tensor, lengths: Tensor) -> Padded:
    """The tokens of every row from its lookup position on, ``[b, s]``."""
    slots = int((lengths - starts).max())
    index = starts[:, None] + torch.arange(slots, device=starts.device)  # [b, s]
    inside = index < lengths[:, None]
    return Padded(padded.ids.gather(1, index.clamp(max=padded.ids.shape[1] - 1)), inside.long())


def prefix_mask(starts: Tensor, slots: int) -> Tensor:
    """``[b, p]``: row ``i`` has its ``starts[i]`` real slots at the right end of ``slots``."""
    return (torch.arange(slots, device=starts.device) >= slots - starts[:, None]).long()


def from_lookup(hidden: Tensor, starts: Tensor, lengths: Tensor) -> Tensor:
    """``[b, t, d]`` to ``[b, s, d]``: each row from its lookup position on."""
    slots = int((lengths - starts).max())
    index = (starts[:, None] + torch.arange(slots, device=starts.device)).to(hidden.device)
    index = index.clamp(max=hidden.shape[1] - 1)
    return hidden.gather(1, index[..., None].expand(-1, -1, hidden.shape[-1]))


def aligned(states: Tensor, lengths: Tensor, slots: int, skip: Tensor | None = None) -> Tensor:
    """The first ``lengths [b]`` tokens of states ``[b, h, t, head]`` at the right end of ``slots`` slots.

    Args:
        states: Real tokens are contiguous.
        lengths: Tokens to take of each row.
        slots: At least the longest of them.
        skip: ``[b]`` slots in front of each row's first token.
    """
    lengths = lengths.to(states.device)
    offset = torch.arange(slots, device=states.device) - (slots - lengths[:, None])  # [b, p], negative in the padding
    inside = (offset >= 0)[:, None, :, None]
    index = offset.clamp(min=0) if skip is None else offset.clamp(min=0) + skip.to(states.device)[:, None]
    index = index.clamp(max=max(0, states.shape[2] - 1))[:, None, :, None]
    picked = states.gather(2, index.expand(-1, states.shape[1], -1, states.shape[3]))
    return torch.where(inside, picked, torch.zeros_like(picked))
