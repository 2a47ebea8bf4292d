"""Geometry in shared batches against one plain pass after the other, and against numbers known by hand."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from ke_cli.engine.edits import NO_EDIT, Dense, Edit, LowRank, sum_of
from ke_cli.engine.generation import greedy
from ke_cli.engine.queries import Fact, Geometry, GeometryQuery, TokenQuery
from ke_cli.engine.reading import Site, Token, read
from ke_cli.engine.scoring import answer
from ke_cli.engine.tokens import continuation, encode
from ke_cli.models.editable import EditableModel
from marks import each_once, rest_slow
from tiny import TEXT

from .benches import KINDS, LARGE, REQUESTS, SMALL, assert_untouched, state_hash
from .plain_geometry import geometry, row_of
from .test_edits import low_rank
from .zoo import CONFIGS, HALF_EXACT, zoo_model

FACTS: tuple[Fact, ...] = tuple((r.prompt, r.subject, r.target_new) for r in REQUESTS)
LENA: tuple[Fact, ...] = (FACTS[0], FACTS[2], ("The town in which {} died is", "Lena Vogel", "Oslo"))
"""Facts of one subject: at the beginning, at the end, in the middle of the prompt."""
ASKED = ("Where does Lena Vogel live?", "Who is Tom?", "Does Lena Vogel know where Lena Vogel lives?  ")
RADII = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
QUERY = GeometryQuery(*FACTS[0], ASKED, (), "subject_last", 0.1, RADII, 3, 5)


def queries(facts: Sequence[Fact], **settings: Any) -> list[GeometryQuery]:
    """One query per fact of a unit."""
    return [
        replace(
            QUERY,
            prompt=fact[0],
            subject=fact[1],
            target=fact[2],
            instructions=(*ASKED, f"What of {fact[1]}?"),
            companions=tuple(other for other in facts if other is not fact),
            **settings,
        )
        for fact in facts
    ]


def said(model: EditableModel, edit: Edit, count: int) -> list[Fact]:
    """Facts of one subject whose targets, of two tokens each, the edited model says."""
    found: list[Fact] = []
    words = [word for word in TEXT.split() if word.isalpha()]
    for before, behind in itertools.product(words[::3], words[1::7]):
        template = f"{before} {{}} {behind}"
        row = encode(model.tokenizer, template.replace("{}", "Tom Hollis")).ids
        (new,) = greedy(model, [(row, 0)], [edit], 2, LARGE)
        target = model.tokenizer.decode(new).strip()
        if target and continuation(model.tokenizer, template.replace("{}", "Tom Hollis"), target).targets == tuple(new):
            found.append((template, "Tom Hollis", target))
            if len(found) == count:
                return found
    raise AssertionError("the model says nothing that its tokenizer reads alike")


def tilted(model: EditableModel) -> Edit:
    """Rank 2 at layer 0 and rank 1 at layer 2, small."""
    return sum_of(low_rank(model, 0, 2, 3, size=0.1), low_rank(model, 2, 1, 4, size=0.03))


def as_dense(edit: Edit) -> Edit:
    return Edit({name: Dense(update.delta()) for name, update in edit.updates.items()})


def pinned(model: EditableModel, fact: Fact) -> Edit:
    """The least change of rank one of layer 2 that maps the key of the fact's prompt to a fixed vector."""
    row = row_of(model, fact, "subject_last")
    site = Site(model.projection_name(2), "input")
    key = read(model, [Token(row.ids, row.lookup)], [site], budget=LARGE)[site][0]
    left = torch.linspace(-1, 1, model.width, dtype=torch.float64)[:, None]
    return Edit({site.module: LowRank(left.to(model.dtype), (key / (key @ key))[None].to(model.dtype))})


@cache
def _units(model: EditableModel, lookup: str) -> tuple[tuple[Edit, tuple[GeometryQuery, ...]], ...]:
    def unit(facts: Sequence[Fact], edit: Edit) -> tuple[Edit, tuple[GeometryQuery, ...]]:
        return edit, tuple(queries(facts, lookup=lookup))

    loud = low_rank(model, 2, 2, 9, size=0.1)
    return (
        unit(LENA, pinned(model, LENA[0])),
        unit(said(model, tilted(model), 3), tilted(model)),
        unit(FACTS[3:4], NO_EDIT),
        unit(LENA[::-1], low_rank(model, 0, 3, 7, size=0.1)),
        unit(FACTS[4:], low_rank(model, 2, 3, 8, size=0.05)),
        unit(said(model, loud, 1), loud),
    )


