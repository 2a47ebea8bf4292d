"""The machine: what it is, how fast it multiplies matrices, and how much memory a piece of work took at its peak."""

from __future__ import annotations

import ctypes
import gc
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"
"""What Linux takes in ``clear_refs`` as the order to forget the highest resident size so far (proc_pid_clear_refs)."""

MATMUL = {"cpu": 2048, "cuda": 8192}
"""Rows of the square matrices whose product says how fast the machine is."""
PRODUCTS = 5
"""Of them at each look."""


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class MatmulRate:
    """How fast the machine multiplies large square matrices.

    Measured again and again between the passes of a benchmark, so that it is about the machine as it is then.

    Args:
        device: Where.
        dtype: Of the entries.
        size: Rows; a size that suits the device by default.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, size: int | None = None) -> None:
        self.device, self.dtype = device, dtype
        self.size = size or MATMUL.get(device.type, MATMUL["cpu"])
        self.seconds: list[float] = []

    def sample(self) -> None:
        """Multiply some times; the first product, which also starts threads and libraries, does not count."""
        left, right = (torch.randn(self.size, self.size, device=self.device).to(self.dtype) for _ in range(2))
        _product_s(left, right)
        self.seconds += [_product_s(left, right) for _ in range(PRODUCTS)]

    @property
    def flops_per_s(self) -> float:
        """The median rate, in floating-point operations per second."""
        return 2 * self.size**3 / statistics.median(self.seconds)


def _product_s(left: Tensor, right: Tensor) -> float:
    synchronise(left.device)
    began = time.perf_counter()
    left @ right
    synchronise(left.device)
    return time.perf_counter() - began


def reset_peak(device: torch.device) -> bool:
    """Give unused memory back and forget the peak so far; False where that is not possible."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return True
    _trim()
    try:
        CLEAR.write_text(RESET_PEAK)
    except OSError:
        return False
    return True


def _trim() -> None:
    """Give freed memory back to the system, so that what one side has used is not counted for the other (glibc)."""
    if platform.system() == "Linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def peak_bytes(device: torch.device) -> int | None:
    """Peak since `reset_peak`: allocated memory of a GPU, or resident memory of this process; None if unknown."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")]
    return found[0] if found else None


def describe(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """The machine in words and numbers, for the report."""
    return {
        "device": str(device),
        "processor": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "dtype": str(dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def processor() -> str:
    """The name of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
