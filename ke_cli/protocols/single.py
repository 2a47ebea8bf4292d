"""Each fact alone on the unedited model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ke_cli.data.types import Case, EditUnit
from ke_cli.errors import UserError


@dataclass(frozen=True)
class Single:
    """One unit for each case, named like the case."""

    @property
    def independent(self) -> bool:
        """Every case is written into the unedited model."""
        return True

    @property
    def groups_cases(self) -> bool:
        """A unit is a case."""
        return False

    def units(self, cases: Sequence[Case]) -> list[EditUnit]:
        """Return one unit for each case, in their order.

        Raises:
            UserError: If there are no cases.
        """
        if not cases:
            raise UserError("the data set has no cases")
        return [EditUnit(case.case_id, (case,)) for case in cases]
