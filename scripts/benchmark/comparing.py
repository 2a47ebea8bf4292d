"""The sub-benchmarks ``edit``, ``evaluate`` and ``end_to_end``."""

from __future__ import annotations

import argparse
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from benchmark.agreement import TOLERANCES, Finding, compare_edits, compare_outcomes
from benchmark.lab import Lab, count, open_lab
from benchmark.machine import MatmulRate, describe
from benchmark.measure import Numbers, Passes, Ratio, Work, measure
from benchmark.report import Report
from benchmark.sides import EngineSide, TextbookSide
from ke_cli.data.types import EditUnit
from ke_cli.engine.edits import Edit

Works = tuple[Work, Work]
TEXTBOOK, ENGINE = "textbook", "engine"
RATIO = f"{TEXTBOOK} / {ENGINE}"


def compare_sides(options: argparse.Namespace) -> Report:
    """Runs both sides of ``edit``, ``evaluate`` or ``end_to_end``.

    Raises:
        UserError: If something that is asked for is impossible.
    """
    with open_lab(options) as lab:
        few = lab.first(options.textbook_cases)
        textbook, engine = TextbookSide(lab), EngineSide(lab)
        job = JOBS[options.command](textbook, engine, few, lab.units)
        often = passes(options, lab)
        numbers = measure(dict(zip((TEXTBOOK, ENGINE), job.works, strict=True)), often, lab.device)
        findings = job.findings(few, numbers[TEXTBOOK].result, numbers[ENGINE].result, lab.dtype)
        return Report(
            options.command,
            about(options, lab, engine.package),
            numbers,
            {RATIO: Ratio.of(numbers[TEXTBOOK], numbers[ENGINE])},
            findings,
            often.rate,
            more=job.more(numbers),
        )


class Job(ABC):
    """What both sides do, and how their results are compared.

    Args:
        textbook: One side.
        engine: The other.
        few: Units of the textbook loop.
        units: Units of the engine.
    """

    def __init__(
        self, textbook: TextbookSide, engine: EngineSide, few: Sequence[EditUnit], units: Sequence[EditUnit]
    ) -> None:
        self.textbook, self.engine, self.few, self.units = textbook, engine, few, units
        self.works: Works = (
            Work(self.slow, count(few), textbook.ready),
            Work(self.fast, count(units), engine.ready),
        )

    @abstractmethod
    def slow(self) -> Any:
        """The textbook's part."""

    @abstractmethod
    def fast(self) -> Any:
        """The engine's part."""

    @abstractmethod
    def findings(self, units: Sequence[EditUnit], slow: Any, fast: Any, dtype: torch.dtype) -> list[Finding]:
        """Whether the results agree on the units that both have done."""

    def more(self, numbers: Mapping[str, Numbers]) -> dict[str, Any]:
        """Further numbers for the report."""
        return {}


class EditJob(Job):
    """Compute edits."""

    def slow(self) -> list[Edit]:
        """The textbook's edits."""
        return self.textbook.edit(self.few)

    def fast(self) -> list[Edit]:
        """The engine's edits."""
        return self.engine.edit(self.units)

    def findings(self, units: Sequence[EditUnit], slow: Any, fast: Any, dtype: torch.dtype) -> list[Finding]:
        """Compare the edits."""
        return [compare_edits([unit.unit_id for unit in units], slow, fast[: len(units)], TOLERANCES[dtype])]

    def more(self, numbers: Mapping[str, Numbers]) -> dict[str, Any]:
        """How many steps the edits took."""
        return {"steps": {name: steps(side.result) for name, side in numbers.items()}}


class EvaluateJob(Job):
    """Ask about edits that are there already: both sides about the engine's."""

    def __init__(
        self, textbook: TextbookSide, engine: EngineSide, few: Sequence[EditUnit], units: Sequence[EditUnit]
    ) -> None:
        super().__init__(textbook, engine, few, units)
        self.edits = engine.edit(units)

    def slow(self) -> Any:
        """The textbook's columns."""
        return self.textbook.evaluate(self.few, self.edits[: len(self.few)])

    def fast(self) -> Any:
        """The engine's columns."""
        return self.engine.evaluate(self.units, self.edits)

    def findings(self, units: Sequence[EditUnit], slow: Any, fast: Any, dtype: torch.dtype) -> list[Finding]:
        """Compare answers and metric columns."""
        return compare_outcomes(slow, fast, TOLERANCES[dtype])


class WholeJob(EditJob):
    """Edit and evaluate."""

    def slow(self) -> Any:
        """The textbook's edits and columns; each unit is evaluated before the next one is edited."""
        edits: list[Edit] = []
        columns: dict[str, Mapping[str, Any]] = {}
        for unit in self.few:
            edits += self.textbook.edit([unit])
            columns |= self.textbook.evaluate([unit], edits[-1:])
        return edits, columns

    def fast(self) -> Any:
        """The engine's edits and columns."""
        return self.engine.both(self.units)

    def findings(self, units: Sequence[EditUnit], slow: Any, fast: Any, dtype: torch.dtype) -> list[Finding]:
        """Compare both."""
        return [
            *super().findings(units, slow[0], fast[0], dtype),
            *compare_outcomes(slow[1], fast[1], TOLERANCES[dtype]),
        ]

    def more(self, numbers: Mapping[str, Numbers]) -> dict[str, Any]:
        """How many steps the edits took."""
        return {"steps": {name: steps(side.result[0]) for name, side in numbers.items()}}


JOBS: dict[str, Callable[[TextbookSide, EngineSide, Sequence[EditUnit], Sequence[EditUnit]], Job]] = {
    "edit": EditJob,
    "evaluate": EvaluateJob,
    "end_to_end": WholeJob,
}


def steps(edits: Sequence[Edit]) -> float | None:
    """Mean evaluations of the loss, where the edits tell."""
    told = [edit.info["steps"] for edit in edits if "steps" in edit.info]
    return sum(told) / len(told) if told else None


def passes(options: argparse.Namespace, lab: Lab) -> Passes:
    """How often each side runs."""
    rate = MatmulRate(lab.device, lab.dtype, options.matmul_size) if options.count else None
    return Passes(options.repeats, options.warmup, rate)


def about(options: argparse.Namespace, lab: Lab, package: int | None = None) -> dict[str, Any]:
    """What was measured, and on what."""
    config = lab.plan.config
    return {
        "command": options.typed,
        "machine": describe(lab.device, lab.dtype),
        "model": options.model,
        "parameters": sum(weight.numel() for weight in lab.bench.model.hf.parameters()),
        "weights_bytes": sum(weight.nbytes for weight in lab.bench.model.hf.parameters()),
        "method": config.method.name,
        "settings": {key: value for key, value in config.method.settings.items() if key != "context_prefixes"},
        "metrics": list(config.metrics),
        "dataset": lab.plan.dataset.name,
        "cases": count(lab.units),
        "units": len(lab.units),
        "units_per_package": package,
        "protocol": config.protocol.name,
        "batch_tokens": asdict(lab.budget),
        "statistics": {"text": config.statistics.text, "tokens_per_width": config.statistics.tokens_per_width},
    }
