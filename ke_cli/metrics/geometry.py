"""Geometry: what an edit does around a fact that explains how it fares on instructions.

Per edited layer, from the key ``k`` in the bare edit prompt and ``k'`` in an instruction (formulas stand in
`ke_cli.engine.queries.Geometry` and what it refers to):

* drift: how far the instruction moves the key, in units of ``||k||``;
* drift gain: how much more than the least-norm update the edit amplifies an input error without a direction;
* realised deviation: what the drift really changes, in units of what the edit writes.

Around the written value, with the loss being the mean NLL of the new object:

* tolerance: the radius of random perturbation that the new object outlasts, in units of the hidden state's norm, at
  most the largest that is tried;
* sharpness: rise of the mean loss of all facts of the unit under a small push up its gradient, in nats;
* gradient cosine: whether the facts of the unit pull the value the same way.

No column has a value for the unedited model.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ke_cli.checks import check_at_least
from ke_cli.data.types import Case, Request
from ke_cli.engine.queries import Answers, Fact, Geometry, GeometryQuery, Query
from ke_cli.metrics.answers import mean
from ke_cli.metrics.base import Column, Metric, Values


@dataclass(frozen=True)
class EditGeometry(Metric):
    """Means over the edited layers, the instructions that name the subject literally, and the random directions.

    Args:
        lookup: Token at which the editor writes: the subject's last, or the prompt's last (RETS).
        rho: Norm of the perturbation of both sharpness columns, in units of the hidden state's norm.
        radii: Ascending radii at which the tolerance is tried, in the same units.
        n_directions: Number of random directions, the same for all cases and methods.
        seed: Of the random directions.
    """

    lookup: Literal["subject_last", "prompt_last"]
    rho: float
    radii: tuple[float, ...]
    n_directions: int
    seed: int

    name = "geometry"
    version = 1

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        if not (self.rho > 0 and math.isfinite(self.rho)):
            raise ValueError(f"rho: expected a number above 0, got {self.rho}")
        ascending = all(low < high for low, high in itertools.pairwise((0, *self.radii)))
        if not (self.radii and ascending and math.isfinite(self.radii[-1])):
            raise ValueError(f"radii: expected ascending numbers above 0, got {list(self.radii)}")
        check_at_least(self, 1, "n_directions")

    @property
    def columns(self) -> Sequence[Column]:
        """Three columns about keys, four about the loss around the value; none is a share, none is scaled."""
        return (
            Column("drift", "Drift", "down", 1),
            Column("drift_gain", "Gain", "down", 1),
            Column("realised_deviation", "Dev.", "down", 1),
            Column("tolerance", "Tolerance", "up", 1),
            Column("sharpness", "Sharpness", "down", 1),
            Column("sharpness_random", "Sharpness random", "down", 1, main=False),
            Column("gradient_cosine", "Grad. cos.", "up", 1),
        )

    def after(self, case: Case, before: Answers) -> Sequence[Query]:
        """Ask for the geometry around the case's fact."""
        return [self._query(case)]

    def measure(self, case: Case, before: Answers, after: Answers) -> Values:
        """Average the raw numbers."""
        found = after[self._query(case)]
        assert isinstance(found, Geometry)
        return {
            "drift": mean(itertools.chain(*found.drift)),
            "drift_gain": mean(found.drift_gain),
            "realised_deviation": mean(itertools.chain(*found.realised_deviation)),
            "tolerance": mean(found.tolerances),
            "sharpness": found.sharpness,
            "sharpness_random": found.sharpness_random,
            "gradient_cosine": found.gradient_cosine,
        }

    def _query(self, case: Case) -> GeometryQuery:
        return GeometryQuery(
            *_fact(case.request),
            instructions=tuple(probe.prompt for probe in case.instructions),
            companions=tuple(_fact(request) for request in case.companions),
            lookup=self.lookup,
            rho=self.rho,
            radii=self.radii,
            n_directions=self.n_directions,
            seed=self.seed,
        )


def _fact(request: Request) -> Fact:
    return request.prompt, request.subject, request.target_new
