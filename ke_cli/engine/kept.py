"""Tensors in files that say what they hold, replaced atomically and checked when they are read."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

log = logging.getLogger(__name__)

FOREIGN = "does not hold what its name says"

ABANDONED = 3600.0
"""Seconds after which a half-written file is taken for what a killed process left."""


@dataclass(frozen=True)
class Kept:
    """A safetensors file of some identity.

    Args:
        path: Where it is, or will be.
        identity: Everything that changes its numbers; plain JSON.
        otherwise: What is done where the file cannot be used, for the log.
    """

    path: Path
    identity: Mapping[str, Any]
    otherwise: str = "computing it again"

    def notes(self) -> dict[str, str] | None:
        """What was written beside the tensors; None if there is no such file, or it is of another identity."""
        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                notes: dict[str, str] = file.metadata() or {}
        except (SafetensorError, OSError) as error:
            self._complain(f"is damaged ({error})")
            return None
        if json.loads(notes.get("identity", "{}")) != self.identity:
            self._complain(FOREIGN)
            return None
        return notes

    def load(self, *, check: bool = True) -> dict[str, Tensor] | None:
        """The tensors, mapped from the file where the platform can; None if there are none to be trusted.

        Args:
            check: Whether to compare the checksum, which reads the whole file.
        """
        notes = self.notes()
        if notes is None:
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in sorted(file.keys())}
        except (SafetensorError, OSError) as error:
            self._complain(f"is damaged ({error})")
            return None
        if check and checksum(tensors) != notes.get("sha256"):
            self._complain(FOREIGN)
            return None
        return tensors

    def save(self, tensors: Mapping[str, Tensor], **notes: str) -> None:
        """Write the file, or leave the old one as it was.

        Args:
            tensors: On the CPU and contiguous.
            notes: Written beside them.

        Raises:
            OSError: If it cannot be written.
        """
        self._sweep()
        about = {"identity": json.dumps(self.identity, sort_keys=True), "sha256": checksum(tensors), **notes}
        temporary = self.path.with_name(f"{self.path.stem}.{os.getpid()}.tmp")
        try:
            save_file(dict(tensors), temporary, metadata=about)
            temporary.replace(self.path)
        except (SafetensorError, OSError) as error:
            temporary.unlink(missing_ok=True)
            raise OSError(str(error)) from error

    def _sweep(self) -> None:
        """Remove what killed processes left behind."""
        for left in self.path.parent.glob(f"{self.path.stem}.*.tmp"):
            with suppress(OSError):  # gone by now, or somebody else's
                if time.time() - left.stat().st_mtime > ABANDONED:
                    left.unlink()

    def _complain(self, problem: str) -> None:
        log.warning("statistics file %s %s: %s", self.path, problem, self.otherwise)


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the numbers, by name."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].numpy().data)  # no copy
    return digest.hexdigest()


def short_hash(identity: Mapping[str, Any]) -> str:
    """24 hexadecimal digits that name an identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]
