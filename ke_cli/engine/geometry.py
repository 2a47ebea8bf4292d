"""The geometry of edits: drift of the keys and landscape of the loss, for many facts and many edits in one batch.

What is computed stands in `ke_cli.engine.drift` and `ke_cli.engine.landscape`. Here facts are put into teams (the
facts of one unit, which share one value), teams into packages that fit the token budget, and the answers together.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ke_cli.engine.batching import Budget, Size, in_batches
from ke_cli.engine.drift import drifted_tokens, layer_drift, transposed
from ke_cli.engine.edits import Edit, attached
from ke_cli.engine.forward import by_rows, hooked
from ke_cli.engine.landscape import Landscape, Pushes, Targets, survey
from ke_cli.engine.partial import PartialForward, prepare
from ke_cli.engine.queries import Fact, Geometry, GeometryQuery
from ke_cli.engine.reading import Site, read
from ke_cli.engine.tokens import Continuation, Prompt, continuation
from ke_cli.models.editable import EditableModel

Asked = tuple[int, GeometryQuery]
"""The number of an edit, and what is asked about it."""


def geometries(
    model: EditableModel, asked: Sequence[Asked], edits: Sequence[Edit], *, budget: int | Budget
) -> list[Geometry]:
    """Answer geometry queries, each with its own edit attached.

    Args:
        model: The model.
        asked: Queries with the number of their edit.
        edits: The edits; one that changes nothing, or anything but down-projections, has no geometry (all None).
        budget: Tokens per batch.

    Returns:
        One answer per query, in order.
    """
    layers = [_edited_layers(model, edit) for edit in edits]
    budget = Budget.of(budget)
    groups: dict[tuple[tuple[int, ...], str, Pushes], list[int]] = defaultdict(list)
    for index, (edit, query) in enumerate(asked):
        if layers[edit]:
            pushes = Pushes(query.rho, query.radii, query.n_directions, query.seed)
            groups[layers[edit], query.lookup, pushes].append(index)
    found: dict[int, Geometry] = {}
    for (edited, _, pushes), members in groups.items():
        group = _Group(model, [asked[index] for index in members], edits, edited, pushes, budget)
        found.update(zip(members, group.answers(), strict=True))
    return [found.get(index, Geometry()) for index in range(len(asked))]


def _edited_layers(model: EditableModel, edit: Edit) -> tuple[int, ...]:
    """Layers whose down-projection the edit changes, ascending; none if it changes anything else."""
    names = {model.projection_name(layer): layer for layer in range(model.n_layers)}
    return tuple(sorted(names[name] for name in edit.updates)) if edit.updates.keys() <= names.keys() else ()


@dataclass(frozen=True, slots=True)
class _Team:
    """Facts that share one value, and the number of the edit that wrote them.

    The facts are sorted, so that a unit is one team whichever of its facts is asked about.
    """

    edit: int
    facts: tuple[Fact, ...]

    @classmethod
    def of(cls, edit: int, query: GeometryQuery) -> _Team:
        """The team of the fact that is asked about."""
        return cls(edit, tuple(sorted((query.fact, *query.companions))))


@dataclass(frozen=True, slots=True)
class _Row:
    """A fact's prompt with its target as one sequence."""

    text: Continuation
    lookup: int

    @classmethod
    def of(cls, model: EditableModel, fact: Fact, lookup: str) -> _Row:
        """Render and tokenise a fact."""
        template, subject, target = fact
        prompt = Prompt.of(template, subject)
        text = continuation(model.tokenizer, prompt.text, target)
        return cls(
            text, prompt.subject_last(text.tokens) if lookup == "subject_last" else prompt.prompt_last(text.tokens)
        )

    @property
    def tail(self) -> int:
        """Tokens from the lookup position on: what a push costs."""
        return len(self.text.ids) - self.lookup


@dataclass(frozen=True, eq=False)
class _Found:
    """What is known of one team of ``f`` facts: keys ``[f, m]`` per edited layer, and the landscape of its own."""

    keys: Mapping[int, Tensor]
    landscape: Landscape


