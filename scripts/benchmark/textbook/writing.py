"""Greedy texts: one question at a time, token by token with a key-value cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ke_cli.engine.edits import Edit, merged
from ke_cli.engine.generation import end_ids
from ke_cli.engine.instructions import instruction_ids
from ke_cli.models.editable import EditableModel


def generate(model: EditableModel, questions: Sequence[str], edit: Edit, max_new_tokens: int) -> list[str]:
    """Write an edit into the weights, let the model answer one question after another, and restore the weights.

    Args:
        model: The model.
        questions: Bare questions, put into the tokenizer's chat template (or a plain form) here.
        edit: In place meanwhile.
        max_new_tokens: Per answer.

    Returns:
        The answers, without special tokens.
    """
    with merged(model, edit):
        return [greedy(model, question, max_new_tokens) for question in questions]


@torch.no_grad()
def greedy(model: EditableModel, question: str, max_new_tokens: int) -> str:
    """What the model as it is now answers.

    Mirrors ``generate_fast`` for a batch of one: the prompt in one pass with logits at all its positions, then one pass
    per token on the cache. Greedy in place of sampling; an end token ends the text.
    """
    ends, produced, cache = end_ids(model), list[int](), None
    ids = torch.tensor([instruction_ids(model, question)], device=model.device)
    while len(produced) < max_new_tokens:
        out = model.hf(input_ids=ids, past_key_values=cache, use_cache=True)
        token = int(out.logits[0, -1].argmax())
        if token in ends:
            break
        produced.append(token)
        ids, cache = torch.tensor([[token]], device=model.device), out.past_key_values
    return str(model.tokenizer.decode(produced, skip_special_tokens=True))
