"""Batches under a token budget, and what happens when memory runs out."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ke_cli.engine.batching import Budget, Size, in_batches, packed, rows_of
from ke_cli.engine.queries import GeometryQuery, InstructionQuery, TargetQuery, TopTokensQuery
from ke_cli.engine.reading import Site, Token, read
from ke_cli.engine.scoring import answer
from ke_cli.engine.tokens import encode
from ke_cli.engine.value import optimise
from ke_cli.errors import UserError
from ke_cli.models.editable import EditableModel
from ke_cli.models.memory import OutOfMemory
from marks import rest_slow

from .benches import LARGE, PROMPTS, REQUESTS, TARGETS, relative
from .test_edits import edits_of
from .test_geometry import FACTS, RADII
from .test_geometry import assert_same as assert_same_shape
from .test_scoring import assert_same_answers
from .test_value import objective, problem

FAILURES: dict[str, Callable[[], Exception]] = {
    "cuda": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "cpu": lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8"),
    "python": MemoryError,
    "cublas": lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
}

sizes_strategy = st.lists(st.builds(Size, st.integers(1, 9), st.integers(1, 60), st.integers(0, 60)), max_size=40)


@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 2000))
def test_batches_hold_every_row_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = packed(rows_of(lengths), budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[index] for index in batch)
        assert longest * len(batch) <= budget or len(batch) == 1
    sizes = [max(lengths[index] for index in batch) for batch in batches]
    assert sizes == sorted(sizes, reverse=True), "the largest memory is needed first"


@given(st.lists(st.integers(1, 40), min_size=2, max_size=40))
def test_no_two_neighbouring_batches_would_fit_together(lengths: list[int]) -> None:
    batches = packed(rows_of(lengths), 64)
    for first, second in pairwise(batches):
        assert lengths[first[0]] * (len(first) + 1) > 64 or len(second) == 0


@given(sizes_strategy, st.integers(1, 2000))
def test_items_of_several_rows_are_never_torn_apart(sizes: list[Size], budget: int) -> None:
    batches = packed(sizes, budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(sizes)))
    for batch in batches:
        rows, longest = sum(sizes[i].rows for i in batch), max(sizes[i].length for i in batch)
        assert rows * longest <= budget or len(batch) == 1
    tails = [sizes[index].tail for batch in batches for index in batch]
    assert tails == sorted(tails, reverse=True)


def squares(fits: int, fail: Callable[[], Exception], tried: list[int]) -> Callable[[Sequence[int]], list[int]]:
    """Work in which more than ``fits`` items are too many."""

    def work(items: Sequence[int]) -> list[int]:
        tried.append(len(items))
        if len(items) > fits:
            raise fail()
        return [item * item for item in items]

    return work


@pytest.mark.parametrize("fail", FAILURES.values(), ids=FAILURES.keys())
@pytest.mark.parametrize("fits", [1, 2, 3, 5, 100])
def test_halves_until_it_fits(fits: int, fail: Callable[[], Exception]) -> None:
    tried: list[int] = []
    sizes = rows_of([10] * 11)
    assert in_batches(squares(fits, fail, tried), range(11), sizes, LARGE) == [item * item for item in range(11)]
    assert tried[0] == 11 and sum(size for size in tried if size <= fits) == 11


def test_what_did_not_fit_once_is_not_tried_again() -> None:
    tried: list[int] = []
    budget = Budget(800)
    work = squares(5, FAILURES["cuda"], tried)
    for _ in range(2):
        assert in_batches(work, range(40), rows_of([10] * 40), budget) == [item * item for item in range(40)]
    assert budget.tokens == 50
    assert tried == [40, 20, 10, *[5] * 8, *[5] * 8], "the second time nothing fails"


@given(sizes_strategy.filter(len), st.integers(1, 400), st.integers(20, 2000))
def test_any_mixture_of_sizes_is_done_once_and_in_order(sizes: list[Size], fits: int, tokens: int) -> None:
    done: list[int] = []
    budget = Budget(tokens)

    def work(items: Sequence[int]) -> list[int]:
        taken = sum(sizes[i].rows for i in items) * max(sizes[i].length for i in items)
        if taken > fits and len(items) > 1:
            raise MemoryError
        done.extend(items)
        return [-item for item in items]

    assert in_batches(work, range(len(sizes)), sizes, budget) == [-item for item in range(len(sizes))]
    assert sorted(done) == list(range(len(sizes)))
    assert 1 <= budget.tokens <= tokens


def test_no_items_are_no_work() -> None:
    def refuse(_sizes: Sequence[Size], _budget: int) -> list[list[int]]:
        raise AssertionError("there is nothing to lay out")

    assert in_batches(squares(1, MemoryError, []), [], [], 8, layout=refuse) == []


def test_a_layout_that_ignores_the_budget_is_halved_all_the_same() -> None:
    tried: list[int] = []
    work = squares(3, MemoryError, tried)
    found = in_batches(work, range(8), rows_of([1] * 8), 8, layout=lambda sizes, _: [list(range(len(sizes)))])
    assert found == [item * item for item in range(8)]


def test_a_failed_attempt_is_let_go_before_the_next() -> None:
    kept: list[weakref.ref[torch.Tensor]] = []

    def deep(items: Sequence[int]) -> list[int]:
        activations = torch.zeros(1000)
        activations.cycle = [activations]  # type: ignore[attr-defined]  # as graphs and hooks have them
        assert all(ref() is None for ref in kept)
        if len(items) > 2:
            kept.append(weakref.ref(activations))
            raise torch.OutOfMemoryError
        return list(items)

    assert in_batches(deep, range(9), rows_of([1] * 9), LARGE) == list(range(9))
    assert len(kept) == 2


def test_one_item_that_does_not_fit_is_one_clear_error() -> None:
    def work(_items: Sequence[int]) -> list[int]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation")

    with pytest.raises(UserError) as caught:
        in_batches(work, range(4), [Size(3, 40)] * 4, LARGE)
    assert caught.value.what.startswith("out of memory with 3 rows of up to 40 tokens")
    assert caught.value.where == "CUDA out of memory. Tried to allocate 2.00 GiB."
    assert all(word in str(caught.value.hint) for word in ("bfloat16", "device_map=auto", "batch_tokens"))


def test_an_item_that_does_not_fit_inside_another_loop_makes_the_outer_one_smaller() -> None:
    def inner(items: Sequence[int], left: int) -> list[int]:
        return in_batches(squares(0 if left > 2 else 9, MemoryError, []), items, rows_of([1] * len(items)), LARGE)

    found = in_batches(lambda items: inner(items, len(items)), range(7), rows_of([1] * 7), LARGE)
    assert found == [item * item for item in range(7)]


@pytest.mark.parametrize("error", [ValueError("a bug"), RuntimeError("mat1 and mat2"), OSError("out of memory cards")])
def test_other_errors_are_passed_on_at_once(error: Exception) -> None:
    tried: list[int] = []

    def work(items: Sequence[int]) -> list[int]:
        tried.append(len(items))
        raise error

    with pytest.raises(type(error), match=str(error)):
        in_batches(work, range(8), rows_of([1] * 8), LARGE)
    assert tried == [8]


class TestInTheEngine:
    """Every loop over batches survives a model that has room for few tokens only, and remembers it."""

    ROOM = 100
    """Padded tokens in a pass; the largest problem has 4 rows of up to 34 tokens, so a bit more for it."""

    @pytest.fixture(params=["llama", "gpt2"])
    def whole(self, request: pytest.FixtureRequest, tiny_model: Callable[..., EditableModel]) -> EditableModel:
        return tiny_model(request.param, "float64")

    @pytest.fixture
    def cramped(self, whole: EditableModel, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, str], list[int]]:
        """``cramped(tokens, kind)``: let larger passes fail from now on; returns the sizes of those that did."""
        forward, failed = whole.hf.forward, []

        def limit(tokens: int, kind: str) -> list[int]:
            def limited(*args: Any, **kwargs: Any) -> Any:
                if kwargs["attention_mask"].numel() > tokens:
                    failed.append(kwargs["attention_mask"].numel())
                    raise FAILURES[kind]()
                return forward(*args, **kwargs)

            monkeypatch.setattr(whole.hf, "forward", limited)
            return failed

        return limit

    @pytest.mark.parametrize("kind", rest_slow(FAILURES, ["cuda"]))
    def test_values(self, whole: EditableModel, cramped: Callable[[int, str], list[int]], kind: str) -> None:
        problems = [problem(whole, request) for request in REQUESTS]
        size = max(len(p.rows) * max(len(row.ids) for row in p.rows) for p in problems)
        want = optimise(whole, problems, objective(), 2, "mlp", budget=LARGE)
        failed, budget = cramped(size, kind), Budget(LARGE)
        got = optimise(whole, problems, objective(), 2, "mlp", budget=budget)
        again = optimise(whole, problems[::-1], objective(), 2, "mlp", budget=budget)[::-1]
        assert failed and budget.tokens < max(failed)
        assert len(failed) == len(set(failed)), "no size fails twice"
        for one, two, three in zip(want, got, again, strict=True):
            assert relative(two.delta, one.delta) < 1e-10 and relative(three.delta, one.delta) < 1e-10
            assert two.losses == pytest.approx(one.losses, rel=1e-9)

    @pytest.mark.parametrize("kind", rest_slow(FAILURES, ["cuda"]))
    def test_answers(self, whole: EditableModel, cramped: Callable[[int, str], list[int]], kind: str) -> None:
        asked = [TargetQuery(prompt, target) for prompt in PROMPTS for target in TARGETS]
        asked += [TopTokensQuery(PROMPTS[0], 3), InstructionQuery("Where is it?", 6), InstructionQuery("Who?", 6)]
        edits = edits_of(whole)
        want = answer(whole, [asked] * len(edits), edits, budget=LARGE)
        failed, budget = cramped(self.ROOM, kind), Budget(LARGE)
        for _ in range(2):
            assert_same_answers(answer(whole, [asked] * len(edits), edits, budget=budget), want, rel=1e-9, abs=1e-9)
        assert failed and budget.tokens <= max(failed) // 2

    def test_activations(self, whole: EditableModel, cramped: Callable[[int, str], list[int]]) -> None:
        rows = [encode(whole.tokenizer, request.text).ids for request in REQUESTS] * 4
        tokens = [Token(ids, len(ids) - 1 - k % 3) for k, ids in enumerate(rows)]
        site = Site(whole.projection_name(2), "input")
        want = read(whole, tokens, [site], budget=LARGE)[site]
        failed, budget = cramped(self.ROOM, "cpu"), Budget(LARGE)
        assert torch.allclose(read(whole, tokens, [site], budget=budget)[site], want, rtol=1e-12)
        assert torch.allclose(read(whole, tokens, [site], budget=budget)[site], want, rtol=1e-12)
        assert failed and len(failed) == len(set(failed)) and budget.tokens <= max(failed) // 2

    def test_geometry(self, whole: EditableModel, cramped: Callable[[int, str], list[int]]) -> None:
        asked = [GeometryQuery(*fact, ("Who is it?",), (), "subject_last", 0.1, RADII, 3, 5) for fact in FACTS]
        edit = edits_of(whole)[1]
        (want,) = answer(whole, [asked], [edit], budget=LARGE)
        failed, budget = cramped(self.ROOM, "cuda"), Budget(LARGE)
        (got,) = answer(whole, [asked], [edit], budget=budget)
        assert failed and budget.tokens <= max(failed) // 2
        for query in asked:
            assert_same_shape(got[query], want[query], 1e-9, 1e-11)

    def test_a_model_without_room_for_one_row_is_one_error(
        self, whole: EditableModel, cramped: Callable[[int, str], list[int]]
    ) -> None:
        cramped(2, "cpu")
        with pytest.raises(OutOfMemory, match=r"1 row of up to \d+ tokens"):
            answer(whole, [[TargetQuery(PROMPTS[2], TARGETS[0])]], edits_of(whole)[:1], budget=LARGE)
        with pytest.raises(OutOfMemory, match=r"4 rows of up to \d+ tokens"):
            optimise(whole, [problem(whole, REQUESTS[0])], objective(), 2, "mlp", budget=LARGE)
