"""What a run is going to do, known before any model is loaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ke_cli.config import RunConfig, run_dir
from ke_cli.data.references import References
from ke_cli.data.types import Dataset, EditUnit
from ke_cli.engine.budget import Shape, TokenBudget, estimated_budget, room, token_budget
from ke_cli.engine.workbench import ROOM
from ke_cli.errors import UserError
from ke_cli.metrics.base import Metric
from ke_cli.metrics.evaluate import check_columns
from ke_cli.models.blueprint import module_names
from ke_cli.models.editable import EditableModel
from ke_cli.models.headers import (
    check_source,
    depth_of,
    itemsize_of,
    mlp_width_of,
    vocabulary_of,
    weight_bytes,
    width_of,
)
from ke_cli.models.loading import device_of
from ke_cli.models.source import ModelSource
from ke_cli.protocols.base import SequenceProtocol
from ke_cli.report.pace import sized
from ke_cli.running import partition
from ke_cli.running.cautions import cautions
from ke_cli.running.partition import Units
from ke_cli.running.sequence_plan import sequence_of
from ke_cli.running.stored import notes_on, stored_editor

if TYPE_CHECKING:
    from ke_cli.methods.base import Editor

UNKNOWN = "known once the model is downloaded"


@dataclass(frozen=True)
class Plan:
    """The parts of a run, built and checked.

    Args:
        config: The configuration.
        source: The model to load.
        dataset: The loaded cases.
        units: What is written together, of the whole run in the order of the data.
        editor: The method.
        metrics: What is measured.
        references: Prompts that the method may hold still.
        warnings: What the user should know before numbers are believed.
        sequence: The protocol, where units are written on top of each other; None where they are independent.
    """

    config: RunConfig
    source: ModelSource
    dataset: Dataset
    units: tuple[EditUnit, ...]
    editor: Editor
    metrics: tuple[Metric, ...]
    references: References
    warnings: tuple[str, ...]
    sequence: SequenceProtocol | None = None

    @property
    def cases(self) -> int:
        """Number of cases over all units."""
        return _cases(self.units)

    @cached_property
    def own(self) -> Units:
        """The units of this shard whose results are stored, in the order in which they are computed."""
        if self.sequence:
            return tuple(self.sequence.stages(self.units))
        return tuple(unit for block in self._blocks for unit in block)

    @property
    def totals(self) -> dict[str, Any]:
        """How much there is to do, for the record: here, and in a shard in the whole run as well."""
        whole = {"cases": self.cases, "units": len(self.units)}
        if self.sequence:
            return {"cases": self.cases, "units": len(self.own), "checkpoints": self.checkpoints}
        if self.config.shard.count == 1:
            return whole
        return {"cases": _cases(self.own), "units": len(self.own), "whole": whole}

    @property
    def parts(self) -> str:
        """What results are stored by, for messages."""
        return "checkpoints" if self.sequence else "units"

    @property
    def checkpoints(self) -> list[int]:
        """Numbers of facts after which a sequence is evaluated."""
        return [len(stage.cases) for stage in self.own] if self.sequence else []

    @cached_property
    def _blocks(self) -> list[Units]:
        shard = self.config.shard
        return partition.shard(partition.blocks(self.units), shard.count, shard.index)

    def package(self, tokens: int) -> int:
        """Units that are computed together, with ``tokens`` in a batch, before their results are stored."""
        return partition.package_size(self.units, tokens)

    def packages(self, tokens: int) -> list[Units]:
        """The units of this shard as they are computed together, the same whatever is stored already."""
        return partition.packages(self._blocks, self.package(tokens))

    def budget(self, model: EditableModel) -> TokenBudget:
        """Tokens per batch: as configured, or as many as the model's device has room for, whatever the method."""
        asked = self.config.batch_tokens
        if asked != "auto":
            return TokenBudget(asked, "given")
        return token_budget(model, reserved=_held(model.mlp_width))

    def expected_budget(self) -> TokenBudget | None:
        """The same before the model is loaded; None if its folder is not here."""
        asked, shape = self.config.batch_tokens, self._shape()
        if asked != "auto":
            return TokenBudget(asked, "given")
        if shape is None:
            return None
        device = device_of(self.source.device)
        try:
            beside = room(device, shape.parameters * shape.itemsize)
        except (RuntimeError, AssertionError):  # no such device here: the run itself will say so
            return None
        return estimated_budget(shape, device, beside, layer=0, reserved=_held(shape.mlp_width))

    def describe(self) -> list[tuple[str, str]]:
        """The plan as rows of a table, for ``dry_run=true``."""
        depth, budget = depth_of(self.source), self.expected_budget()
        return [
            ("model", f"{self.source.name} ({self.source.held})"),
            ("method", f"{self.config.method.name} {_settings(self.config.method.settings)}".strip()),
            *([("edits", f"saved in {self.config.edits_from.path}")] if self.config.edits_from else []),
            ("edited modules", self._modules(depth)),
            ("data set", f"{self.config.dataset.name} ({self.dataset.source})"),
            ("cases", f"{self.cases} in {_units(self.units)}"),
            *self._shard(),
            *([("checkpoints", f"after {', '.join(map(str, self.checkpoints))} facts")] if self.sequence else []),
            ("computed", self._steps(budget)),
            ("tokens in a batch", f"{budget.tokens} ({budget.source})" if budget else UNKNOWN),
            ("metrics", ", ".join(column.name for metric in self.metrics for column in metric.columns)),
            ("expected memory", self._memory(budget)),
            ("results", str(run_dir(self.config))),
        ]

    def _modules(self, depth: int | None) -> str:
        if depth is None:
            return UNKNOWN
        return module_names(self.source, self.editor.edited_layers(depth))

    def _steps(self, budget: TokenBudget | None) -> str:
        if self.sequence:
            return "each unit on top of the earlier ones"
        if budget is None:
            return UNKNOWN
        size, count = self.package(budget.tokens), len(self.packages(budget.tokens))
        return "all at once" if count == 1 else f"up to {_many(size, 'unit')} at a time, {count} times"

    def _shard(self) -> list[tuple[str, str]]:
        shard = self.config.shard
        if shard.count == 1:
            return []
        return [("shard", f"{shard.index} of {shard.count}: {_cases(self.own)} of the cases in {len(self.own)} units")]

    def _memory(self, budget: TokenBudget | None) -> str:
        shape = self._shape()
        if shape is None or budget is None:
            return UNKNOWN
        weights = shape.parameters * shape.itemsize
        statistics = self._statistics(shape.layers, shape.mlp_width)
        batch = budget.tokens * shape.bytes_per_token(self._lowest(shape.layers))
        return f"{sized(weights)} weights + {sized(statistics)} statistics + {sized(batch)} activations of a full batch"

    def _lowest(self, depth: int) -> int:
        """The lowest edited layer; what is added there is felt in all layers above."""
        return min(self.editor.edited_layers(depth), default=0)

    def _shape(self) -> Shape | None:
        """The shape of a model that is in a local folder."""
        weights, depth, mlp_width = weight_bytes(self.source), depth_of(self.source), mlp_width_of(self.source)
        width, vocabulary = width_of(self.source), vocabulary_of(self.source)
        if not (weights and depth and mlp_width and width and vocabulary):
            return None
        itemsize = itemsize_of(self.source)
        return Shape(depth, width, mlp_width, vocabulary, itemsize, weights // itemsize)

    def _statistics(self, depth: int, width: int) -> int:
        """Bytes of the covariances that the method needs (matrix, float64 copy, factor), as far as they are held."""
        everything = len(self.editor.covariance_layers(depth)) * width**2 * (4 + 8 + 8)
        return min(everything, _held(width))


def make_plan(config: RunConfig) -> Plan:
    """Build and check everything that needs no model.

    Raises:
        UserError: Bad data, no such model folder, a layer that does not exist.
    """
    source = model_source(config)
    check_source(source)
    editor: Editor = config.method.build()
    depth = depth_of(source)
    if depth is not None:
        editor.edited_layers(depth)
    sequence = sequence_of(config)
    metrics = tuple(metric.build() for metric in config.metrics.values())
    check_columns(metrics)
    dataset, units = load_units(config)
    acting = stored_editor(config, editor, units)
    references = References.of(acting.references(), dataset)
    # in an order of their own, because a sum over them has other last digits in another
    references = replace(references, prompts=tuple(sorted(references.prompts)))
    warnings = (*dataset.notes, *cautions(config, editor, dataset, units), *notes_on(config, acting, dataset))
    return Plan(config, source, dataset, units, acting, metrics, references, warnings, sequence)


def load_units(config: RunConfig) -> tuple[Dataset, tuple[EditUnit, ...]]:
    """The data set and what is written together.

    Under a grouping protocol the limit and the offset of the data set count units: all cases are loaded and grouped.

    Raises:
        UserError: Bad data, or an offset that skips all units.
    """
    loader: Any = config.dataset.build()
    protocol = config.protocol.build()
    if not protocol.groups_cases:
        dataset: Dataset = loader.load()
        return dataset, tuple(protocol.units(dataset.cases))
    limit, offset = getattr(loader, "limit", None), getattr(loader, "offset", 0)
    whole = {name: value for name, value in (("limit", None), ("offset", 0)) if hasattr(loader, name)}
    dataset = replace(loader, **whole).load()
    units = protocol.units(dataset.cases)
    if offset >= len(units):
        what = f"an offset of {offset} skips all {len(units)} units"
        raise UserError(what, where="dataset.offset", allowed=f"0 to {len(units) - 1}")
    return dataset, tuple(units[offset:][:limit])


def model_source(config: RunConfig) -> ModelSource:
    """The model part of the configuration in the terms of the loader."""
    model = config.model
    return ModelSource(
        name=model.name,
        path=model.path,
        revision=model.revision,
        dtype=model.dtype,
        device=config.device,
        device_map=model.device_map,
        max_memory=model.max_memory,
        quantization=model.quantization,
        trust_remote_code=model.trust_remote_code,
    )


def _held(width: int) -> int:
    """Bytes that the covariances of a model with an MLP of ``width`` may take up, of whatever method."""
    return max(ROOM, width**2 * (4 + 8 + 8))


def _cases(units: Sequence[EditUnit]) -> int:
    return sum(len(unit.cases) for unit in units)


def _units(units: Sequence[EditUnit]) -> str:
    """How many units there are, and how many facts are written together in each."""
    sizes = sorted({len(unit.cases) for unit in units})
    facts = _many(sizes[0], "fact") if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]} facts"
    return f"{_many(len(units), 'unit')} of {facts}"


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _settings(settings: Any) -> str:
    """Settings as they are typed."""
    return " ".join(f"{key}={_typed(value)}" for key, value in settings.items() if key != "context_prefixes")


def _typed(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
