"""The rows whose distribution the value optimisation keeps: what the published programs really read.

All of them read the distribution *at the position where delta is added*, not at the end of the row.
"""

from __future__ import annotations

from typing import Any

from .tokens import Fact, Row, encode, fact_row, render, subject_last
from .value import Essence

TAIL = "{} is a"


def essence(tokenizer: Any, fact: Fact, kind: str = "subject", read_at: str = "lookup") -> Essence:
    """Build the essence row of a fact.

    Args:
        tokenizer: Of the model.
        fact: The fact that is written.
        kind: ``subject`` (ROME, MEMIT): "{subject} is a", delta at the subject's last token.
            ``prompt`` (RETS): "{whole prompt} is a", delta at the prompt's last token.
            ``last`` (TOP, repaired): "{subject} is a", delta at the last token.
            ``target_offset`` (TOP, published): "{subject} is a", delta as many tokens before the end as the
            target has, which is the last token for one-token targets only.
        read_at: ``lookup`` (published) or ``last``: where the distribution is read.
    """
    subject = render(fact.prompt, fact.subject).text if kind == "prompt" else fact.subject
    rendered = render(TAIL, subject)
    ids, _ = encode(tokenizer, rendered.text)
    end = len(ids) - 1
    if kind in ("subject", "prompt"):
        lookup = subject_last(tokenizer, rendered)
    elif kind == "last":
        lookup = end
    elif kind == "target_offset":
        lookup = len(ids) - len(fact_row(tokenizer, fact, "{}", "prompt_last").target)
    else:
        raise ValueError(f"no such essence row: {kind!r}")
    return Essence(Row(tuple(ids), lookup, (), end), {"lookup": lookup, "last": end}[read_at])
