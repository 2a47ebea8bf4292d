"""Strict validation: wrong values are refused, all of them at once, in the words of the configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dummies import CHOICES, DummyEditor
from ke_cli.config import Plugin, compose_run
from ke_cli.config.plugins import TargetError, load_target, plugin
from ke_cli.config.validation import dump, validate
from ke_cli.errors import UserError


def problems(cls: type[Any], raw: dict[str, Any]) -> list[str]:
    built, found = validate(cls, raw, "method")
    assert (built is None) == bool(found)
    return [str(problem) for problem in found]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"layers": [1], "steps": "7"}, 'method.steps: expected an integer, got "7"'),
        ({"layers": [1], "steps": 7.0}, "method.steps: expected an integer, got 7.0"),
        ({"layers": [1], "steps": True}, "method.steps: expected an integer, got true"),
        ({"layers": [1], "steps": None}, "method.steps: expected an integer, got null"),
        ({"layers": [1], "steps": 0}, "method.steps: expected at least 1, got 0"),
        ({"layers": [1], "lr": "fast"}, 'method.lr: expected a number, got "fast"'),
        ({"layers": [1, "x"]}, 'method.layers[1]: expected an integer or a number, got "x"'),
        ({"layers": 1}, "method.layers: expected a list, got 1"),
        ({"layers": [1], "mode": "both"}, "method.mode: expected one of 'joint', 'two_level', got \"both\""),
        ({"layers": [1], "inner": 3}, "method.inner: expected a mapping, got 3"),
        (
            {"layers": [1], "inner": {"dept": 3}},
            "method.inner.dept: unknown key; did you mean 'depth'?; allowed: depth",
        ),
        ({"layers": [1], "inner": {"depth": []}}, "method.inner.depth: expected an integer, got []"),
        ({}, "method.layers: missing"),
        (
            {"layers": [1], "stps": 3},
            "method.stps: unknown key; did you mean 'steps'?; allowed: layers, steps, lr, mode, inner, chunk",
        ),
    ],
)
def test_each_wrong_value_is_named_with_its_place(raw: dict[str, Any], expected: str) -> None:
    assert problems(DummyEditor, raw) == [expected]


def test_all_problems_of_a_part_are_found_at_once() -> None:
    found = problems(DummyEditor, {"steps": "x", "lr": None, "mode": 1, "foo": 2})
    assert [problem.partition(":")[0] for problem in found] == [
        "method.layers",
        "method.steps",
        "method.lr",
        "method.mode",
        "method.foo",
    ]


def test_integers_are_numbers_and_lists_are_tuples() -> None:
    built, found = validate(DummyEditor, {"layers": [1, 0.5], "lr": 1}, "method")
    assert not found
    assert built == DummyEditor(layers=(1, 0.5), lr=1.0)
    assert dump(built)["layers"] == [1, 0.5]


@dataclass(frozen=True)
class Impatient:
    size: int

    def __post_init__(self) -> None:
        if self.size == 1:
            raise UserError("size 1 is taken", hint="size=2")
        if self.size == 2:
            raise KeyError("two")


@pytest.mark.parametrize(("size", "expected"), [(1, "size 1 is taken"), (2, "Impatient refuses its values: KeyError")])
def test_any_error_of_a_third_party_class_is_a_problem_not_a_crash(size: int, expected: str) -> None:
    (problem,) = problems(Impatient, {"size": size})
    assert expected in problem


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("no_colon", "expected 'module:Class'"),
        ("no_such_module:Editor", "cannot import 'no_such_module'"),
        ("dummies:DummyEdito", "did you mean 'DummyEditor'?"),
        ("dummies:NotADataclass", "is not a frozen dataclass"),
        ("dummies:CHOICES", "is not a frozen dataclass"),
    ],
)
def test_a_target_that_is_no_frozen_dataclass_is_refused(target: str, expected: str) -> None:
    with pytest.raises(TargetError) as caught:
        load_target(target)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (3, "method: expected a mapping with a target, got 3"),
        ({"name": "x"}, "method.target: expected a non-empty string, got null"),
        ({"target": "dummies:DummyEditor"}, "method.name: expected a non-empty string, got null"),
        ({"name": "x", "target": "dummies:DummyLoader"}, "method.target: dummies:DummyLoader lacks edit"),
    ],
)
def test_a_part_needs_name_target_and_what_its_group_promises(raw: Any, expected: str) -> None:
    part, found = plugin("method", raw, "method")
    assert part is None
    assert str(found[0]).startswith(expected)


def test_a_part_builds_the_same_object_again() -> None:
    part = Plugin[DummyEditor]("dummy", "dummies:DummyEditor", {"layers": [1, 0.5], "inner": {"depth": 4}})
    assert part.build() == part.build()
    assert part.build().inner.depth == 4


def test_the_problems_of_all_parts_come_in_one_error(dummy_conf: Path) -> None:
    wrong = [
        "seed=abc",
        "device=gpu",
        "+foo=1",
        "statistics.text=/no/such/file",
        "method.steps=0",
        "+method.lrr=2",
        "dataset.limit=many",
        "metrics.dummy.k=x",
        "protocol.size=[]",
    ]
    with pytest.raises(UserError) as caught:
        compose_run([*CHOICES, *wrong], dummy_conf)
    lines = str(caught.value).splitlines()
    assert lines[0] == "the configuration has 9 problems:"
    assert {line.removeprefix("  - ").partition(":")[0] for line in lines[1:]} == {
        "seed",
        "device",
        "foo",
        "statistics.text",
        "method.steps",
        "method.lrr",
        "dataset.limit",
        "metrics.dummy.k",
        "protocol.size",
    }


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed=-1", "seed: expected 0 to"),
        ("device=gpu", "device: expected auto, cpu, mps, cuda"),
        ("batch_tokens=0", "batch_tokens: expected at least 1, got 0"),
        ("shard.count=0", "shard.count: expected at least 1, got 0"),
        ("shard={count: 2, index: 2}", "shard.index: expected 0 to 1 (shard.count=2), got 2"),
        ("cpu_threads=0", "cpu_threads: expected at least 1, got 0"),
        ("batch_tokens=1.5", "batch_tokens: expected an integer or one of 'auto', got 1.5"),
        ("batch_tokens=large", "batch_tokens: expected an integer or one of 'auto', got \"large\""),
        ("+model.device_map=gpu", "model.device_map: expected auto, balanced, balanced_low_0, sequential, a device"),
        ("+model.device_map=1.5", "model.device_map: expected a string or a mapping, got 1.5"),
        ("+model.device_map={}", "model.device_map: expected at least one module, got an empty mapping"),
        ("+model.device_map={lm_head: tape}", "cuda:<n> or a number for 'lm_head', got 'tape'"),
        ("+model.device_map={lm_head: -1}", "cuda:<n> or a number for 'lm_head', got -1"),
        ("+model.max_memory={cpu: 1GiB}", "model.max_memory: expected together with model.device_map=auto, balanced"),
        ("+model={device_map: auto, max_memory: {gpu: 1GiB}}", "max_memory: expected cpu or the number of a GPU, got"),
        ("+model={device_map: auto, max_memory: {cpu: much}}", "expected bytes or an amount like 20GiB for cpu, got"),
        ("progress=loud", "progress: expected one of 'auto', 'rich', 'plain', 'none', got \"loud\""),
        ("dry_run=1", "dry_run: expected true or false, got 1"),
        ("statistics.max_length=1", "statistics.max_length: expected at least 2, got 1"),
        ("statistics.tokens=0", "statistics.tokens: expected at least 1, got 0"),
        ("statistics.tokens_per_width=0.5", "statistics.tokens_per_width: expected at least 1, got 0.5"),
        ("model.dtype=int8", "model.dtype: expected one of"),
        ("model=null", "Config group override must be a string"),
        ("+model.extra=1", "model.extra: unknown key"),
        ("~method", "method: missing"),
        ("~metrics.dummy", "metrics: expected at least one metric, got {}"),
        ("output_dir=${nope}", "Interpolation key 'nope' not found"),
        ("method.lr=${method.nope}", "Interpolation key 'method.nope' not found"),
    ],
)
def test_wrong_values_of_the_run_are_refused(dummy_conf: Path, override: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        compose_run([*CHOICES, override], dummy_conf)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    "model",
    [
        "{device_map: auto}",
        "{device_map: cuda:1}",
        "{device_map: {model: 0, lm_head: cpu, model.norm: disk}}",
        "{device_map: balanced, max_memory: {0: 20GiB, 1: 1.5 GB, cpu: 100000}}",
    ],
)
def test_what_may_be_said_about_devices(dummy_conf: Path, model: str) -> None:
    config = compose_run([*CHOICES, f"+model={model}"], dummy_conf).model
    assert config.device_map is not None
    assert config.max_memory in (None, {"0": "20GiB", "1": "1.5 GB", "cpu": 100000})
    assert compose_run(CHOICES, dummy_conf).batch_tokens == "auto"
