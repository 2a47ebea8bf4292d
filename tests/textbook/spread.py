"""MEMIT, MEMIT-Merge and RoSE: values at the last edited layer, the residual spread over several layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .architecture import add_to_projection, layer_module, projection_name, restored
from .essence import essence
from .model_calls import key_at, output_at
from .tokens import Fact, Row, fact_row, prompt_row
from .value import Optimisation, Path, Pull, optimise_value

Groups = Sequence[Sequence[str]]
"""Context templates in groups: the groups count alike, whatever their sizes."""

Solve = Callable[[int, Tensor, Tensor], Tensor]
"""(layer, keys [m, n], residuals [d, n]) -> weight change [d, m], all float64."""


@dataclass(frozen=True)
class Column:
    """One column of the solve: the key of ``fact`` shall get the hidden state ``z`` [d]."""

    fact: Fact
    z: Tensor


@dataclass
class SpreadEdit:
    """What was written, and from what.

    Args:
        deltas: Changes of the weights [d_out, d_in] by module name.
        keys: Keys [m, n] by layer, after the layers below were written.
        residuals: Spread residuals [d, n] by layer.
        paths: One per value that was optimised (per fact, or per subject).
    """

    deltas: dict[str, Tensor] = field(default_factory=dict)
    keys: dict[int, Tensor] = field(default_factory=dict)
    residuals: dict[int, Tensor] = field(default_factory=dict)
    paths: list[Path] = field(default_factory=list)


def fact_rows(tokenizer: Any, fact: Fact, groups: Groups) -> list[Row]:
    """Build the rows of a fact under all templates, the un-prefixed one first."""
    return [fact_row(tokenizer, fact, template, "subject_last") for group in groups for template in group]


def grouped_key(model: Any, tokenizer: Any, fact: Fact, layer: int, groups: Groups) -> Tensor:
    """Return the mean over groups of the mean over a group's templates of the key [m]."""
    means = []
    for group in groups:
        rows = [prompt_row(tokenizer, fact, template, "subject_last") for template in group]
        means.append(torch.stack([key_at(model, row, layer) for row in rows]).mean(0))
    return torch.stack(means).mean(0)


def write_layers(
    model: Any, tokenizer: Any, columns: Sequence[Column], layers: Sequence[int], groups: Groups, solve: Solve
) -> SpreadEdit:
    """Write the columns into the layers in ascending order, each seeing the earlier writes; then restore."""
    edit = SpreadEdit()
    last = max(layers)
    with restored(model, [projection_name(model, layer) for layer in layers]):
        for index, layer in enumerate(sorted(layers)):
            keys = [grouped_key(model, tokenizer, column.fact, layer, groups) for column in columns]
            missing = []
            for column in columns:
                bare = prompt_row(tokenizer, column.fact, "{}", "subject_last")
                missing.append(column.z - output_at(model, layer_module(model, last), bare))
            edit.keys[layer] = torch.stack(keys, dim=1).double()
            edit.residuals[layer] = torch.stack(missing, dim=1).double() / (len(layers) - index)
            delta = solve(layer, edit.keys[layer], edit.residuals[layer])
            edit.deltas[projection_name(model, layer)] = delta
            add_to_projection(model, projection_name(model, layer), delta)
    return edit


def covariance_solve(covariances: Mapping[int, Tensor], weight: float) -> Solve:
    """Return MEMIT's solve ``R K^T (weight * C + K K^T)^-1``."""

    def solve(layer: int, keys: Tensor, residuals: Tensor) -> Tensor:
        matrix = weight * covariances[layer].double() + keys @ keys.T
        return torch.linalg.solve(matrix, keys @ residuals.T).T

    return solve


def isotropic_solve(ridge: float) -> Solve:
    """Return RoSE's solve ``R K^T (K K^T + ridge * mean ||k||^2 * I)^-1``, its limit where ridge is 0."""

    def solve(_layer: int, keys: Tensor, residuals: Tensor) -> Tensor:
        if ridge == 0:
            return residuals @ torch.linalg.pinv(keys)
        scale = ridge * keys.square().sum(0).mean()
        matrix = keys @ keys.T + scale * torch.eye(len(keys), dtype=keys.dtype)
        return torch.linalg.solve(matrix, keys @ residuals.T).T

    return solve


def fact_value(model: Any, tokenizer: Any, fact: Fact, groups: Groups, layer: int, numbers: Optimisation) -> Path:
    """Optimise the hidden state of one fact on its own."""
    kept = essence(tokenizer, fact, "subject")
    return optimise_value(model, fact_rows(tokenizer, fact, groups), kept, "layer", layer, numbers)


