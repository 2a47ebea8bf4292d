"""Second moments of keys over plain text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from .architecture import projection_module, reading_input
from .model_calls import logits_of
from .tokens import Row, encode


def covariance(model: Any, tokenizer: Any, texts: Iterable[str], layer: int, max_length: int) -> tuple[Tensor, int]:
    """Return ``E[k k^T]`` [m, m] in float64 of one layer, and the number of tokens behind it.

    One text at a time. Every token of a text's encoding counts alike, the special tokens that the tokenizer puts
    in front (BOS) included; the encoding is cut after ``max_length`` tokens, those specials included.
    """
    total: Tensor | None = None
    count = 0
    for text in texts:
        ids = encode(tokenizer, text)[0][:max_length]
        if not ids:
            continue
        with torch.no_grad(), reading_input(projection_module(model, layer)) as seen:
            logits_of(model, [Row(tuple(ids), 0, (), 0)])
        keys = seen[0][0].double()
        total = keys.T @ keys if total is None else total + keys.T @ keys
        count += len(ids)
    if total is None:
        raise ValueError("no text has a token")
    return total / count, count
