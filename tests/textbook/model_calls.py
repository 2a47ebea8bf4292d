"""Whole-model calls on rows of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .architecture import projection_module, reading_input, reading_output
from .tokens import Row


def logits_of(model: Any, rows: Sequence[Row]) -> Tensor:
    """Run the rows as one batch, padded on the right, without a cache.

    Causal attention never looks at padding behind a token, so each row has the numbers it has alone.

    Returns:
        Logits [rows, longest row, vocabulary] in float32.
    """
    longest = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row.ids)] = torch.tensor(row.ids)
        mask[index, : len(row.ids)] = 1
    device = next(model.parameters()).device
    out = model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False)
    return out.logits.float()


def key_at(model: Any, row: Row, layer: int) -> Tensor:
    """Return the key [m] at the row's lookup position."""
    with torch.no_grad(), reading_input(projection_module(model, layer)) as seen:
        logits_of(model, [row])
    return seen[0][0, row.lookup].detach().clone()


def output_at(model: Any, module: torch.nn.Module, row: Row) -> Tensor:
    """Return a module's output [d] at the row's lookup position."""
    with torch.no_grad(), reading_output(module) as seen:
        logits_of(model, [row])
    return seen[0][0, row.lookup].detach().clone()
