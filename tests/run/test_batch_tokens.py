"""``batch_tokens``: what a run takes, what it says about it, and what happens when memory runs out on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ke_cli.config import compose_run
from ke_cli.engine import forward
from ke_cli.running.partition import LARGEST, SMALLEST
from ke_cli.running.plan import make_plan
from marks import rest_slow
from run.commands import Command, arguments, only_run, record_of

FACTS = ("dataset.limit=4",)


def test_auto_is_the_default_and_the_record_says_what_it_came_to(
    ke_run: Command, outputs: Path, tiny_gpt2_dir: Path
) -> None:
    assert ke_run(*arguments(tiny_gpt2_dir, "rome", *FACTS)).code == 0
    record = record_of(only_run(outputs))
    assert record["config"]["batch_tokens"] == "auto" and "batch_tokens" not in record["identity"]
    found = record["batch_tokens"]
    assert (found["tokens"], found["source"], found["least"]) == (8192, "estimated", 8192)
    assert found["bytes_per_token"] > 1000 and found["room_bytes"] > 10**8


def test_a_number_is_taken_as_it_is(ke_run: Command, outputs: Path, tiny_gpt2_dir: Path) -> None:
    assert ke_run(*arguments(tiny_gpt2_dir, "rome", *FACTS, "batch_tokens=700")).code == 0
    found = record_of(only_run(outputs))["batch_tokens"]
    assert (found["tokens"], found["source"], found["least"]) == (700, "given", 700)


def test_memory_that_runs_out_costs_no_result_and_is_recorded(
    ke_run: Command, outputs: Path, tiny_gpt2_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = arguments(tiny_gpt2_dir, "memit", *FACTS)
    assert ke_run(*given, "output_dir=plenty").code == 0
    whole, failed = forward.Padded.of, []

    def limited(rows: Any, device: torch.device) -> Any:
        size = len(rows) * max(map(len, rows))
        if size > 400:
            failed.append(size)
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")
        return whole(rows, device)

    monkeypatch.setattr(forward.Padded, "of", limited)
    assert ke_run(*given, "unedited_cache=false").code == 0
    want, got = (record_of(only_run(Path(folder))) for folder in ("plenty", outputs))
    assert failed and got["counts"] == want["counts"] and got["status"] == "complete"
    assert got["batch_tokens"]["least"] <= max(failed) // 2 < got["batch_tokens"]["tokens"]


@pytest.mark.parametrize(("tokens", "units"), [(1, 1), (256, 1), (512, 2), (4096, 16), (10**6, SMALLEST)])
def test_units_between_two_writes(tokens: int, units: int, tiny_gpt2_dir: Path) -> None:
    plan = make_plan(compose_run(arguments(tiny_gpt2_dir, "none", "dataset.limit=40")))
    assert plan.package(tokens) == units
    assert [len(package) for package in plan.packages(tokens)] == [units] * (40 // units) + [8] * (units == 16)


def test_a_large_run_has_larger_packages(tiny_gpt2_dir: Path) -> None:
    plan = make_plan(compose_run(arguments(tiny_gpt2_dir, "none", "dataset.limit=null")))
    assert len(plan.units) >= 512
    assert SMALLEST < plan.package(10**6) <= LARGEST


@pytest.mark.parametrize("tiny_dir", rest_slow(["gpt2", "llama"], ["llama"]), indirect=True)
def test_auto_is_the_same_for_all_methods_and_says_so_before_the_model_is_loaded(
    ke_run: Command, tiny_dir: Path
) -> None:
    found = {}
    for method in ("none", "rome", "memit"):
        given = arguments(tiny_dir, method, "method.layers=[4]" if method == "rome" else "seed=0")
        expected = make_plan(compose_run(given)).expected_budget()
        assert ke_run(*given, f"output_dir={method}").code == 0
        found[method] = record_of(only_run(Path(method)))["batch_tokens"]
        assert expected is not None and expected.tokens == found[method]["tokens"]
    assert found["none"] == found["rome"] == found["memit"]


def test_a_budget_is_only_expected_where_the_device_is(tiny_gpt2_dir: Path) -> None:
    plan = make_plan(compose_run(arguments(tiny_gpt2_dir, "none", "device=cuda:7")))
    assert plan.expected_budget() is None
    assert plan.source.device == "cuda:7"
