"""Reads a folder of parity data: the inputs and outputs of the authors' own programs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from .tokens import Fact, render
from .value import Optimisation

ABSENT = "no parity data of this kind beside the checkout"
NOTHING = pytest.param(None, marks=pytest.mark.skip(reason=ABSENT))

Check = Callable[[str, Tensor, Tensor, float], None]
"""Compares (what, ours, theirs, tolerance) by the relative 2-norm."""


def parity_folder() -> Path:
    """Return the folder beside the checkout, or the one that ``KE_PARITY_DIR`` names."""
    given = os.environ.get("KE_PARITY_DIR")
    return Path(given) if given else Path(__file__).resolve().parents[3] / "shared" / "parity"


def read_json(name: str) -> Any:
    """Read a JSON file of the folder."""
    return json.loads((parity_folder() / name).read_text(encoding="utf-8"))


def covariances() -> dict[int, Tensor]:
    """Return ``C_l`` [m, m] by layer."""
    stored = load_file(parity_folder() / "tiny_gpt2" / "covariance.safetensors")
    return {int(name.split(".")[2]): matrix for name, matrix in stored.items()}


def constraint_prompts(description: str) -> list[str]:
    """Return the complete prompts behind a C_sub, described as ``<file> records <first>..`` or ``<file>``."""
    name, _, span = description.partition(" records ")
    first = int(span.rstrip(".")) if span else 0
    rewrites = [record["requested_rewrite"] for record in read_json(name)[first:]]
    return [render(rewrite["prompt"], rewrite["subject"]).text for rewrite in rewrites]


@dataclass(frozen=True)
class Reference:
    """One case, by the name of its files."""

    name: str

    @cached_property
    def record(self) -> dict[str, Any]:
        """The JSON file."""
        return read_json(f"{self.name}.json")

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors, weights transposed to [d_out, d_in]."""
        stored = load_file(parity_folder() / f"{self.name}.safetensors")
        return {name: value.T if "delta_w" in name else value for name, value in stored.items()}

    @property
    def numbers(self) -> dict[str, Any]:
        """The published hyper-parameters."""
        return self.record["hparams"]

    @property
    def method(self) -> str:
        return self.record["method"]

    @property
    def facts(self) -> list[Fact]:
        return [
            Fact(request["prompt"], request["subject"], request["target_new"]["str"])
            for request in self.record["requests"]
        ]

    def optimisation(self, steps: str = "v_num_grad_steps", threshold: float = 0.05) -> Optimisation:
        """Return the numbers of the value optimisation."""
        return Optimisation(
            steps=self.numbers[steps],
            lr=self.numbers["v_lr"],
            kl_factor=self.numbers["kl_factor"],
            weight_decay=self.numbers["v_weight_decay"],
            clamp=self.numbers["clamp_norm_factor"],
            threshold=threshold,
        )

    def layer_record(self, fact: int, weight: str) -> dict[str, Any]:
        """Return what the JSON says about one fact and weight; empty where it says nothing."""
        facts = self.record.get("facts")
        return facts[fact]["layers"][weight] if facts else {}


def case_parameters(method: str) -> list[Any]:
    """Return the cases of a method as parameters, one skipped parameter where there are none."""
    return [pytest.param(case, id=case.name) for case in references(method)] or [NOTHING]


def references(method: str) -> list[Reference]:
    """Return the folder's cases of one method, none where there is no folder."""
    return [Reference(path.stem) for path in sorted(parity_folder().glob(f"{method}__*.json"))]


def each_fact(method: str) -> list[Any]:
    """Return (case, fact) parameters; facts after the first are marked slow."""
    found = [
        pytest.param(case, i, id=f"{case.name}-{i}", marks=[pytest.mark.slow] if i > 0 else [])
        for case in references(method)
        for i in range(len(case.facts))
    ]
    return found or [pytest.param(None, 0, marks=pytest.mark.skip(reason=ABSENT))]
