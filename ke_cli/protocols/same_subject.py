"""The facts of one subject written together; subjects are independent of each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from ke_cli.checks import check_at_least
from ke_cli.data.relation_prompts import related
from ke_cli.data.types import MULTI_HOP, Case, EditUnit, Probe
from ke_cli.errors import UserError


@dataclass(frozen=True)
class SameSubject:
    """Groups cases by subject, in the order in which subjects first appear.

    Relation-specific and other probes are dropped where they ask about another fact of the same unit, being its very
    prompt or tagged with its relation or one that follows from it: their answers may rightly change. So are questions
    about what follows from several facts of a `Case.group`, which need not be facts about one subject. Each case is
    given the other requests of its unit as ``companions``.

    Args:
        min_facts: Subjects of which fewer facts are known are left out; may be above ``max_facts``, so that groups of
            every size are measured on the same subjects.
        max_facts: The first so many facts of a subject are written.
        distinct_relations: Keep only the first fact of each relation; several ones of a relation that has one
            true object would contradict each other.
    """

    independent: ClassVar[bool] = True
    groups_cases: ClassVar[bool] = True

    min_facts: int = 2
    max_facts: int = 8
    distinct_relations: bool = True

    def __post_init__(self) -> None:
        """Refuse numbers that leave nothing."""
        check_at_least(self, 1, "min_facts", "max_facts")

    def units(self, cases: Sequence[Case]) -> list[EditUnit]:
        """Return one unit for each subject, named like its first case.

        Raises:
            UserError: If no subject has enough facts.
        """
        groups: dict[str, list[Case]] = {}
        for case in cases:
            groups.setdefault(case.request.subject, []).append(by_itself(case))
        facts = [self._facts(group) for group in groups.values()]
        kept = [group for group in facts if len(group) >= self.min_facts]
        if not kept:
            raise self._nothing(facts, len(cases))
        return [EditUnit(f"subject-{group[0].case_id}", together(group[: self.max_facts])) for group in kept]

    def _facts(self, group: Sequence[Case]) -> list[Case]:
        """Return the facts of one subject that could be written together."""
        if self.distinct_relations:
            # Without a known relation facts count as different: their prompts stand for it.
            first = {case.request.relation or case.request.prompt: case for case in reversed(group)}
            group = [case for case in group if first[case.request.relation or case.request.prompt] is case]
        return list(group)

    def _nothing(self, facts: Sequence[Sequence[Case]], count: int) -> UserError:
        most = max(map(len, facts), default=0)
        kind = " of different relations" if self.distinct_relations else ""
        return UserError(
            f"no subject has {self.min_facts} facts{kind}",
            where=f"{count} cases about {len(facts)} subjects with at most {most} such facts each",
            allowed="protocol.min_facts of at most that many",
            hint="protocol.min_facts=1, or a data set with several facts of a subject",
        )


def together(group: Sequence[Case], *, ask_about_written: bool = False) -> tuple[Case, ...]:
    """Return cases that know what is written beside each; probes about it are dropped unless they are wanted."""
    prompts = {case.request.text for case in group}
    relations = frozenset[str]().union(*(related(case.request.relation) for case in group if case.request.relation))

    def asked(probe: Probe) -> bool:
        return ask_about_written or (probe.prompt not in prompts and probe.tag not in relations)

    return tuple(
        replace(
            case,
            relation_specific=tuple(filter(asked, case.relation_specific)),
            probes=tuple(filter(asked, case.probes)),
            companions=tuple(other.request for other in group if other is not case),
        )
        for case in group
    )


def by_itself(case: Case) -> Case:
    """Return a case without the questions that ask for several facts, of which others are about other subjects."""
    if not case.group:
        return case
    return replace(case, probes=tuple(probe for probe in case.probes if probe.kind != MULTI_HOP))
