"""What an editor is handed: the model, its statistics, its context templates, and a token budget."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from ke_cli.data.types import PLACE
from ke_cli.engine.batching import Budget
from ke_cli.engine.covariance import Covariance
from ke_cli.engine.edits import NO_EDIT, Edit, Standing, standing
from ke_cli.engine.generation import sample_prefixes
from ke_cli.engine.problems import Objective, Problem, Solution, Where
from ke_cli.engine.reading import Site, Token, read
from ke_cli.engine.shelf import Shelf
from ke_cli.engine.statistics import StatisticsStore
from ke_cli.engine.tokens import encode
from ke_cli.engine.value import optimise
from ke_cli.models.editable import EditableModel

T = TypeVar("T")

CHUNK = 1024
"""Texts whose keys are held at once."""

ROOM = 3 * 2**30
"""Bytes on the model's device for covariances and what is made of them; five layers of GPT-2 XL need 2.3 GiB."""


@dataclass(frozen=True, slots=True)
class ContextSpec:
    """How context templates are sampled; they are part of an edit's identity.

    Args:
        groups: ``(first word, length in tokens, number)`` of each group of prefixes; an empty first word begins with
            the start-of-text token.
        top_k: Sampling is from the ``k`` most likely tokens.
        seed: Of the sampling.
    """

    groups: tuple[tuple[str, int, int], ...]
    top_k: int = 5
    seed: int = 0


