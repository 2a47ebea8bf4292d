"""What a run is going to do, known before any model is loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ke_cli.config import RunConfig, run_dir
from ke_cli.data.references import References
from ke_cli.data.types import Case, Dataset, EditUnit
from ke_cli.engine.budget import Shape, TokenBudget, estimated_budget, token_budget
from ke_cli.engine.workbench import ROOM
from ke_cli.errors import UserError
from ke_cli.metrics.base import Metric
from ke_cli.metrics.evaluate import check_columns
from ke_cli.models.architectures import ARCHITECTURES
from ke_cli.models.editable import EditableModel
from ke_cli.models.loading import (
    ModelSource,
    check_folder,
    depth_of,
    device_of,
    itemsize_of,
    mlp_width_of,
    text_config,
    vocabulary_of,
    weight_bytes,
    width_of,
)
from ke_cli.models.memory import free_memory

if TYPE_CHECKING:
    from ke_cli.methods.base import Editor

TOKENS_PER_CASE = 256
"""About what one case of a benchmark asks of the model; sets how many units are computed between two writes."""

LARGEST_PACKAGE = 64
"""Units computed between two writes at most: what an interruption costs."""

UNKNOWN = "known once the model is downloaded"


@dataclass(frozen=True)
class Plan:
    """The parts of a run, built and checked.

    Args:
        config: The configuration.
        source: The model to load.
        dataset: The loaded cases.
        units: What is written together.
        editor: The method.
        metrics: What is measured.
        references: Prompts that the method may hold still.
        warnings: What the user should know before numbers are believed.
    """

    config: RunConfig
    source: ModelSource
    dataset: Dataset
    units: tuple[EditUnit, ...]
    editor: Editor
    metrics: tuple[Metric, ...]
    references: References
    warnings: tuple[str, ...]

    @property
    def cases(self) -> int:
        """Number of cases over all units."""
        return sum(len(unit.cases) for unit in self.units)

    def package(self, tokens: int) -> int:
        """Units that are computed together, with ``tokens`` in a batch, before their results are stored."""
        per_unit = max(len(unit.cases) for unit in self.units) * TOKENS_PER_CASE
        return min(LARGEST_PACKAGE, max(1, tokens // per_unit))

    def budget(self, model: EditableModel) -> TokenBudget:
        """Tokens per batch: as configured, or as many as fit beside the loaded model."""
        asked = self.config.batch_tokens
        if asked != "auto":
            return TokenBudget(asked, "given")
        width = model.weight(model.projection_name(0)).shape[1]
        reserved = self._statistics(model.n_layers, width)
        return token_budget(model, layer=self._lowest(model.n_layers), reserved=reserved)

    def expected_budget(self) -> TokenBudget | None:
        """The same before the model is loaded; None if its folder is not here."""
        asked, shape = self.config.batch_tokens, self._shape()
        if asked != "auto":
            return TokenBudget(asked, "given")
        if shape is None:
            return None
        device = device_of(self.source.device)
        try:
            free = free_memory(device) - shape.parameters * shape.itemsize
        except (RuntimeError, AssertionError):  # no such device here: the run itself will say so
            return None
        reserved = self._statistics(shape.layers, shape.mlp_width)
        return estimated_budget(shape, device, free, layer=self._lowest(shape.layers), reserved=reserved)

    def describe(self) -> list[tuple[str, str]]:
        """The plan as rows of a table, for ``dry_run=true``."""
        depth, budget = depth_of(self.source), self.expected_budget()
        return [
            ("model", f"{self.source.name} ({self.source.path}, {self.source.dtype})"),
            ("method", f"{self.config.method.name} {_settings(self.config.method.settings)}"),
            ("edited modules", self._modules(depth)),
            ("data set", f"{self.dataset.name} ({self.dataset.source})"),
            ("cases", f"{self.cases} in {len(self.units)} units of {_sizes(self.units)}"),
            ("batches", self._batches(budget)),
            ("tokens in a batch", f"{budget.tokens} ({budget.source})" if budget else UNKNOWN),
            ("metrics", ", ".join(column.name for metric in self.metrics for column in metric.columns)),
            ("expected memory", self._memory(budget)),
            ("results", str(run_dir(self.config))),
        ]

    def _modules(self, depth: int | None) -> str:
        if depth is None:
            return UNKNOWN
        known = ARCHITECTURES.get(str((text_config(self.source) or {}).get("model_type")))
        layers = self.editor.edited_layers(depth)
        return ", ".join(known.projection(layer) if known else f"layer {layer}" for layer in layers) or "none"

    def _batches(self, budget: TokenBudget | None) -> str:
        if budget is None:
            return UNKNOWN
        units = self.package(budget.tokens)
        return f"{-(-len(self.units) // units)} packages of up to {units} units"

    def _memory(self, budget: TokenBudget | None) -> str:
        shape = self._shape()
        if shape is None or budget is None:
            return UNKNOWN
        weights = shape.parameters * shape.itemsize
        statistics = self._statistics(shape.layers, shape.mlp_width)
        batch = budget.tokens * shape.bytes_per_token(self._lowest(shape.layers))
        return f"{_size(weights)} weights + {_size(statistics)} statistics + {_size(batch)} activations of a full batch"

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
        return min(everything, max(ROOM, width**2 * (4 + 8 + 8)))


def make_plan(config: RunConfig) -> Plan:
    """Build and check everything that needs no model.

    Raises:
        UserError: Bad data, no such model folder, a layer that does not exist.
    """
    source = model_source(config)
    check_folder(source)
    editor: Editor = config.method.build()
    depth = depth_of(source)
    if depth is not None:
        editor.edited_layers(depth)
    metrics = tuple(metric.build() for metric in config.metrics.values())
    check_columns(metrics)
    dataset, units = load_units(config)
    references = References.of(editor.references(), dataset)
    warnings = (*dataset.notes, *_warnings(config, editor, units))
    return Plan(config, source, dataset, units, editor, metrics, references, warnings)


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
        trust_remote_code=model.trust_remote_code,
    )


def _warnings(config: RunConfig, editor: Editor, units: Sequence[EditUnit]) -> list[str]:
    crowded = sum(1 for unit in units if _repeats_subject(unit.cases))
    if editor.holds_subject or not crowded:
        return []
    return [
        f"{crowded} of {len(units)} units hold several facts of one subject, which {config.method.name} cannot keep "
        "apart: their keys are nearly equal, so the facts overwrite each other (method=memit_merge or rose can)"
    ]


def _repeats_subject(cases: Sequence[Case]) -> bool:
    return max(Counter(case.request.subject for case in cases).values()) > 1


def _sizes(units: Sequence[EditUnit]) -> str:
    sizes = [len(unit.cases) for unit in units]
    return str(sizes[0]) if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)}"


def _settings(settings: Any) -> str:
    return " ".join(f"{key}={value}" for key, value in settings.items() if key != "context_prefixes")


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable: GiB is the last unit")
