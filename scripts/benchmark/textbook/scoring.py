"""Scores of prompts: all rows of a call in one padded batch, logits at all positions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ke_cli.engine.queries import Answer, Score, TargetQuery, TokenQuery, TopTokens, TopTokensQuery
from ke_cli.engine.tokens import continuation, encode
from ke_cli.models.editable import EditableModel

from .passes import Batch, exact, whole_pass

Scored = TargetQuery | TokenQuery | TopTokensQuery
Row = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Token ids, positions to look at, and the tokens that are scored there."""


@torch.no_grad()
def scores(model: EditableModel, queries: Sequence[Scored]) -> dict[Scored, Answer]:
    """Answer queries about the model as it is now, one row each.

    Mirrors ``test_batch_prediction``: every prompt with every target is a row, and the whole batch runs to logits
    ``[b, t, V]``. Prompts that ask for the likeliest tokens (``rs_probability_topk``) and for one token
    (``rs_metric_diff``) are rows of the same batch.
    """
    if not queries:
        return {}
    rows = [_row(model, query) for query in queries]
    logits = whole_pass(model, Batch.of([ids for ids, _, _ in rows], model.device))
    which = torch.tensor([b for b, (_, positions, _) in enumerate(rows) for _ in positions], device=logits.device)
    where = torch.tensor([position for _, positions, _ in rows for position in positions], device=logits.device)
    found = exact(logits[which, where]).log_softmax(dim=-1)  # [n, V]
    parts = torch.split(found, [len(positions) for _, positions, _ in rows])
    return {query: _answer(model, query, row, part) for query, row, part in zip(queries, rows, parts, strict=True)}


def _row(model: EditableModel, query: Scored) -> Row:
    if isinstance(query, TargetQuery):
        text = continuation(model.tokenizer, query.prompt, query.target)
        return text.ids, text.positions, text.targets
    ids = encode(model.tokenizer, query.prompt).ids
    return ids, (len(ids) - 1,), (query.token,) if isinstance(query, TokenQuery) else ()


def _answer(model: EditableModel, query: Scored, row: Row, found: Tensor) -> Answer:
    """Read an answer off the log-probabilities ``[positions, V]`` of its row."""
    if isinstance(query, TopTokensQuery):
        values, ids = found[0].topk(min(query.k, found.shape[-1]))
        texts = tuple(model.tokenizer.decode([token]) for token in ids.tolist())
        return TopTokens(tuple(ids.tolist()), texts, tuple((-values).tolist()))
    tokens = torch.tensor(row[2], device=found.device)
    nlls = -found.gather(1, tokens[:, None])[:, 0]
    return Score(tuple(nlls.tolist()), tuple((found.argmax(dim=-1) == tokens).tolist()))
