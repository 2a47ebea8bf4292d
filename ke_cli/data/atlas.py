"""The bundled benchmark: facts that people recognise, in a file that travels with the package."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from ke_cli.checks import check_at_least
from ke_cli.data.atlas_facts import BUNDLED, Fact, Facts, Template, facts_fingerprint, read_facts, slug
from ke_cli.data.types import PLACE, Case, Dataset, Probe, Request
from ke_cli.errors import UserError

LEAST_PROBES = 2
"""A fact becomes a case if it has at least this many neighborhood and relation-specific probes."""

GENERATION = ("A short note on {}:", "Facts about {}:", "What people say first about {} is that")
"""Openings for free text about a subject of any type."""


@dataclass(frozen=True)
class Atlas:
    """Cases from the bundled facts: one for every fact with enough probes around it.

    Args:
        limit: Number of cases; None for all.
        offset: Cases that are skipped before them.
        order_seed: Of the order in which cases are taken.
        neighbors: Neighborhood prompts of a case, at most.
    """

    limit: int | None = 200
    offset: int = 0
    order_seed: int = 0
    neighbors: int = 5

    def __post_init__(self) -> None:
        """Refuse numbers that leave nothing."""
        check_at_least(self, 1, "limit")
        check_at_least(self, 0, "offset")
        check_at_least(self, LEAST_PROBES, "neighbors")

    def load(self) -> Dataset:
        """Build the cases.

        Raises:
            UserError: If the bundled file is damaged, or the offset skips all cases.
        """
        cases = sorted(
            _CaseBuilder(read_facts(), self.neighbors).cases(),
            key=lambda case: _draw("order", str(self.order_seed), case.case_id),
        )
        if self.offset >= len(cases):
            what = f"an offset of {self.offset} skips all {len(cases)} cases"
            raise UserError(what, where="dataset.offset", allowed=f"0 to {len(cases) - 1}")
        prompts = tuple(case.request.text for case in cases)
        chosen = tuple(cases[self.offset :][: self.limit])
        return Dataset("atlas", chosen, facts_fingerprint(), f"ke_cli/data/{BUNDLED}", prompts)


class _CaseBuilder:
    """Writes the cases of all facts, with the facts indexed by object."""

    def __init__(self, facts: Facts, neighbors: int) -> None:
        self.facts, self.neighbors = facts, neighbors
        self.by_object: dict[str, list[Fact]] = {}
        self.objects: dict[str, set[str]] = {}
        for fact in facts.triples():
            self.by_object.setdefault(fact.object, []).append(fact)
            self.objects.setdefault(fact.relation, set()).add(fact.object)

    def cases(self) -> Iterator[Case]:
        """Yield a case for each fact that has enough neighborhood and relation-specific probes."""
        for fact in self.facts.triples():
            case = self.case(fact)
            if min(len(case.neighborhood), len(case.relation_specific)) >= LEAST_PROBES:
                yield case

    def case(self, fact: Fact) -> Case:
        """The request to overwrite ``fact``, with all its probes."""
        relation = self.facts.relations[fact.relation]
        name = fact.subject
        return Case(
            case_id=f"{slug(name)}--{fact.relation}",
            request=Request(relation.prompt, name, self.target(fact), fact.object, fact.relation),
            paraphrases=_probes(relation.paraphrases, name),
            neighborhood=self.neighborhood(fact),
            relation_specific=self.relation_specific(fact),
            instructions=_probes(relation.instructions, name),
            generation=tuple(opening.replace(PLACE, name) for opening in GENERATION),
        )

    def target(self, fact: Fact) -> str:
        """A false object of the same relation, drawn evenly and the same in every run."""
        true = {fact.object, *self.facts.subjects[fact.subject].also.get(fact.relation, ())}
        wrong = self.objects[fact.relation] - true
        return min(wrong, key=lambda answer: _draw("target", fact.subject, fact.relation, answer))

    def neighborhood(self, fact: Fact) -> tuple[Probe, ...]:
        """Prompts about other subjects with the same object, those of the same relation first."""
        sharing = sorted(
            (other for other in self.by_object[fact.object] if other.subject != fact.subject),
            key=lambda other: (
                other.relation != fact.relation,
                _draw("neighbor", fact.subject, fact.relation, other.subject, other.relation),
            ),
        )
        chosen = {other.subject: other for other in reversed(sharing)}  # the best relation of each subject
        ranked = [other for other in sharing if chosen[other.subject] is other][: self.neighbors]
        return tuple(self.neighbor(other, turn) for turn, other in enumerate(ranked))

    def neighbor(self, other: Fact, turn: int) -> Probe:
        """A prompt for a neighbor; the wordings take turns, the edit prompt first."""
        wordings = self.facts.relations[other.relation].statements
        return Probe(wordings[turn % len(wordings)].fill(other.subject), other.object)

    def relation_specific(self, fact: Fact) -> tuple[Probe, ...]:
        """Edit prompts of the subject's other relations with their objects."""
        known = self.facts.subjects[fact.subject].facts
        return tuple(
            Probe(Template(self.facts.relations[relation].prompt).fill(fact.subject), answer)
            for relation, answer in known.items()
            if relation != fact.relation
        )


def _probes(templates: tuple[Template, ...], subject: str) -> tuple[Probe, ...]:
    return tuple(Probe(one.fill(subject), tag="held_out" if one.held_out else "") for one in templates)


def _draw(*parts: str) -> bytes:
    """A sort key that is as good as random, and the same in every process and version of Python."""
    return hashlib.sha256("\x1f".join(parts).encode()).digest()
