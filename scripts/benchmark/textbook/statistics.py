"""Second moments of the keys of one layer: a pass over the text for every layer that is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from ke_cli.engine.tokens import encode
from ke_cli.errors import UserError
from ke_cli.models.editable import EditableModel

from .passes import Batch, by_rows, watched, whole_pass

AT_ONCE = 100
"""Texts that are sorted by length together."""

Ids = tuple[int, ...]


class _Stop(Exception):
    """Ends a pass behind the module that was asked for."""


@torch.no_grad()
def covariance(
    model: EditableModel, layer: int, texts: Iterable[str], *, tokens: int, max_length: int, batch_tokens: int
) -> tuple[Tensor, int]:
    """``E[k k^T] [m, m]`` of one layer, and the number of tokens behind it.

    Mirrors ``layer_stats``: a hundred texts at a time, sorted by length and cut into batches, each pass stopped behind
    the layer (``stop=True`` there), summed in float32 (float64 for a float64 model).

    Args:
        model: The model.
        layer: One layer; several layers take one call each.
        texts: Read until ``tokens`` tokens have been seen.
        tokens: Number of tokens.
        max_length: Longer texts are cut.
        batch_tokens: Padded tokens per batch.

    Raises:
        UserError: If the texts hold no token.
    """
    projection, sums, seen = model.projection(layer), list[Tensor](), 0
    for rows in _batches(_encoded(model, texts, tokens, max_length), batch_tokens):
        batch = Batch.of(rows, model.device)
        keys = _keys(model, projection, batch)
        seen += len(keys)
        sums = [sums[0] + keys.T @ keys if sums else keys.T @ keys]
    if not sums:
        raise UserError("the statistics text is empty", hint="give a text with at least one token")
    return sums[0] / seen, seen


def _keys(model: EditableModel, projection: nn.Module, batch: Batch) -> Tensor:
    """``[n, m]``: what goes into the projection at all tokens that are not padding."""
    seen: list[Tensor] = []

    def note(_module: nn.Module, args: Any, _output: Any) -> None:
        seen.append(by_rows(args, len(batch.ids))[batch.mask.bool()])
        raise _Stop

    with watched((projection, note)), suppress(_Stop):
        whole_pass(model, batch)
    return seen[0].to(torch.promote_types(seen[0].dtype, torch.float32))


def _encoded(model: EditableModel, texts: Iterable[str], tokens: int, max_length: int) -> Iterator[Ids]:
    """Token ids of the texts, ``tokens`` in all."""
    for text in texts:
        ids = encode(model.tokenizer, text).ids[: min(max_length, tokens)]
        tokens -= len(ids)
        if ids:
            yield ids
        if tokens <= 0:
            return


def _batches(rows: Iterator[Ids], batch_tokens: int) -> Iterator[Sequence[Ids]]:
    """Sort a hundred rows at a time by length, and cut them into batches."""
    while group := sorted(islice(rows, AT_ONCE), key=len, reverse=True):
        batch: list[Ids] = []
        for ids in group:
            if batch and len(batch[0]) * (len(batch) + 1) > batch_tokens:
                yield batch
                batch = []
            batch.append(ids)
        yield batch
