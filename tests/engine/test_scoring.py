"""Answers of the engine against one forward pass per token, and answers together against answers alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from ke_cli.engine.edits import NO_EDIT, Edit, merged
from ke_cli.engine.instructions import instruction_ids
from ke_cli.engine.queries import (
    Answer,
    ContinuationQuery,
    Generation,
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
from ke_cli.engine.scoring import answer
from ke_cli.engine.tokens import continuation, encode
from ke_cli.engine.writing import random_seed
from ke_cli.models.editable import EditableModel
from marks import each_once, rest_slow
from textbook import scoring as textbook

from .benches import KINDS, LARGE, PROMPTS, REQUESTS, SMALL, TARGETS, assert_untouched, plain, state_hash
from .test_edits import dense, edits_of
from .zoo import zoo_model, zoo_tolerance

QUESTIONS = ("Where does Lena Vogel live?", "Name the capital of Norway, please.", "Who?")
TOLERANCES = {torch.float32: {"rel": 1e-4, "abs": 1e-4}, torch.float64: {"rel": 1e-9, "abs": 1e-9}}


def queries(model: EditableModel) -> list[Query]:
    """Everything a metric may ask: prompts that begin one another, targets of several lengths, repetitions."""
    asked: list[Query] = [TargetQuery(prompt, target) for prompt in PROMPTS for target in TARGETS]
    asked += [TargetQuery(r.text, target) for r in REQUESTS for target in (r.target_new, r.target_true)]
    asked += [TokenQuery(prompt, token) for prompt in PROMPTS[:4] for token in (7, len(model.tokenizer) - 1)]
    asked += [TopTokensQuery(prompt, k) for prompt in PROMPTS for k in (1, 20)]
    asked += [PredictionQuery(PROMPTS[0], TARGETS[-1]), PredictionQuery(PROMPTS[1], "")]
    return [*asked, *asked[:3], asked[-1]]


def instructions(new_tokens: int = 4) -> list[Query]:
    """Questions, a prompt to go on from, and a text to sample: all that is answered with a text."""
    asked: list[Query] = [InstructionQuery(question, new_tokens) for question in QUESTIONS]
    length = new_tokens + 6
    return [*asked, ContinuationQuery(PROMPTS[1], new_tokens), SampleQuery(PROMPTS[2], length, 5, 0)]


def by_textbook(model: EditableModel, query: Query) -> Answer:
    hf, tokenizer = plain(model)
    if isinstance(query, TargetQuery):
        score = textbook.nll(hf, tokenizer, query.prompt, query.target)
        return Score(score.nlls, score.hits)
    if isinstance(query, TokenQuery):
        nll = textbook.token_nll(hf, tokenizer, query.prompt, query.token)
        best = textbook.top_tokens(hf, tokenizer, query.prompt, 1)[0].id
        return Score((nll,), (best == query.token,))
    if isinstance(query, TopTokensQuery):
        found = textbook.top_tokens(hf, tokenizer, query.prompt, query.k)
        return TopTokens(tuple(c.id for c in found), tuple(c.text for c in found), tuple(c.nll for c in found))
    if isinstance(query, PredictionQuery):
        best = textbook.predicted(hf, tokenizer, query.prompt, query.target)
        return Predictions(tuple(best), tokenizer.decode(best))
    if isinstance(query, SampleQuery):
        return Generation(tokenizer.decode(sample_ids(model, query), skip_special_tokens=True))
    if isinstance(query, ContinuationQuery):
        ids = list(encode(tokenizer, query.prompt).ids)
    else:
        assert isinstance(query, InstructionQuery)
        ids = textbook.instruction_ids(tokenizer, query.question)
    new = textbook.greedy(hf, ids, query.max_new_tokens, {tokenizer.eos_token_id})
    return Generation(tokenizer.decode(new, skip_special_tokens=True))


def sample_ids(model: EditableModel, query: SampleQuery) -> list[int]:
    ids = encode(model.tokenizer, query.prompt).ids
    generator = torch.Generator().manual_seed(random_seed(query))
    numbers = torch.rand(max(0, query.length - len(ids)), generator=generator, dtype=torch.float64)
    return textbook.sample(plain(model)[0], ids, numbers.tolist(), query.top_k)


def assert_same_answer(got: Answer, want: Answer, **tolerance: float) -> None:
    assert type(got) is type(want)
    if isinstance(got, Score) and isinstance(want, Score):
        assert got.nlls == pytest.approx(want.nlls, **tolerance)
        assert got.hits == want.hits
    elif isinstance(got, TopTokens) and isinstance(want, TopTokens):
        assert (got.ids, got.texts) == (want.ids, want.texts)
        assert got.nlls == pytest.approx(want.nlls, **tolerance)
    else:
        assert got == want


def assert_same_answers(
    got: Sequence[dict[Query, Answer]], want: Sequence[dict[Query, Answer]], **tolerance: float
) -> None:
    for ours, theirs in zip(got, want, strict=True):
        assert set(ours) == set(theirs)
        for query, answer_ in theirs.items():
            assert_same_answer(ours[query], answer_, **tolerance)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "llama3"])
def test_scores_against_textbook(kind: str, dtype: str, tiny_model: Any) -> None:
    model = tiny_model(kind, dtype)
    asked = [*queries(model), *instructions()]
    (found,) = answer(model, [asked], [NO_EDIT], budget=LARGE)
    assert set(found) == set(asked)
    for query in dict.fromkeys(asked):
        assert_same_answer(found[query], by_textbook(model, query), **TOLERANCES[model.dtype])


@pytest.mark.parametrize("kind", ["narrow", "gemma3_text", "mistral", "gptj", "olmo2"])
def test_other_architectures(kind: str) -> None:
    """Soft-capped logits and sliding windows, scored and generated from."""
    model, tolerance = zoo_model(kind), zoo_tolerance(kind)
    asked = [*queries(model)[:12], *instructions(12)]
    (found,) = answer(model, [asked], [NO_EDIT], budget=LARGE)
    for query in asked:
        assert_same_answer(found[query], by_textbook(model, query), rel=tolerance, abs=tolerance)


def test_edited_models_against_textbook(exact_model: EditableModel) -> None:
    """Every edit's questions are answered by the model with that edit, all in shared batches."""
    edits = edits_of(exact_model)
    asked = [[*queries(exact_model)[number::5], *instructions()[number % 3 :]] for number in range(len(edits))]
    before = state_hash(exact_model.hf)
    found = answer(exact_model, asked, edits, budget=LARGE)
    assert_untouched(exact_model, before)
    for edit, questions, answers in zip(edits, asked, found, strict=True):
        assert set(answers) == set(questions)
        with merged(exact_model, edit):
            for query in answers:
                assert_same_answer(answers[query], by_textbook(exact_model, query), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(("model", "with_dense"), each_once(KINDS, [False, True]), indirect=["model"])
def test_together_is_alone_under_any_budget(model: EditableModel, with_dense: bool) -> None:
    edits: list[Edit] = [*edits_of(model), dense(model, 2, 9)] if with_dense else edits_of(model)
    asked = [[*queries(model)[::2], *instructions()] for _ in edits]
    together = answer(model, asked, edits, budget=LARGE)
    for budget in (SMALL, 300):
        assert_same_answers(answer(model, asked, edits, budget=budget), together, rel=1e-4, abs=1e-4)
    alone = [answer(model, [one], [edit], budget=LARGE)[0] for one, edit in zip(asked, edits, strict=True)]
    assert_same_answers(alone, together, rel=1e-4, abs=1e-4)
    backwards = answer(model, [list(reversed(one)) for one in asked[::-1]], edits[::-1], budget=LARGE)[::-1]
    assert_same_answers(backwards, together, rel=1e-4, abs=1e-4)


def test_query_by_query(model: EditableModel) -> None:
    asked = [*queries(model)[::3], *instructions()]
    (together,) = answer(model, [asked], [NO_EDIT], budget=LARGE)
    for query in dict.fromkeys(asked):
        (alone,) = answer(model, [[query]], [NO_EDIT], budget=LARGE)
        assert_same_answer(alone[query], together[query], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("budget", [LARGE, SMALL])
def test_a_probability_has_one_value_whoever_asks_for_it(model: EditableModel, budget: int) -> None:
    """R-Specificity takes a tie for no success: the likeliest token must not win over itself by a last bit."""
    pairs = [(prompt, target) for prompt in PROMPTS for target in TARGETS]
    firsts = [TokenQuery(p, continuation(model.tokenizer, p, target).targets[0]) for p, target in pairs]
    longer = [TargetQuery(prompt, f"{target} and more besides") for prompt, target in pairs]
    edits = edits_of(model)
    asked: list[list[Query]] = [[*(TargetQuery(*pair) for pair in pairs), *longer, *firsts] for _ in edits]
    for found in answer(model, asked, edits, budget=budget):
        for pair, first in zip(pairs, firsts, strict=True):
            whole, token = found[TargetQuery(*pair)], found[first]
            assert isinstance(whole, Score) and isinstance(token, Score)
            assert whole.nlls[0] == token.nlls[0]


@pytest.mark.parametrize("model", rest_slow(KINDS, ["llama3"]), indirect=True)
def test_memory_that_runs_out_only_costs_time(model: EditableModel, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [[*queries(model), *instructions()] for _ in edits_of(model)]
    want = answer(model, asked, edits_of(model), budget=LARGE)
    forward = model.hf.forward

    def cramped(*args: Any, **kwargs: Any) -> Any:
        if len(kwargs["input_ids"]) > 3:
            raise torch.OutOfMemoryError("3 rows at most")
        return forward(*args, **kwargs)

    monkeypatch.setattr(model.hf, "forward", cramped)
    assert_same_answers(answer(model, asked, edits_of(model), budget=LARGE), want, rel=1e-4, abs=1e-4)


def test_rows_are_shared(model: EditableModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt with two targets of one token, its top tokens and the prompts that it begins with are one row."""
    rows: list[int] = []
    forward = model.hf.forward

    def counting(*args: Any, **kwargs: Any) -> Any:
        rows.append(len(kwargs["input_ids"]))
        return forward(*args, **kwargs)

    monkeypatch.setattr(model.hf, "forward", counting)
    asked: list[Query] = [TokenQuery(PROMPTS[2], token) for token in (3, 4, 5)]
    asked += [TopTokensQuery(prompt, 5) for prompt in PROMPTS[:3]]
    answer(model, [asked], [NO_EDIT], budget=LARGE)
    assert rows == [1]


def test_nothing_asked(model: EditableModel) -> None:
    assert answer(model, [[], []], [NO_EDIT, NO_EDIT], budget=LARGE) == [{}, {}]
    one: list[Query] = [TokenQuery("Oslo is", 5)]
    first, second = answer(model, [[], one], [NO_EDIT, NO_EDIT], budget=LARGE)
    assert first == {} and set(second) == set(one)


def test_more_top_tokens_than_the_vocabulary_has(model: EditableModel) -> None:
    query = TopTokensQuery("Oslo is", 10**6)
    (found,) = answer(model, [[query]], [NO_EDIT], budget=LARGE)
    top = found[query]
    assert isinstance(top, TopTokens)
    assert sorted(top.ids) == list(range(model.config.vocab_size))
    assert sum(torch.tensor(top.nlls).neg().exp()) == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("question", QUESTIONS)
def test_instructions_are_tokenised_with_one_bos(model: EditableModel, question: str) -> None:
    ids = instruction_ids(model, question)
    assert list(ids) == textbook.instruction_ids(model.tokenizer, question)
    bos = model.tokenizer.bos_token_id
    assert ids.count(bos) == (0 if model.name == "gpt2" else 1)
    text = model.tokenizer.decode(ids)
    assert question in text and text.startswith("Question") == (model.name == "gpt2")
    assert ("<|start_header_id|>assistant" in text) == (model.name == "llama3")
