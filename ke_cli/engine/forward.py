"""Running a model on padded rows, reading and replacing what flows through it, and stopping it early.

Everything goes through Hugging Face's own forward pass with hooks, so masks, rotary positions, sliding windows,
norms and soft-capping are those of the architecture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ke_cli.models.editable import EditableModel


class _Stop(Exception):
    """Ends a forward pass behind the deepest module that was asked for."""


def first_tensor(value: Any) -> Tensor:
    """The hidden states in what a decoder layer returns (a tensor, or a tuple that begins with one)."""
    found: Tensor = value[0] if isinstance(value, tuple) else value
    return found


def by_rows(value: Tensor, rows: int) -> Tensor:
    """``[b, t, width]`` of a projection's input or output; some models (OPT) flatten it to ``[b * t, width]``."""
    return value.reshape(rows, -1, value.shape[-1]) if value.dim() == 2 else value


@dataclass(frozen=True, eq=False)
class Padded:
    """Right-padded rows.

    Args:
        ids: ``[b, t]`` token ids, padded with any valid id.
        mask: ``[b, t]`` 1 on tokens, 0 on padding.
    """

    ids: Tensor
    mask: Tensor

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], device: torch.device) -> Padded:
        """Pad ``rows`` on the right; causality keeps the padding out of every real position."""
        longest = max(len(row) for row in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.zeros(len(rows), longest, dtype=torch.long)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row, dtype=torch.long)
            mask[index, : len(row)] = 1
        return cls(ids.to(device), mask.to(device))


def run(model: EditableModel, rows: Padded, **kwargs: Any) -> Any:
    """One forward pass with explicit positions (never token types, which GPT-2 would add to its embeddings)."""
    positions = torch.arange(rows.ids.shape[1], device=rows.ids.device).expand_as(rows.ids)
    kwargs.setdefault("use_cache", False)
    return model.hf(input_ids=rows.ids, attention_mask=rows.mask, position_ids=positions, **kwargs)


@contextmanager
def hooked(hooks: Sequence[tuple[nn.Module, Callable[..., Any]]]) -> Iterator[None]:
    """Register forward hooks (called with keyword arguments) and take them off again."""
    with ExitStack() as stack:
        for module, hook in hooks:
            stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
        yield


@contextmanager
def replaced(layers: Sequence[tuple[nn.Module, Callable[..., Any]]]) -> Iterator[None]:
    """Let modules compute something else inside the context; attributes other code reads stay in place."""
    kept = [(module, module.__dict__.get("forward")) for module, _ in layers]
    try:
        for module, forward in layers:
            module.forward = forward
        yield
    finally:
        for module, old in kept:
            module.__dict__.pop("forward", None)
            if old is not None:  # somebody else's, for example that of a model spread over devices
                module.forward = old


@contextmanager
def stopping(module: nn.Module) -> Iterator[None]:
    """End every forward pass inside the context as soon as ``module`` has run."""

    def stop(*_: Any) -> None:
        raise _Stop

    with hooked([(module, stop)]):
        try:
            yield
        except _Stop:
            return


def gathered_logits(model: EditableModel, rows: Tensor, positions: Tensor, forward: Callable[[], Any]) -> Tensor:
    """Run ``forward`` with the head, and the MLP of the last layer, computing at the wanted positions only.

    Soft-capping and logit scaling of the architecture apply as ever: only the head's input is thinned out. Nothing
    reads what the last MLP would add elsewhere.

    Args:
        model: The model.
        rows: ``[n]`` row of each wanted position.
        positions: ``[n]`` its index in the row.
        forward: Calls the model once; its return value has ``.logits``.

    Returns:
        Logits ``[n, V]`` in float32 (or float64 for a float64 model).
    """

    def thin(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        hidden = args[0]
        return (hidden[rows.to(hidden.device), positions.to(hidden.device)][None],)  # [1, n, d]

    handle = model.head.register_forward_pre_hook(thin)
    try:
        with replaced(_thinned_mlp(model, rows, positions)):
            logits: Tensor = forward().logits.squeeze(0)  # [n, V]
    finally:
        handle.remove()
    logits = logits.to(rows.device)
    return logits if logits.dtype == torch.float64 else logits.float()


def _thinned_mlp(
    model: EditableModel, rows: Tensor, positions: Tensor
) -> list[tuple[nn.Module, Callable[..., Tensor]]]:
    """The last layer's MLP as a function that leaves zeros where nothing is wanted, unless somebody hooks into it."""
    mlp = model.mlp(model.n_layers - 1)
    if mlp is None:
        return []
    whole = mlp.forward

    def thinned(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if x.dim() != 3 or args or kwargs or _is_hooked(mlp):
            return whole(x, *args, **kwargs)  # type: ignore[no-any-return]
        wanted = torch.unique(rows * x.shape[1] + positions).to(x.device)  # one read twice has one gradient
        out: Tensor = whole(x.flatten(0, 1)[wanted][None]).squeeze(0)  # [n, d]
        return out.new_zeros(x.shape[0] * x.shape[1], out.shape[-1]).index_copy(0, wanted, out).view(x.shape)

    return [(mlp, thinned)]


def _is_hooked(module: nn.Module) -> bool:
    """Whether something (an attached edit) reads or changes what flows inside the module."""
    return any(inner._forward_hooks or inner._forward_pre_hooks for inner in module.modules())
