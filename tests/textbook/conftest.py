"""The models of the oracles' tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from marks import rest_slow

from . import reference
from .architecture import layer_count
from .covariance import covariance
from .examples import KINDS, TEXTS
from .reference import Check


@pytest.fixture(scope="module", params=rest_slow(KINDS, ["gpt2", "llama"]))
def loaded(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    folder: Path = request.getfixturevalue(f"tiny_{request.param}_dir")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval().requires_grad_(False), AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def matrices(loaded: tuple[Any, Any]) -> dict[int, Tensor]:
    """Covariances with a ridge, because three sentences do not span the keys."""
    model, tokenizer = loaded
    found = {layer: covariance(model, tokenizer, TEXTS, layer, 64)[0] for layer in range(layer_count(model))}
    return {layer: matrix + 0.01 * torch.eye(len(matrix)) for layer, matrix in found.items()}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model() -> Any:
    folder = reference.parity_folder() / "tiny_gpt2"
    if not folder.is_dir():
        pytest.skip("no parity data beside the checkout")
    loaded = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    return loaded.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def tokenizer(model: Any) -> Any:
    return AutoTokenizer.from_pretrained(reference.parity_folder() / "tiny_gpt2")


@pytest.fixture
def check() -> Check:
    """Compare by the relative 2-norm, and print the figure (seen with ``pytest -rP``)."""

    def compare(name: str, got: Tensor, want: Tensor, tolerance: float) -> None:
        difference = ((got.double() - want.double()).norm() / want.double().norm()).item()
        print(f"{name}: {difference:.1e} (at most {tolerance:.0e})")
        assert difference <= tolerance, f"{name}: relative difference {difference:.2e} over {tolerance:.0e}"

    return compare
