"""Tiny models of every kind, loaded once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from ke_cli.models.editable import EditableModel
from textbook import covariance, finetune, model_calls, scoring, value

from .benches import KINDS, load_tiny, unrounded_logits

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
