"""Scores of the engine against those of the authors' own programs, before and after their own edits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from engine.benches import LARGE
from ke_cli.engine.edits import NO_EDIT, Dense, Edit
from ke_cli.engine.queries import Score, TargetQuery, TokenQuery, TopTokens, TopTokensQuery
from ke_cli.engine.scoring import answer
from ke_cli.engine.tokens import continuation, encode
from ke_cli.models.editable import EditableModel
from textbook import reference
from textbook.reference import Reference
from textbook.scoring import Candidate, relation_token

from .test_parity import cases, load_parity, requests_of

HUGE = 1e-3
"""For scores of a float32 model after a change of norm 10^4."""


@pytest.fixture(scope="module")
def model() -> EditableModel:
    return load_parity("float32")


def relation_records() -> list[Any]:
    path = reference.parity_folder() / "r_specificity.json"
    records = reference.read_json(path.name)["cases"] if path.is_file() else []
    skip = pytest.mark.skip(reason="no parity data of R-Specificity")
    return [pytest.param(record, id=f"case{record['case_id']}") for record in records] or [
        pytest.param(None, marks=skip)
    ]


def published_edit(record: Mapping[str, Any]) -> Edit:
    """The stored weight change that the record's scores after the edit belong to."""
    case = Reference(record["edit"])
    index = [request["case_id"] for request in case.record["requests"]].index(record["case_id"])
    start = f"fact{index}::delta_w::"
    names = [name for name in case.tensors if name.startswith(start)]
    assert names
    return Edit({name.removeprefix(start).removesuffix(".weight"): Dense(case.tensors[name]) for name in names})


@pytest.mark.parametrize("record", relation_records())
def test_relation_specificity(record: dict[str, Any], model: EditableModel) -> None:
    """``t0`` and the token NLLs before and after the published edit, all prompts in one call."""
    prompts = record["prompts"]
    stop_words = {word for prompt in prompts for word in prompt["top20_treated_as_stop"]}
    top = [TopTokensQuery(prompt["prompt"], 20) for prompt in prompts]
    tokens = [TokenQuery(prompt["prompt"], prompt["t0_id"]) for prompt in prompts]
    targets = [TargetQuery(prompt["prompt"], record["target_new"]) for prompt in prompts]
    before, after = answer(
        model, [[*top, *tokens, *targets], [*tokens, *targets]], [NO_EDIT, published_edit(record)], budget=LARGE
    )
    for prompt, query, token, target in zip(prompts, top, tokens, targets, strict=True):
        assert list(encode(model.tokenizer, prompt["prompt"]).ids) == prompt["prompt_ids"]
        found = before[query]
        assert isinstance(found, TopTokens)
        candidates = [Candidate(*three) for three in zip(found.ids, found.texts, found.nlls, strict=True)]
        assert relation_token(candidates, stop_words).id == prompt["t0_id_without_left_padding"]
        for answers, published, tolerance in ((before, prompt["pre"], 1e-5), (after, prompt["post"], HUGE)):
            token_score, target_score = answers[token], answers[target]
            assert isinstance(token_score, Score) and isinstance(target_score, Score)
            worst = max(target_score.nlls)
            assert token_score.nll == pytest.approx(published["nll_t0"], rel=tolerance)
            assert worst == pytest.approx(published["max_nll_target_new"], rel=tolerance)
            assert (token_score.nll < worst) == published["success"]


@pytest.mark.parametrize("case", cases("rets"))
def test_target_log_probabilities(case: Reference, model: EditableModel) -> None:
    """Token log-probabilities of the target before and after the published edit."""
    for fact, (request, record) in enumerate(zip(requests_of(case), case.record["facts"], strict=True)):
        ((weight, published),) = record["layers"].items()
        assert (
            list(continuation(model.tokenizer, record["prompt"], request.target_new).targets)
            == (published["target_ids"])
        )
        edit = Edit({weight.removesuffix(".weight"): Dense(case.tensors[f"fact{fact}::delta_w::{weight}"])})
        query = TargetQuery(record["prompt"], request.target_new)
        answers = answer(model, [[query], [query]], [NO_EDIT, edit], budget=LARGE)
        for found, name, tolerance in zip(answers, ("target_before", "target_after"), (1e-5, HUGE), strict=True):
            score = found[query]
            assert isinstance(score, Score)
            assert score.nlls == pytest.approx([-x for x in record[name]["token_logprobs"]], rel=tolerance)
