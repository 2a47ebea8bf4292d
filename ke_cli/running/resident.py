"""What a worker process keeps from one job of a sweep to the next: its GPU, and one loaded model.

Everything else begins anew with each run. A model is used again only if it would be loaded from the same files in the
same way, and if nothing about it has changed since it was loaded; otherwise it goes before the next one is loaded, so
that two never share the memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch

from ke_cli.config import GpuConfig
from ke_cli.models import loading
from ke_cli.models.editable import EditableModel
from ke_cli.models.memory import release_unused
from ke_cli.models.source import ModelSource
from ke_cli.models.state import ModelState
from ke_cli.paths import cache_dir, sweep_folder
from ke_cli.running.leases import Gpu, Lease, Places, visible_gpus

Signature = tuple[tuple[Any, ...], ...]
Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Loaded:
    """A loaded model, what it was loaded from, and how it was then."""

    source: ModelSource
    files: Signature
    model: EditableModel
    state: ModelState


class Worker:
    """The part of a process that outlives a job.

    Args:
        gpus: Finds the GPUs that this process may use.
    """

    def __init__(self, gpus: Callable[[], tuple[Gpu, ...]] = visible_gpus) -> None:
        """Begin with nothing."""
        self._gpus = gpus
        self._lease: Lease | None = None
        self._held: Loaded | None = None

    def load(self, source: ModelSource, gpu: GpuConfig, say: Say) -> EditableModel:
        """The model of a source, on this worker's GPU; loaded only if the one that is held is another.

        Args:
            source: Where the model is.
            gpu: How GPUs are shared.
            say: Told about waits, and why a model is loaded again.

        Raises:
            UserError: It cannot be loaded, or no GPU became free.
        """
        source = self._placed(source, gpu, say)
        files = signature(source)
        if self._fits(source, files, say):
            release_unused()
            assert self._held is not None
            return self._held.model
        self._held = None
        release_unused()
        model = loading.load(source)
        self._held = Loaded(source, files, model, ModelState.of(model))
        return model

    def _placed(self, source: ModelSource, gpu: GpuConfig, say: Say) -> ModelSource:
        """The source with the worker's GPU for ``auto``; a model that is spread over devices has its own map."""
        if source.device != "auto" or source.device_map is not None:
            return source
        if self._lease is None and (gpus := self._gpus()):
            places = Places(cache_dir() / "leases", gpus, gpu.jobs_per_gpu)
            self._lease = places.take(60 * gpu.wait_min, say)
        return source if self._lease is None else replace(source, device=f"cuda:{self._lease.gpu.index}")

    def _fits(self, source: ModelSource, files: Signature, say: Say) -> bool:
        held = self._held
        if held is None or held.source != source:
            return False
        if held.files != files:
            say(f"the files of {source.name} changed: it is loaded again")
            return False
        if changed := ModelState.of(held.model).changed(held.state):
            say(f"an earlier run of this process left {changed} of {source.name} changed: it is loaded again")
            return False
        return True


def signature(source: ModelSource) -> Signature:
    """Names, sizes, times and inodes of the files of a local model; nothing for one of the hub."""
    folder = source.folder
    if folder is None or not folder.is_dir():
        return ()
    with os.scandir(folder) as entries:
        stats = ((entry.name, entry.stat()) for entry in entries)
        return tuple(sorted((name, found.st_size, found.st_mtime_ns, found.st_ino) for name, found in stats))


@cache
def this_worker() -> Worker:
    """The worker that this process is."""
    return Worker()


def load(source: ModelSource, gpu: GpuConfig, say: Say) -> EditableModel:
    """Load a model for a run; in a sweep the process keeps it, and computes on the GPU that it has leased.

    Raises:
        UserError: It cannot be loaded, or no GPU became free.
    """
    if sweep_folder() is None:
        return loading.load(source)
    model = this_worker().load(source, gpu, say)
    if model.device.type == "cuda":
        torch.cuda.set_device(model.device)  # so that what is counted of "the" GPU is counted of this one
    return model
