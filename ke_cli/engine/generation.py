"""Continuing texts token by token with a key-value cache, many rows and many edits at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from ke_cli.engine.batching import Budget, in_batches, rows_of
from ke_cli.engine.edits import Edit, attached
from ke_cli.engine.forward import gathered_logits
from ke_cli.engine.tokens import encode
from ke_cli.errors import UnitError, UserError
from ke_cli.models.editable import EditableModel

Choose = Callable[[Tensor], Tensor]
"""Logits ``[b, V]`` to the next token ids ``[b]``."""


def end_ids(model: EditableModel) -> frozenset[int]:
    """Token ids that end a text: those of the generation configuration and of the tokenizer."""
    configured: Any = getattr(getattr(model.hf, "generation_config", None), "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(int(token) for token in [*ids, model.tokenizer.eos_token_id] if token is not None)


@torch.no_grad()
def continued(
    model: EditableModel, rows: Sequence[tuple[int, ...]], new_tokens: int, choose: Choose
) -> list[list[int]]:
    """Extend every row by up to ``new_tokens`` tokens, stopping a row at an end token (which is left out).

    Rows are left-padded, positions are explicit and the attention mask always covers every slot, so a padded row
    continues as it would alone.

    Args:
        model: The model, with whatever edits are attached.
        rows: Token ids, one batch.
        new_tokens: Upper limit.
        choose: Picks the next tokens.

    Returns:
        The new token ids of each row.
    """
    longest = max(len(row) for row in rows)
    ids = torch.tensor([[0] * (longest - len(row)) + list(row) for row in rows], device=model.device)  # [b, t]
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=model.device)
    ends = end_ids(model)
    cache = DynamicCache(config=model.config)
    produced: list[list[int]] = [[] for _ in rows]
    open_rows = set(range(len(rows)))
    for _ in range(new_tokens):
        picked = choose(_next_logits(model, ids, mask, cache))  # [b]
        for row, token in enumerate(picked.tolist()):
            if row in open_rows and token in ends:
                open_rows.discard(row)
            elif row in open_rows:
                produced[row].append(token)
        if not open_rows:
            break
        ids, mask = picked[:, None], torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
    return produced


def _next_logits(model: EditableModel, ids: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
    """Logits ``[b, V]`` behind the last slot; ``ids`` are the slots that the cache does not hold yet."""
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    rows = torch.arange(len(ids), device=ids.device)
    last = torch.full_like(rows, ids.shape[1] - 1)
    return gathered_logits(
        model,
        rows,
        last,
        lambda: model.hf(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        ),
    )


def greedy(
    model: EditableModel,
    rows: Sequence[tuple[tuple[int, ...], int]],
    edits: Sequence[Edit],
    new_tokens: int,
    budget: int | Budget,
) -> list[list[int]]:
    """Greedy continuations of ``(ids, edit index)`` rows, batched by length, each row with its own edit."""

    def work(part: Sequence[tuple[tuple[int, ...], int]]) -> list[list[int]]:
        attach = attached(model, edits, [edit for _, edit in part]) if edits else nullcontext()
        with attach:
            return continued(model, [ids for ids, _ in part], new_tokens, most_likely)

    return in_batches(work, rows, rows_of(len(ids) + new_tokens for ids, _ in rows), budget)


def most_likely(logits: Tensor) -> Tensor:
    """The arg-max ``[b]`` of logits ``[b, V]``.

    Raises:
        UnitError: A row holds a NaN, which an arg-max would take for the largest.
    """
    picked = logits.argmax(dim=-1)
    if bool(logits.gather(1, picked[:, None]).isnan().any()):
        raise UnitError("the model's predictions are no numbers (NaN)")
    return picked


def sample_prefixes(
    model: EditableModel, start: str, length: int, count: int, *, top_k: int = 5, seed: int = 0
) -> list[str]:
    """Sample ``count`` texts of ``length`` new tokens behind ``start`` with top-k sampling (for context templates).

    Args:
        model: The unedited model.
        start: First words; empty begins with the model's start-of-text token.
        length: New tokens per text.
        count: Number of texts.
        top_k: Only the ``k`` most likely tokens are drawn from.
        seed: Of a generator of its own, on the CPU, so that every device draws alike.

    Returns:
        Decoded texts, ``start`` included, special tokens left out.

    Raises:
        UserError: What the model predicts are no numbers.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(logits: Tensor) -> Tensor:
        if bool(logits.isnan().any()):
            raise _no_numbers(model)
        values, tokens = logits.topk(min(top_k, logits.shape[-1]), dim=-1)
        choice = torch.multinomial(values.softmax(dim=-1).cpu(), 1, generator=generator).to(tokens.device)
        return tokens.gather(1, choice)[:, 0]

    ids = start_ids(model, start)
    texts = continued(model, [ids] * count, length, draw)
    return [model.tokenizer.decode([*ids, *new], skip_special_tokens=True) for new in texts]


def _no_numbers(model: EditableModel) -> UserError:
    return UserError(
        "the unedited model's predictions are no numbers (NaN)",
        where=f"{model.name} in {model.dtype} on {model.device}",
        hint="model.dtype=bfloat16 or float32, where float16 is too narrow; otherwise its weights are damaged",
    )


def start_ids(model: EditableModel, start: str) -> tuple[int, ...]:
    """Ids of ``start``, or of the start-of-text token alone (GPT-2 has one token for start and end)."""
    if start:
        return encode(model.tokenizer, start).ids
    tokenizer = model.tokenizer
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id, 0):
        if token is not None:
            return (int(token),)
    raise AssertionError("unreachable: 0 is not None")
