"""Covariances kept on disk, under everything that changes their value; with them what is costly to make of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from ke_cli.data.text import TextSource
from ke_cli.engine.batching import Budget
from ke_cli.engine.covariance import Covariance, collect
from ke_cli.engine.kept import Kept, short_hash
from ke_cli.errors import UserError
from ke_cli.models.architectures import projection_shape
from ke_cli.models.editable import EditableModel

log = logging.getLogger(__name__)

FORMAT = 2

WORTH_KEEPING: Mapping[tuple[str, str], int] = {
    ("factor", "cpu"): 4096,
    ("eigen", "cpu"): 1024,
    ("eigen", "cuda"): 4096,
}
"""Width from which reading a part of a covariance is well faster than making it; a GPU factors faster than a disk."""


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
        save_every: Seconds after which an unfinished pass over the text is saved, to be taken up after a crash.
    """

    folder: Path
    spec: StatisticsSpec
    budget: int | Budget
    save_every: float = 60.0
    _checked: dict[Path, tuple[int, int]] = field(default_factory=dict, init=False, compare=False, repr=False)

    def covariances(self, model: EditableModel, layers: Sequence[int]) -> dict[int, Covariance]:
        """Covariances of ``layers``, each read when it is used; those not on disk are computed now, in one pass."""
        text = self.spec.text.identity()  # reads all of it
        wanted = {layer: self._identity(model, layer, text) for layer in layers}
        missing = [layer for layer, identity in wanted.items() if self._file(identity).notes() is None]
        if missing:
            self._compute(model, missing, wanted)
        return {layer: self._covariance(model, layer, identity) for layer, identity in wanted.items()}

    def _covariance(self, model: EditableModel, layer: int, identity: dict[str, Any]) -> Covariance:
        notes, width = self._file(identity).notes() or {}, _width(model, layer)
        keeper = Decompositions(self, {"matrix": notes.get("sha256"), **identity}, model.device, width)
        read = partial(self._read, model, layer, identity)
        return Covariance(read, f"covariance of layer {layer}", width=width, keeper=keeper)

    def _read(self, model: EditableModel, layer: int, identity: dict[str, Any]) -> Tensor:
        """The matrix of a layer from disk; if its file was damaged, from the text."""
        found = self.load(self._file(identity))
        if found is None:
            self._compute(model, [layer], {layer: identity})
            found = self.load(self._file(identity))
        if found is None:
            raise UserError("the covariance statistics were stored and cannot be read back", where=str(self.folder))
        return found["covariance"].to(model.device, copy=True)  # a mapped file must not change under a run

    def _compute(self, model: EditableModel, layers: list[int], wanted: dict[int, dict[str, Any]]) -> None:
        with self._alone(wanted[layers[0]]):
            # another process may have been faster
            missing = [layer for layer in layers if self.load(self._file(wanted[layer])) is None]
            if not missing:
                return
            for layer in missing:
                self._file(wanted[layer]).put_aside()
            tokens = wanted[missing[0]]["tokens"]
            log.debug("covariance of layers %s from %d tokens of %s", missing, tokens, self.spec.text.source)
            bookmark = self._bookmark(model, [wanted[layer] for layer in missing])
            matrices, seen = collect(
                model,
                missing,
                self.spec.text.documents(),
                tokens=tokens,
                max_length=self.spec.max_length,
                budget=self.budget,
                bookmark=bookmark,
            )
            self._refuse_other_text(wanted[missing[0]]["text"], bookmark)
            for layer, matrix in matrices.items():
                self._save(self._file(wanted[layer]), matrix.to(device="cpu", dtype=torch.float32).contiguous(), seen)
            bookmark.remove()

    @contextmanager
    def _alone(self, identity: dict[str, Any]) -> Iterator[None]:
        """Wait for other processes that make the same pass; a lock goes with its process, however that ends.

        Raises:
            UserError: The folder cannot be used.
        """
        lock = FileLock(self.folder / f".{_pass_hash(identity)}.lock")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                log.warning("waiting for another process, which computes the same covariance statistics")
                lock.acquire()
        except (OSError, NotImplementedError) as error:
            raise unusable(self.folder, error) from error
        try:
            yield
        finally:
            lock.release()

    def _refuse_other_text(self, began_with: str, bookmark: BookmarkFile) -> None:
        """Keep nothing that was read from a text while it changed.

        Raises:
            UserError: The text is not the one that the pass began with.
        """
        if self.spec.text.identity() == began_with:
            return
        bookmark.remove()
        raise UserError(
            "the statistics text changed while it was read",
            where=f"statistics.text={self.spec.text.source}",
            hint="start the same command again when nothing writes to it any more",
        )

    def _identity(self, model: EditableModel, layer: int, text: str | None = None) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "model": model.fingerprint,
            "module": model.projection_name(layer),
            "text": text or self.spec.text.identity(),
            "tokens": self.spec.count(_width(model, layer)),
            "max_length": self.spec.max_length,
            "dtype": str(model.hf.dtype),
        }

    def _path(self, identity: dict[str, Any]) -> Path:
        return self.folder / f"covariance-{short_hash(identity)}.safetensors"

    def _file(self, identity: dict[str, Any]) -> Kept:
        return Kept(self._path(identity), identity)

    def _bookmark(self, model: EditableModel, identities: list[dict[str, Any]]) -> BookmarkFile:
        """One file for each model and text: a pass over other layers takes its place."""
        path = self.folder / f"unfinished-{_pass_hash(identities[0])}.safetensors"
        identity = {"layers": identities, "device": model.device.type}
        return BookmarkFile(Kept(path, identity, "beginning anew"), self.save_every)

    def load(self, file: Kept) -> dict[str, Tensor] | None:
        """Read a file, and its checksum unless this process has compared that before."""
        try:
            stamp = file.path.stat()
        except OSError:  # there is none, or its folder cannot be used
            return None
        known = self._checked.get(file.path) == (stamp.st_mtime_ns, stamp.st_size)
        found = file.load(check=not known)
        if found is not None:
            self._checked[file.path] = (stamp.st_mtime_ns, stamp.st_size)
        return found

    def _save(self, file: Kept, matrix: Tensor, seen: int) -> None:
        try:
            file.save({"covariance": matrix}, tokens_seen=str(seen))
        except OSError as error:
            raise unusable(self.folder, error) from error


