"""Edits as bytes: a safetensors file that says what it is about, and the way back.

A file holds ``<module>::left`` and ``<module>::right``, or ``<module>::dense``, for each changed projection, and one
entry of metadata, a JSON object. The same edit always becomes the same bytes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ke_cli.engine.edits import Dense, Edit, LowRank, Update, tensors_of
from ke_cli.models.architectures import projection_shape
from ke_cli.models.editable import EditableModel

FORMAT: Final = "ke-run-edit-2"
"""Changes when a file begins to mean something else."""

KEY: Final = "ke-run"
"""The one entry of metadata: several would be written in an order that changes from process to process."""


def pack(edit: Edit, about: Mapping[str, Any]) -> bytes:
    """Return an edit as the content of a safetensors file.

    Args:
        edit: The edit.
        about: What else the file should tell; plain JSON values.
    """
    tensors = {
        f"{name}::{part}": tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, update in edit.updates.items()
        for part, tensor in tensors_of(update).items()
    }
    told = {"format": FORMAT, "about": dict(about), "info": dict(edit.info), "modules": list(edit.updates)}
    return save(tensors, metadata={KEY: json.dumps(told, sort_keys=True)})


def unpack(content: bytes) -> tuple[Edit, dict[str, Any]]:
    """Return the edit and what `pack` was told about it.

    Raises:
        ValueError: The content is not what `pack` returns.
    """
    try:
        tensors = load(content)
        told = _told(content)
        if told["format"] != FORMAT:
            raise ValueError(f"its format is {told['format']!r:.40}, not {FORMAT}")
        return Edit(_updates(tensors, list(told["modules"])), dict(told["info"])), dict(told["about"])
    except (SafetensorError, KeyError, TypeError, RecursionError, struct.error) as error:
        raise ValueError(f"it is no file of an edit ({type(error).__name__}: {error})") from error


def _told(content: bytes) -> dict[str, Any]:
    """The metadata; the length of the header, 8 bytes, comes first in the file."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    told = json.loads(header["__metadata__"][KEY])
    if not isinstance(told, dict):
        raise ValueError("what it says about itself is not an object")
    return told


def _updates(tensors: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Update]:
    """Put the matrices of each projection together again, in the order of ``names``.

    Raises:
        ValueError: They are not the parts of an update, or do not fit together.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, part = key.rpartition("::")
        if tensor.dim() != 2 or not tensor.is_floating_point():
            raise ValueError(f"{key} is not a matrix of numbers")
        parts.setdefault(name, {})[part] = tensor
    if sorted(parts) != sorted(names):
        raise ValueError("it changes other projections than it says")
    return {name: _update(name, parts[name]) for name in names}


def _update(name: str, parts: Mapping[str, Tensor]) -> Update:
    if parts.keys() == {"dense"}:
        return Dense(parts["dense"])
    if parts.keys() == {"left", "right"} and parts["left"].shape[1] == parts["right"].shape[0]:
        return LowRank(parts["left"], parts["right"])
    raise ValueError(f"the matrices of {name} are not those of an edit")


def misfit(edit: Edit, model: EditableModel) -> str | None:
    """Return why an edit cannot be one of this model, or None if it can."""
    modules = dict(model.hf.named_modules())
    for name, update in edit.updates.items():
        module = modules.get(name)
        if not isinstance(module, nn.Linear | Conv1D):
            return f"the model has no projection {name}"
        wanted = projection_shape(module)
        given = _shape(update)
        if given != wanted:
            return f"the change of {name} is {given[0]} x {given[1]}, its weight {wanted[0]} x {wanted[1]}"
    return None


def _shape(update: Update) -> tuple[int, int]:
    """``(d_out, d_in)`` of the change."""
    if isinstance(update, LowRank):
        return update.left.shape[0], update.right.shape[1]
    return update.matrix.shape[0], update.matrix.shape[1]
