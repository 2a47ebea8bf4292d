"""What MEMIT and its relatives share: values at the last edited layer, residuals spread over all edited layers.

    z_i = h_i + delta_i                      value optimisation at the last layer (MEMIT, section 4.3)
    R   = (Z - H_now) / (share of the layer) [d, n], H_now the current state there
    K   = keys [m, n], half the un-prefixed prompt and half the mean over the prefixed ones
    Delta_l = R right(K)                     layers ascending, each seeing the earlier writes

An editor of this family says which facts share a value (`columns`), how the residual is split (`layers_left`), and
what the constraint is (`right`). Editors that remember hold still what earlier units of a sequence wrote as well: they
keep ``C_prev``, the sum of ``K K^T`` over these units, for each layer.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from ke_cli.data.types import EditUnit, Request
from ke_cli.engine.covariance import Covariance
from ke_cli.engine.edits import NO_EDIT, Edit, LowRank, sum_of
from ke_cli.engine.problems import Problem, Solution, Where
from ke_cli.engine.reading import Site, Token, read
from ke_cli.engine.workbench import Workbench
from ke_cli.methods.base import Memory, ValueEditor
from ke_cli.methods.rows import lookup_tokens, target_rows

Facts = tuple[Request, ...]
"""Requests that share one value."""

CHUNK = 1024
"""Facts whose keys are held at once, before the mean over their templates."""


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

    holds_subject: ClassVar[bool] = False
    remembers: ClassVar[bool] = False
    """Whether ``right`` has a use for the keys of earlier units."""
    value_at: ClassVar[Where] = "layer"
    """Where values live: the output of the layer, or of its MLP."""

    @abstractmethod
    def right(self, bench: Workbench, layer: int, keys: Tensor, earlier: Tensor | None = None) -> Tensor:
        """``[n, m]``: what ``R`` is multiplied with, in float64.

        Args:
            bench: The model and its statistics.
            layer: The layer that is written.
            keys: ``K [m, n]`` of one unit.
            earlier: ``C_prev [m, m]``; None before the second unit of a sequence, and for editors that do not remember.
        """

    def covariance_layers(self, depth: int) -> list[int]:
        """All edited layers."""
        return self.edited_layers(depth)

    def covariance(self, bench: Workbench, layer: int) -> Covariance:
        """Covariance of a layer; all edited layers are collected in one pass."""
        return bench.covariances(self.edited_layers(bench.model.n_layers))[layer]

    def shifted_covariance(
        self, bench: Workbench, layer: int, ridge: float, earlier: Tensor | None = None
    ) -> Covariance:
        """``C + ridge I``, factored once; with ``earlier [m, m]`` added if there is any, factored for this unit."""
        plain = self.covariance(bench, layer)
        shifted = bench.once(("shifted", layer, ridge), lambda: plain.shifted(ridge)) if ridge else plain
        if earlier is None:
            return shifted
        return Covariance(shifted.matrix.double() + earlier.double(), f"{plain.name} with the keys of earlier facts")

    def columns(self, bench: Workbench, units: Sequence[EditUnit]) -> list[list[Column]]:
        """The columns to write for each unit, with their optimised values: one per fact."""
        return self.solved(bench, [[(request,) for request in unit.requests] for unit in units])

    def layers_left(self, count: int) -> float:
        """What the residual is divided by when ``count`` layers are left to write, this one included."""
        return count

    def edit(self, bench: Workbench, units: Sequence[EditUnit]) -> list[Edit]:
        """Find the values, then write layer by layer, each layer seeing the writes below it."""
        return self._spread(bench, self.columns(bench, units), {})

    def follow(self, bench: Workbench, unit: EditUnit, memory: Memory) -> tuple[Edit, Memory]:
        """The same for one unit; editors that remember add its keys to ``C_prev`` of each layer they write."""
        if not self.remembers:
            return super().follow(bench, unit, memory)
        kept = dict(memory)
        (edit,) = self._spread(bench, self.columns(bench, [unit]), kept)
        return edit, kept

    def _spread(self, bench: Workbench, columns: Sequence[Sequence[Column]], memory: dict[str, Tensor]) -> list[Edit]:
        """Write the columns of every unit; what is remembered of one unit is put into ``memory``."""
        layers = self.edited_layers(bench.model.n_layers)
        edits = [Edit({}, summary(unit)) for unit in columns]
        for position, layer in enumerate(layers):
            share = self.layers_left(len(layers) - position)
            edits = self.write(bench, layer, layers[-1], columns, edits, share, memory)
        return edits

    def write(
        self,
        bench: Workbench,
        layer: int,
        last: int,
        columns: Sequence[Sequence[Column]],
        edits: Sequence[Edit],
        share: float,
        memory: dict[str, Tensor] | None = None,
    ) -> list[Edit]:
        """Write one layer of every unit: ``1 / share`` of what is missing at layer ``last``, on top of ``edits``."""
        name = bench.model.projection_name(layer)
        earlier = memory.get(name) if memory else None
        keys, hidden = self._read(bench, layer, last, columns, edits)
        written = []
        for i, unit in enumerate(columns):
            goals = torch.stack([column.value for column in unit], dim=1).double()  # [d, n]
            right = self.right(bench, layer, keys[i]) if earlier is None else self.right(bench, layer, keys[i], earlier)
            pair = _pair((goals - hidden[i]) / share, right, unit[0].value.dtype)
            written.append(sum_of(edits[i], Edit({name: pair})))
        if self.remembers and memory is not None and len(columns) == 1:
            memory[name] = remembered(earlier, keys[0]).to(columns[0][0].value.dtype)
        return written

    def _read(
        self, bench: Workbench, layer: int, last: int, columns: Sequence[Sequence[Column]], edits: Sequence[Edit]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Per unit the keys ``[m, n]`` at ``layer`` and the states ``[d, n]`` at ``last``, in float64."""
        model, templates = bench.model, bench.templates(self.context())
        facts = [(i, fact) for i, unit in enumerate(columns) for column in unit for fact in column.facts]
        key_site = Site(model.projection_name(layer), "input")
        whole = model.architecture.layer.format(last) if self.value_at == "layer" else model.projection_name(last)
        state_site = Site(whole, "output")
        read_from = partial(read, model, edits=edits, budget=bench.budget)
        keys, states = [], []
        for start in range(0, len(facts), CHUNK):
            tokens: list[Token] = []
            for i, fact in facts[start : start + CHUNK]:
                tokens += lookup_tokens(model.tokenizer, fact, templates, "subject_last", i)
            found = read_from(tokens, [key_site])[key_site].double()
            keys.append(average_keys(found.reshape(-1, len(templates), found.shape[-1])))  # from [facts, t, m]
            states.append(read_from(tokens[:: len(templates)], [state_site])[state_site].double())  # un-prefixed
        return _by_unit(columns, torch.cat(keys), torch.cat(states))

    def joint_problem(self, bench: Workbench, facts: Facts, edit: Edit = NO_EDIT) -> Problem:
        """One value for all ``facts`` of a subject: mean NLL over facts and templates, one essence row."""
        tokenizer, templates = bench.model.tokenizer, bench.templates(self.context())
        rows = [
            row
            for fact in facts
            for row in target_rows(tokenizer, fact, templates, "subject_last", share=1 / len(facts))
        ]
        return Problem((*rows, self.essence(tokenizer, facts[0])), edit=edit)

    def optimise(self, bench: Workbench, problems: Sequence[Problem], layer: int | None = None) -> list[Solution]:
        """Solve value problems at a layer, the last edited one unless another is given."""
        return self.optimise_at(bench, problems, self.value_at, layer)

    def optimise_at(
        self, bench: Workbench, problems: Sequence[Problem], where: Where, layer: int | None = None
    ) -> list[Solution]:
        """The same with the value added at another place."""
        at = self.edited_layers(bench.model.n_layers)[-1] if layer is None else layer
        return bench.optimise(problems, self.objective, at, where)

    def solved(self, bench: Workbench, groups: Sequence[Sequence[Facts]]) -> list[list[Column]]:
        """Optimise one value per group of facts, all groups of all units together."""
        problems = [self.joint_problem(bench, facts) for unit in groups for facts in unit]
        return as_columns(self.optimise(bench, problems), groups)