def memit(
    model: Any,
    tokenizer: Any,
    facts: Sequence[Fact],
    layers: Sequence[int],
    groups: Groups,
    covariances: Mapping[int, Tensor],
    covariance_weight: float,
    numbers: Optimisation,
) -> SpreadEdit:
    """Write a batch of facts, each with a value and a key of its own."""
    paths = [fact_value(model, tokenizer, fact, groups, max(layers), numbers) for fact in facts]
    columns = [Column(fact, path.value) for fact, path in zip(facts, paths, strict=True)]
    solve = covariance_solve(covariances, covariance_weight)
    edit = write_layers(model, tokenizer, columns, layers, groups, solve)
    edit.paths = paths
    return edit


def by_subject(facts: Sequence[Fact]) -> list[list[Fact]]:
    """Group facts by subject, in the order in which the subjects first come."""
    return [[fact for fact in facts if fact.subject == s] for s in dict.fromkeys(f.subject for f in facts)]


def joint_value(
    model: Any,
    tokenizer: Any,
    facts: Sequence[Fact],
    groups: Groups,
    layer: int,
    numbers: Optimisation,
    start: Tensor | None = None,
    pull: Pull | None = None,
) -> Path:
    """Optimise one hidden state for all facts of one subject: every fact and template counts alike."""
    rows = [row for fact in facts for row in fact_rows(tokenizer, fact, groups)]
    kept = essence(tokenizer, facts[0], "subject")
    return optimise_value(model, rows, kept, "layer", layer, numbers, start, pull)


@dataclass(frozen=True)
class TwoLevel:
    """Each fact's delta alone first; from their mean ``joint_steps`` joint steps with a pull to that mean."""

    joint_steps: int
    strength: float


def two_level_value(
    model: Any,
    tokenizer: Any,
    facts: Sequence[Fact],
    groups: Groups,
    layer: int,
    numbers: Optimisation,
    levels: TwoLevel,
) -> Path:
    """Integrate the facts of one subject in two levels.

    ``joint_steps`` counts evaluations of the joint loss, as ``steps`` does: one update fewer.
    """
    alone = [fact_value(model, tokenizer, fact, groups, layer, numbers).delta for fact in facts]
    centre = torch.stack(alone).mean(0)
    few = Optimisation(**{**vars(numbers), "steps": levels.joint_steps})
    pull = Pull(centre, levels.strength)
    return joint_value(model, tokenizer, facts, groups, layer, few, centre, pull)


def merged_columns(subjects: Sequence[Sequence[Fact]], paths: Sequence[Path], balance: bool) -> list[Column]:
    """Give each subject one column (the key of its first fact), or each of its facts one with the same z."""
    return [
        Column(fact, path.value)
        for facts, path in zip(subjects, paths, strict=True)
        for fact in (facts[:1] if balance else facts)
    ]


def memit_merge(
    model: Any,
    tokenizer: Any,
    facts: Sequence[Fact],
    layers: Sequence[int],
    groups: Groups,
    covariances: Mapping[int, Tensor],
    covariance_weight: float,
    numbers: Optimisation,
    balance: bool = True,
) -> SpreadEdit:
    """Write a batch of facts with one value per subject."""
    subjects = by_subject(facts)
    paths = [joint_value(model, tokenizer, group, groups, max(layers), numbers) for group in subjects]
    columns = merged_columns(subjects, paths, balance)
    solve = covariance_solve(covariances, covariance_weight)
    edit = write_layers(model, tokenizer, columns, layers, groups, solve)
    edit.paths = paths
    return edit


def rose(
    model: Any,
    tokenizer: Any,
    facts: Sequence[Fact],
    layers: Sequence[int],
    groups: Groups,
    ridge: float,
    numbers: Optimisation,
    levels: TwoLevel | None = None,
    balance: bool = True,
) -> SpreadEdit:
    """Write a batch of facts with one value per subject under the isotropic constraint.

    Args:
        model: Restored at the end.
        tokenizer: Of the model.
        facts: In any order; grouped by subject here.
        layers: Edited layers; written in ascending order.
        groups: Context templates, ``[["{}"], [prefixed...]]``.
        ridge: Lambda in units of the mean squared key norm.
        numbers: Of the value optimisation.
        levels: None for `joint` integration.
        balance: One column per subject.
    """
    paths = []
    for group in by_subject(facts):
        if levels is None:
            paths.append(joint_value(model, tokenizer, group, groups, max(layers), numbers))
        else:
            paths.append(two_level_value(model, tokenizer, group, groups, max(layers), numbers, levels))
    columns = merged_columns(by_subject(facts), paths, balance)
    edit = write_layers(model, tokenizer, columns, layers, groups, isotropic_solve(ridge))
    edit.paths = paths
    return edit
