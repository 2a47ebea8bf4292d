"""Edits attached to rows are edits merged into the weights; nothing is left behind."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from ke_cli.engine.edits import NO_EDIT, Dense, Edit, LowRank, attached, merged, sum_of
from ke_cli.engine.forward import Padded, run
from ke_cli.engine.tokens import encode
from ke_cli.models.editable import EditableModel

from .benches import PROMPTS, assert_untouched, state_hash


def low_rank(model: EditableModel, layer: int, rank: int, seed: int, size: float = 0.3) -> Edit:
    generator = torch.Generator().manual_seed(seed)
    name = model.projection_name(layer)
    out, into = model.weight(name).shape
    left = size * torch.randn(out, rank, generator=generator, dtype=torch.float64)
    right = size * torch.randn(rank, into, generator=generator, dtype=torch.float64)
    return Edit({name: LowRank(left.to(model.dtype), right.to(model.dtype))}, {"loss": 0.5, "steps": seed})


def dense(model: EditableModel, layer: int, seed: int) -> Edit:
    edit = low_rank(model, layer, 8, seed)
    return Edit({name: Dense(update.delta()) for name, update in edit.updates.items()})


def rows_of(model: EditableModel) -> Padded:
    return Padded.of([encode(model.tokenizer, text).ids for text in PROMPTS], model.device)


@torch.no_grad()
def logits(model: EditableModel, rows: Padded, row: int | None = None) -> Tensor:
    chosen = rows if row is None else Padded(rows.ids[row : row + 1], rows.mask[row : row + 1])
    found: Tensor = run(model, chosen).logits
    return found


def edits_of(model: EditableModel) -> list[Edit]:
    """No edit, one layer, the same layer at another rank, several layers."""
    two = sum_of(low_rank(model, 1, 1, 3), low_rank(model, 4, 2, 4))
    return [NO_EDIT, low_rank(model, 2, 1, 1), low_rank(model, 2, 3, 2), two]


def assert_rows_are_merged(model: EditableModel, edits: Sequence[Edit], owners: Sequence[int]) -> None:
    """Every row of one attached batch says what the model with that row's edit in its weights says."""
    rows = rows_of(model)
    with attached(model, edits, owners):
        got = logits(model, rows)
    plain = logits(model, rows)
    for row, owner in enumerate(owners):
        with merged(model, edits[owner]):
            want = logits(model, rows, row)[0]
        torch.testing.assert_close(got[row], want, rtol=1e-9, atol=1e-9)
        assert (edits[owner].rank == 0) == torch.allclose(want, plain[row])


@pytest.mark.parametrize("owners", [(0, 1, 2, 3, 1, 0), (3, 3, 3, 3, 3, 3), (0, 0, 0, 0, 0, 0), (2, 1, 3, 0, 2, 3)])
def test_every_row_runs_with_its_own_edit(exact_model: EditableModel, owners: tuple[int, ...]) -> None:
    before = state_hash(exact_model.hf)
    assert_rows_are_merged(exact_model, edits_of(exact_model), owners)
    assert_untouched(exact_model, before)


def test_one_edit_for_all_rows(exact_model: EditableModel) -> None:
    for edit in (low_rank(exact_model, 3, 2, 5), dense(exact_model, 3, 5)):
        assert_rows_are_merged(exact_model, [edit], [0] * 6)


def test_dense_and_low_rank_and_no_edit_mixed(exact_model: EditableModel) -> None:
    model = exact_model
    edits = [dense(model, 2, 1), low_rank(model, 2, 1, 2), NO_EDIT, dense(model, 0, 3), low_rank(model, 0, 2, 4)]
    assert_rows_are_merged(model, edits, [0, 1, 2, 3, 4, 0])


def test_rows_as_a_tensor(exact_model: EditableModel) -> None:
    rows = rows_of(exact_model)
    edits, owners = edits_of(exact_model), [0, 1, 2, 3, 2, 1]
    with attached(exact_model, edits, owners):
        want = logits(exact_model, rows)
    with attached(exact_model, edits, torch.tensor(owners)):
        assert torch.equal(logits(exact_model, rows), want)


def test_float32(model: EditableModel) -> None:
    rows = rows_of(model)
    edits = edits_of(model)
    with attached(model, edits, [3, 2, 1, 0, 1, 2]):
        got = logits(model, rows)
    for row, owner in enumerate((3, 2, 1, 0, 1, 2)):
        with merged(model, edits[owner]):
            torch.testing.assert_close(got[row], logits(model, rows, row)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["low rank", "dense", "mixed"])
