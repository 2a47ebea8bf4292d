"""R-Specificity: does an edit leave the subject's other relations alone?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Literal

from ke_cli.checks import check_at_least
from ke_cli.data.types import Case
from ke_cli.engine.queries import Answers, Query, TargetQuery, TokenQuery, TopTokens, TopTokensQuery
from ke_cli.metrics.answers import mean, score, top_tokens
from ke_cli.metrics.base import Column, Metric, Values


@dataclass(frozen=True)
class RSpecificity(Metric):
    """R-Specificity, on prompts about the same subject and other relations.

    Before the edit ``t0`` is the likeliest next token that says something: the first of the ``top_k`` whose
    stripped text is neither empty nor a stop word, or the likeliest of all where there is no such token. After
    the edit, with ``o_new`` the object that was written (about another relation), a prompt is a success if

        nll(t0) < max over the tokens of o_new of their NLL

    as the published program computes it, or ``< mean`` with ``target_nll: mean``, by which all other metrics here
    compare objects. The mean is never above the maximum: the test is harder for objects of several tokens, and the
    same for those of one.

    With the maximum the unedited model has 100 % as long as ``o_new`` is not what it would say anyway: ``t0`` is the
    likeliest token but for stop words and blanks, so the first token of an ``o_new`` that begins with any other token
    has the higher NLL. It fails where all tokens of ``o_new`` are at least as likely as ``t0``: where it begins
    with ``t0`` itself and continues with certainty (equal is no success), or with a likely stop word. With the mean it
    may also fail where an unlikely first token of ``o_new`` is followed by certain ones.

    Where a prompt has a gold answer, accuracy is measured too: every token of it is the arg-max after the edit.

    Args:
        top_k: How many of the likeliest tokens are looked at for ``t0``.
        target_nll: How the NLLs of the tokens of ``o_new`` become the one that ``t0`` is compared with.
        stop_words: A UTF-8 file with one word a line, ``#`` for comments; null for the list of the package.
    """

    top_k: int = 20
    target_nll: Literal["max", "mean"] = "max"
    stop_words: str | None = None

    name = "r_specificity"
    version = 1

    def __post_init__(self) -> None:
        """Refuse a number or a file that is none."""
        check_at_least(self, 1, "top_k")
        try:
            _ = self.words
        except (OSError, ValueError, RuntimeError) as error:
            reason = f"{self.stop_words!r} ({type(error).__name__})"
            raise ValueError(f"stop_words: expected a UTF-8 file with one word a line, got {reason}") from error

    @cached_property
    def words(self) -> frozenset[str]:
        """The stop words, in lower case."""
        file = Path(self.stop_words).expanduser() if self.stop_words else files("ke_cli.metrics") / "stop_words.txt"
        lines = (line.strip() for line in file.read_text(encoding="utf-8").splitlines())
        return frozenset(line.lower() for line in lines if line and not line.startswith("#"))

    @property
    def columns(self) -> Sequence[Column]:
        """Success, and accuracy on gold answers."""
        return (Column("r_specificity", "RS"), Column("r_specificity_gold", "RS-gold"))

    def before(self, case: Case) -> Sequence[Query]:
        """Ask for the likeliest tokens, and for the gold answers."""
        tops = [TopTokensQuery(probe.prompt, self.top_k) for probe in case.relation_specific]
        return [*tops, *_gold(case)]

    def after(self, case: Case, before: Answers) -> Sequence[Query]:
        """Ask for ``t0`` and the written object after each prompt, and for the gold answers."""
        pairs = [query for pair in self._pairs(case, before) for query in pair]
        return [*pairs, *_gold(case)]

    def measure(self, case: Case, before: Answers, after: Answers) -> Values:
        """Average over the prompts."""
        pairs = [(score(after, kept), score(after, new)) for kept, new in self._pairs(case, before)]
        wins = [kept.nll < (max(new.nlls) if self.target_nll == "max" else new.nll) for kept, new in pairs]
        return {
            "r_specificity": mean(map(float, wins)),
            "r_specificity_gold": mean(float(score(after, query).all_hit) for query in _gold(case)),
        }

    def telling_token(self, top: TopTokens) -> int:
        """Return ``t0``: the first token whose stripped text is neither empty nor a stop word, else the first."""
        texts = [text.strip().lower() for text in top.texts]
        telling = (token for token, text in zip(top.ids, texts, strict=True) if text and text not in self.words)
        return next(telling, top.ids[0])

    def _pairs(self, case: Case, before: Answers) -> Iterator[tuple[TokenQuery, TargetQuery]]:
        """Yield, for each prompt, the queries for ``t0`` and for the written object."""
        for probe in case.relation_specific:
            top = top_tokens(before, TopTokensQuery(probe.prompt, self.top_k))
            kept = TokenQuery(probe.prompt, self.telling_token(top))
            yield kept, TargetQuery(probe.prompt, case.request.target_new)


def _gold(case: Case) -> list[TargetQuery]:
    return [TargetQuery(probe.prompt, probe.answer) for probe in case.relation_specific if probe.answer]
