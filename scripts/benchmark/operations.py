"""Floating-point operations, counted as they are computed.

PyTorch's counter knows matrix products and the attention kernels of GPUs. Added here are the attention kernel of CPUs
and the dense solves, with the leading terms of the textbooks (Golub and Van Loan, Matrix Computations). Element-wise
work is not counted by either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

R = TypeVar("R")
Dims = Sequence[int]
aten = torch.ops.aten


def _attention(query: Dims, key: Dims, value: Dims, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def _attention_backward(grad: Dims, query: Dims, key: Dims, value: Dims, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(grad, query, key, value))  # type: ignore[no-untyped-call]


def _cholesky(matrix: Dims, *_: Any, **__: Any) -> int:
    return math.prod(matrix[:-2]) * matrix[-1] ** 3 // 3


def _cholesky_solve(right: Dims, factor: Dims, *_: Any, **__: Any) -> int:
    return 2 * math.prod(right) * factor[-1]


def _triangular_solve(_factor: Dims, right: Dims, *_: Any, **__: Any) -> int:
    return math.prod(right) * right[-2]


def _solve(matrix: Dims, right: Dims, *_: Any, **__: Any) -> int:
    factoring = math.prod(matrix[:-2]) * 2 * matrix[-1] ** 3 // 3
    return factoring + 2 * math.prod(right) * matrix[-1]


def _inverse(matrix: Dims, *_: Any, **__: Any) -> int:
    return math.prod(matrix[:-2]) * 2 * matrix[-1] ** 3


def _factored(matrix: Dims, *_: Any, **__: Any) -> int:
    return math.prod(matrix[:-2]) * 2 * matrix[-1] ** 3 // 3


def _eigen(matrix: Dims, *_: Any, **__: Any) -> int:
    return math.prod(matrix[:-2]) * 9 * matrix[-1] ** 3


def formulas() -> dict[Any, Callable[..., int]]:
    """What PyTorch's counter lacks, by operator."""
    return {
        aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
        aten.linalg_cholesky_ex: _cholesky,
        aten.cholesky_solve: _cholesky_solve,
        aten.linalg_solve_triangular: _triangular_solve,
        aten._linalg_solve_ex: _solve,
        aten.linalg_inv_ex: _inverse,
        aten.linalg_lu_factor_ex: _factored,
        aten._linalg_eigh: _eigen,
    }


@dataclass(frozen=True)
class Counted(Generic[R]):
    """What a piece of work returned, and the floating-point operations it took."""

    result: R
    flops: int


def counted(work: Callable[[], R]) -> Counted[R]:
    """Do the work once and count."""
    with FlopCounterMode(display=False, custom_mapping=formulas()) as counter:
        result = work()
    return Counted(result, int(counter.get_total_flops()))
