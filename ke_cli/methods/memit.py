"""MEMIT and MEMIT-Merge: many facts at once, spread over several layers.

MEMIT (Meng et al. 2023, arXiv 2210.07229), layers ``l_1 < ... < l_q`` written in ascending order:

    z_i = h_i + delta_i                      value optimisation at the output of the last layer (section 4.3)
    R   = (Z - H_now) / (layers left)        [d, n], H_now the current hidden state there (equation 20)
    K   = keys [m, n], half the un-prefixed prompt and half the mean over the prefixed ones
    Delta_l = R K^T (lambda C_l + K K^T)^-1  (equation 14)

MEMIT-Merge (Dong et al. 2025, arXiv 2502.07322): one value ``z`` per subject, optimised on all its facts together;
``balance`` writes one column per subject with the key of its first fact, else the same ``z`` once for each fact's key.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ke_cli.data.types import EditUnit, Request
from ke_cli.engine.covariance import Covariance
from ke_cli.engine.edits import Edit, LowRank, sum_of
from ke_cli.engine.problems import Problem, Solution
from ke_cli.engine.reading import Site, Token, read
from ke_cli.engine.value import optimise
from ke_cli.engine.workbench import Workbench
from ke_cli.methods.base import ValueEditor, check_positive
from ke_cli.methods.rows import lookup_tokens, target_rows

Facts = tuple[Request, ...]
"""Requests that share one value."""


@dataclass(frozen=True, eq=False)
class Column:
    """One column of ``R`` and ``K``.

    Args:
        value: ``z [d]`` to be reached at the last layer.
        facts: Requests whose keys are averaged into the column's key; the first gives ``H_now``.
        losses: Loss (nats) at each evaluation of the value's optimisation.
    """

    value: Tensor
    facts: Facts
    losses: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class SpreadEditor(ValueEditor):
    """Optimises values at the last edited layer and spreads their residual over all edited layers."""

    @abstractmethod
    def columns(self, bench: Workbench, units: Sequence[EditUnit]) -> list[list[Column]]:
        """The columns to write for each unit, with their optimised values."""

    @abstractmethod
    def solve(self, bench: Workbench, layer: int, keys: Tensor) -> Tensor:
        """``[n, m]``: what ``R`` is multiplied with, from the keys ``[m, n]`` of one unit; in float64."""

    def edit(self, bench: Workbench, units: Sequence[EditUnit]) -> list[Edit]:
        """Find the values, then write layer by layer, each layer seeing the writes below it."""
        columns = self.columns(bench, units)
        layers = self.edited_layers(bench.model.n_layers)
        edits = [Edit({}, _summary(unit)) for unit in columns]
        for position, layer in enumerate(layers):
            keys, hidden = self._read(bench, layer, layers[-1], columns, edits)
            for i, unit in enumerate(columns):
                goals = torch.stack([column.value for column in unit], dim=1).double()  # [d, n]
                residual = (goals - hidden[i]) / (len(layers) - position)
                pair = _pair(residual, self.solve(bench, layer, keys[i]), unit[0].value.dtype)
                edits[i] = sum_of(edits[i], Edit({bench.model.projection_name(layer): pair}))
        return edits

    def _read(
        self, bench: Workbench, layer: int, last: int, columns: list[list[Column]], edits: Sequence[Edit]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Per unit the keys ``[m, n]`` at ``layer`` and hidden states ``[d, n]`` behind ``last``, in float64."""
        model, templates = bench.model, bench.templates(self.context())
        tokens: list[Token] = []
        for i, unit in enumerate(columns):
            for column in unit:
                for fact in column.facts:
                    tokens += lookup_tokens(model.tokenizer, fact, templates, "subject_last", i)
        key_site = Site(model.projection_name(layer), "input")
        state_site = Site(model.architecture.layer.format(last), "output")
        found = read(model, tokens, [key_site, state_site], edits=edits, budget=bench.budget)
        keys = found[key_site].double().reshape(-1, len(templates), found[key_site].shape[-1])  # [facts, t, m]
        states = found[state_site].double().reshape(-1, len(templates), model.width)[:, 0]  # [facts, d]
        return self._by_unit(columns, _average_keys(keys), states)

    @staticmethod
    def _by_unit(columns: list[list[Column]], keys: Tensor, states: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Average the keys of each column's facts and sort the columns back into their units."""
        unit_keys, unit_states, at = [], [], 0
        for unit in columns:
            picked_keys, picked_states = [], []
            for column in unit:
                picked_keys.append(keys[at : at + len(column.facts)].mean(dim=0))
                picked_states.append(states[at])
                at += len(column.facts)
            unit_keys.append(torch.stack(picked_keys, dim=1))  # [m, n]
            unit_states.append(torch.stack(picked_states, dim=1))  # [d, n]
        return unit_keys, unit_states

    def joint_problem(self, bench: Workbench, facts: Facts) -> Problem:
        """One value for all ``facts`` of a subject: mean NLL over facts and templates, one essence row."""
        tokenizer, templates = bench.model.tokenizer, bench.templates(self.context())
        rows = [
            row
            for fact in facts
            for row in target_rows(tokenizer, fact, templates, "subject_last", share=1 / len(facts))
        ]
        return Problem((*rows, self.essence(tokenizer, facts[0])))

    def optimise(self, bench: Workbench, problems: Sequence[Problem]) -> list[Solution]:
        """Solve value problems at the output of the last edited layer."""
        layer = self.edited_layers(bench.model.n_layers)[-1]
        return optimise(bench.model, problems, self.objective, layer, "layer", budget=bench.budget)


def _summary(unit: Sequence[Column]) -> dict[str, float]:
    """Mean final loss (nats) over a unit's columns, and the most evaluations that any of them took."""
    return {
        "loss": sum(column.losses[-1] for column in unit) / len(unit),
        "steps": max(len(column.losses) for column in unit),
    }


def _average_keys(keys: Tensor) -> Tensor:
    """Keys ``[facts, t, m]`` to ``[facts, m]``: half the un-prefixed prompt, half the mean of the prefixed ones."""
    return (keys[:, 0] + keys[:, 1:].mean(dim=1)) / 2 if keys.shape[1] > 1 else keys[:, 0]


def _pair(residual: Tensor, right: Tensor, dtype: torch.dtype) -> LowRank:
    return LowRank(residual.float(), right.float()) if dtype != torch.float64 else LowRank(residual, right)


def regularised_solve(covariance: Covariance, weight: float, keys: Tensor) -> Tensor:
    """``K^T (lambda C + K K^T)^-1`` ``[n, m]`` in float64, by Woodbury from the factor of ``C`` that no fact changes.

    With ``Y = C^-1 K / lambda`` it equals ``(I + K^T Y)^-1 Y^T``.
    """
    scaled = covariance.solve(keys) / weight  # [m, n]
    inner = torch.eye(keys.shape[1], dtype=torch.float64, device=keys.device) + keys.T @ scaled  # [n, n]
    solved: Tensor = torch.linalg.solve(inner, scaled.T)
    return solved


@dataclass(frozen=True, kw_only=True)
class Memit(SpreadEditor):
    """Mass editing with one value per fact.

    Args:
        lambda_: Weight of the covariance (published name: ``mom2_update_weight``).
    """

    holds_subject: ClassVar[bool] = False

    lambda_: float

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        super().__post_init__()
        check_positive(self, "lambda_")

    def covariance_layers(self, depth: int) -> list[int]:
        """All edited layers."""
        return self.edited_layers(depth)

    def columns(self, bench: Workbench, units: Sequence[EditUnit]) -> list[list[Column]]:
        """One column per fact, with a value of its own."""
        return solved_columns(self, bench, [[(request,) for request in unit.requests] for unit in units])

    def solve(self, bench: Workbench, layer: int, keys: Tensor) -> Tensor:
        """``K^T (lambda C + K K^T)^-1``."""
        covariance = bench.covariances(self.edited_layers(bench.model.n_layers))[layer]
        return regularised_solve(covariance, self.lambda_, keys)


@dataclass(frozen=True, kw_only=True)
class MemitMerge(Memit):
    """MEMIT with one value per subject.

    Args:
        balance: One column per subject (key of its first fact); else one per fact, all with the same value.
    """

    holds_subject: ClassVar[bool] = True

    balance: bool

    def columns(self, bench: Workbench, units: Sequence[EditUnit]) -> list[list[Column]]:
        """One value per subject of a unit."""
        merged = solved_columns(self, bench, [subjects_of(unit) for unit in units])
        if self.balance:
            return [[replace(column, facts=column.facts[:1]) for column in unit] for unit in merged]
        return [[replace(column, facts=(fact,)) for column in unit for fact in column.facts] for unit in merged]


def subjects_of(unit: EditUnit) -> list[Facts]:
    """The facts of a unit grouped by subject, in order of first appearance."""
    groups: dict[str, list[Request]] = {}
    for request in unit.requests:
        groups.setdefault(request.subject, []).append(request)
    return [tuple(group) for group in groups.values()]


def solved_columns(editor: SpreadEditor, bench: Workbench, groups: list[list[Facts]]) -> list[list[Column]]:
    """Optimise one value per group of facts, all groups of all units together."""
    problems = [editor.joint_problem(bench, facts) for unit in groups for facts in unit]
    return as_columns(editor.optimise(bench, problems), groups)


def _column(solution: Solution, facts: Facts) -> Column:
    return Column(solution.value, facts, solution.losses)


def as_columns(solutions: Sequence[Solution], groups: list[list[Facts]]) -> list[list[Column]]:
    """One column per group of facts, from their solutions in order."""
    found = iter(solutions)
    return [[_column(next(found), facts) for facts in unit] for unit in groups]
