"""Free memory as containers, batch systems and the kernel tell it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ke_cli.models import memory
from ke_cli.models.memory import host_memory, ran_out_of_memory, total_memory

GIB = 2**30


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 10 GiB and no control groups."""
    (tmp_path / "meminfo").write_text(f"MemTotal: {10 * GIB // 1024} kB\nMemAvailable:   99 kB\n", encoding="ascii")
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "cgroup")
    return tmp_path


def group(folder: Path, limit: str, *, version: int = 2) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / memory.LIMITS[version]).write_text(f"{limit}\n", encoding="ascii")


def test_without_groups_it_is_what_is_installed_however_much_is_in_use(host: Path) -> None:
    assert host_memory() == 10 * GIB == total_memory(torch.device("cpu"))
    (host / "membership").write_text("0::/nowhere\n", encoding="ascii")
    assert host_memory() == 10 * GIB


def test_the_tightest_of_nested_groups_counts(host: Path) -> None:
    (host / "membership").write_text("1:cpu:/\n0::/job/step\n", encoding="ascii")
    group(host / "cgroup" / "job" / "step", "max")
    assert host_memory() == 10 * GIB
    group(host / "cgroup" / "job", str(8 * GIB))
    assert host_memory() == 8 * GIB
    group(host / "cgroup" / "job" / "step", str(4 * GIB))
    assert host_memory() == 4 * GIB
    group(host / "cgroup", str(2 * GIB))  # as the top of a container is its own group
    assert host_memory() == 2 * GIB


def test_the_first_version_of_groups(host: Path) -> None:
    (host / "membership").write_text("8:cpu,memory:/docker/abc\n4:pids:/x\n0::/\n", encoding="ascii")
    group(host / "cgroup" / "memory", str(2**63 - 4096), version=1)
    assert host_memory() == 10 * GIB
    group(host / "cgroup" / "memory" / "docker" / "abc", str(6 * GIB), version=1)
    assert host_memory() == 6 * GIB


def test_a_system_that_does_not_tell(host: Path) -> None:
    (host / "meminfo").write_text("nothing\n", encoding="ascii")
    assert GIB // 8 < host_memory() < 2**50


def test_this_machine_says_the_same_when_asked_again_with_memory_taken() -> None:
    before = host_memory()
    taken = torch.ones(2**24)
    assert 0 < before == host_memory() < 2**50 and taken.sum() == 2**24


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (memory.OutOfMemory("one row"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("size mismatch"), False),
        (ValueError("out of memory"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_which_errors_say_that_memory_ran_out(error: BaseException, expected: bool) -> None:
    assert ran_out_of_memory(error) is expected


def test_an_allocation_that_really_fails() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**62, dtype=torch.uint8)
    assert ran_out_of_memory(caught.value)