def test_sum(exact_model: EditableModel, kind: str) -> None:
    model = exact_model
    first = dense(model, 2, 1) if kind == "dense" else low_rank(model, 2, 1, 1)
    second = low_rank(model, 2, 2, 2) if kind == "low rank" else dense(model, 2, 2)
    other = low_rank(model, 4, 1, 3)
    both = sum_of(sum_of(first, second), other)
    name, far = model.projection_name(2), model.projection_name(4)
    assert set(both.updates) == {name, far}
    torch.testing.assert_close(both.updates[name].delta(), first.updates[name].delta() + second.updates[name].delta())
    assert isinstance(both.updates[name], LowRank if kind == "low rank" else Dense)
    assert both.rank == (3 if kind == "low rank" else 48)
    rows = rows_of(model)
    with attached(model, [both], [0] * 6):
        got = logits(model, rows)
    with merged(model, first), merged(model, second), merged(model, other):
        torch.testing.assert_close(got, logits(model, rows), rtol=1e-9, atol=1e-9)
    assert sum_of(NO_EDIT, first).updates == dict(first.updates)
    assert sum_of(first, NO_EDIT).info == first.info


def test_norms_and_ranks(exact_model: EditableModel) -> None:
    one, matrix = low_rank(exact_model, 1, 3, 1), dense(exact_model, 2, 2)
    both = sum_of(one, matrix)
    norms = [float(update.delta().norm()) for update in both.updates.values()]
    assert both.norm == pytest.approx(math.hypot(*norms), rel=1e-12)
    assert (NO_EDIT.norm, NO_EDIT.rank, NO_EDIT.is_low_rank, NO_EDIT.is_finite()) == (0.0, 0, True, True)
    assert one.is_low_rank and not both.is_low_rank


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_not_finite(exact_model: EditableModel, value: float) -> None:
    name = exact_model.projection_name(0)
    good, bad = torch.ones(48, 1), torch.ones(48, 1)
    bad[3] = value
    assert Edit({name: LowRank(good, good.T)}).is_finite()
    assert not Edit({name: LowRank(bad, good.T)}).is_finite()
    assert not Edit({name: LowRank(good, bad.T)}).is_finite()
    assert not Edit({name: Dense(good), "other": Dense(bad)}).is_finite()


def test_merged_writes_and_takes_back_every_bit(model: EditableModel) -> None:
    before = state_hash(model.hf)
    edit = sum_of(low_rank(model, 1, 1, 1), dense(model, 3, 2))
    with merged(model, edit):
        for name in edit.updates:
            inside = model.weight(name).clone()
            assert state_hash(model.hf) != before
            assert inside.shape == edit.updates[name].delta().shape
    assert_untouched(model, before)


def test_exceptions_leave_nothing_behind(model: EditableModel) -> None:
    before = state_hash(model.hf)
    edit = sum_of(low_rank(model, 1, 1, 1), dense(model, 3, 2))
    for context in (merged(model, edit), attached(model, [edit], [0] * 6)):
        with pytest.raises(ZeroDivisionError), context:
            raise ZeroDivisionError
        assert_untouched(model, before)
    wrong = Edit({model.projection_name(1): Dense(torch.ones(3, 3)), model.projection_name(2): Dense(torch.ones(2, 2))})
    with pytest.raises(RuntimeError), merged(model, wrong):
        raise AssertionError("a matrix of the wrong shape was written")
    assert_untouched(model, before)
    missing = Edit({**low_rank(model, 1, 1, 1).updates, "nowhere": Dense(torch.ones(1, 1))})
    with pytest.raises(AttributeError), attached(model, [missing], [0]):
        raise AssertionError("an edit of no module was attached")
    assert_untouched(model, before)


def test_merging_a_float32_edit_into_a_float64_model(exact_model: EditableModel) -> None:
    """The weights must not be rounded to the data type of the change."""
    name = exact_model.projection_name(2)
    out, into = exact_model.weight(name).shape
    tiny = Edit({name: LowRank(torch.zeros(out, 1), torch.zeros(1, into))})
    exact_weight = exact_model.weight(name).clone()
    noise = 1e-12 * torch.randn(out, into, dtype=torch.float64)
    with torch.no_grad():
        exact_model.weight(name).add_(noise)
        want = exact_model.weight(name).clone()
    try:
        with merged(exact_model, tiny):
            assert torch.equal(exact_model.weight(name), want)
    finally:
        with torch.no_grad():
            exact_model.weight(name).copy_(exact_weight)


def test_attached_edits_reach_gradients(exact_model: EditableModel) -> None:
    """Fine-tuning trains the matrix of an attached dense edit."""
    name = exact_model.projection_name(2)
    matrix = torch.zeros(exact_model.weight(name).shape, dtype=torch.float64, requires_grad=True)
    rows = rows_of(exact_model)
    with attached(exact_model, [Edit({name: Dense(matrix)})], [0] * 6):
        run(exact_model, rows).logits[0, 0].sum().backward()
    assert matrix.grad is not None and float(matrix.grad.norm()) > 0
