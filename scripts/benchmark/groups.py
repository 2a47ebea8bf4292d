"""Time and operations by kind of operator, for each phase."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmark.clock import Clock
from benchmark.machine import synchronise
from benchmark.operations import formulas
from ke_cli.models.editable import EditableModel

LAYERS = "matrix products of the layers"
HEAD = "matrix products of the head"
ATTENTION = "attention"
SOLVES = "solves (double precision)"
VOCABULARY = "element-wise over the vocabulary"
ELEMENTWISE = "other element-wise work and reductions"
MOVING = "moving and indexing"
GROUPS = (LAYERS, HEAD, ATTENTION, SOLVES, VOCABULARY, ELEMENTWISE, MOVING)

PRODUCTS = {"mm", "addmm", "bmm", "baddbmm"}
REDUCTIONS = {"native_layer_norm", "_log_softmax", "_softmax", "mean", "sum", "argmax", "topk", "linalg_vector_norm"}


@dataclass
class Tally:
    """What operators of one group took in one phase."""

    seconds: float = 0.0
    flops: int = 0
    calls: int = 0


class Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Times every operator on its own and counts its operations.

    The device is waited for before and behind each operator, so on a GPU the sum is more than the time without it;
    what counts there is the shares.

    Args:
        model: Whose vocabulary and precision tell the head and the solves from the rest.
        clock: Whose phase the operators belong to.
    """

    def __init__(self, model: EditableModel, clock: Clock) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.vocabulary, self.dtype = int(model.config.vocab_size), model.dtype
        self.eager = model.config._attn_implementation == "eager"
        self.clock = clock
        self.tallies: dict[tuple[str, str], Tally] = {}
        self._formulas: Mapping[Any, Callable[..., int]] = FlopCounterMode(
            display=False, custom_mapping=formulas()
        ).flop_registry

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        """Run one operator and write down what it took."""
        kwargs = kwargs or {}
        synchronise(self.clock.device)
        began = time.perf_counter()
        out = func(*args, **kwargs)
        synchronise(self.clock.device)
        taken = time.perf_counter() - began
        packet = func._overloadpacket
        tally = self.tallies.setdefault((self.clock.phase, self.group(func, args, kwargs, out)), Tally())
        tally.seconds += taken
        tally.calls += 1
        if packet in self._formulas:
            tally.flops += self._formulas[packet](*args, **kwargs, out_val=out)
        return out

    def group(self, func: Any, args: Any, kwargs: Any, out: Any) -> str:
        """The group of a call."""
        name = func._overloadpacket.__name__
        tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
        if "scaled_dot_product" in name or "_attention_" in name:
            return ATTENTION
        product = name in PRODUCTS
        if "linalg" in name or "cholesky" in name or (product and self._is_double(tensors)):
            return SOLVES
        if product:
            if self.eager and name in ("bmm", "baddbmm"):
                return ATTENTION
            return HEAD if self._over_vocabulary(tensors) else LAYERS
        if torch.Tag.pointwise in func.tags or name.removesuffix("_backward_data") in REDUCTIONS:
            return VOCABULARY if self._over_vocabulary(tensors) else ELEMENTWISE
        return MOVING

    def _is_double(self, tensors: Sequence[Tensor]) -> bool:
        return self.dtype != torch.float64 and any(tensor.dtype == torch.float64 for tensor in tensors)

    def _over_vocabulary(self, tensors: Sequence[Tensor]) -> bool:
        return any(self.vocabulary in tensor.shape for tensor in tensors)

    def by_phase(self) -> Iterator[tuple[str, Tally]]:
        """Sums over the groups."""
        for phase in dict.fromkeys(phase for phase, _ in self.tallies):
            yield phase, _sum([tally for (at, _), tally in self.tallies.items() if at == phase])

    def by_group(self) -> Iterator[tuple[str, Tally]]:
        """Sums over the phases."""
        for group in GROUPS:
            yield group, _sum([tally for (_, kind), tally in self.tallies.items() if kind == group])

    @property
    def flops(self) -> int:
        """Of all operators."""
        return sum(tally.flops for tally in self.tallies.values())


def _sum(tallies: Sequence[Tally]) -> Tally:
    return Tally(sum(t.seconds for t in tallies), sum(t.flops for t in tallies), sum(t.calls for t in tallies))
