"""Watches the editors' value optimisations: problems, solutions, and the path of deltas and gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from ke_cli.engine import value
from ke_cli.engine.batching import Budget
from ke_cli.engine.problems import EssenceRow, MatchRow, Objective, Problem, Solution, TargetRow, Where
from ke_cli.engine.workbench import Workbench
from ke_cli.models.editable import EditableModel


@dataclass(frozen=True, eq=False)
class Trace:
    """One value optimisation of an editor.

    Args:
        model: The model it ran on.
        problem: What was asked.
        objective: Hyper-parameters.
        layer: Layer that the value was added to.
        where: Place in the layer.
        solution: What was found.
        deltas: ``[updates, d]`` before each update.
        grads: ``[updates, d]`` of the total loss there.
        budget: Tokens per batch.
    """

    model: EditableModel
    problem: Problem
    objective: Objective
    layer: int
    where: Where
    solution: Solution
    deltas: Tensor
    grads: Tensor
    budget: int | Budget

    @property
    def points(self) -> Tensor:
        """``[evaluations, d]``: delta at each evaluation of the loss."""
        return torch.cat([self.deltas, self.solution.delta[None]])

    def grads_at(self, points: Tensor) -> Tensor:
        """Gradients ``[n, d]`` of the total loss at given points ``[n, d]``.

        The same optimisation, put at the next point after each of its steps.
        """
        objective = replace(self.objective, steps=len(points) + 1, threshold=-math.inf, patience=None)
        problem = replace(self.problem, start=points[0])
        with _adam_steps() as steps, _steered(points[1:]):
            value.optimise(self.model, [problem], objective, self.layer, self.where, budget=self.budget)
        return torch.cat([step[0][1] for step in steps])

    @property
    def targets(self) -> list[TargetRow]:
        """The rows with a target."""
        return [row for row in self.problem.rows if isinstance(row, TargetRow)]

    @property
    def essences(self) -> list[EssenceRow]:
        """The rows whose distribution is to stay."""
        return [row for row in self.problem.rows if isinstance(row, EssenceRow)]

    @property
    def matches(self) -> bool:
        """Whether a hidden state was to be reached rather than a target."""
        return isinstance(self.problem.rows[0], MatchRow)


Step = list[tuple[Tensor, Tensor]]
"""The parameters that one optimiser step is about to move, each with its gradient."""


@contextmanager
def _adam_steps() -> Iterator[list[Step]]:
    """Collect what torch's optimisers are about to do."""
    steps: list[Step] = []

    def note(optimiser: Optimizer, _args: Any, _kwargs: Any) -> None:
        moved = [p for group in optimiser.param_groups for p in group["params"] if p.grad is not None]
        steps.append([(p.detach().clone(), p.grad.clone()) for p in moved])

    handle = register_optimizer_step_pre_hook(note)
    try:
        yield steps
    finally:
        handle.remove()


@contextmanager
def _steered(points: Tensor) -> Iterator[None]:
    """Put the one parameter of an optimiser at a given point after each of its steps, as long as there are any."""
    left = iter(points)

    @torch.no_grad()
    def move(optimiser: Optimizer, _args: Any, _kwargs: Any) -> None:
        point = next(left, None)
        if point is not None:
            optimiser.param_groups[0]["params"][0].copy_(point)

    handle = register_optimizer_step_post_hook(move)
    try:
        yield
    finally:
        handle.remove()


def traced(
    model: EditableModel,
    problem: Problem,
    objective: Objective,
    layer: int,
    where: Where,
    budget: int | Budget,
    *,
    keys: bool = False,
) -> Trace:
    """Solve one problem with the engine, and keep its path."""
    with _adam_steps() as steps:
        (solution,) = value.optimise(model, [problem], objective, layer, where, budget=budget, keys=keys)
    empty = solution.delta.new_zeros(0, len(solution.delta))
    deltas = torch.cat([step[0][0] for step in steps]) if steps else empty
    grads = torch.cat([step[0][1] for step in steps]) if steps else empty
    return Trace(model, problem, objective, layer, where, solution, deltas, grads, budget)


@dataclass(eq=False)
class WatchedBench(Workbench):
    """A workbench that takes note of every value optimisation.

    Problems are solved one after another (together they give the same), so that each path is its own.
    """

    traces: list[Trace] = field(default_factory=list)
    imposed: Sequence[int | None] = ()

    def begin(self, evaluations: Sequence[int | None]) -> None:
        """Forget what was seen so far.

        Args:
            evaluations: For the problems to come, in order, how often the loss is to be evaluated whatever the stop
                tests say; None leaves it to them.
        """
        self.traces, self.imposed = [], evaluations

    def optimise(
        self, problems: Sequence[Problem], objective: Objective, layer: int, where: Where, *, keys: bool = False
    ) -> list[Solution]:
        """Solve value problems, and keep their paths."""
        first = len(self.traces)
        for problem in problems:
            numbers = self._numbers(objective, len(self.traces))
            self.traces.append(traced(self.model, problem, numbers, layer, where, self.budget, keys=keys))
        return [trace.solution for trace in self.traces[first:]]

    def _numbers(self, objective: Objective, index: int) -> Objective:
        imposed = self.imposed[index] if index < len(self.imposed) else None
        if imposed is None:
            return objective
        return replace(objective, steps=imposed, patience=None, threshold=-math.inf)
