"""The schema of a run: frozen dataclasses, each field scientific or operational.

A *scientific* field can change a number in the results and is part of the run's identity; an *operational*
one says where and how the same numbers are computed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal

from ke_cli.checks import check_at_least
from ke_cli.config.devices import check_device_map, check_max_memory, check_quantization
from ke_cli.config.experiment import ExperimentConfig
from ke_cli.config.plugins import Plugin

if TYPE_CHECKING:
    from ke_cli.config.kinds import DatasetLoader
    from ke_cli.methods.base import Editor
    from ke_cli.metrics.base import Metric
    from ke_cli.protocols.base import CaseProtocol

CAMP: Final = "camp"
SCIENTIFIC: Final[Mapping[str, str]] = MappingProxyType({CAMP: "scientific"})
OPERATIONAL: Final[Mapping[str, str]] = MappingProxyType({CAMP: "operational"})

SCHEMA_VERSION: Final = 1
"""Rises when the same YAML begins to mean another experiment."""

DType = Literal["float32", "bfloat16", "float16", "float64"]
Quantization = Literal["4bit", "8bit"]
Progress = Literal["auto", "rich", "plain", "none"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The model that is edited.

    Args:
        name: Short name, used in run directories and tables.
        path: Hub id, absolute path of a local folder, or ``bundled:<folder>`` for a model of the package.
        revision: Commit, tag or branch on the hub.
        dtype: Of the weights in memory.
        device_map: Which part of the model is where (needs the ``accelerate`` extra): ``auto``, ``balanced``,
            ``balanced_low_0``, ``sequential``, a device, or a mapping from module names to devices; null loads on
            the one device of the setting ``device``.
        max_memory: With one of the words above: the most memory to use, by device (a GPU's number, or ``cpu``), in
            bytes or like ``20GiB``.
        quantization: How many bits the weights of linear layers are packed into (needs the ``quantized`` extra); null
            leaves them in ``dtype``.
        trust_remote_code: Whether code that comes with the weights may run.
        statistics_text: The text whose keys make the covariance: ``wikipedia``, ``atlas`` or a file.
        editing: Defaults per method family, read by the YAMLs of the methods; acts only through the
            settings of the chosen method, which are part of the identity.
    """

    name: str = field(metadata=SCIENTIFIC)
    path: str = field(metadata=SCIENTIFIC)
    revision: str | None = field(default=None, metadata=SCIENTIFIC)
    dtype: DType = field(default="float32", metadata=SCIENTIFIC)
    device_map: str | dict[str, str | int] | None = field(default=None, metadata=OPERATIONAL)
    max_memory: dict[str, str | int] | None = field(default=None, metadata=OPERATIONAL)
    quantization: Quantization | None = field(default=None, metadata=SCIENTIFIC)
    trust_remote_code: bool = field(default=False, metadata=SCIENTIFIC)
    statistics_text: str = field(default="wikipedia", metadata=OPERATIONAL)
    editing: dict[str, dict[str, Any]] = field(default_factory=dict, metadata=OPERATIONAL)

    def __post_init__(self) -> None:
        """Refuse an empty name or path, and what is no device."""
        for key, value in (("name", self.name), ("path", self.path)):
            if not value.strip():
                raise ValueError(f"{key}: expected a non-empty string, got {value!r}")
        check_device_map(self.device_map)
        check_max_memory(self.max_memory, self.device_map)
        check_quantization(self.quantization, self.dtype)


@dataclass(frozen=True, kw_only=True, slots=True)
class StatisticsConfig:
    """How the covariance of the keys is estimated.

    Args:
        text: ``wikipedia``, ``atlas`` or the path of a text file.
        tokens_per_width: Tokens read, as a multiple of the width of the MLP.
        max_length: Tokens in one stretch of the text.
        tokens: Tokens read; replaces ``tokens_per_width`` when not null.
    """

    text: str = field(metadata=SCIENTIFIC)
    tokens_per_width: float = field(default=10.0, metadata=SCIENTIFIC)
    max_length: int = field(default=256, metadata=SCIENTIFIC)
    tokens: int | None = field(default=None, metadata=SCIENTIFIC)

    def __post_init__(self) -> None:
        """Refuse sizes that leave nothing to read."""
        check_at_least(self, 1, "tokens_per_width", "tokens")
        check_at_least(self, 2, "max_length")


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardConfig:
    """Which part of the run's units is computed here; every part has a run directory of its own.

    Args:
        count: Parts that the run is split into; 1 for the whole run.
        index: The part that is computed, from 0.
    """

    count: int = field(default=1, metadata=OPERATIONAL)
    index: int = field(default=0, metadata=OPERATIONAL)

    def __post_init__(self) -> None:
        """Refuse a part that there is not."""
        check_at_least(self, 1, "count")
        if not 0 <= self.index < self.count:
            raise ValueError(f"index: expected 0 to {self.count - 1} (shard.count={self.count}), got {self.index}")


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuConfig:
    """How the worker processes of a sweep share the GPUs of a machine, with ``device=auto``.

    Args:
        jobs_per_gpu: Worker processes on one GPU.
        wait_min: Minutes that a worker waits for a place at most.
    """

    jobs_per_gpu: int = field(default=1, metadata=OPERATIONAL)
    wait_min: float = field(default=1440.0, metadata=OPERATIONAL)

    def __post_init__(self) -> None:
        """Refuse numbers that leave no place, or no time to wait in."""
        check_at_least(self, 1, "jobs_per_gpu")
        check_at_least(self, 0, "wait_min")


