"""Reading activations: the input or output of modules at chosen tokens, with or without edits attached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ke_cli.engine.batching import Budget, in_batches, rows_of
from ke_cli.engine.edits import Edit, numbers
from ke_cli.engine.forward import by_rows, first_tensor, hooked, stopping
from ke_cli.engine.packages import thrifty_on
from ke_cli.engine.prefixes import Rows
from ke_cli.engine.sharing import Key
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
    budget: int | Budget,
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
    number = numbers(edits)
    wanted = [(number[token.edit] if edits else 0, token.ids[: token.index + 1]) for token in tokens]
    rows = sorted(set(wanted))
    sizes = rows_of(len(ids) for _, ids in rows)
    layout = thrifty_on(model.device.type)
    results = in_batches(lambda part: _read_batch(model, part, sites, edits), rows, sizes, budget, layout=layout)
    found = dict(zip(rows, results, strict=True))
    picked = [found[row] for row in wanted]
    return {site: torch.stack([row[i] for row in picked]) for i, site in enumerate(sites)}


def _read_batch(
    model: EditableModel, rows: Sequence[Key], sites: Sequence[Site], edits: Sequence[Edit]
) -> list[list[Tensor]]:
    deepest = model.hf.get_submodule(deepest_of(model, [site.module for site in sites]))
    batch = Rows.of(model, rows, [len(ids) - 1 for _, ids in rows], edits, stop=deepest)
    last = batch.tokens.mask.sum(dim=1) - 1  # [b]
    which = torch.arange(len(rows), device=model.device)
    caught: dict[Site, Tensor] = {}

    def catcher(site: Site) -> Any:
        def catch(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            value = first_tensor(output) if site.side == "output" else (args[0] if args else kwargs["hidden_states"])
            value = by_rows(value, len(rows))
            caught[site] = value[which.to(value.device), last.to(value.device)].to(which.device)  # [b, width]

        return catch

    hooks = [(model.hf.get_submodule(site.module), catcher(site)) for site in sites]
    with batch.in_place(), hooked(hooks), stopping(deepest):
        batch.run()
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
