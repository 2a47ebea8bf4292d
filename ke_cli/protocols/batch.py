"""Many facts written at once: each batch into the unedited model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ke_cli.checks import check_at_least
from ke_cli.data.types import Case, EditUnit
from ke_cli.protocols.crowd import aware, batches


@dataclass(frozen=True)
class Batch:
    """Cuts the cases into batches in their order; all cases of a batch are evaluated with all of it written.

    Args:
        size: Facts of a batch; the last one holds what is left.
        distinct_relations: Of facts with one subject and relation, which contradict each other, keep the first.
    """

    independent: ClassVar[bool] = True
    groups_cases: ClassVar[bool] = False

    size: int
    distinct_relations: bool = True

    def __post_init__(self) -> None:
        """Refuse a size that holds nothing."""
        check_at_least(self, 1, "size")

    def units(self, cases: Sequence[Case]) -> list[EditUnit]:
        """Return one unit for each batch, named by the numbers of its facts.

        Raises:
            UserError: If there are no cases.
        """
        cut = batches(cases, self.size, distinct=self.distinct_relations)
        return [EditUnit(unit.unit_id, tuple(aware(unit.cases))) for unit in cut]