def units(model: EditableModel, lookup: str = "subject_last") -> list[tuple[Edit, list[GeometryQuery]]]:
    """Edits of one and of several layers, of rank 1 and more, of one and of several facts, and none at all."""
    return [(edit, list(asked)) for edit, asked in _units(model, lookup)]


def deltas(model: EditableModel, edit: Edit) -> dict[int, Tensor]:
    names = {model.projection_name(layer): layer for layer in range(model.n_layers)}
    return {names[name]: update.delta() for name, update in edit.updates.items()}


def assert_close(got: Any, want: Any, rel: float, absolute: float) -> None:
    """Compare nested tuples of numbers and None."""
    if isinstance(want, tuple):
        assert len(got) == len(want)
        for ours, theirs in zip(got, want, strict=True):
            assert_close(ours, theirs, rel, absolute)
    else:
        assert got == (None if want is None else pytest.approx(want, rel=rel, abs=absolute))


def assert_same(got: Any, want: Any, rel: float, absolute: float = 0.0) -> None:
    assert isinstance(got, Geometry) and isinstance(want, Geometry)
    for field in fields(Geometry):
        assert_close(getattr(got, field.name), getattr(want, field.name), rel, absolute)


def check(model: EditableModel, pairs: Sequence[tuple[Edit, list[GeometryQuery]]], rel: float, absolute: float) -> Any:
    before = state_hash(model.hf)
    found = answer(model, [asked for _, asked in pairs], [edit for edit, _ in pairs], budget=LARGE)
    for (edit, asked), answers in zip(pairs, found, strict=True):
        assert set(answers) == set(asked)
        for query in asked:
            want = geometry(model, query, deltas(model, edit)) if edit.updates else Geometry()
            assert_same(answers[query], want, rel, absolute)
    assert_untouched(model, before)
    return [answers[query] for answers, (_, asked) in zip(found, pairs, strict=True) for query in asked]


@pytest.mark.parametrize(
    ("exact_model", "lookup"), each_once(KINDS, ["subject_last", "prompt_last"]), indirect=["exact_model"]
)
def test_against_plain_passes(exact_model: EditableModel, lookup: str) -> None:
    found = check(exact_model, units(exact_model, lookup), 1e-8, 1e-11)
    radii = {radius for shape in found for radius in shape.tolerances}
    assert len(radii) > 1, "the grid must matter"
    assert any(not any(shape.tolerances) for shape in found if shape.layers)
    assert {len(shape.layers) for shape in found} == {0, 1, 2}
    assert all(len(shape.drift) in (1, 3) for shape in found if shape.layers)


@pytest.mark.slow
def test_dense_edits_against_plain_passes(exact_model: EditableModel) -> None:
    pairs = [(as_dense(edit) if number % 2 else edit, asked) for number, (edit, asked) in enumerate(units(exact_model))]
    check(exact_model, pairs, 1e-8, 1e-11)


@pytest.mark.parametrize("model", rest_slow(KINDS, ["llama3"]), indirect=True)
def test_float32_against_plain_passes(model: EditableModel) -> None:
    """Rises are differences of losses of a few nats, hence the absolute tolerance."""
    check(model, units(model), 1e-5, 1e-5)


@pytest.mark.parametrize("kind", rest_slow(sorted(CONFIGS), ["falcon", "gemma2"]))
def test_other_architectures(kind: str) -> None:
    model = zoo_model(kind)
    found = check(model, units(model)[:2], 1e-5, 1e-5 if kind in HALF_EXACT else 1e-10)
    assert all(shape.sharpness is not None for shape in found)