def remembered(earlier: Tensor | None, keys: Tensor) -> Tensor:
    """``C_prev + K K^T [m, m]`` for keys ``[m, n]``, in float64."""
    return keys @ keys.T if earlier is None else torch.addmm(earlier.double(), keys, keys.T)


def subjects_of(unit: EditUnit) -> list[Facts]:
    """The facts of a unit grouped by subject, in order of first appearance."""
    groups: dict[str, list[Request]] = {}
    for request in unit.requests:
        groups.setdefault(request.subject, []).append(request)
    return [tuple(group) for group in groups.values()]


def as_columns(solutions: Sequence[Solution], groups: Sequence[Sequence[Facts]]) -> list[list[Column]]:
    """One column per group of facts, from their solutions in order."""
    found = iter(solutions)
    return [[_column(next(found), facts) for facts in unit] for unit in groups]


def _column(solution: Solution, facts: Facts) -> Column:
    return Column(solution.value, facts, solution.losses)


def summary(unit: Sequence[Column]) -> dict[str, float]:
    """Mean final loss (nats) over a unit's columns, and the most evaluations that any of them took."""
    return {
        "loss": sum(column.losses[-1] for column in unit) / len(unit),
        "steps": max(len(column.losses) for column in unit),
    }


def average_keys(keys: Tensor) -> Tensor:
    """Keys ``[facts, t, m]`` to ``[facts, m]``: half the un-prefixed prompt, half the mean of the prefixed ones."""
    return (keys[:, 0] + keys[:, 1:].mean(dim=1)) / 2 if keys.shape[1] > 1 else keys[:, 0]


def _by_unit(columns: Sequence[Sequence[Column]], keys: Tensor, states: Tensor) -> tuple[list[Tensor], list[Tensor]]:
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


def _pair(residual: Tensor, right: Tensor, dtype: torch.dtype) -> LowRank:
    return LowRank(residual.float(), right.float()) if dtype != torch.float64 else LowRank(residual, right)
