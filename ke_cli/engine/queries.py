"""What a metric may ask a model, and the raw answers it gets (no torch here).

``prompt`` and ``target`` are always joined by exactly one space. All answers are about one model state: the
unedited model, or the model with one edit attached.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TargetQuery:
    """Teacher forcing: how likely is the text ``target`` after ``prompt``? Answered by a `Score`."""

    prompt: str
    target: str


@dataclass(frozen=True, slots=True)
class TokenQuery:
    """How likely is the single token id ``token`` right after ``prompt``? Answered by a `Score`."""

    prompt: str
    token: int


@dataclass(frozen=True, slots=True)
class TopTokensQuery:
    """Which ``k`` tokens are most likely right after ``prompt``? Answered by `TopTokens`."""

    prompt: str
    k: int


@dataclass(frozen=True, slots=True)
class InstructionQuery:
    r"""Greedy decoding after ``question`` in the tokenizer's chat template. Answered by a `Generation`.

    A tokenizer without a chat template is asked ``Question: {question}\nAnswer:``.
    """

    question: str
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class Score:
    """Teacher-forced scores of a target.

    Args:
        nlls: ``-log P`` of each target token, in nats.
        hits: Whether each target token is the arg-max at its position.
    """

    nlls: tuple[float, ...]
    hits: tuple[bool, ...]

    @property
    def nll(self) -> float:
        """Mean NLL over the target's tokens, in nats."""
        return sum(self.nlls) / len(self.nlls)

    @property
    def all_hit(self) -> bool:
        """Whether every target token is the arg-max (exact recall under teacher forcing)."""
        return all(self.hits)


@dataclass(frozen=True, slots=True)
class TopTokens:
    """The most likely next tokens, best first: ids, decoded texts (unstripped) and NLLs in nats."""

    ids: tuple[int, ...]
    texts: tuple[str, ...]
    nlls: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Generation:
    """Greedily decoded text, without the prompt and without special tokens."""

    text: str


Query = TargetQuery | TokenQuery | TopTokensQuery | InstructionQuery
Answer = Score | TopTokens | Generation
Answers = Mapping[Query, Answer]
