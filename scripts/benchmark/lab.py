"""From the command line to a model, an editor, metrics and units, all composed as ``ke-run`` composes them.

Covariances are really collected from text through the statistics store, into a folder that is thrown away: random
weights have nothing to look up, and a made-up matrix would be better conditioned than a real one.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmark.shapes import SHAPES, local_tokenizer, random_model
from ke_cli.config import compose_run
from ke_cli.data.text import TextSource
from ke_cli.data.types import EditUnit
from ke_cli.engine.batching import Budget
from ke_cli.engine.budget import TokenBudget
from ke_cli.engine.statistics import StatisticsSpec, StatisticsStore
from ke_cli.engine.workbench import Workbench
from ke_cli.errors import UserError
from ke_cli.models.editable import EditableModel
from ke_cli.models.loading import device_of, load
from ke_cli.models.source import ModelSource
from ke_cli.paths import BUNDLED
from ke_cli.running.plan import Plan, make_plan

ATLAS = "atlas"


@dataclass(frozen=True)
class Lab:
    """What both sides work with.

    Args:
        plan: The run as ``ke-run`` would plan it: editor, metrics, references.
        bench: Model, covariances, templates.
        budget: Tokens in a batch of the engine.
        units: What is written together.
        spare: A unit that is not measured, where the data set has one more: what is computed once for each model
            is computed with it, before anything is timed.
    """

    plan: Plan
    bench: Workbench
    budget: TokenBudget
    units: tuple[EditUnit, ...]
    spare: EditUnit

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.bench.model.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.bench.model.dtype

    @property
    def package(self) -> int:
        """Units that a run computes together."""
        return replace(self.plan, units=self.units).package(self.budget.tokens)

    def first(self, cases: int | None) -> tuple[EditUnit, ...]:
        """The first units that hold at least so many cases; all of them where no number is given."""
        taken: list[EditUnit] = []
        for unit in self.units:
            if cases is not None and count(taken) >= cases:
                break
            taken.append(unit)
        return tuple(taken)


def count(units: Sequence[EditUnit]) -> int:
    """Cases of all units."""
    return sum(len(unit.cases) for unit in units)


@contextmanager
def open_lab(options: argparse.Namespace) -> Iterator[Lab]:
    """Load or build the model, collect its covariances, and sample its context templates.

    Raises:
        UserError: If something that is asked for does not exist or does not fit together.
    """
    check_sizes(options)
    plan = make_plan(compose_run(overrides(options)))
    units, spare = chosen(plan.units, options.cases, options.unit_size)
    model = loaded(options, plan.source)
    with tempfile.TemporaryDirectory(prefix="ke-bench-") as cache:
        budget = plan.budget(model)
        yield Lab(plan, workbench(plan, model, budget.tokens, Path(cache)), budget, units, spare)


def check_sizes(options: argparse.Namespace) -> None:
    """Refuse numbers of cases that make no units.

    Raises:
        UserError: If a batch and a subject are asked for at once, or the cases do not fill the batches.
    """
    size, cases = options.unit_size, options.cases
    if size is not None and options.same_subject:
        raise UserError("a unit is a batch of so many facts, or all facts of a subject", where="--unit-size")
    if size is not None and cases % size:
        raise UserError(f"{cases} cases do not fill units of {size}", where="--cases", allowed=f"a multiple of {size}")


def overrides(options: argparse.Namespace) -> list[str]:
    """What would be typed after ``ke-run`` for the same run; ``--set`` comes last and so wins."""
    return [
        *_model(options),
        f"method={options.method}",
        *_dataset(options),
        f"metrics=[{','.join(options.metrics)}]",
        f"protocol={'same_subject' if options.same_subject else 'single'}",
        f"statistics.text={_quoted(options.text) if Path(options.text).is_file() else options.text}",
        f"statistics.tokens_per_width={options.tokens_per_width}",
        f"device={options.device}",
        *([f"batch_tokens={options.batch_tokens}"] if options.batch_tokens is not None else []),
        *options.set,
    ]


def _quoted(path: str | Path) -> str:
    return f"'{Path(path).expanduser().resolve()}'"


def _model(options: argparse.Namespace) -> list[str]:
    dtype = [] if options.dtype is None else [f"model.dtype={options.dtype}"]
    if options.model == ATLAS:
        return ["model=atlas", *dtype]
    if options.model in SHAPES:
        shape = SHAPES[options.model]
        layers = [f"method.layers={shape.layers[options.method]}"] if options.method in shape.layers else []
        return [f"model={shape.entry}", *dtype, *layers]
    if not Path(options.model).expanduser().is_dir():
        allowed = f"{', '.join(SHAPES)}, {ATLAS}, or a local model folder"
        raise UserError(f"there is no model {options.model!r}", where="--model", allowed=allowed)
    return ["model=local", f"model.path={_quoted(options.model)}", *dtype]


def _dataset(options: argparse.Namespace) -> list[str]:
    """The data set with one unit more than asked for; a batch is put together from single cases."""
    limit = f"dataset.limit={options.cases + 1}"
    if options.dataset is None:
        return ["dataset=atlas", limit]
    if not Path(options.dataset).is_file():
        raise UserError(f"there is no file {str(options.dataset)!r}", where="--dataset", allowed="a CounterFact file")
    grouped = options.same_subject and _lists_subjects(options.dataset)
    name = "counterfact_same_subject" if grouped else "counterfact"
    return [f"dataset={name}", f"dataset.path={_quoted(options.dataset)}", limit]


def _lists_subjects(path: Path) -> bool:
    """Whether a file holds subjects with their facts (``records``) rather than facts."""
    with suppress(ValueError, OSError, LookupError, TypeError):
        return "records" in json.loads(path.read_text(encoding="utf-8"))[0]
    return False  # the loader of the data set says what is wrong with it


def chosen(units: Sequence[EditUnit], wanted: int, size: int | None) -> tuple[tuple[EditUnit, ...], EditUnit]:
    """The first ``wanted`` units, in batches of ``size`` where it is given, and the one behind them.

    Raises:
        UserError: If there are not so many.
    """
    if len(units) < wanted:
        raise UserError(f"the data set has only {len(units)} units", where="--cases", allowed=f"1 to {len(units)}")
    taken, spare = units[:wanted], units[min(wanted, len(units) - 1)]
    if size is None:
        return tuple(taken), spare
    cases = [case for unit in taken for case in unit.cases]
    starts = range(0, len(cases), size)
    return tuple(EditUnit(f"batch-{i}", tuple(cases[i : i + size])) for i in starts), spare


def loaded(options: argparse.Namespace, source: ModelSource) -> EditableModel:
    """The model: a shape with random weights, or a local folder.

    Raises:
        UserError: If a tokenizer is given for a model that has its own, or anything does not fit.
    """
    if options.model not in SHAPES:
        if options.tokenizer is not None:
            what = f"the model {options.model} has a tokenizer of its own"
            raise UserError(what, where="--tokenizer", allowed=f"with one of {', '.join(SHAPES)}")
        return load(source)
    bundled = ModelSource(name=ATLAS, path=f"{BUNDLED}atlas-llama").folder
    assert bundled is not None
    tokenizer = local_tokenizer(bundled if options.tokenizer is None else options.tokenizer)
    return random_model(options.model, tokenizer, getattr(torch, source.dtype), device_of(source.device))


def workbench(plan: Plan, model: EditableModel, tokens: int, cache: Path) -> Workbench:
    """The workbench of a run, with covariances and context templates in place.

    Raises:
        UserError: If an edited layer does not exist.
    """
    config = plan.config
    spec = StatisticsSpec(
        TextSource(config.statistics.text),
        config.statistics.tokens_per_width,
        config.statistics.tokens,
        config.statistics.max_length,
    )
    budget = Budget(tokens)
    bench = Workbench(model, StatisticsStore(cache, spec, budget), budget, plan.references.prompts)
    plan.editor.edited_layers(model.n_layers)
    if needed := plan.editor.covariance_layers(model.n_layers):
        bench.covariances(needed)
    if (context := plan.editor.context()) is not None:
        bench.templates(context)
    return bench
