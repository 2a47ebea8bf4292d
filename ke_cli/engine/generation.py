"""Continuing texts token by token with a key-value cache, many rows and many edits at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from ke_cli.engine.batching import Budget, in_batches, rows_of
from ke_cli.engine.edits import Edit
from ke_cli.engine.forward import gathered_logits
from ke_cli.engine.prefixes import in_place
from ke_cli.engine.tokens import encode
from ke_cli.errors import UnitError, UserError
from ke_cli.models.editable import EditableModel

Choose = Callable[[Tensor], Tensor]
"""Logits ``[b, V]`` to the next token ids ``[b]``."""

NO_NUMBERS = "the model's predictions are no numbers (NaN)"


def end_ids(model: EditableModel) -> frozenset[int]:
    """Token ids that end a text: those of the generation configuration and of the tokenizer."""
    configured: Any = getattr(getattr(model.hf, "generation_config", None), "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(int(token) for token in [*ids, model.tokenizer.eos_token_id] if token is not None)


@torch.no_grad()
def continued(
    model: EditableModel,
    rows: Sequence[tuple[int, ...]],
    new_tokens: int,
    choose: Choose,
    ends: Collection[int] | None = None,
) -> list[list[int]]:
    """Extend every row by up to ``new_tokens`` tokens, stopping a row at an end token (which is left out).

    Rows are left-padded, positions are explicit and the attention mask always covers every slot, so a padded row
    continues as it would alone.

    Args:
        model: The model, with whatever edits are attached.
        rows: Token ids, one batch.
        new_tokens: Upper limit.
        choose: Picks the next tokens.
        ends: End tokens; by default those of the model.

    Returns:
        The new token ids of each row.
    """
    longest = max(len(row) for row in rows)
    ids = torch.tensor([[0] * (longest - len(row)) + list(row) for row in rows], device=model.device)  # [b, t]
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=model.device)
    ends = end_ids(model) if ends is None else ends
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
        with in_place(model, edits, [edit for _, edit in part]):
            return continued(model, [ids for ids, _ in part], new_tokens, most_likely)

    return in_batches(work, rows, rows_of(len(ids) + new_tokens for ids, _ in rows), budget)


@dataclass(frozen=True, slots=True)
class Beginning:
    """How a sampled text begins, and how it goes on.

    Args:
        ids: Its first tokens.
        edit: Number of the edit it runs with.
        new_tokens: How many tokens are drawn.
        seed: Of the random numbers they are drawn with.
    """

    ids: tuple[int, ...]
    edit: int
    new_tokens: int
    seed: int


def sampled(
    model: EditableModel, rows: Sequence[Beginning], edits: Sequence[Edit], top_k: int, budget: int | Budget
) -> list[list[int]]:
    """Sample from the ``top_k`` most likely tokens, batched by length, each row with its own edit and random numbers.

    A row has as many new tokens as it is to have: end tokens are tokens like others. Its draws do not depend on what
    else is in the batch.

    Returns:
        The new token ids of each row.
    """

    def work(part: Sequence[Beginning]) -> list[list[int]]:
        with in_place(model, edits, [row.edit for row in part]):
            found = continued(
                model, [row.ids for row in part], max(row.new_tokens for row in part), drawing(part, top_k), ends=()
            )
        return [new[: row.new_tokens] for row, new in zip(part, found, strict=True)]

    return in_batches(work, rows, rows_of(len(row.ids) + row.new_tokens for row in rows), budget)


def drawing(rows: Sequence[Beginning], top_k: int) -> Choose:
    """Draw each row's next token with the next of its own random numbers, from the CPU whatever the device.

    The tokens share [0, 1) by their probability among the ``top_k``, the likeliest first, and the random number falls
    on one.
    """
    numbers, steps = torch.zeros(len(rows), max(row.new_tokens for row in rows), dtype=torch.float64), count()
    for place, row in enumerate(rows):
        generator = torch.Generator().manual_seed(row.seed)
        numbers[place, : row.new_tokens] = torch.rand(row.new_tokens, generator=generator, dtype=torch.float64)

    def choose(logits: Tensor) -> Tensor:
        values, tokens = logits.topk(min(top_k, logits.shape[-1]), dim=-1)  # [b, k]
        if bool(values.isnan().any()):
            raise UnitError(NO_NUMBERS)
        upper = values.cpu().double().softmax(dim=-1).cumsum(dim=-1)
        place = (upper <= numbers[:, next(steps), None]).sum(dim=-1).clamp(max=upper.shape[-1] - 1)  # [b]
        return tokens.gather(1, place.to(tokens.device)[:, None])[:, 0]

    return choose


def most_likely(logits: Tensor) -> Tensor:
    """The arg-max ``[b]`` of logits ``[b, V]``.

    Raises:
        UnitError: A row holds a NaN, which an arg-max would take for the largest.
    """
    picked = logits.argmax(dim=-1)
    if bool(logits.gather(1, picked[:, None]).isnan().any()):
        raise UnitError(NO_NUMBERS)
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
