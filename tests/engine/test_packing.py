"""An edit that was packed and unpacked is the same edit, to the bit; anything else is refused with a reason."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
import torch
from safetensors.torch import save

from ke_cli.engine.edits import NO_EDIT, Dense, Edit, LowRank, attached, sum_of
from ke_cli.engine.packing import KEY, misfit, pack, unpack
from ke_cli.models.editable import EditableModel

from .test_edits import dense, logits, low_rank, rows_of

ABOUT = {"unit": "../../é\n", "requests": [{"subject": "Zürich"}]}


def mixed(model: EditableModel) -> Edit:
    """A dense change, a low-rank one, and a wider one, in an order that is not that of their names."""
    return sum_of(sum_of(low_rank(model, 3, 3, 1), dense(model, 1, 2)), low_rank(model, 2, 1, 3))


def test_every_bit_comes_back(exact_model: EditableModel) -> None:
    edit = mixed(exact_model)
    again, about = unpack(pack(edit, ABOUT))
    assert (about, dict(again.info), list(again.updates)) == (ABOUT, dict(edit.info), list(edit.updates))
    for name, update in edit.updates.items():
        other = again.updates[name]
        assert type(other) is type(update)
        assert torch.equal(other.delta(), update.delta()) and other.delta().dtype == torch.float64
    assert (again.norm, again.rank) == (edit.norm, edit.rank)
    rows = rows_of(exact_model)
    with attached(exact_model, [edit], [0] * 6):
        want = logits(exact_model, rows)
    with attached(exact_model, [again], [0] * 6):
        assert torch.equal(logits(exact_model, rows), want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_data_type_stays(dtype: torch.dtype) -> None:
    pair = LowRank(torch.randn(6, 2).to(dtype), torch.randn(2, 4).to(dtype))
    update = unpack(pack(Edit({"a": pair}), {}))[0].updates["a"]
    assert isinstance(update, LowRank)
    assert update.left.dtype == dtype and torch.equal(update.left, pair.left) and torch.equal(update.right, pair.right)


def test_no_edit_is_an_edit() -> None:
    edit, about = unpack(pack(NO_EDIT, ABOUT))
    assert (dict(edit.updates), dict(edit.info), about) == ({}, {}, ABOUT)


def test_parts_of_one_tensor_are_packed_alone() -> None:
    """Editors hand out views of what they computed for many units; a file must hold those of its own."""
    whole = torch.randn(8, 40)
    edit = Edit({"a": LowRank(whole[:, :1], whole[:1]), "b": LowRank(whole.T[:, 2:4], whole[2:4, :6])})
    content = pack(edit, {})
    assert len(content) < 4 * (8 + 40 + 80 + 12) + 800
    again = unpack(content)[0]
    assert all(torch.equal(again.updates[name].delta(), edit.updates[name].delta()) for name in "ab")


def test_the_same_edit_is_the_same_bytes(model: EditableModel) -> None:
    edit = mixed(model)
    shuffled = dict(reversed(ABOUT.items()))
    assert pack(edit, ABOUT) == pack(unpack(pack(edit, ABOUT))[0], shuffled)
    assert pack(edit, ABOUT) != pack(low_rank(model, 3, 3, 1), ABOUT)


def packed(told: Any = None, **tensors: torch.Tensor) -> bytes:
    """A file with any tensors, that says anything of itself."""
    said = {"format": "ke-run-edit-2", "about": {}, "info": {}, "modules": ["a"]} if told is None else told
    named = {key.replace("__", "::"): tensor for key, tensor in tensors.items()}
    return save(named, metadata={KEY: json.dumps(said)})


MATRIX = torch.ones(2, 2)
BAD = {
    "nothing": b"",
    "eight bytes": b"\0" * 8,
    "text": b"this is no safetensors file, whatever its name says",
    "torn": packed(a__dense=MATRIX)[:-3],
    "a header that is longer than the file": struct.pack("<Q", 2**40) + b"{}",
    "no metadata": save({"a::dense": MATRIX}),
    "metadata that are no JSON": save({"a::dense": MATRIX}, metadata={KEY: "{"}),
    "metadata that are a list": packed([], a__dense=MATRIX),
    "nested metadata": save({"a::dense": MATRIX}, metadata={KEY: "[" * 100_000}),
    "another format": packed({"format": "other", "about": {}, "info": {}, "modules": ["a"]}, a__dense=MATRIX),
    "nothing about it": packed({"format": "ke-run-edit-2", "info": {}, "modules": ["a"]}, a__dense=MATRIX),
    "info that is a number": packed(
        {"format": "ke-run-edit-2", "about": {}, "info": 3, "modules": ["a"]}, a__dense=MATRIX
    ),
    "another projection": packed(b__dense=MATRIX),
    "a projection too many": packed(a__dense=MATRIX, b__dense=MATRIX + 1),
    "an unknown part": packed(a__middle=MATRIX),
    "half a pair": packed(a__left=MATRIX),
    "a pair that does not fit": packed(a__left=MATRIX + 1, a__right=torch.ones(3, 2)),
    "whole numbers": packed(a__dense=MATRIX.int()),
    "a vector": packed(a__dense=torch.ones(4)),
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_what_is_no_edit_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        unpack(content)


def test_an_edit_of_another_model_does_not_fit(model: EditableModel) -> None:
    assert misfit(mixed(model), model) is None
    assert misfit(NO_EDIT, model) is None
    name = model.projection_name(1)
    out, into = model.weight(name).shape
    assert misfit(Edit({"nowhere": Dense(MATRIX)}), model) == "the model has no projection nowhere"
    norm = next(name for name, module in model.hf.named_modules() if "norm" in name or name.endswith("ln_1"))
    assert misfit(Edit({norm: Dense(MATRIX)}), model) == f"the model has no projection {norm}"
    wrong = Edit({name: LowRank(torch.ones(out, 1), torch.ones(1, into + 1))})
    assert misfit(wrong, model) == f"the change of {name} is {out} x {into + 1}, its weight {out} x {into}"
