"""What a run could change about a loaded model without anybody noticing: weights, hooks, modes.

Editing writes nothing into a model, so that the next run may use it. That is looked at here, not believed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any, Final

import torch
from torch import Tensor, nn

from ke_cli.models.editable import EditableModel

PLAIN: Final = (bool, int, float, str, NoneType)
HOOKS: Final = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
TOKENIZER: Final = ("chat_template", "padding_side", "truncation_side", "pad_token", "bos_token", "eos_token")

INTEGERS: Final[dict[int, torch.dtype]] = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""The integers of as many bytes, as which the bits of a number are read."""

CHUNK: Final = 1 << 24
"""Entries summed at once, so that little memory is taken beside the weights."""


@dataclass(frozen=True)
class ModelState:
    """A model as it is at one moment.

    Args:
        parts: What was looked at (``weights of transformer.wte``, ``hooks of lm_head``) to what it was.
    """

    parts: Mapping[str, Any]

    @classmethod
    def of(cls, model: EditableModel) -> ModelState:
        """Look at a model; every weight is read once."""
        return cls(dict(_parts(model)))

    def changed(self, since: ModelState) -> str | None:
        """The first thing that is not as it was; None if everything is."""
        names = dict.fromkeys([*since.parts, *self.parts])
        return next((name for name in names if since.parts.get(name) != self.parts.get(name)), None)


def _parts(model: EditableModel) -> Iterator[tuple[str, Any]]:
    for name, tensor in [*model.hf.named_parameters(), *model.hf.named_buffers()]:
        yield f"the weights {name}", _content(tensor)
    for name, module in model.hf.named_modules():
        place = name or "the whole model"
        yield f"the hooks of {place}", [len(getattr(module, hooks)) for hooks in HOOKS]
        yield f"the settings of {place}", _settings(module)
    for part in ("config", "generation_config"):
        held: Any = getattr(model.hf, part, None)
        yield f"its {part}", held and held.to_json_string(use_diff=False)
    tokens = model.tokenizer
    yield "the tokenizer", [len(tokens), *(getattr(tokens, name, None) for name in TOKENIZER)]


def _content(tensor: Tensor) -> tuple[Any, ...]:
    """Place, form and a sum of a tensor; parts that are off-loaded lie in files or on the host and are not read."""
    where = (tensor.shape, tensor.dtype, tensor.device, tensor.data_ptr(), tensor.requires_grad, tensor.grad is None)
    return where if tensor.device.type == "meta" else (*where, checksum(tensor))


@torch.no_grad()
def checksum(tensor: Tensor) -> int:
    """A sum over the bits of a tensor, each entry weighted by its place, modulo 2**64.

    Exact, unlike a sum of the numbers: any single change shows, and so does an exchange of two entries.
    """
    bits = tensor.detach().contiguous().reshape(-1).view(INTEGERS[tensor.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for number, part in enumerate(torch.split(bits, CHUNK)):
        places = torch.arange(len(part), device=tensor.device).mul_(2).add_(2 * number * CHUNK + 1)
        total += places.mul_(part).sum()
    return int(total)


def _settings(module: nn.Module) -> dict[str, Any]:
    """Class and plain attributes of a module (``training`` is one), and the names of all others."""
    own = vars(module)
    plain = {name: value for name, value in own.items() if isinstance(value, PLAIN)}
    return {"class": type(module), "names": sorted(own), **plain}
