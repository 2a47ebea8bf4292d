"""The unedited model, as the baseline row of every table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ke_cli.data.types import EditUnit
from ke_cli.engine.edits import NO_EDIT, Edit
from ke_cli.engine.workbench import Workbench
from ke_cli.methods.base import Editor


@dataclass(frozen=True, kw_only=True)
class Unedited(Editor):
    """Changes nothing."""

    def edit(self, bench: Workbench, units: Sequence[EditUnit]) -> list[Edit]:
        """Return one empty edit per unit."""
        return [NO_EDIT for _ in units]
