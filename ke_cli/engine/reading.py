"""Reading activations: the input or output of modules at chosen tokens, with or without edits attached."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ke_cli.engine.batching import by_length, halving
from ke_cli.engine.edits import Edit, attached
from ke_cli.engine.forward import Padded, by_rows, first_tensor, hooked, run, stopping
from ke_cli.models.editable import EditableModel


@dataclass(frozen=True, slots=True)
class Site:
    """A place in the model: the ``input`` or ``output`` of a module."""

    module: str
    side: Literal["input", "output"]


@dataclass(frozen=True, slots=True)
class Token:
    """One token of one text: the row's ids, the index in it, and which edit the row runs with."""

    ids: tuple[int, ...]
    index: int
    edit: int = 0


@torch.no_grad()
def read(
    model: EditableModel,
    tokens: Sequence[Token],
    sites: Sequence[Site],
    *,
    edits: Sequence[Edit] = (),
    budget: int,
) -> dict[Site, Tensor]:
    """Read activations at single tokens; the pass ends behind the deepest module asked for.

    Causality: what follows a token does not change what is read there, so rows are cut behind it.

    Args:
        model: The model.
        tokens: ``n`` tokens; their ``edit`` indexes ``edits`` when any are given.
        sites: Places to read.
        edits: Edits attached row by row.
        budget: Tokens per batch.

    Returns:
        For each site a tensor ``[n, width]`` in float32 (float64 for a float64 model), in the order of ``tokens``.
    """
    rows = sorted({(token.edit, token.ids[: token.index + 1]) for token in tokens})
    found: dict[tuple[int, tuple[int, ...]], list[Tensor]] = {}
    for batch in by_length([len(ids) for _, ids in rows], budget):
        chosen = [rows[index] for index in batch]
        results = halving(lambda part: _read_batch(model, part, sites, edits), chosen)
        found.update(zip(chosen, results, strict=True))
    picked = [found[token.edit, token.ids[: token.index + 1]] for token in tokens]
    return {site: torch.stack([row[i] for row in picked]) for i, site in enumerate(sites)}


def _read_batch(
    model: EditableModel,
    rows: Sequence[tuple[int, tuple[int, ...]]],
    sites: Sequence[Site],
    edits: Sequence[Edit],
) -> list[list[Tensor]]:
    padded = Padded.of([ids for _, ids in rows], model.device)
    last = padded.mask.sum(dim=1) - 1  # [b]
    which = torch.arange(len(rows), device=model.device)
    caught: dict[Site, Tensor] = {}

    def catcher(site: Site) -> Any:
        def catch(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            value = first_tensor(output) if site.side == "output" else (args[0] if args else kwargs["hidden_states"])
            caught[site] = by_rows(value, len(rows))[which, last]  # [b, width]

        return catch

    attach = attached(model, edits, [edit for edit, _ in rows]) if edits else nullcontext()
    deepest = model.hf.get_submodule(deepest_of(model, [site.module for site in sites]))
    hooks = [(model.hf.get_submodule(site.module), catcher(site)) for site in sites]
    with attach, hooked(hooks), stopping(deepest):
        run(model, padded)
    values = [caught[site].float() if caught[site].dtype != torch.float64 else caught[site] for site in sites]
    return [[value[row] for value in values] for row in range(len(rows))]


def deepest_of(model: EditableModel, modules: Sequence[str]) -> str:
    """The module that runs last; an enclosing module ends after the ones inside it."""
    order = {name: index for index, (name, _) in enumerate(model.hf.named_modules())}
    layers = {name: _layer_number(model, name) for name in modules}
    return max(modules, key=lambda name: (layers[name], -name.count("."), order[name]))


def _layer_number(model: EditableModel, name: str) -> int:
    for layer in range(model.n_layers):
        prefix = model.architecture.layer.format(layer)
        if name == prefix or name.startswith(prefix + "."):
            return layer
    return -1
