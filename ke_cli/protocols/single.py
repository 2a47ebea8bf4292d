"""Each edit alone on the unedited model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from ke_cli.data.types import Case, EditUnit
from ke_cli.errors import UserError


@dataclass(frozen=True)
class Single:
    """One unit for each case, named like the case; cases that share a `Case.group` are one unit, named like that."""

    independent: ClassVar[bool] = True
    groups_cases: ClassVar[bool] = False

    def units(self, cases: Sequence[Case]) -> list[EditUnit]:
        """Return one unit for each case or group of cases, in the order in which they first appear.

        Raises:
            UserError: If there are no cases.
        """
        if not cases:
            raise UserError("the data set has no cases")
        return [EditUnit(name, _together(group)) for name, group in edits(cases)]


def edits(cases: Sequence[Case]) -> list[tuple[str, list[Case]]]:
    """Cases by the edit that they are part of, with its name: those of one `Case.group`, or one by itself."""
    groups: dict[tuple[bool, str], list[Case]] = {}
    for case in cases:
        groups.setdefault((bool(case.group), case.group or case.case_id), []).append(case)
    return [(name, group) for (_, name), group in groups.items()]


def _together(group: Sequence[Case]) -> tuple[Case, ...]:
    """Return the cases of one edit, each with the requests that are written beside its own."""
    if len(group) == 1:
        return tuple(group)
    return tuple(
        replace(case, companions=tuple(other.request for other in group if other is not case)) for case in group
    )
