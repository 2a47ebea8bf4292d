"""Reads a folder of parity data: the inputs and outputs of the authors' own programs."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from .tokens import Fact, render
from .value import Optimisation


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


def references(method: str) -> list[Reference]:
    """Return the folder's cases of one method, none where there is no folder."""
    return [Reference(path.stem) for path in sorted(parity_folder().glob(f"{method}__*.json"))]
