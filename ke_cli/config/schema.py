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

from ke_cli.config.devices import check_device_map, check_max_memory
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
        _at_least("tokens_per_width", self.tokens_per_width, 1)
        _at_least("max_length", self.max_length, 2)
        if self.tokens is not None:
            _at_least("tokens", self.tokens, 1)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The part of a run's configuration in which nothing is pluggable.

    Args:
        model: The model that is edited.
        statistics: How the covariance of the keys is estimated.
        seed: Of everything that is drawn.
        output_dir: The folder of the run directories.
        device: ``auto``, ``cpu``, ``mps``, ``cuda`` or ``cuda:<n>``.
        batch_tokens: Tokens in one forward pass; ``auto`` measures how many fit.
        unedited_cache: Keep the answers of the unedited model for later runs, and take what earlier ones kept.
        dry_run: Show what would be done, and stop.
        resume: Go on with an interrupted run and skip a complete one; otherwise start it anew.
        progress: How progress is shown.
        experiment: What the experiment that the run belongs to says about its tables.
    """

    model: ModelConfig = field(metadata=SCIENTIFIC)
    statistics: StatisticsConfig = field(metadata=SCIENTIFIC)
    seed: int = field(default=0, metadata=SCIENTIFIC)
    output_dir: Path = field(default=Path("outputs"), metadata=OPERATIONAL)
    device: str = field(default="auto", metadata=OPERATIONAL)
    batch_tokens: int | Literal["auto"] = field(default="auto", metadata=OPERATIONAL)
    unedited_cache: bool = field(default=True, metadata=OPERATIONAL)
    dry_run: bool = field(default=False, metadata=OPERATIONAL)
    resume: bool = field(default=True, metadata=OPERATIONAL)
    progress: Progress = field(default="auto", metadata=OPERATIONAL)
    experiment: ExperimentConfig | None = field(default=None, metadata=OPERATIONAL)

    def __post_init__(self) -> None:
        """Refuse values that no run could use."""
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed: expected 0 to 2**32 - 1, got {self.seed}")
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", self.device):
            raise ValueError(f"device: expected auto, cpu, mps, cuda or cuda:<n>, got {self.device!r}")
        if self.batch_tokens != "auto":
            _at_least("batch_tokens", self.batch_tokens, 1)


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


def _at_least(name: str, value: float, least: float) -> None:
    if value < least:
        raise ValueError(f"{name}: expected at least {least}, got {value}")
