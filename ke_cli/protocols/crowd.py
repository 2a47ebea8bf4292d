"""Many facts written into one model: which of them go together, and what may still be asked about each."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

from ke_cli.data.types import Case, EditUnit, Probe
from ke_cli.errors import UserError
from ke_cli.protocols.same_subject import by_itself, together
from ke_cli.protocols.single import edits

Fact = tuple[str, str, str]
"""Subject, relation (the prompt where none is known) and new object."""


def batches(cases: Sequence[Case], size: int, *, distinct: bool) -> list[EditUnit]:
    """Cut cases into units of ``size`` facts in their order; the last one holds what is left.

    Cases that share a `Case.group` stay together: a unit ends before a group that it has no room for, and a group of
    more than ``size`` facts is a unit of its own.

    Args:
        cases: Any number.
        size: Facts of a unit.
        distinct: Leave out facts that contradict an earlier one.

    Raises:
        UserError: If there are no cases.
    """
    if not cases:
        raise UserError("the data set has no cases")
    kept = without_contradictions(cases) if distinct else cases
    found: list[list[Case]] = [[]]
    for _, group in edits(kept):
        if found[-1] and len(found[-1]) + len(group) > size:
            found.append([])
        found[-1] += group
    facts = [case for unit in found for case in unit]
    return [unit_of(facts, first, last) for first, last in pairwise([0, *accumulate(map(len, found))])]


def unit_of(facts: Sequence[Case], first: int, last: int) -> EditUnit:
    """The facts with the numbers ``first`` to ``last - 1`` as a unit that is named by them, counted from 1."""
    return EditUnit(f"facts-{first + 1}-{last}", tuple(facts[first:last]))


def without_contradictions(cases: Sequence[Case]) -> list[Case]:
    """Of the facts with one subject and relation only the first, because a later one would overwrite it.

    Without a known relation facts count as different unless they have the same prompt.
    """
    first: dict[tuple[str, str], Case] = {}
    for case in cases:
        first.setdefault((case.request.subject, case.request.relation or case.request.prompt), case)
    return list(first.values())


def groups_of(cases: Sequence[Case]) -> dict[str, set[Fact]]:
    """The facts of every `Case.group`."""
    found: dict[str, set[Fact]] = defaultdict(set)
    for case in cases:
        if case.group:
            found[case.group].add(_fact(case))
    return found


def aware(cases: Sequence[Case], groups: Mapping[str, set[Fact]], *, ask_about_written: bool) -> list[Case]:
    """Return the cases that are written, in their order, each knowing what else is.

    The facts of one subject are each other's ``companions``. A question that follows from several facts of a group is
    dropped unless all of them are written. So are, unless ``ask_about_written``, prompts whose answers may rightly
    change: probes about each other among the facts of one subject, as under `ke_cli.protocols.same_subject`, and
    neighborhood prompts that name another subject whose fact of the same relation is written, or that are themselves
    the prompt of a written fact.

    Args:
        cases: What is written.
        groups: The facts of every group, also those that are not written.
        ask_about_written: Keep the prompts about other facts that are written.
    """
    written = {_fact(case) for case in cases}
    asked = [case if groups.get(case.group, set()) <= written else by_itself(case) for case in cases]
    subjects: dict[str, list[int]] = defaultdict(list)
    for place, case in enumerate(asked):
        subjects[case.request.subject].append(place)
    for places in subjects.values():
        known = together([asked[place] for place in places], ask_about_written=ask_about_written)
        for place, case in zip(places, known, strict=True):
            asked[place] = case
    return asked if ask_about_written else _without_written_neighbors(asked)


def _without_written_neighbors(cases: Sequence[Case]) -> list[Case]:
    written = _Written(cases)
    return [
        replace(case, neighborhood=tuple(probe for probe in case.neighborhood if written.spares(case, probe)))
        for case in cases
    ]


def _fact(case: Case) -> Fact:
    request = case.request
    return request.subject, request.relation or request.prompt, request.target_new


class _Written:
    """What is written, for prompts to be compared with."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self._prompts = {case.request.text for case in cases}
        subjects: dict[str, set[str]] = defaultdict(set)
        for case in cases:
            if case.request.relation and case.request.subject.strip():
                subjects[case.request.relation].add(case.request.subject)
        self._named = {relation: _any_of(found) for relation, found in subjects.items()}

    def spares(self, case: Case, probe: Probe) -> bool:
        """Whether the answer to a neighborhood prompt of a case is none of the facts that are written."""
        named = self._named.get(case.request.relation)
        return probe.prompt not in self._prompts and (named is None or not named.search(probe.prompt))


def _any_of(names: set[str]) -> re.Pattern[str]:
    """A pattern that finds any of some names as whole words."""
    return re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, sorted(names))) + r")(?!\w)")
