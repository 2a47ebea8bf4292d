"""The scores of the oracles against those of the authors' own programs, before and after the published edits."""

from __future__ import annotations

from typing import Any

import pytest

from . import reference, scoring
from .architecture import edited, projection_module
from .model_calls import output_at
from .reference import NOTHING, Check, Reference, each_fact
from .tokens import encode, prompt_row, target_ids

HUGE = 1e-3
"""For scores of a float32 model after a change of norm 10^4."""

REACHED = 1e-3
"""For the value that a published write gives, where it is that large."""


def relation_cases() -> list[Any]:
    if not (reference.parity_folder() / "r_specificity.json").is_file():
        return [NOTHING]
    cases = reference.read_json("r_specificity.json")["cases"]
    return [pytest.param(case, id=f"case{case['case_id']}") for case in cases]


@pytest.mark.parametrize("record", relation_cases())
def test_relation_specificity(record: dict[str, Any], model: Any, tokenizer: Any) -> None:
    case = Reference(record["edit"])
    index = [request["case_id"] for request in case.record["requests"]].index(record["case_id"])
    start = f"fact{index}::delta_w::"
    deltas = {
        name.removeprefix(start).removesuffix(".weight"): delta
        for name, delta in case.tensors.items()
        if name.startswith(start)
    }
    stop_words = {word for prompt in record["prompts"] for word in prompt["top20_treated_as_stop"]}
    assert deltas
    for prompt in record["prompts"]:
        check_relation_prompt(model, tokenizer, prompt, record["target_new"], stop_words)
        with edited(model, deltas):
            check_relation_scores(model, tokenizer, prompt, record["target_new"], prompt["post"], HUGE)


def check_relation_prompt(
    model: Any, tokenizer: Any, prompt: dict[str, Any], target: str, stop_words: set[str]
) -> None:
    text = prompt["prompt"]
    assert encode(tokenizer, text)[0] == prompt["prompt_ids"]
    assert scoring.relation_token(their_candidates(prompt), stop_words).id == prompt["t0_id"]
    ours = scoring.relation_token(scoring.top_tokens(model, tokenizer, text, 20), stop_words)
    assert ours.id == prompt["t0_id_without_left_padding"]
    check_relation_scores(model, tokenizer, prompt, target, prompt["pre"], 1e-5)


def their_candidates(prompt: dict[str, Any]) -> list[scoring.Candidate]:
    """Return the published top 20, which come from a batch with shifted positions."""
    texts = zip(prompt["top20_ids"], prompt["top20_strings"], strict=True)
    return [scoring.Candidate(token, text, 0.0) for token, text in texts]


def check_relation_scores(
    model: Any, tokenizer: Any, prompt: dict[str, Any], target: str, published: dict[str, Any], tolerance: float
) -> None:
    result = scoring.relation_check(model, tokenizer, prompt["prompt"], target, prompt["t0_id"])
    assert result.t0_nll == pytest.approx(published["nll_t0"], rel=tolerance)
    assert result.target_nll == pytest.approx(published["max_nll_target_new"], rel=tolerance)
    assert result.success == published["success"]


@pytest.mark.parametrize(("case", "fact"), each_fact("rets"))
def test_target_log_probabilities(case: Reference, fact: int, model: Any, tokenizer: Any) -> None:
    record, request = case.record["facts"][fact], case.facts[fact]
    ((weight, published),) = record["layers"].items()
    assert target_ids(tokenizer, record["prompt"], request.target) == published["target_ids"]
    before = scoring.nll(model, tokenizer, record["prompt"], request.target)
    with edited(model, {weight.removesuffix(".weight"): case.tensors[f"fact{fact}::delta_w::{weight}"]}):
        after = scoring.nll(model, tokenizer, record["prompt"], request.target)
    for ours, theirs, tolerance in ((before, "target_before", 1e-5), (after, "target_after", HUGE)):
        assert ours.nlls == pytest.approx([-x for x in record[theirs]["token_logprobs"]], rel=tolerance)


@pytest.mark.parametrize(("case", "fact"), each_fact("rets"))
def test_published_write_gives_the_value(case: Reference, fact: int, model: Any, tokenizer: Any, check: Check) -> None:
    """``(W + delta) k`` is ``v*`` at the lookup position of the un-prefixed prompt."""
    layer = case.numbers["layers"][0]
    weight = f"transformer.h.{layer}.mlp.c_proj.weight"
    bare = prompt_row(tokenizer, case.facts[fact], "{}", "prompt_last")
    with edited(model, {weight.removesuffix(".weight"): case.tensors[f"fact{fact}::delta_w::{weight}"]}):
        now = output_at(model, projection_module(model, layer), bare)
    check("reached value", now, case.tensors[f"fact{fact}::v_star::{weight}"], REACHED)
