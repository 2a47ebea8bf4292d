"""MEMIT, MEMIT-Merge and RoSE: values at the last edited layer, the residual spread over all edited layers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ke_cli.data.types import EditUnit, Request
from ke_cli.engine.edits import Edit, LowRank, merged
from ke_cli.engine.reading import Token
from ke_cli.engine.workbench import Workbench
from ke_cli.errors import UserError
from ke_cli.methods.memit import Memit, MemitMerge
from ke_cli.methods.rose import Rose
from ke_cli.methods.rows import lookup_tokens, target_rows
from ke_cli.methods.spread import SpreadEditor

from .passes import read
from .values import Path, optimise_value

Facts = tuple[Request, ...]


@dataclass(frozen=True, eq=False)
class Column:
    """One column of the solve: the mean key of ``facts`` shall get the state that ``path`` has found."""

    facts: Facts
    path: Path


class SpreadLoop:
    """Mirrors ``execute_memit``: values one after another, then layer by layer keys, states, solve and write."""

    def __init__(self, bench: Workbench, editor: SpreadEditor) -> None:
        self.bench, self.model, self.editor = bench, bench.model, editor
        self.layers = editor.edited_layers(bench.model.n_layers)
        self.covariances: dict[int, Tensor] = {}

    def prepare(self) -> None:
        """Templates and covariances ``[m, m]``."""
        self.templates = self.bench.templates(self.editor.context())
        layers = self.editor.covariance_layers(self.model.n_layers)
        found = self.bench.covariances(layers)
        self.covariances = {layer: one.matrix.to(self.model.device) for layer, one in found.items()}

    def columns(self, unit: EditUnit) -> list[Column]:
        """One value per fact, found one after another."""
        return [Column((request,), self.value((request,))) for request in unit.requests]

    def solve(self, layer: int, keys: Tensor) -> Tensor:
        """``[m, n]``: what the transpose of the residual is multiplied with, from keys ``[m, n]`` in float64.

        ``torch.linalg.solve`` of ``lambda C + K K^T [m, m]``, once per layer and batch, as in ``execute_memit``.
        """
        assert isinstance(self.editor, Memit)
        matrix = self.editor.lambda_ * self.covariances[layer].double() + keys @ keys.T
        solved: Tensor = torch.linalg.solve(matrix, keys)
        return solved

    def value(self, facts: Facts, before: Path | None = None, steps: int | None = None) -> Path:
        """``compute_z``: the state behind the last edited layer that makes the targets of all ``facts`` likely."""
        tokenizer, numbers = self.model.tokenizer, self.editor.objective
        rows = [
            row
            for fact in facts
            for row in target_rows(tokenizer, fact, self.templates, "subject_last", share=1 / len(facts))
        ]
        numbers = numbers if steps is None else replace(numbers, steps=steps)
        essence = self.editor.essence(tokenizer, facts[0])
        return optimise_value(self.model, self.model.layer(self.layers[-1]), rows, essence, numbers, before)

    def edit(self, unit: EditUnit) -> Edit:
        """Write a unit, and put the old weights back in the end."""
        columns = self.columns(unit)
        goals = torch.stack([column.path.value for column in columns], dim=1).double()  # [d, n]
        dtype, updates = columns[0].path.delta.dtype, {}
        with ExitStack() as writes:
            for position, layer in enumerate(self.layers):
                keys = self._keys(layer, columns)
                residual = (goals - self._states(columns)) / (len(self.layers) - position)
                pair = LowRank(residual.to(dtype), self.solve(layer, keys).T.to(dtype))
                updates[self.model.projection_name(layer)] = pair
                writes.enter_context(merged(self.model, Edit({self.model.projection_name(layer): pair})))
        losses = [column.path.losses for column in columns]
        info = {"loss": sum(one[-1] for one in losses) / len(losses), "steps": max(len(one) for one in losses)}
        return Edit(updates, info)

    def _keys(self, layer: int, columns: Sequence[Column]) -> Tensor:
        """``compute_ks``: ``[m, n]``, half the un-prefixed prompt and half the mean over the prefixed ones."""
        facts = [fact for column in columns for fact in column.facts]
        (found,) = read(self.model, self.model.projection(layer), self._tokens(facts, self.templates))
        keys = found.double().view(len(facts), len(self.templates), -1)  # [facts, t, m]
        bare = keys[:, 0]
        means = (bare + keys[:, 1:].mean(dim=1)) / 2 if len(self.templates) > 1 else bare
        parts = torch.split(means, [len(column.facts) for column in columns])
        return torch.stack([part.mean(dim=0) for part in parts], dim=1)

    def _states(self, columns: Sequence[Column]) -> Tensor:
        """``[d, n]``: the current output of the last edited layer, from a pass of its own over the bare prompts."""
        tokens = self._tokens([column.facts[0] for column in columns], self.templates[:1])
        (found,) = read(self.model, self.model.layer(self.layers[-1]), tokens, ("output",))
        return found.double().T

    def _tokens(self, facts: Sequence[Request], templates: Sequence[str]) -> list[Token]:
        tokenizer = self.model.tokenizer
        return [token for fact in facts for token in lookup_tokens(tokenizer, fact, templates, "subject_last")]


class MergeLoop(SpreadLoop):
    """MEMIT-Merge in the frame of ``execute_memit``: one value per subject, on the rows of all its facts."""

    editor: MemitMerge

    def columns(self, unit: EditUnit) -> list[Column]:
        """One column per subject, or one per fact with the subject's value."""
        found = []
        for facts in by_subject(unit.requests):
            path = self.value(facts)
            found += [Column((fact,), path) for fact in (facts[:1] if self.editor.balance else facts)]
        return found


