"""Answering queries: teacher-forced scores, most likely tokens and greedy text, for many edits in one batch.

Rows are shared: a prompt that is asked with two targets of one token each is one row, and a row that begins another
is read off the longer one (causality). Logits are computed only where something is scored, and once for all that is
scored behind the same tokens, so that equal probabilities are equal to the last bit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from ke_cli.engine.batching import Budget, in_batches, rows_of
from ke_cli.engine.edits import Edit, numbers
from ke_cli.engine.forward import gathered_logits
from ke_cli.engine.geometry import geometries
from ke_cli.engine.packages import thrifty_on
from ke_cli.engine.prefixes import Rows
from ke_cli.engine.queries import (
    Answer,
    GeometryQuery,
    PredictionQuery,
    Predictions,
    Query,
    Score,
    TargetQuery,
    TokenQuery,
    TopTokens,
    TopTokensQuery,
    Written,
)
from ke_cli.engine.sharing import Key
from ke_cli.engine.tokens import continuation, encode
from ke_cli.engine.writing import texts
from ke_cli.models.editable import EditableModel

Scored = TargetQuery | TokenQuery | TopTokensQuery | PredictionQuery


@dataclass(frozen=True, slots=True)
class _Want:
    """One logit row: what follows ``ids`` with edit ``edit``."""

    edit: int
    ids: tuple[int, ...]

    @property
    def position(self) -> int:
        """Index of the token at which it is read."""
        return len(self.ids) - 1


@dataclass(frozen=True, slots=True)
class _Read:
    """What is read off one logit row: NLL and arg-max flag of ``token``, or the ``k`` most likely tokens."""

    token: int = -1
    k: int = 0


def answer(
    model: EditableModel, questions: Sequence[Sequence[Query]], edits: Sequence[Edit], *, budget: int | Budget
) -> list[dict[Query, Answer]]:
    """Answer the queries of each edit with that edit attached.

    Args:
        model: The model.
        questions: ``questions[e]`` are asked with ``edits[e]`` attached; repeated queries cost nothing.
        edits: One per list of questions. Low-rank edits share batches, dense ones run one after another.
        budget: Tokens per batch.

    Returns:
        One mapping per edit.
    """
    if all(edit.is_low_rank for edit in edits):
        return _answer_together(model, questions, edits, budget)
    return [_answer_together(model, [asked], [edit], budget)[0] for asked, edit in zip(questions, edits, strict=True)]


def _answer_together(
    model: EditableModel, questions: Sequence[Sequence[Query]], edits: Sequence[Edit], budget: int | Budget
) -> list[dict[Query, Answer]]:
    asked = [(edit, query) for edit, queries in enumerate(questions) for query in dict.fromkeys(queries)]
    answers: list[dict[Query, Answer]] = [{} for _ in questions]
    scored = [(edit, query) for edit, query in asked if isinstance(query, Scored)]
    results = _scores(model, scored, edits, budget)
    for (edit, asked_query), result in zip(scored, results, strict=True):
        answers[edit][asked_query] = result
    shaped = [(edit, query) for edit, query in asked if isinstance(query, GeometryQuery)]
    for (edit, shape), found in zip(shaped, geometries(model, shaped, edits, budget=budget), strict=True):
        answers[edit][shape] = found
    written = [(edit, query) for edit, query in asked if isinstance(query, Written)]
    for (edit, wanted), text in zip(written, texts(model, written, edits, budget), strict=True):
        answers[edit][wanted] = text
    return answers


def _scores(
    model: EditableModel, asked: Sequence[tuple[int, Scored]], edits: Sequence[Edit], budget: int | Budget
) -> list[Score | TopTokens | Predictions]:
    number = numbers(edits)  # a prompt that is asked about one edit by several cases runs once
    plans = [_plan(model, number[edit] if edits else 0, query) for edit, query in asked]
    wants: dict[_Want, dict[_Read, None]] = defaultdict(dict)
    for plan in plans:
        for want, read in plan:
            wants[want][read] = None
    results = _read_rows(model, {want: list(reads) for want, reads in wants.items()}, edits, budget)
    return [
        _assemble(model, query, [results[step] for step in plan]) for (_, query), plan in zip(asked, plans, strict=True)
    ]


def _plan(model: EditableModel, edit: int, query: Scored) -> list[tuple[_Want, _Read]]:
    """Which logit rows a query needs, in the order of its target's tokens."""
    if isinstance(query, TargetQuery) or (isinstance(query, PredictionQuery) and query.target):
        best = _Read(k=1) if isinstance(query, PredictionQuery) else None
        tokens = continuation(model.tokenizer, query.prompt, query.target)
        pairs = zip(tokens.positions, tokens.targets, strict=True)
        return [(_Want(edit, tokens.ids[: p + 1]), best or _Read(token=t)) for p, t in pairs]
    ids = encode(model.tokenizer, query.prompt).ids
    read = _Read(token=query.token) if isinstance(query, TokenQuery) else _Read(k=getattr(query, "k", 1))
    return [(_Want(edit, ids), read)]


