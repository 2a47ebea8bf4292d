"""Covariances kept on disk, under everything that changes their value."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ke_cli.data.text import TextSource
from ke_cli.engine.covariance import Covariance, collect
from ke_cli.errors import UserError
from ke_cli.models.editable import EditableModel

log = logging.getLogger(__name__)

FORMAT = 1


@dataclass(frozen=True)
class StatisticsSpec:
    """What covariance statistics are made from.

    Args:
        text: The text source.
        tokens_per_width: Tokens in units of the MLP width ``m``.
        tokens: Absolute number of tokens instead (published runs: about 44 million).
        max_length: Tokens per document.
    """

    text: TextSource
    tokens_per_width: float = 10
    tokens: int | None = None
    max_length: int = 256

    def count(self, width: int) -> int:
        """Tokens to read for an MLP of ``width``."""
        return self.tokens if self.tokens is not None else int(self.tokens_per_width * width)


@dataclass(frozen=True)
class StatisticsStore:
    """Computes covariances once and finds them again.

    Args:
        folder: Cache folder; one file per layer, named by the hash of its identity, which the file repeats.
        spec: What they are made from.
        budget: Tokens per batch.
    """

    folder: Path
    spec: StatisticsSpec
    budget: int

    def covariances(self, model: EditableModel, layers: Sequence[int]) -> dict[int, Covariance]:
        """Covariances of ``layers``: from the cache, the missing ones computed together in one pass."""
        wanted = {layer: self._identity(model, layer) for layer in layers}
        found = {layer: self._load(identity) for layer, identity in wanted.items()}
        missing = [layer for layer, matrix in found.items() if matrix is None]
        if missing:
            found.update(self._compute(model, missing, wanted))
        return {
            layer: Covariance(matrix.to(model.device), f"covariance of layer {layer}")
            for layer, matrix in found.items()
            if matrix is not None
        }

    def _compute(self, model: EditableModel, layers: list[int], wanted: dict[int, dict[str, Any]]) -> dict[int, Tensor]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):
            found = {layer: self._load(wanted[layer]) for layer in layers}  # another process may have been faster
            missing = [layer for layer, matrix in found.items() if matrix is None]
            if missing:
                tokens = wanted[missing[0]]["tokens"]
                log.debug("covariance of layers %s from %d tokens of %s", missing, tokens, self.spec.text.source)
                texts = self.spec.text.documents()
                matrices, seen = collect(
                    model, missing, texts, tokens=tokens, max_length=self.spec.max_length, budget=self.budget
                )
                for layer, matrix in matrices.items():
                    exact = matrix.to(device="cpu", dtype=torch.float32).contiguous()
                    self._save(wanted[layer], exact, seen)
                    found[layer] = exact
        return {layer: matrix for layer, matrix in found.items() if matrix is not None}

    def _identity(self, model: EditableModel, layer: int) -> dict[str, Any]:
        width = model.weight(model.projection_name(layer)).shape[1]
        return {
            "format": FORMAT,
            "model": model.fingerprint,
            "module": model.projection_name(layer),
            "text": self.spec.text.identity(),
            "tokens": self.spec.count(width),
            "max_length": self.spec.max_length,
            "dtype": str(model.hf.dtype),
        }

    def _path(self, identity: dict[str, Any]) -> Path:
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        return self.folder / f"covariance-{digest[:24]}.safetensors"

    def _load(self, identity: dict[str, Any]) -> Tensor | None:
        path = self._path(identity)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                kept = file.metadata() or {}
                matrix: Tensor = file.get_tensor("covariance")
        except (SafetensorError, OSError) as error:
            log.warning("statistics file %s is damaged (%s): computing it again", path, error)
            return None
        digest = hashlib.sha256(matrix.numpy().tobytes()).hexdigest()
        if json.loads(kept.get("identity", "{}")) != identity or kept.get("sha256") != digest:
            log.warning("statistics file %s does not hold what its name says: computing it again", path)
            return None
        return matrix

    def _save(self, identity: dict[str, Any], matrix: Tensor, seen: int) -> None:
        path = self._path(identity)
        metadata = {
            "identity": json.dumps(identity, sort_keys=True),
            "tokens_seen": str(seen),
            "sha256": hashlib.sha256(matrix.numpy().tobytes()).hexdigest(),
        }
        temporary = path.with_suffix(".tmp")
        try:
            save_file({"covariance": matrix}, temporary, metadata=metadata)
            temporary.replace(path)
        except (SafetensorError, OSError) as error:
            temporary.unlink(missing_ok=True)
            raise UserError(
                f"the covariance statistics could not be stored: {error}",
                where=str(self.folder),
                hint="free some space, or set KE_CACHE to another folder",
            ) from error