class RoseLoop(SpreadLoop):
    """RoSE in the same frame; no program of its authors is public.

    The facts' own values first, one after another, then the merges up the tree, one after another. The solve is that of
    ``execute_memit`` with a covariance of mean diagonal 1, or for ``isotropic`` an ``[n, n]`` one.
    """

    editor: Rose

    def __init__(self, bench: Workbench, editor: Rose) -> None:
        """Refuse what has no loop here."""
        super().__init__(bench, editor)
        wanted = {"integration": ("progressive", "joint"), "constraint": ("covariance", "isotropic")}
        for name, allowed in wanted.items():
            if getattr(editor, name) not in allowed:
                got = getattr(editor, name)
                raise UserError(f"no loop for {got}", where=f"method.{name}", allowed=", ".join(allowed))
        if not editor.lambda_:
            raise UserError("the solve is singular without a constraint", where="method.lambda_", allowed="above 0")

    def columns(self, unit: EditUnit) -> list[Column]:
        """One column per subject."""
        return [
            Column(facts[:1] if self.editor.key == "first" else facts, self._integrated(facts))
            for facts in by_subject(unit.requests)
        ]

    def _integrated(self, facts: Facts) -> Path:
        """One value for all facts of a subject."""
        if self.editor.integration == "joint":
            return self.value(facts)
        level = [Column((fact,), self.value((fact,))) for fact in facts]
        while len(level) > 1:
            pairs = zip(level[::2], level[1::2], strict=False)
            level = [self._merged(left, right) for left, right in pairs] + level[len(level) // 2 * 2 :]
        return level[0].path

    def _merged(self, left: Column, right: Column) -> Column:
        """A joint problem that starts at the mean of both, weighted by their numbers of facts."""
        n, k = len(left.facts), len(right.facts)
        mean = (n * left.path.delta + k * right.path.delta) / (n + k)
        facts = left.facts + right.facts
        return Column(facts, self.value(facts, replace(left.path, delta=mean), self.editor.joint_steps))

    def solve(self, layer: int, keys: Tensor) -> Tensor:
        """``(K K^T + lambda mean||k||^2 M)^-1 K`` with ``M = C m / tr C`` or ``M = I``."""
        weight = self.editor.lambda_ * keys.square().sum(dim=0).mean()
        if self.editor.constraint == "isotropic":
            inner = keys.T @ keys + weight * torch.eye(keys.shape[1], dtype=keys.dtype, device=keys.device)
            solved: Tensor = keys @ torch.linalg.inv(inner)
            return solved
        covariance = self.covariances[layer].double()
        unit = covariance * (len(covariance) / covariance.trace())
        solved = torch.linalg.solve(weight * unit + keys @ keys.T, keys)
        return solved


def by_subject(requests: Sequence[Request]) -> list[Facts]:
    """Facts grouped by subject, in the order in which the subjects first come."""
    subjects = dict.fromkeys(request.subject for request in requests)
    return [tuple(request for request in requests if request.subject == subject) for subject in subjects]
