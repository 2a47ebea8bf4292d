"""One value for all facts of a subject: our readings of Hierarchical Knowledge Integration (RoSE).

joint             one value on all facts at once (as MEMIT-Merge)
two_level         each fact's own delta_i first (a flat, easy problem); then the subject's delta starts from their
                  mean and takes a few joint steps with a pull  mu * ||delta - mean(delta_i)||^2
progressive       facts merged pairwise up a tree; each merge is a joint problem of the facts below it that starts
                  from the mean of its children, weighted by their numbers of facts
relation_targets  first every fact's relation target h_i* at the prompt's last token some layers above; then one
                  value that reaches all of them, by the mean of  || h_i - h_i* ||^2 / || h_i* ||^2
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ke_cli.checks import check_above_zero, check_at_least
from ke_cli.engine.problems import MatchRow, Objective, Problem, Solution
from ke_cli.engine.tokens import Prompt, encode
from ke_cli.engine.workbench import Workbench
from ke_cli.errors import UserError
from ke_cli.methods.rows import target_rows
from ke_cli.methods.spread import Facts, SpreadEditor


@dataclass(frozen=True, kw_only=True)
class Integrating(SpreadEditor, ABC):
    """Finds one value per subject.

    Args:
        integration: How one value is found for all facts of a subject.
        joint_steps: Evaluations of the loss after the first level of ``two_level``, in each merge of ``progressive``,
            and of the subject's value in ``relation_targets``.
        pull: ``mu`` of ``two_level``.
        relation_offset: Layers between the value and the relation targets.
        relation_clamp: Bound of a relation target's change in units of the unedited activation.
        target_weight: Weight of the mean relative squared distance to the relation targets.
    """

    integration: Literal["joint", "two_level", "progressive", "relation_targets"]
    joint_steps: int
    pull: float
    relation_offset: int
    relation_clamp: float
    target_weight: float

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        super().__post_init__()
        check_at_least(self, 0, "pull", "relation_offset")
        check_above_zero(self, "joint_steps", "relation_clamp", "target_weight")

    def edited_layers(self, depth: int) -> list[int]:
        """The configured layers; the last must leave room for relation targets where they are used."""
        layers = super().edited_layers(depth)
        room = depth - 1 - layers[-1]
        if self.integration == "relation_targets" and self.relation_offset > room:
            raise UserError(
                f"the relation targets would be at layer {layers[-1] + self.relation_offset}, which does not exist",
                where="method.relation_offset",
                allowed=f"at most {room} above layer {layers[-1]}",
                hint=f"method.relation_offset={min(room, max(1, depth // 3))}",
            )
        return layers

    def integrate(self, bench: Workbench, groups: Sequence[Facts]) -> list[Solution]:
        """One solution per group of facts, all groups together."""
        match self.integration:
            case "joint":
                return self.optimise(bench, [self.joint_problem(bench, facts) for facts in groups])
            case "two_level":
                return self._two_level(bench, groups)
            case "progressive":
                return self._progressive(bench, groups)
            case "relation_targets":
                return self._relation_targets(bench, groups)

    def _own(self, bench: Workbench, groups: Sequence[Facts]) -> list[list[Solution]]:
        """Every fact's own solution, group by group."""
        own = iter(self.optimise(bench, [self.joint_problem(bench, (fact,)) for facts in groups for fact in facts]))
        return [[next(own) for _ in facts] for facts in groups]

    def _again(self, bench: Workbench, problems: Sequence[Problem], objective: Objective) -> list[Solution]:
        layer = self.edited_layers(bench.model.n_layers)[-1]
        return bench.optimise(problems, objective, layer, self.value_at)

    def _two_level(self, bench: Workbench, groups: Sequence[Facts]) -> list[Solution]:
        problems = []
        for facts, own in zip(groups, self._own(bench, groups), strict=True):
            mean = torch.stack([solution.delta for solution in own]).mean(dim=0)
            problems.append(Problem(self.joint_problem(bench, facts).rows, start=mean, anchor=mean))
        return self._again(bench, problems, replace(self.objective, steps=self.joint_steps, pull=self.pull))

    def _progressive(self, bench: Workbench, groups: Sequence[Facts]) -> list[Solution]:
        trees = [
            [_Node((fact,), solution) for fact, solution in zip(facts, own, strict=True)]
            for facts, own in zip(groups, self._own(bench, groups), strict=True)
        ]
        while any(len(nodes) > 1 for nodes in trees):
            pairs = [list(zip(nodes[::2], nodes[1::2], strict=False)) for nodes in trees]
            problems = [
                Problem(self.joint_problem(bench, a.facts + b.facts).rows, start=_weighted_mean(a, b))
                for tree in pairs
                for a, b in tree
            ]
            merged = iter(self._again(bench, problems, replace(self.objective, steps=self.joint_steps)))
            trees = [
                [_Node(a.facts + b.facts, next(merged)) for a, b in tree] + nodes[len(tree) * 2 :]
                for tree, nodes in zip(pairs, trees, strict=True)
            ]
        return [nodes[0].solution for nodes in trees]

    def _relation_targets(self, bench: Workbench, groups: Sequence[Facts]) -> list[Solution]:
        layer = self.edited_layers(bench.model.n_layers)[-1] + self.relation_offset
        tokenizer, templates = bench.model.tokenizer, bench.templates(self.context())
        first = [
            Problem((*target_rows(tokenizer, fact, templates, "prompt_last"), self.essence(tokenizer, fact, "last")))
            for facts in groups
            for fact in facts
        ]
        objective = replace(self.objective, clamp=self.relation_clamp, patience=None)
        targets = iter(bench.optimise(first, objective, layer, "layer"))
        second = [self._reaching(bench, facts, [next(targets).value for _ in facts], layer) for facts in groups]
        return self._again(bench, second, replace(self.objective, steps=self.joint_steps, kl_factor=0.0))

    def _reaching(self, bench: Workbench, facts: Facts, goals: Sequence[Tensor], layer: int) -> Problem:
        """The problem whose value brings every fact's prompt to its relation target."""
        rows = []
        for fact, goal in zip(facts, goals, strict=True):
            prompt = Prompt.of(fact.prompt, fact.subject)
            tokens = encode(bench.model.tokenizer, prompt.text)
            weight = self.target_weight / len(facts) / float(goal.pow(2).sum())
            places = prompt.subject_last(tokens), layer, prompt.prompt_last(tokens)
            rows.append(MatchRow(tokens.ids, *places, goal, weight, "squared"))
        return Problem(tuple(rows))


@dataclass(frozen=True, eq=False)
class _Node:
    """Facts that have been merged, with their common solution."""

    facts: Facts
    solution: Solution


def _weighted_mean(a: _Node, b: _Node) -> Tensor:
    n, k = len(a.facts), len(b.facts)
    return (n * a.solution.delta + k * b.solution.delta) / (n + k)