@dataclass(frozen=True, eq=False)
class _Group:
    """Queries about edits of the same layers with the same settings.

    Args:
        model: The model.
        asked: The queries.
        edits: All edits.
        layers: The edited layers.
        pushes: What is tried at the value's place.
        budget: Tokens per batch.
    """

    model: EditableModel
    asked: Sequence[Asked]
    edits: Sequence[Edit]
    layers: tuple[int, ...]
    pushes: Pushes
    budget: Budget

    def answers(self) -> list[Geometry]:
        """One answer per query."""
        teams = [_Team.of(edit, query) for edit, query in self.asked]
        known = self._teams(list(dict.fromkeys(teams)))
        moved = self._drifted_keys()
        return [
            self._answer(asked, team.facts.index(asked[1].fact), known[team], keys)
            for asked, team, keys in zip(self.asked, teams, moved, strict=True)
        ]

    def _teams(self, teams: Sequence[_Team]) -> dict[_Team, _Found]:
        lookup = self.asked[0][1].lookup
        rows = {team: [_Row.of(self.model, fact, lookup) for fact in team.facts] for team in teams}
        sizes = [_size(rows[team]) for team in teams]
        found = in_batches(lambda part: self._package(part, rows), teams, sizes, self.budget)
        return dict(zip(teams, found, strict=True))

    def _package(self, teams: Sequence[_Team], rows: Mapping[_Team, Sequence[_Row]]) -> list[_Found]:
        flat = [row for team in teams for row in rows[team]]
        owner = [number for number, team in enumerate(teams) for _ in team.facts]
        fixed, keys = self._prepared(flat, [self.edits[team.edit] for team in teams], owner)
        targets = Targets.of([row.text for row in flat], self.model.device)
        whole = survey(fixed, targets, owner, self.pushes, budget=self.budget)
        found, at = [], 0
        for number, team in enumerate(teams):
            mine = slice(at, at + len(team.facts))
            found.append(_Found({layer: keys[layer][mine] for layer in self.layers}, whole.part(mine, number)))
            at = mine.stop
        return found

    def _prepared(
        self, rows: Sequence[_Row], edits: Sequence[Edit], owner: Sequence[int]
    ) -> tuple[PartialForward, dict[int, Tensor]]:
        """The fixed part of the rows, and per edited layer the keys ``[b, m]`` at the lookup positions.

        Pushes run above the last edited layer, where no edit acts: these need not be attached any longer.
        """
        lookups = torch.tensor([row.lookup for row in rows], device=self.model.device)
        keys: dict[int, Tensor] = {}

        def catcher(layer: int) -> Any:
            def catch(_module: nn.Module, args: tuple[Tensor, ...], _kwargs: Any, _output: Any) -> None:
                inputs = by_rows(args[0], len(rows))
                at = lookups.to(inputs.device)
                keys[layer] = inputs[torch.arange(len(rows), device=at.device), at].to(lookups.device)

            return catch

        hooks = [(self.model.projection(layer), catcher(layer)) for layer in self.layers]
        with attached(self.model, edits, owner), hooked(hooks):
            ids, at = [row.text.ids for row in rows], [row.lookup for row in rows]
            fixed = prepare(self.model, ids, at, self.layers[-1], "layer", residual=True)
        return fixed, keys

    def _drifted_keys(self) -> list[dict[int, Tensor]]:
        """Per query and edited layer the keys ``[n, m]`` in its instructions."""
        tokens = [drifted_tokens(self.model, query, edit) for edit, query in self.asked]
        flat = [token for some in tokens for token in some]
        if not flat:
            return [{} for _ in self.asked]
        sites = [Site(self.model.projection_name(layer), "input") for layer in self.layers]
        found = read(self.model, flat, sites, edits=self.edits, budget=self.budget)
        parts = [torch.split(found[site], [len(some) for some in tokens]) for site in sites]
        return [dict(zip(self.layers, keys, strict=True)) for keys in zip(*parts, strict=True)]

    def _answer(self, asked: Asked, index: int, found: _Found, moved: Mapping[int, Tensor]) -> Geometry:
        """Put together what is known of fact ``index`` of a team."""
        updates = self.edits[asked[0]].updates
        drifts = []
        for layer in self.layers:
            key = found.keys[layer][index]
            drifts.append(layer_drift(updates[self.model.projection_name(layer)], key, moved.get(layer, key[None][:0])))
        shape = found.landscape
        return Geometry(
            layers=self.layers,
            drift_gain=tuple(drift.drift_gain for drift in drifts),
            drift=transposed([drift.drift for drift in drifts]),
            realised_deviation=transposed([drift.realised_deviation for drift in drifts]),
            loss=_finite(shape.loss[index]),
            tolerances=tuple(shape.tolerance[index].tolist()),
            sharpness=_finite(shape.sharpness[0]),
            sharpness_random=_finite(shape.sharpness_random[0]),
            gradient_cosine=_mean_cosine(shape.gradient, index),
        )


def _size(rows: Sequence[_Row]) -> Size:
    """What a team takes up in a batch: teams are never torn apart."""
    return Size(len(rows), max(len(row.text.ids) for row in rows), max(row.tail for row in rows))


def _mean_cosine(gradients: Tensor, index: int) -> float | None:
    """Mean cosine between row ``index`` of ``[f, d]`` and the other rows; None without a pair that has one."""
    others = torch.cat([gradients[:index], gradients[index + 1 :]])
    cosines = F.normalize(others, dim=-1, eps=0) @ F.normalize(gradients[index], dim=-1, eps=0)  # [f - 1]
    defined = cosines[torch.isfinite(cosines)]
    return float(defined.mean()) if len(defined) else None


def _finite(value: Tensor) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
