"""A second device that is none: tensors that compute on the CPU but refuse to meet tensors of another device.

They are where they say until they are moved by ``.to``, as on a machine with several GPUs; numbers are real, so
that what is computed across devices can be compared with what is computed on one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

FAR = torch.device("lazy", 1)
"""Of a kind that torch knows and computes gradients for, but that has no kernels."""

aten = torch.ops.aten
CROSSING = {aten._to_copy.default, aten.copy_.default}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}


class Far(Tensor):
    """A tensor on the far device."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Far:
        wrapper: Far = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=FAR,
            requires_grad=inner.requires_grad,
        )
        wrapper.inner = inner.detach()
        return wrapper

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"Far({self.inner!r})"

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["inner"], None

    @classmethod
    def __tensor_unflatten__(cls, inner: dict[str, Tensor], *_: Any) -> Far:
        return cls(inner["inner"])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


def compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run one operation on the CPU, and say where its result is."""
    goal = kwargs.get("device")
    goal = torch.device(goal) if goal is not None else None
    met = devices_met(func, args, kwargs)
    here = goal or (FAR if FAR in met else torch.device("cpu"))
    if len(met) > 1 and func not in CROSSING:
        raise RuntimeError(f"Expected all tensors to be on the same device, found {met} in {func}")
    plain = {
        name: torch.device("cpu") if name == "device" and value is not None else value for name, value in kwargs.items()
    }
    found = func(*tree_map(unwrapped, args), **tree_map(unwrapped, plain))
    if func in (aten.copy_.default,) or func._schema.is_mutable:
        return args[0] if isinstance(found, Tensor) else found
    if here != FAR:
        return found
    wrapped = tree_map(lambda part: Far(part) if isinstance(part, Tensor) else part, found)
    return return_and_correct_aliasing(func, args, kwargs, wrapped) if FAR in met else wrapped


def devices_met(func: Any, args: Any, kwargs: dict[str, Any]) -> set[torch.device]:
    """Devices of the operands; numbers, and indices on the host, may be used everywhere."""
    if func in INDEXING:
        args = (args[0], [part for part in args[1] if isinstance(part, Far)], *args[2:])
    tensors = [part for part in tree_flatten((args, kwargs))[0] if isinstance(part, Tensor)]
    return {part.device for part in tensors if isinstance(part, Far) or part.dim()}


def unwrapped(part: Any) -> Any:
    return part.inner if isinstance(part, Far) else part


class _Operations(TorchDispatchMode):
    """Catches what no far tensor takes part in: moving there, and making tensors there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


class _Literals(TorchFunctionMode):
    """Tensors of Python numbers are made at home and moved."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.tolist:
            return unwrapped(args[0]).tolist()
        if func is Tensor.__getitem__ and isinstance(args[0], Far) and isinstance(args[1], list):
            args = (args[0], torch.tensor(args[1], dtype=torch.long))
        if func in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu") == FAR:
            made = func(*args, **{**kwargs, "device": args[0].device if isinstance(args[0], Tensor) else None})
            return made.to(FAR)
        return func(*args, **kwargs)


@contextmanager
def far_device() -> Iterator[torch.device]:
    """Let there be a second device."""
    with _Literals(), _Operations():
        yield FAR
