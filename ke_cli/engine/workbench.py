"""What an editor is handed: the model, its statistics, its context templates, and a token budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ke_cli.data.types import PLACE
from ke_cli.engine.covariance import Covariance
from ke_cli.engine.generation import sample_prefixes
from ke_cli.engine.statistics import StatisticsStore
from ke_cli.models.editable import EditableModel


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

    Args:
        model: The model.
        statistics: Where covariances come from.
        budget: Tokens per batch.
        reference_prompts: Edit prompts of the data set, subjects filled in.
    """

    model: EditableModel
    statistics: StatisticsStore
    budget: int
    reference_prompts: tuple[str, ...] = ()
    _covariances: dict[int, Covariance] = field(default_factory=dict)
    _templates: dict[ContextSpec, tuple[str, ...]] = field(default_factory=dict)

    def covariances(self, layers: Sequence[int]) -> dict[int, Covariance]:
        """Covariances of ``layers``; those not held yet are computed together in one pass over the text."""
        missing = [layer for layer in layers if layer not in self._covariances]
        if missing:
            self._covariances.update(self.statistics.covariances(self.model, missing))
        return {layer: self._covariances[layer] for layer in layers}

    def templates(self, spec: ContextSpec) -> tuple[str, ...]:
        """Context templates: the bare ``{}`` first, then ``"<prefix>. {}"`` for each sampled prefix."""
        if spec not in self._templates:
            prefixes = [
                prefix
                for number, (word, length, count) in enumerate(spec.groups)
                for prefix in sample_prefixes(
                    self.model, word, length, count, top_k=spec.top_k, seed=spec.seed * 1000 + number
                )
            ]
            self._templates[spec] = (PLACE, *(as_template(prefix) for prefix in prefixes))
        return self._templates[spec]

    def use_templates(self, spec: ContextSpec, templates: Sequence[str]) -> None:
        """Take templates that were sampled before (a run that goes on keeps those it began with)."""
        self._templates[spec] = tuple(templates)

    @property
    def used_templates(self) -> dict[ContextSpec, tuple[str, ...]]:
        """The templates in use so far, for the run record."""
        return dict(self._templates)


def as_template(prefix: str) -> str:
    """``"<prefix>. {}"``, without braces or line breaks of the sampled text getting in the way."""
    clean = " ".join(prefix.replace("{", " ").replace("}", " ").split())
    return f"{clean}. {PLACE}"
