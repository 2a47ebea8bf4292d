"""A model's identity: SHA-256 over its weights, so that statistics and runs of another model are recognised."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

SAMPLED = 1 << 16
"""Entries hashed of each large tensor held on an accelerator or read from the hub's own, already hashed files."""


KINDS = frozenset({".safetensors", ".json", ".model", ".txt", ".jinja"})
"""Of the files of a model folder that count: weights, configuration, tokenizer, chat template."""


def fingerprint(hf: Any, folder: Path | None) -> str:
    """SHA-256 (hex) of configuration and weights.

    Local folders are hashed by the content of their weight, configuration and tokenizer files; models from the hub by
    their commit and an evenly spaced sample of every tensor.
    """
    digest = hashlib.sha256(json.dumps(_shape_of(hf), sort_keys=True).encode())
    if folder is not None:
        for path in sorted(p for p in folder.iterdir() if p.suffix in KINDS):
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()
    digest.update(str(getattr(hf.config, "_commit_hash", None)).encode())
    for name, tensor in sorted(hf.state_dict().items()):
        digest.update(name.encode() + _sample(_content(hf, name, tensor)))
    return digest.hexdigest()


def _shape_of(hf: Any) -> dict[str, Any]:
    return {"type": hf.config.model_type, "dtype": str(hf.dtype), "parameters": int(hf.num_parameters())}


def _content(hf: Any, name: str, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, or what accelerate keeps of it where it was off-loaded."""
    if tensor.device.type != "meta":
        return tensor
    module, _, own = name.rpartition(".")
    kept: torch.Tensor = hf.get_submodule(module)._hf_hook.weights_map[own]
    return kept


def _sample(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().reshape(-1)
    step = max(1, flat.numel() // SAMPLED)
    return flat[::step].float().cpu().numpy().tobytes()
