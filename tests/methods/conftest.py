"""Tiny models of every kind, loaded once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.benches import bench_of, load_tiny, reference_prompts, unrounded_logits
from ke_cli.engine.problems import Solution
from ke_cli.engine.workbench import Workbench
from ke_cli.models.editable import EditableModel
from textbook import covariance, finetune, model_calls, scoring, value

TinyModel = Callable[..., EditableModel]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", autouse=True)
def unrounded_oracles() -> Iterator[None]:
    """Let the plain implementations keep the float64 of a float64 model."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (covariance, finetune, model_calls, scoring, value):
            patch.setattr(module, "logits_of", unrounded_logits)
        yield


@pytest.fixture(scope="session")
def tiny_model(request: pytest.FixtureRequest) -> TinyModel:
    """``tiny_model(kind, dtype)``: a tiny model, the same object at each call."""
    loaded: dict[tuple[str, str], EditableModel] = {}

    def model(kind: str, dtype: str = "float32") -> EditableModel:
        if (kind, dtype) not in loaded:
            folder: Path = request.getfixturevalue(f"tiny_{kind}_dir")
            loaded[kind, dtype] = load_tiny(folder, dtype)
        return loaded[kind, dtype]

    return model


@pytest.fixture(scope="session")
def bench(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Workbench]:
    """``bench(kind, dtype)``: a workbench with statistics, reference prompts and no templates of its own yet."""
    made: dict[tuple[str, str], Workbench] = {}

    def workbench(kind: str, dtype: str = "float32") -> Workbench:
        if (kind, dtype) not in made:
            folder = tmp_path_factory.mktemp("bench")
            made[kind, dtype] = bench_of(tiny_model(kind, dtype), folder, prompts=reference_prompts())
            made[kind, dtype].covariances(range(5))
        return made[kind, dtype]

    return workbench


@pytest.fixture
def solutions(monkeypatch: pytest.MonkeyPatch) -> list[Solution]:
    """Every solution that the value optimisation returns to an editor."""
    seen: list[Solution] = []
    original = Workbench.optimise

    def recording(bench: Workbench, *args: Any, **kwargs: Any) -> list[Solution]:
        found = original(bench, *args, **kwargs)
        seen.extend(found)
        return found

    monkeypatch.setattr(Workbench, "optimise", recording)
    return seen
