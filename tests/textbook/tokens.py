"""Texts to token ids, and the places of subject, prompt and target among them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PLACE = "{}"


@dataclass(frozen=True)
class Fact:
    """``prompt`` (one ``{}``) about ``subject`` shall end in ``target``."""

    prompt: str
    subject: str
    target: str


@dataclass(frozen=True)
class Rendered:
    """A text and the characters [start, stop) of the subject in it."""

    text: str
    start: int
    stop: int


@dataclass(frozen=True)
class Row:
    """One sequence fed to the model.

    Args:
        ids: The tokens, those of the target but its last one included.
        lookup: The position at which something is read or added.
        target: The tokens to predict; the first one is predicted at ``first``.
        first: The position whose logits predict the first target token.
    """

    ids: tuple[int, ...]
    lookup: int
    target: tuple[int, ...]
    first: int


def render(prompt: str, subject: str, template: str = PLACE) -> Rendered:
    """Fill the subject into the prompt and the prompt into the template, where subjects may hold braces."""
    if prompt.count(PLACE) != 1:
        raise ValueError(f"a prompt needs exactly one {PLACE}: {prompt!r}")
    before, after = prompt.split(PLACE)
    prefix, _, suffix = template.rpartition(PLACE)
    start = len(prefix) + len(before)
    return Rendered(prefix + before + subject + after + suffix, start, start + len(subject))


def encode(tokenizer: Any, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Encode a whole text with the special tokens put in front of it, and without those put behind it.

    Returns:
        The ids and, per id, the characters [start, stop) it stands for; (0, 0) for special tokens.
    """
    out = tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True)
    ids, offsets = list(out["input_ids"]), [tuple(pair) for pair in out["offset_mapping"]]
    added = list(out["special_tokens_mask"])
    while added and added[-1] and 0 in added:
        ids, offsets, added = ids[:-1], offsets[:-1], added[:-1]
    spans = [(0, 0) if special else pair for pair, special in zip(offsets, added, strict=True)]
    return ids, spans


def subject_last(tokenizer: Any, rendered: Rendered) -> int:
    """Return the position of the last token that stands for a character of the subject."""
    _, offsets = encode(tokenizer, rendered.text)
    touching = [
        position
        for position, (start, stop) in enumerate(offsets)
        if start < rendered.stop and stop > rendered.start and stop > start
    ]
    if not touching:
        raise ValueError(f"no token of {rendered.text!r} belongs to the subject")
    return touching[-1]


def prompt_last(tokenizer: Any, text: str) -> int:
    """Return the position of the last token of a prompt."""
    return len(encode(tokenizer, text)[0]) - 1


def target_ids(tokenizer: Any, prompt: str, target: str) -> list[int]:
    """Return the tokens of ``"prompt target"`` beyond those of the prompt."""
    ids, _ = encode(tokenizer, prompt)
    both, _ = encode(tokenizer, f"{prompt} {target}")
    if both[: len(ids)] != ids:
        raise ValueError(f"the tokens of {prompt!r} change when {target!r} follows")
    if len(both) == len(ids):
        raise ValueError(f"{target!r} adds no token to {prompt!r}")
    return both[len(ids) :]


def fact_row(tokenizer: Any, fact: Fact, template: str, lookup: str) -> Row:
    """Build the teacher-forced row of a fact under a template; ``lookup``: subject_last or prompt_last."""
    rendered = render(fact.prompt, fact.subject, template)
    ids, _ = encode(tokenizer, rendered.text)
    target = target_ids(tokenizer, rendered.text, fact.target)
    return Row(
        ids=(*ids, *target[:-1]),
        lookup=subject_last(tokenizer, rendered) if lookup == "subject_last" else len(ids) - 1,
        target=tuple(target),
        first=len(ids) - 1,
    )


def prompt_row(tokenizer: Any, fact: Fact, template: str, lookup: str) -> Row:
    """Build the row of a fact's prompt alone, with nothing to predict."""
    rendered = render(fact.prompt, fact.subject, template)
    ids, _ = encode(tokenizer, rendered.text)
    position = subject_last(tokenizer, rendered) if lookup == "subject_last" else len(ids) - 1
    return Row(ids=tuple(ids), lookup=position, target=(), first=len(ids) - 1)
