"""The contract of a protocol: which cases are written together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ke_cli.data.types import Case, EditUnit


class CaseProtocol(Protocol):
    """From cases to the units in which they are written. One file each, one YAML in ``conf/protocol``."""

    @property
    def independent(self) -> bool:
        """Whether every unit is written into the unedited model, so that units may be computed together."""
        ...

    @property
    def groups_cases(self) -> bool:
        """Whether cases are put together into units; a limit of the data set then counts units, not cases."""
        ...

    def units(self, cases: Sequence[Case]) -> list[EditUnit]:
        """Return the units in the order in which they are written, with ids that later runs share.

        Raises:
            UserError: If the cases make no unit.
        """
        ...
