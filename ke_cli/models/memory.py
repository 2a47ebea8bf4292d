"""Memory of devices and of the host (with the limits of containers and batch systems), and signs that it ran out."""

from __future__ import annotations

import gc
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch

from ke_cli.errors import UserError

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
MEMINFO = Path("/proc/meminfo")
STATUS = Path("/proc/self/status")
RESET = Path("/proc/self/clear_refs")

LIMITS = {2: "memory.max", 1: "memory.limit_in_bytes"}
"""The file that says how much a group may take, by version of the control groups."""


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


def broken_device() -> str | None:
    """Why a device that this process computes on does no work any more; None where all do.

    After some errors (an illegal access, a failed assertion, a GPU that dropped off the bus) every call fails until the
    process is started anew.
    """
    if not (torch.cuda.is_available() and torch.cuda.is_initialized()):  # type: ignore[no-untyped-call]
        return None
    for number in range(torch.cuda.device_count()):
        try:
            if torch.cuda.memory_allocated(number):  # a device that is not used must not be woken up
                torch.cuda.synchronize(number)
        except RuntimeError as error:
            return str(error).strip().partition("\n")[0][:300]
    return None


def release_unused() -> None:
    """Give back what nothing refers to any longer, so that it can be allocated anew."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def restart_peak() -> None:
    """Forget the peak so far, so that a run in a process that has done others counts its own; where the system can."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        RESET.write_text("5", encoding="ascii")


def peak_memory() -> int:
    """Bytes taken at most since the last restart: on the GPU where there is one, else by the process on the host."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    with suppress(OSError, ValueError, KeyError, IndexError):
        lines = dict(line.split(":", 1) for line in STATUS.read_text(encoding="ascii").splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def total_memory(device: torch.device) -> int:
    """Bytes that a device has, however many of them are in use: the same whenever it is asked for."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory())
    return host_memory()


def host_memory() -> int:
    """Bytes that this process may take of the host: what is installed, or less where a group is limited."""
    return min([_installed(MEMINFO), *_limits_of_groups(MEMBERSHIP, CGROUPS)])


def _installed(meminfo: Path) -> int:
    """``MemTotal``, or what the C library knows where the system does not tell."""
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text(encoding="ascii").splitlines())
        return int(lines["MemTotal"].split()[0]) * 1024
    except (OSError, ValueError, KeyError, IndexError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _limits_of_groups(membership: Path, root: Path) -> Iterator[int]:
    """The limit of every control group that this process is in, or that these are in; limits are nested."""
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
            limit = _limit(folder / LIMITS[version])
            if limit is not None:
                yield limit
            if folder == top:
                break


def _limit(file: Path) -> int | None:
    """What one group may take; None where it is not limited."""
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such file, or the word "max"
        return None
