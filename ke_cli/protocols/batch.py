"""Many facts written at once: each batch into the unedited model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ke_cli.checks import check_at_least
from ke_cli.data.types import Case, EditUnit
from ke_cli.protocols.crowd import aware, batches, groups_of


@dataclass(frozen=True)
class Batch:
    """Cuts the cases into batches in their order; all cases of a batch are evaluated with all of it written.

    Args:
        size: Facts of a batch; the last one holds what is left, and the facts of a `Case.group` stay together.
        distinct_relations: Of facts with one subject and relation, which contradict each other, keep the first.
        ask_about_written: Keep prompts about other facts of the batch, whose answers may rightly change.
    """

    independent: ClassVar[bool] = True
    groups_cases: ClassVar[bool] = False

    size: int
    distinct_relations: bool = True
    ask_about_written: bool = False

    def __post_init__(self) -> None:
        """Refuse a size that holds nothing."""
        check_at_least(self, 1, "size")

    def units(self, cases: Sequence[Case]) -> list[EditUnit]:
        """Return one unit for each batch, named by the numbers of its facts.

        Raises:
            UserError: If there are no cases.
        """
        cut = batches(cases, self.size, distinct=self.distinct_relations)
        groups = groups_of(cases)
        asked = [aware(unit.cases, groups, ask_about_written=self.ask_about_written) for unit in cut]
        return [EditUnit(unit.unit_id, tuple(known)) for unit, known in zip(cut, asked, strict=True)]
