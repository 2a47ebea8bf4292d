"""Tiny models of every kind, loaded once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from ke_cli.engine.workbench import Workbench
from ke_cli.models.editable import EditableModel
from textbook import covariance, finetune, model_calls, scoring, value

from .benches import KINDS, bench_of, load_tiny, reference_prompts, unrounded_logits

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


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest, tiny_model: TinyModel) -> EditableModel:
    """Every kind of model in float32."""
    return tiny_model(request.param)


@pytest.fixture(params=KINDS)
def exact_model(request: pytest.FixtureRequest, tiny_model: TinyModel) -> EditableModel:
    """Every kind of model in float64."""
    return tiny_model(request.param, "float64")


@pytest.fixture(scope="session")
def bench(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Workbench]:
    """``bench(kind, dtype)``: a workbench with statistics and reference prompts, the same one at each call."""
    made: dict[tuple[str, str], Workbench] = {}

    def workbench(kind: str, dtype: str = "float32") -> Workbench:
        if (kind, dtype) not in made:
            folder = tmp_path_factory.mktemp("bench")
            made[kind, dtype] = bench_of(tiny_model(kind, dtype), folder, prompts=reference_prompts(30))
            made[kind, dtype].covariances(range(5))
        return made[kind, dtype]

    return workbench
