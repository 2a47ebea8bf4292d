"""Requests as rows of a value problem, and as the tokens at which keys are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from ke_cli.data.types import Request
from ke_cli.engine.problems import EssenceRow, TargetRow
from ke_cli.engine.reading import Token
from ke_cli.engine.tokens import Prompt, continuation, encode

Lookup = Literal["subject_last", "prompt_last"]
Essence = Literal["subject", "prompt", "last", "target_offset"]
"""Where the value is added in the essence row: behind the subject, behind the whole prompt playing the subject (RETS),
at the row's last token, or as many tokens before its end as the target has (TOP's published code)."""
ESSENCE = "{} is a"
"""The prompt whose next-token distribution must stay (ROME, section 3.1)."""


def target_rows(
    tokenizer: Any, request: Request, templates: Sequence[str], lookup: Lookup, *, share: float = 1.0
) -> list[TargetRow]:
    """The edit prompt with its new target in every context template; the weights add up to ``share``."""
    rows = []
    for template in templates:
        prompt = Prompt.of(request.prompt, request.subject, template)
        whole = continuation(tokenizer, prompt.text, request.target_new)
        index = getattr(prompt, lookup)(whole.tokens)
        rows.append(TargetRow(whole.ids, index, whole.positions, whole.targets, share / len(templates)))
    return rows


def essence_row(tokenizer: Any, request: Request, where: Essence, read_at: Literal["lookup", "last"]) -> EssenceRow:
    """The row ``"{subject} is a"`` (or ``"{whole prompt} is a"``), whose distribution the value must not change.

    Published programs read the distribution at the lookup position itself; the papers describe its end (``last``).
    """
    prompt = Prompt.of(ESSENCE, request.text if where == "prompt" else request.subject)
    tokens = encode(tokenizer, prompt.text)
    end = len(tokens.ids) - 1
    if where == "target_offset":
        lookup = end + 1 - len(continuation(tokenizer, request.text, request.target_new).targets)
        if lookup < 0:
            raise ValueError("the target has more tokens than the essence row, so target_offset points before it")
    else:
        lookup = end if where == "last" else prompt.subject_last(tokens)
    return EssenceRow(tokens.ids, lookup, lookup if read_at == "lookup" else end)


def lookup_tokens(
    tokenizer: Any, request: Request, templates: Sequence[str], lookup: Lookup, edit: int = 0
) -> list[Token]:
    """The lookup position of the edit prompt in every context template, for reading keys and values there."""
    found = []
    for template in templates:
        prompt = Prompt.of(request.prompt, request.subject, template)
        tokens = encode(tokenizer, prompt.text)
        found.append(Token(tokens.ids, getattr(prompt, lookup)(tokens), edit))
    return found
