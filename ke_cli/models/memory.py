"""Memory of the host (control groups of containers and batch systems included) and of devices: free, and run out of."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from ke_cli.errors import UserError

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
MEMINFO = Path("/proc/meminfo")

FILES = {  # by version of the control groups: limit, use, and the part of the use that is cache files
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


SIGNS = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "unable to mmap",
    "bad_alloc",
    "STATUS_ALLOC_FAILED",
)
"""Parts of the messages with which allocations fail that have no exception of their own (CPU, cuBLAS, MPS)."""


class OutOfMemory(UserError):
    """A single item does not fit into memory."""


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on whatever device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError | OutOfMemory):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


def release_unused() -> None:
    """Give back what nothing refers to any longer, so that it can be allocated anew."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on a device, those that torch holds unused included."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + unused)
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return host_memory()


def host_memory() -> int:
    """Bytes that this process can still take on the host: what is available, or less where a group is limited."""
    return min([_available(MEMINFO), *_left_in_groups(MEMBERSHIP, CGROUPS)])


def _available(meminfo: Path) -> int:
    """``MemAvailable``; half of the physical memory where the system does not tell."""
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text(encoding="ascii").splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError, IndexError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _left_in_groups(membership: Path, root: Path) -> Iterator[int]:
    """What every control group that this process is in, or that these are in, still allows; limits are nested."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        version = 2 if number == "0" and not controllers else 1
        if version == 1 and "memory" not in controllers.split(","):
            continue
        top = root if version == 2 else root / "memory"
        group = top / path.lstrip("/")  # inside a container it may not exist: its own group is then the top
        for folder in (group, *group.parents):
            left = _left(folder, version)
            if left is not None:
                yield left
            if folder == top:
                break


def _left(group: Path, version: int) -> int | None:
    """What one group still allows; None where it is not limited. Cache files make way when memory is needed."""
    limit, use, cache = FILES[version]
    try:
        allowed, used = (int((group / name).read_text(encoding="ascii")) for name in (limit, use))
        statistics = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        return max(0, allowed - used + int(statistics.get(cache, 0)))
    except (OSError, ValueError):  # no such file, or the word "max"
        return None
