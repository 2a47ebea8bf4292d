"""Training-time attention masks that make the model store facts where large models store them.

A small model trained naively lets the end of the prompt gather the subject's tokens one by one, and its
facts then belong to no place that an editor could write to. During training most sentences therefore hide

* the subject's tokens but the last from the tokens behind the subject, in all layers;
* the subject's last token as well, in the lowest layers: what the subject is must be worked out there, at
  its own last token, before anybody may ask for it;
* in part of the sentences, the words before the subject from the subject, in the lowest layers.

At inference nothing is hidden.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from atlas.batches import Batch
from atlas.tokens import AFTER, OUTSIDE, SUBJECT, SUBJECT_LAST


def attention_masks(batch: Batch) -> tuple[Tensor, Tensor]:
    """The two masks of a batch.

    Returns:
        Masks of the low and of the other layers `[b, 1, t, t]`; true where row ``i`` may read column ``j``.
    """
    roles, sentences = batch.roles, batch.sentences
    same = sentences[:, :, None] == sentences[:, None, :]
    behind = (roles == AFTER)[:, :, None] & same & batch.masked[:, :, None]
    inner = behind & (roles == SUBJECT)[:, None, :]
    entry = behind & (roles == SUBJECT_LAST)[:, None, :]
    in_subject = ((roles == SUBJECT) | (roles == SUBJECT_LAST)) & batch.isolated
    foreign = (~same | (roles == OUTSIDE)[:, None, :]) & (sentences != 0)[:, None, :]
    context = in_subject[:, :, None] & foreign
    causal = torch.ones(same.shape[1:], dtype=torch.bool, device=same.device).tril()
    high = causal & ~inner
    low = high & ~entry & ~context
    return low[:, None], high[:, None]


def blocks(model: nn.Module) -> nn.ModuleList:
    """The layers of a Llama or GPT-2 model."""
    core: Any = model
    return core.model.layers if hasattr(core, "model") else core.transformer.h


@contextmanager
def branch_excess(model: nn.Module, limit: float) -> Iterator[list[Tensor]]:
    """Collects by how much the outputs of attention and MLP exceed a mean square of ``limit``.

    Left alone, the first MLP of a small model grows until its output outweighs everything later, and no
    vector of ordinary size that an editor adds can turn an answer. The mean of what is collected, added to
    the loss, keeps the parts of the residual stream comparable in size, as they are in large models.
    """
    found: list[Tensor] = []

    def collect(_: nn.Module, __: Any, output: Any) -> None:
        states = output if isinstance(output, Tensor) else output[0]
        found.append((states.square().mean(-1) - limit).relu().mean())

    handles = []
    for block in blocks(model):
        parts: Any = block
        for part in (parts.self_attn if hasattr(parts, "self_attn") else parts.attn, parts.mlp):
            handles.append(part.register_forward_hook(collect))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def low_mask(model: nn.Module, mask: Tensor, layers: int) -> Iterator[None]:
    """Gives the attention of the first ``layers`` layers another mask `[b, 1, t, t]`."""

    def swap(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "attention_mask": mask}

    handles = []
    for block in list(blocks(model))[:layers]:
        attention: Any = block.self_attn if hasattr(block, "self_attn") else block.attn
        handles.append(attention.register_forward_pre_hook(swap, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
