"""Between metrics and engine: what is asked about a case, what comes of it, and how it is written down."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ke_cli.data.types import Case
from ke_cli.engine.queries import (
    Answer,
    Answers,
    ContinuationQuery,
    Generation,
    Geometry,
    GeometryQuery,
    InstructionQuery,
    PredictionQuery,
    Predictions,
    Query,
    SampleQuery,
    Score,
    TargetQuery,
    TokenQuery,
    TopTokens,
    TopTokensQuery,
)
from ke_cli.errors import UserError
from ke_cli.metrics.base import Metric

LATER = frozenset({"companions", "probes", "consistency_texts", "group", "kind", "aliases"})
"""Fields of a case and its probes that came after the first results: they enter its hash where they hold something."""


def check_columns(metrics: Sequence[Metric]) -> None:
    """Refuse metrics of which two fill the same column, or that ask nothing.

    Raises:
        UserError: With the column and both metrics.
    """
    owners: dict[str, str] = {}
    for metric in metrics:
        for name in [column.name for column in metric.columns] + [column.name for column in metric.derived]:
            if name in owners:
                raise _clash(name, owners[name], metric.name)
            owners[name] = metric.name
    if not any(metric.columns for metric in metrics):
        raise UserError(
            "nothing would be measured: the score is made of other columns",
            where="metrics",
            hint="metrics=[efficacy,neighborhood,score], or a set such as metrics=quick",
        )


def plan_before(metrics: Sequence[Metric], case: Case) -> tuple[Query, ...]:
    """Return what to ask the unedited model: every query once, in the order of the metrics."""
    return tuple(dict.fromkeys(query for metric in metrics for query in metric.before(case)))


def plan_after(metrics: Sequence[Metric], case: Case, before: Answers) -> tuple[Query, ...]:
    """Return what to ask the edited model: every query once, in the order of the metrics."""
    return tuple(dict.fromkeys(query for metric in metrics for query in metric.after(case, before)))


def measure_all(metrics: Sequence[Metric], case: Case, before: Answers, after: Answers) -> dict[str, float | None]:
    """Return the columns of all metrics.

    Raises:
        UserError: If two metrics fill the same column.
    """
    values: dict[str, float | None] = {}
    for metric in metrics:
        measured = metric.measure(case, before, after)
        if twice := values.keys() & measured.keys():
            owner = next(other.name for other in metrics if min(twice) in other.measure(case, before, after))
            raise _clash(min(twice), owner, metric.name)
        values |= measured
    return values


def prompts_hash(case: Case) -> str:
    """Return the SHA-256, in hexadecimal digits, of everything a case may be asked with, whatever the metrics.

    Two runs with equal hashes wrote the same fact and had the same probes to ask about it, so that every column both
    have measured compares. The case's id does not enter, nor does anything a model answered.
    """
    content = asdict(case, dict_factory=_told)
    del content["case_id"]
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def to_json(query: Query, answer: Answer) -> dict[str, Any]:
    """Return a question and its answer as they stand in the case log."""
    match query, answer:
        case TargetQuery(prompt, target), Score(nlls, hits):
            return {"ask": "target", "prompt": prompt, "target": target, "nlls": list(nlls), "hits": list(hits)}
        case TokenQuery(prompt, token), Score(nlls, hits):
            return {"ask": "token", "prompt": prompt, "token": token, "nlls": list(nlls), "hits": list(hits)}
        case TopTokensQuery(prompt, k), TopTokens(ids, texts, nlls):
            top = {"ids": list(ids), "texts": list(texts), "nlls": list(nlls)}
            return {"ask": "top", "prompt": prompt, "k": k, **top}
        case InstructionQuery(question), Generation(text):
            return {"ask": "instruction", "question": question, "text": text}
        case ContinuationQuery(prompt), Generation(text):
            return {"ask": "continuation", "prompt": prompt, "text": text}
        case SampleQuery(prompt), Generation(text):
            return {"ask": "sample", "prompt": prompt, "number": query.number, "text": text}
        case PredictionQuery(prompt, target), Predictions(ids, text):
            return {"ask": "prediction", "prompt": prompt, "target": target, "ids": list(ids), "text": text}
        case GeometryQuery(), Geometry():
            settings = {key: getattr(query, key) for key in ("prompt", "subject", "target", "lookup")}
            return {"ask": "geometry", **settings, **asdict(answer)}
    raise TypeError(f"a {type(answer).__name__} is no answer to a {type(query).__name__}")


def _told(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the fields of a case or a probe, without later ones that hold nothing."""
    return {key: value for key, value in fields if value or key not in LATER}


def _clash(column: str, first: str, second: str) -> UserError:
    what = f"the metrics {first!r} and {second!r} both fill the column {column!r}"
    return UserError(what, where="metrics", hint="leave one of them out")
