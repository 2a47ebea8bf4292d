"""Prompts with their answers as padded token batches, and whether a model gives the answers."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from atlas.facts import Atlas, Fact, Form

ROWS = 256
"""Prompts in one forward pass."""


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt in tokens, with its answer.

    Args:
        prompt: Ids, with the tokenizer's start token.
        answer: Ids of the object with the space in front.
        subject_last: Position of the subject's last token.
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    subject_last: int

    @property
    def prompt_last(self) -> int:
        """Position of the prompt's last token."""
        return len(self.prompt) - 1


def ask(tokenizer: PreTrainedTokenizerFast, fact: Fact, form: Form, prefix: str = "", answer: str = "") -> Question:
    """Tokenises one prompt; ``answer`` replaces the true object where given."""
    head, tail = form.text.split("{}")
    text = prefix + head + fact.subject + tail
    end = len(prefix) + len(head) + len(fact.subject)
    coded = tokenizer(text, return_offsets_mapping=True)
    inside = [i for i, (a, b) in enumerate(coded["offset_mapping"]) if a < end and b > a]
    target = tokenizer(" " + (answer or fact.object), add_special_tokens=False)["input_ids"]
    return Question(tuple(coded["input_ids"]), tuple(target), inside[-1])


def ask_all(
    tokenizer: PreTrainedTokenizerFast, atlas: Atlas, kind: str, prefixes: Sequence[str] = ("",)
) -> list[Question]:
    """All facts in all wordings of one kind, each behind one of ``prefixes``, drawn with a fixed seed."""
    rng = random.Random(0)
    return [
        ask(tokenizer, fact, form, rng.choice(prefixes))
        for fact in atlas.facts
        for form in atlas.forms[fact.relation]
        if form.kind == kind
    ]


def pad(rows: Sequence[Sequence[int]]) -> Tensor:
    """Token rows padded on the right `[b, t]`; causal attention makes the padding's value irrelevant."""
    width = max(len(row) for row in rows)
    return torch.tensor([list(row) + [0] * (width - len(row)) for row in rows])


def chunks(questions: Sequence[Question]) -> Iterator[list[Question]]:
    """Cuts questions into batches."""
    for start in range(0, len(questions), ROWS):
        yield list(questions[start : start + ROWS])


@torch.no_grad()
def recalled(model: PreTrainedModel, questions: Sequence[Question]) -> list[bool]:
    """Whether greedy decoding gives every token of each answer.

    One forward pass over prompt and answer decides it: greedy decoding follows the answer exactly if each of
    its tokens is the most likely one behind those before it.
    """
    found: list[bool] = []
    for part in chunks(questions):
        logits = model(pad([q.prompt + q.answer for q in part]).to(model.device), use_cache=False).logits
        best = logits.argmax(-1).tolist()
        for q, row in zip(part, best, strict=True):
            found.append(tuple(row[q.prompt_last : q.prompt_last + len(q.answer)]) == q.answer)
    return found


def recall(model: PreTrainedModel, questions: Sequence[Question]) -> float:
    """Share of questions that are answered in full; 0 where there are none."""
    hits = recalled(model, questions)
    return sum(hits) / max(1, len(hits))


@torch.no_grad()
def sample_prefixes(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, count: int) -> list[str]:
    """Context of the kind editors put in front of prompts: five or ten sampled tokens, a full stop, a space.

    Args:
        model: Writes the text, from nothing or from one of five opening words.
        tokenizer: Of the model.
        count: How many prefixes.
    """
    generator = torch.Generator().manual_seed(0)
    texts = []
    for index in range(count):
        seed = ("", "The", "Therefore", "Because", "I", "You")[index % 6]
        ids = tokenizer(seed)["input_ids"] or [tokenizer.bos_token_id]
        for _ in range((5, 10)[index % 2]):
            top = model(torch.tensor([ids], device=model.device)).logits[0, -1].float().cpu().topk(5)
            drawn = torch.multinomial(top.values.softmax(-1), 1, generator=generator)
            ids = [*ids, int(top.indices[drawn])]
        texts.append(tokenizer.decode(ids, skip_special_tokens=True).strip() + ". ")
    return texts