@dataclass(eq=False)
class Workbench:
    """One model with everything that is computed once per model. Nothing here outlives the run or is shared.

    What is large (covariances, their factors, projectors) is held within a limit and made or read again when it has
    been dropped: `ROOM`, or what one layer needs where that is more.

    Args:
        model: The model.
        statistics: Where covariances come from.
        budget: Tokens per batch.
        reference_prompts: Edit prompts of the data set, subjects filled in.
    """

    model: EditableModel
    statistics: StatisticsStore
    budget: int | Budget
    reference_prompts: tuple[str, ...] = ()
    _covariances: dict[int, Covariance] = field(default_factory=dict)
    _moments: dict[tuple[int, tuple[str, ...], bool], Covariance] = field(default_factory=dict)
    _keys: dict[tuple[int, tuple[str, ...]], Tensor] = field(default_factory=dict)
    _templates: dict[ContextSpec, tuple[str, ...]] = field(default_factory=dict)
    _shelf: Shelf = field(default_factory=Shelf)
    _under: Edit = NO_EDIT
    _standing: Standing = field(default_factory=Standing)

    def __post_init__(self) -> None:
        """Set the limit of what is held."""
        width = self.model.mlp_width
        self._shelf.limit = max(ROOM, 12 * width**2)  # float32 matrix and float64 factor of one layer

    @contextmanager
    def over(self, edit: Edit) -> Iterator[None]:
        """Let all that is read, optimised and written inside the context see the weights with ``edit`` added.

        What is computed once per model (statistics, templates, keys of reference prompts) stays that of the unedited
        one, whenever it is asked for.
        """
        before = self._under, self._standing
        with standing(self.model, edit) as state:
            self._under, self._standing = edit, state
            try:
                yield
            finally:
                self._under, self._standing = before

    @contextmanager
    def _unedited(self) -> Iterator[None]:
        paused, self._standing.paused = self._standing.paused, True
        try:
            yield
        finally:
            self._standing.paused = paused

    def weight(self, module_name: str) -> Tensor:
        """The weight ``[d_out, d_in]`` of a projection as it is now: with the change that stands, in its precision."""
        weight, update = self.model.weight(module_name), self._under.updates.get(module_name)
        if update is None:
            return weight
        delta = update.delta()
        return weight.to(delta) + delta

    def once(self, key: tuple[Hashable, ...], make: Callable[[], T]) -> T:
        """What ``make`` returns, made when ``key`` is asked for the first time (a projector), or after it had to go."""
        return self._shelf.get(("once", *key), make)

    def optimise(
        self, problems: Sequence[Problem], objective: Objective, layer: int, where: Where, *, keys: bool = False
    ) -> list[Solution]:
        """Solve value problems under the workbench's token budget (see `ke_cli.engine.value.optimise`)."""
        return optimise(self.model, problems, objective, layer, where, budget=self.budget, keys=keys)

    def covariances(self, layers: Sequence[int]) -> dict[int, Covariance]:
        """Covariances of ``layers``; those never asked for are computed together in one pass over the text."""
        missing = [layer for layer in layers if layer not in self._covariances]
        if missing:
            with self._unedited():
                found = self.statistics.covariances(self.model, missing)
            self._covariances.update({layer: covariance.on(self._shelf) for layer, covariance in found.items()})
        return {layer: self._covariances[layer] for layer in layers}

    def templates(self, spec: ContextSpec) -> tuple[str, ...]:
        """Context templates: the bare ``{}`` first, then ``"<prefix>. {}"`` for each sampled prefix."""
        if spec not in self._templates:
            with self._unedited():
                self._templates[spec] = self._sampled(spec)
        return self._templates[spec]

    def _sampled(self, spec: ContextSpec) -> tuple[str, ...]:
        prefixes = [
            prefix
            for number, (word, length, count) in enumerate(spec.groups)
            for prefix in sample_prefixes(
                self.model, word, length, count, top_k=spec.top_k, seed=spec.seed * 1000 + number
            )
        ]
        return (PLACE, *(as_template(prefix) for prefix in prefixes))

    def last_token_keys(self, layer: int, texts: tuple[str, ...]) -> Tensor:
        """Keys ``[n, m]`` of the unedited model at the last token of each text; read once, kept on the CPU.

        Kept in the model's own precision, which loses nothing, so that what is taken out of a sum of them later is
        to the bit what went in.
        """
        if (layer, texts) not in self._keys:
            rows = [encode(self.model.tokenizer, text).ids for text in texts]
            site = Site(self.model.projection_name(layer), "input")
            tokens = [Token(ids, len(ids) - 1) for ids in rows]
            with self._unedited():
                parts = [
                    read(self.model, tokens[start : start + CHUNK], [site], budget=self.budget)[site].to(
                        "cpu", self.model.dtype
                    )
                    for start in range(0, len(tokens), CHUNK)
                ]
            self._keys[layer, texts] = torch.cat(parts)
        return self._keys[layer, texts]

    def with_last_token_keys(self, layer: int, texts: tuple[str, ...], base: Covariance | None) -> Covariance:
        """``base`` (or nothing) plus the *sum* of ``k k^T`` over the last tokens of ``texts``; computed once."""
        if base is not None and not texts:
            return base
        known = (layer, texts, base is None)
        if known not in self._moments:
            name = f"second moment of {len(texts)} reference prompts at layer {layer}"
            make = partial(self._sum_over_last_tokens, layer, texts)
            self._moments[known] = Covariance(make, name, shelf=self._shelf) if base is None else base.plus(make, name)
        return self._moments[known]

    def _sum_over_last_tokens(self, layer: int, texts: tuple[str, ...]) -> Tensor:
        """The sum of ``k k^T`` ``[m, m]`` over the last tokens of texts, in float64."""
        everything = self.last_token_keys(layer, texts)
        total = torch.zeros(everything.shape[1], everything.shape[1], dtype=torch.float64, device=self.model.device)
        for keys in torch.split(everything, CHUNK):
            exact = keys.to(self.model.device, torch.float64)
            total.addmm_(exact.T, exact)
        return total

    def use_templates(self, spec: ContextSpec, templates: Sequence[str]) -> None:
        """Take templates that were sampled before (a run that goes on keeps those it began with)."""
        self._templates[spec] = tuple(templates)


def as_template(prefix: str) -> str:
    """``"<prefix>. {}"``, without braces or line breaks of the sampled text getting in the way."""
    clean = " ".join(prefix.replace("{", " ").replace("}", " ").split())
    return f"{clean}. {PLACE}"
