"""The sub-benchmark ``covariance``: several layers in one pass, one layer, and a pass for each layer."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from torch import Tensor

from benchmark.agreement import TOLERANCES, Finding, compare_matrices
from benchmark.comparing import ENGINE, TEXTBOOK, about, passes
from benchmark.lab import Lab, open_lab
from benchmark.measure import Ratio, Work, measure
from benchmark.report import Report
from benchmark.textbook import covariance
from ke_cli.data.text import TextSource
from ke_cli.engine.covariance import collect
from ke_cli.errors import UserError

Matrices = dict[int, Tensor]


class Collector:
    """Collects second moments of keys over the same tokens in different ways.

    Args:
        lab: The model and the text.
        layers: All layers.
    """

    def __init__(self, lab: Lab, layers: Sequence[int]) -> None:
        self.bench, self.layers = lab.bench, sorted(layers)
        statistics = lab.plan.config.statistics
        model = lab.bench.model
        width = model.weight(model.projection_name(self.layers[0])).shape[1]
        self.tokens = statistics.tokens or int(statistics.tokens_per_width * width)
        self.max_length, self.batch_tokens = statistics.max_length, lab.budget.tokens
        self.text = TextSource(statistics.text)

    def textbook(self) -> tuple[Matrices, set[int]]:
        """A pass for each layer; the matrices, and the numbers of tokens seen."""
        found: Matrices = {}
        seen: set[int] = set()
        for layer in self.layers:
            found[layer], tokens = covariance(
                self.bench.model,
                layer,
                self.text.documents(),
                tokens=self.tokens,
                max_length=self.max_length,
                batch_tokens=self.batch_tokens,
            )
            seen.add(tokens)
        return found, seen

    def engine(self, layers: Sequence[int]) -> tuple[Matrices, set[int]]:
        """One pass for all ``layers``."""
        found, seen = collect(
            self.bench.model,
            layers,
            self.text.documents(),
            tokens=self.tokens,
            max_length=self.max_length,
            budget=self.bench.budget,
        )
        return {layer: found[layer] for layer in layers}, {seen}  # it may be put together only when asked for


def compare_covariances(options: argparse.Namespace) -> Report:
    """Times a pass for each layer, one pass for all, and one pass for the deepest alone.

    Raises:
        UserError: If there are no such layers.
    """
    options.cases, options.unit_size, options.same_subject = 1, None, False
    with open_lab(options) as lab:
        layers = _layers(options, lab)
        collector = Collector(lab, layers)
        every = f"{ENGINE}, {len(layers)} layers"
        one = f"{ENGINE}, 1 layer"
        works = {
            TEXTBOOK: Work(collector.textbook, 1),
            every: Work(lambda: collector.engine(collector.layers), 1),
            one: Work(lambda: collector.engine(collector.layers[-1:]), 1),
        }
        often = passes(options, lab)
        numbers = measure(works, often, lab.device)
        (slow, seen), (fast, also) = numbers[TEXTBOOK].result, numbers[every].result
        ratios = {
            f"{TEXTBOOK} / {ENGINE}": Ratio.of(numbers[TEXTBOOK], numbers[every]),
            f"{every} / 1 layer": Ratio.of(numbers[every], numbers[one]),
        }
        findings = [compare_matrices(slow, fast, TOLERANCES[lab.dtype]), _same_tokens(seen, also)]
        more = {"layers": collector.layers, "tokens": sorted(also)}
        return Report("covariance", about(options, lab), numbers, ratios, findings, often.rate, per="pass", more=more)


def _layers(options: argparse.Namespace, lab: Lab) -> list[int]:
    depth = lab.bench.model.n_layers
    layers = sorted(set(options.layers or lab.plan.editor.edited_layers(depth)))
    wrong = [layer for layer in layers if layer >= depth]
    if wrong or not layers:
        what = f"the model has no layer {', '.join(map(str, wrong))}" if wrong else "no layer is given"
        raise UserError(what, where="--layers", allowed=f"0 to {depth - 1}")
    return layers


def _same_tokens(first: set[int], second: set[int]) -> Finding:
    return Finding("tokens seen", float(max(first | second) - min(first | second)), 0.0, "", len(first | second))
