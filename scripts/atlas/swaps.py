"""Where the model keeps its facts: what follows when one token's state is exchanged between two prompts.

The output of one layer at one token of a prompt is replaced by that of the same prompt about another
subject. If the model then gives the other subject's object, everything it uses of the subject has passed
through that place.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from atlas.facts import Atlas, Fact
from atlas.masks import blocks
from atlas.questions import ROWS, Question, ask, pad

Pair = tuple[Question, Question]


def swap_pairs(atlas: Atlas, tokenizer: PreTrainedTokenizerFast, count: int, seed: int = 0) -> list[Pair]:
    """Pairs of prompts in one trained wording about two subjects of one type.

    Only pairs whose answers differ in their first token and whose subject is not the prompt's end.

    Args:
        atlas: The facts.
        tokenizer: Of the model.
        count: Pairs to draw.
        seed: Of the draw.
    """
    rng = random.Random(seed)
    groups: dict[str, list[Fact]] = {}
    for fact in atlas.facts:
        groups.setdefault(fact.relation, []).append(fact)
    pairs: list[Pair] = []
    for _ in range(50 * count):
        fact = rng.choice(atlas.facts)
        other = rng.choice(groups[fact.relation])
        form = rng.choice([f for f in atlas.forms[fact.relation] if f.trained])
        pair = ask(tokenizer, fact, form), ask(tokenizer, other, form)
        if pair[0].answer[0] != pair[1].answer[0] and pair[0].subject_last < pair[0].prompt_last:
            pairs.append(pair)
        if len(pairs) == count:
            break
    return pairs


@torch.no_grad()
def swap_table(model: PreTrainedModel, pairs: Sequence[Pair]) -> dict[str, list[float]]:
    """Share of pairs that follow the exchange, for each layer's output.

    Returns:
        ``subject_last`` and ``prompt_last``, one share a layer: how often the next token after the prompt is
        the first of the other subject's object.
    """
    table = {}
    for place in ("subject_last", "prompt_last"):
        table[place] = [_follows(model, pairs, place, layer) for layer in range(len(blocks(model)))]
    return table


def _follows(model: PreTrainedModel, pairs: Sequence[Pair], place: str, layer: int) -> float:
    hits = 0
    for start in range(0, len(pairs), ROWS):
        part = pairs[start : start + ROWS]
        targets = torch.tensor([getattr(a, place) for a, _ in part])
        sources = torch.tensor([getattr(b, place) for _, b in part])
        state = _layer_state(model, [b for _, b in part], layer, sources)
        logits = _with_state(model, [a for a, _ in part], layer, targets, state)
        wanted = torch.tensor([b.answer[0] for _, b in part], device=logits.device)
        hits += int((logits.argmax(-1) == wanted).sum())
    return hits / max(1, len(pairs))


def _layer_state(model: PreTrainedModel, questions: list[Question], layer: int, positions: Tensor) -> Tensor:
    """The layer's output at one position of each prompt `[b, d]`."""
    kept: list[Tensor] = []
    rows = torch.arange(len(questions))
    handle = blocks(model)[layer].register_forward_hook(
        lambda _, __, output: kept.append(_states(output)[rows, positions].clone())
    )
    try:
        model(pad([q.prompt for q in questions]).to(model.device), use_cache=False)
    finally:
        handle.remove()
    return kept[0]


def _with_state(
    model: PreTrainedModel, questions: list[Question], layer: int, positions: Tensor, state: Tensor
) -> Tensor:
    """Logits after the prompts `[b, vocabulary]` when the layer's output at one position is ``state``."""
    rows = torch.arange(len(questions))

    def put(_: nn.Module, __: Any, output: Any) -> Any:
        states = _states(output).clone()
        states[rows, positions] = state
        return states if isinstance(output, Tensor) else (states, *output[1:])

    handle = blocks(model)[layer].register_forward_hook(put)
    try:
        logits = model(pad([q.prompt for q in questions]).to(model.device), use_cache=False).logits
    finally:
        handle.remove()
    ends: Tensor = logits[rows, torch.tensor([q.prompt_last for q in questions])]
    return ends


def _states(output: Any) -> Tensor:
    states: Tensor = output if isinstance(output, Tensor) else output[0]
    return states