@dataclass(frozen=True, kw_only=True, slots=True)
class EditsFrom:
    """The run whose saved edits are evaluated, in place of editing.

    Args:
        path: Its directory; the name that the parts of a split run have in common stands for all of them.
        fingerprint: The first digits of a SHA-256 over its identity, its model and its edits.
    """

    path: Path = field(metadata=OPERATIONAL)
    fingerprint: str = field(metadata=SCIENTIFIC)


@dataclass(frozen=True, kw_only=True, slots=True)
class StopFailed:
    """When a run has failed so often that it is stopped.

    Args:
        share: The largest share of failed units with which a run goes on.
        after: Units that are tried before anything is concluded.
    """

    share: float = field(default=0.5, metadata=OPERATIONAL)
    after: int = field(default=20, metadata=OPERATIONAL)

    def __post_init__(self) -> None:
        """Refuse what is no share and no number."""
        if not 0 <= self.share <= 1:
            raise ValueError(f"share: expected 0 to 1, got {self.share}")
        check_at_least(self, 1, "after")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The part of a run's configuration in which nothing is pluggable.

    Args:
        model: The model that is edited.
        statistics: How the covariance of the keys is estimated.
        seed: Of everything that is drawn.
        output_dir: The folder of the run directories.
        device: ``auto``, ``cpu``, ``mps``, ``cuda`` or ``cuda:<n>``.
        gpu: How the worker processes of a sweep share GPUs.
        batch_tokens: Tokens in one forward pass; ``auto`` takes as many as the device has room for.
        cpu_threads: Threads of each operation on the CPU; null for what the environment says.
        shard: The part of the run that is computed here.
        unedited_cache: Keep the answers of the unedited model for later runs, and take what earlier ones kept.
        dry_run: Show what would be done, and stop.
        resume: Go on with an interrupted run and skip a complete one; otherwise start it anew.
        retry_failed: Try the cases again that failed in an earlier part of the run.
        stop_failed: When a run is stopped because too many units fail; None lets it go on however many do.
        progress: How progress is shown.
        save_edits: Keep the edits themselves in the run directory.
        edits_from: The run whose saved edits are evaluated, if edits are not to be computed.
        experiment: What the experiment that the run belongs to says about its tables.
    """

    model: ModelConfig = field(metadata=SCIENTIFIC)
    statistics: StatisticsConfig = field(metadata=SCIENTIFIC)
    seed: int = field(default=0, metadata=SCIENTIFIC)
    output_dir: Path = field(default=Path("outputs"), metadata=OPERATIONAL)
    device: str = field(default="auto", metadata=OPERATIONAL)
    gpu: GpuConfig = field(default_factory=GpuConfig, metadata=OPERATIONAL)
    batch_tokens: int | Literal["auto"] = field(default="auto", metadata=OPERATIONAL)
    cpu_threads: int | None = field(default=None, metadata=OPERATIONAL)
    shard: ShardConfig = field(default_factory=ShardConfig, metadata=OPERATIONAL)
    unedited_cache: bool = field(default=True, metadata=OPERATIONAL)
    dry_run: bool = field(default=False, metadata=OPERATIONAL)
    resume: bool = field(default=True, metadata=OPERATIONAL)
    retry_failed: bool = field(default=True, metadata=OPERATIONAL)
    stop_failed: StopFailed | None = field(default_factory=StopFailed, metadata=OPERATIONAL)
    progress: Progress = field(default="auto", metadata=OPERATIONAL)
    save_edits: bool = field(default=False, metadata=OPERATIONAL)
    edits_from: EditsFrom | None = field(default=None, metadata=SCIENTIFIC)
    experiment: ExperimentConfig | None = field(default=None, metadata=OPERATIONAL)

    def __post_init__(self) -> None:
        """Refuse values that no run could use."""
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed: expected 0 to 2**32 - 1, got {self.seed}")
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", self.device):
            raise ValueError(f"device: expected auto, cpu, mps, cuda or cuda:<n>, got {self.device!r}")
        if self.batch_tokens != "auto":
            check_at_least(self, 1, "batch_tokens")
        check_at_least(self, 1, "cpu_threads")


@dataclass(frozen=True, kw_only=True)
class RunConfig(Settings):
    """The configuration of one run, resolved and valid.

    Args:
        method: The editor.
        dataset: The loader of the cases.
        metrics: What is measured, by name, in the order of the columns.
        protocol: Which cases are written together.
    """

    method: Plugin[Editor] = field(metadata=SCIENTIFIC)
    dataset: Plugin[DatasetLoader] = field(metadata=SCIENTIFIC)
    metrics: Mapping[str, Plugin[Metric]] = field(metadata=SCIENTIFIC)
    protocol: Plugin[CaseProtocol] = field(metadata=SCIENTIFIC)
