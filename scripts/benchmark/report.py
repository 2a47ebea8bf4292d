"""What came out, as a table on the screen and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmark.agreement import Finding, sentences
from benchmark.machine import MatmulRate
from benchmark.measure import Numbers, Ratio

GIB = 1 << 30


@dataclass(frozen=True)
class Report:
    """The outcome of one sub-benchmark.

    Args:
        benchmark: Its name.
        about: Model, method, cases, machine and command line.
        sides: What was measured, by side.
        ratios: By the two names they compare.
        findings: Whether the numbers agree.
        matmul: How fast the machine multiplies matrices; None where nothing was counted.
        per: What a side does many of.
        more: What else this sub-benchmark found out.
    """

    benchmark: str
    about: Mapping[str, Any]
    sides: Mapping[str, Numbers]
    ratios: Mapping[str, Ratio]
    findings: Sequence[Finding]
    matmul: MatmulRate | None
    per: str = "case"
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rate(self) -> float | None:
        """Matrix-multiply rate, in operations per second."""
        return None if self.matmul is None else self.matmul.flops_per_s

    @property
    def agrees(self) -> bool:
        """Whether all that was compared agrees."""
        return all(finding.agrees for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {
            "benchmark": self.benchmark,
            **self.about,
            "per": self.per,
            "matmul_flops_per_s": self.rate,
            "sides": {name: self._side(numbers) for name, numbers in self.sides.items()},
            "ratios": {name: ratio_json(ratio) for name, ratio in self.ratios.items()},
            "agreement": {
                "agrees": self.agrees,
                "findings": [{**asdict(finding), "agrees": finding.agrees} for finding in self.findings],
            },
            **self.more,
        }

    def _side(self, numbers: Numbers) -> dict[str, Any]:
        return {
            "amount": numbers.amount,
            "seconds": list(numbers.seconds),
            "seconds_each": numbers.seconds_each,
            "flops": numbers.flops,
            "flops_each": numbers.flops_each,
            "share_of_matmul_rate": None if self.rate is None else numbers.share_of(self.rate),
            "peak_bytes": numbers.peak_bytes,
        }

    def table(self) -> Table:
        """One row for each side."""
        table = Table(title=self._title(), title_justify="left")
        table.add_column("side")
        for title in (
            f"{self.per}{'es' if self.per.endswith('s') else 's'}",
            f"s per {self.per}",
            f"GFLOP per {self.per}",
            "share of matmul",
            "peak memory",
        ):
            table.add_column(title, justify="right")
        for name, numbers in self.sides.items():
            table.add_row(name, *self._cells(numbers))
        return table

    def _title(self) -> str:
        about = self.about
        words = [self.benchmark, *(str(about[key]) for key in ("model", "method") if about.get(key))]
        return " · ".join(words)

    def _cells(self, numbers: Numbers) -> list[str]:
        share = None if self.rate is None else numbers.share_of(self.rate)
        return [
            str(numbers.amount),
            f"{numbers.seconds_each:.4g}",
            "-" if numbers.flops_each is None else f"{numbers.flops_each / 1e9:.4g}",
            "-" if share is None else f"{100 * share:.1f} %",
            "-" if numbers.peak_bytes is None else f"{numbers.peak_bytes / GIB:.2f} GiB",
        ]


def ratio_json(ratio: Ratio) -> dict[str, Any]:
    """Median and spread of a ratio."""
    return {"median": ratio.median, "min": min(ratio.pairs), "max": max(ratio.pairs), "pairs": list(ratio.pairs)}


def show(report: Report, console: Console) -> None:
    """Print the table, the ratios, and whether the numbers agree."""
    console.print(report.table())
    for name, ratio in report.ratios.items():
        spread = f"({min(ratio.pairs):.2f} to {max(ratio.pairs):.2f} over {len(ratio.pairs)} pairs)"
        console.print(f"{name}: [bold]{ratio.median:.2f}[/] {spread}", highlight=False)
    if report.rate is not None:
        console.print(f"measured matrix-multiply rate: {report.rate / 1e9:.1f} GFLOP/s", highlight=False)
    for finding in report.findings:
        state = "agree" if finding.agrees else "DIFFER"
        line = f"{finding.what}: {state}, by {finding.worst:.2g} at most (tolerance {finding.tolerance:g})"
        console.print(Text(line), soft_wrap=True)
    for sentence in sentences(report.findings):
        console.print(Text(sentence, style="red"), soft_wrap=True)


def write_json(content: Mapping[str, Any], path: Path) -> None:
    """Write a report; numbers that JSON has no word for become null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_finite(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