@pytest.mark.parametrize(("exact_model", "with_dense"), each_once(KINDS, [False, True]), indirect=["exact_model"])
def test_together_is_alone_under_any_budget(exact_model: EditableModel, with_dense: bool) -> None:
    edits, asked = map(list, zip(*units(exact_model), strict=True))
    edits[1] = as_dense(edits[1]) if with_dense else edits[1]
    together = answer(exact_model, asked, edits, budget=LARGE)
    for budget in (SMALL, 300):
        assert_all_same(answer(exact_model, asked, edits, budget=budget), together)
    alone = [
        {query: answer(exact_model, [[query]], [edit], budget=LARGE)[0][query] for query in one}
        for one, edit in zip(asked, edits, strict=True)
    ]
    assert_all_same(alone, together)


def assert_all_same(got: Sequence[dict[Any, Any]], want: Sequence[dict[Any, Any]]) -> None:
    for ours, theirs in zip(got, want, strict=True):
        assert set(ours) == set(theirs)
        for query, shape in theirs.items():
            assert_same(ours[query], shape, 1e-9, 1e-11)


@pytest.mark.parametrize("exact_model", rest_slow(KINDS, ["gpt2"]), indirect=True)
def test_memory_that_runs_out_only_costs_time(exact_model: EditableModel, monkeypatch: pytest.MonkeyPatch) -> None:
    edits, asked = zip(*units(exact_model), strict=True)
    want = answer(exact_model, asked, edits, budget=LARGE)
    forward = exact_model.hf.forward

    def cramped(*args: Any, **kwargs: Any) -> Any:
        if len(kwargs["input_ids"]) > 3:  # the largest team has three facts
            raise torch.OutOfMemoryError("3 rows at most")
        return forward(*args, **kwargs)

    monkeypatch.setattr(exact_model.hf, "forward", cramped)
    assert_all_same(answer(exact_model, asked, edits, budget=LARGE), want)


def test_several_settings_at_once(exact_model: EditableModel) -> None:
    """Queries with other settings about the same edit, beside a question of another kind."""
    edit, (first, *_) = units(exact_model)[0]
    asked = [first, replace(first, rho=0.3), replace(first, seed=6), replace(first, radii=(0.5,)), TokenQuery("I", 4)]
    (found,) = answer(exact_model, [asked], [edit], budget=LARGE)
    for query in asked[:-1]:
        assert isinstance(query, GeometryQuery)
        assert_same(found[query], geometry(exact_model, query, deltas(exact_model, edit)), 1e-8, 1e-11)
    base, steeper, other = (found[query] for query in asked[:3])
    assert isinstance(base, Geometry) and isinstance(steeper, Geometry) and isinstance(other, Geometry)
    assert steeper.sharpness != base.sharpness == other.sharpness
    assert other.sharpness_random != base.sharpness_random


def test_a_unit_has_one_sharpness(exact_model: EditableModel) -> None:
    edit, asked = units(exact_model)[0]
    (found,) = answer(exact_model, [asked], [edit], budget=LARGE)
    shapes = [shape for shape in found.values() if isinstance(shape, Geometry)]
    assert len(shapes) == 3
    assert len({(shape.sharpness, shape.sharpness_random) for shape in shapes}) == 1
    assert len({shape.loss for shape in shapes}) == 3
    assert all(shape.gradient_cosine is not None and -1 <= shape.gradient_cosine <= 1 for shape in shapes)


def test_half_precision(tiny_model: Any) -> None:
    """Norms and cosines of a bfloat16 model are off by its rounding and no more."""
    exact, rough = tiny_model("llama", "float32"), tiny_model("llama", "bfloat16")
    edit, (query, *_) = units(exact)[0]
    (want,), (got,) = (list(answer(m, [[query]], [edit], budget=LARGE)[0].values()) for m in (exact, rough))
    assert isinstance(got, Geometry) and isinstance(want, Geometry)
    assert_close(got.drift_gain, want.drift_gain, 0.02, 0)
    assert_close(got.drift, want.drift, 0.05, 0)
    assert got.loss == pytest.approx(want.loss, abs=0.1)
    assert got.sharpness == pytest.approx(want.sharpness, abs=0.1)
    assert got.gradient_cosine == pytest.approx(want.gradient_cosine, abs=0.1)