_Result = tuple[float, bool] | tuple[list[int], list[float]]


def _assemble(model: EditableModel, query: Scored, results: Sequence[_Result]) -> Score | TopTokens | Predictions:
    if isinstance(query, PredictionQuery):
        best = tuple(ids[0] for ids, _ in results if isinstance(ids, list))
        return Predictions(best, model.tokenizer.decode(best))
    if isinstance(query, TopTokensQuery):
        ids, nlls = results[0]
        assert isinstance(ids, list) and isinstance(nlls, list)
        return TopTokens(tuple(ids), tuple(model.tokenizer.decode([token]) for token in ids), tuple(nlls))
    return Score(tuple(float(nll) for nll, _ in results), tuple(bool(hit) for _, hit in results))  # type: ignore[arg-type]


@torch.no_grad()
def _read_rows(
    model: EditableModel, wants: dict[_Want, list[_Read]], edits: Sequence[Edit], budget: int | Budget
) -> dict[tuple[_Want, _Read], _Result]:
    rows = _longest_rows(wants)
    entries = [(key, [(want, wants[want]) for want in own]) for key, own in rows.items()]
    sizes = rows_of(len(ids) for _, ids in rows)
    layout = thrifty_on(model.device.type)
    found = in_batches(lambda part: _read_batch(model, part, edits), entries, sizes, budget, layout=layout)
    return {asked: result for results in found for asked, result in results.items()}


_Rows = Sequence[tuple[Key, list[tuple[_Want, list[_Read]]]]]


def _longest_rows(wants: dict[_Want, list[_Read]]) -> dict[Key, list[_Want]]:
    """Rows that must run: of rows where one begins the other, only the longer (sorted order puts them side by side)."""
    rows: dict[Key, list[_Want]] = {}
    keys = sorted({(want.edit, want.ids) for want in wants}, reverse=True)
    home: dict[Key, Key] = {}
    last: Key | None = None
    for key in keys:
        begins = last is not None and last[0] == key[0] and last[1][: len(key[1])] == key[1]
        home[key] = last if begins and last is not None else key
        last = home[key]
    for want in wants:
        rows.setdefault(home[want.edit, want.ids], []).append(want)
    return rows


def _read_batch(model: EditableModel, rows: _Rows, edits: Sequence[Edit]) -> list[dict[tuple[_Want, _Read], _Result]]:
    first_read = [min(want.position for want, _ in entries) for _, entries in rows]
    batch = Rows.of(model, [key for key, _ in rows], first_read, edits)
    spots = [(b, want, reads) for b, (_, entries) in enumerate(rows) for want, reads in entries]
    which = torch.tensor([b for b, _, _ in spots], device=model.device)
    where = torch.tensor([want.position for _, want, _ in spots], device=model.device)
    with batch.in_place():
        logits = gathered_logits(model, which, where - batch.cuts[which], batch.run)
    log_probabilities = F.log_softmax(logits, dim=-1)  # [n, V]
    results: list[dict[tuple[_Want, _Read], _Result]] = [{} for _ in rows]
    owners = [(n, b, want, read) for n, (b, want, reads) in enumerate(spots) for read in reads]
    for (_, b, want, read), value in zip(owners, _read_values(log_probabilities, owners), strict=True):
        results[b][want, read] = value
    return results


def _read_values(log_probabilities: torch.Tensor, owners: Sequence[tuple[int, int, _Want, _Read]]) -> list[_Result]:
    """Read tokens and top tokens off ``[n, V]`` log-probabilities with a few transfers for the whole batch."""
    best = log_probabilities.argmax(dim=-1)
    rows = torch.tensor([n for n, *_ in owners], device=best.device)
    tokens = torch.tensor([max(read.token, 0) for *_, read in owners], device=best.device)
    nlls = (-log_probabilities[rows, tokens]).tolist()
    hits = (best[rows] == tokens).tolist()
    values: list[_Result] = []
    k_max = max((read.k for *_, read in owners), default=0)
    top = log_probabilities.topk(min(k_max, log_probabilities.shape[-1]), dim=-1) if k_max else None
    top_ids, top_values = (top.indices.tolist(), (-top.values).tolist()) if top is not None else ([], [])
    for (n, _, _, read), nll, hit in zip(owners, nlls, hits, strict=True):
        values.append((top_ids[n][: read.k], top_values[n][: read.k]) if read.k else (nll, hit))
    return values