@dataclass(frozen=True)
class Decompositions:
    """Factors and eigenvectors on disk, beside the covariance they belong to.

    Args:
        store: Where.
        identity: Of the covariance, with its checksum.
        device: Where they are used.
        width: ``m``.
    """

    store: StatisticsStore
    identity: Mapping[str, Any]
    device: torch.device
    width: int

    def of(self, change: str) -> Decompositions:
        """The same for the covariance after a change."""
        return replace(self, identity={**self.identity, "change": change})

    def kept(self, part: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """A part from disk, or made and (if it is costly) put there; a full disk is no error."""
        if self.width < WORTH_KEEPING.get((part, self.device.type), self.width + 1):
            return make()
        identity = {"part": part, **self.identity}
        file = Kept(self.store.folder / f"{part}-{short_hash(identity)}.safetensors", identity)
        found = self.store.load(file)
        if found is not None:
            return {name: tensor.to(self.device) for name, tensor in found.items()}
        made = make()
        try:
            file.save({name: tensor.cpu() for name, tensor in made.items()})
        except OSError as error:
            log.warning("the %s of a covariance could not be stored (%s): it will be computed again", part, error)
        return made


@dataclass(eq=False)
class BookmarkFile:
    """An unfinished pass on disk.

    Args:
        file: The file.
        every: Seconds between two savings; more where saving itself takes over a thirtieth of that.
    """

    file: Kept
    every: float
    _last: float = field(default_factory=lambda: time.monotonic())
    _took: float = 0.0

    def load(self) -> dict[str, Tensor] | None:
        """What was saved last, if it is of the same pass and whole."""
        return self.file.load()

    def due(self) -> bool:
        """Whether it is time to save again."""
        return time.monotonic() - self._last >= max(self.every, 30 * self._took)

    def save(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the place of what was saved before; a full disk is no error."""
        began = time.monotonic()
        try:
            self.file.save(tensors)
        except OSError as error:
            log.warning("an unfinished pass over the statistics text could not be saved: %s", error)
        self._last = time.monotonic()
        self._took = self._last - began

    def remove(self) -> None:
        """Nothing is unfinished any more."""
        self.file.path.unlink(missing_ok=True)


def unusable(folder: Path, error: Exception) -> UserError:
    """The error for a cache folder in which statistics cannot be kept."""
    return UserError(
        f"the covariance statistics could not be stored: {getattr(error, 'strerror', None) or error}",
        where=str(folder),
        hint="free some space there, or set the environment variable KE_CACHE to a folder you can write to",
    )


def _pass_hash(identity: Mapping[str, Any]) -> str:
    """Names a pass over a text with a model, whatever its layers."""
    return short_hash({key: value for key, value in identity.items() if key != "module"})


def _width(model: EditableModel, layer: int) -> int:
    return projection_shape(model.projection(layer))[1]
