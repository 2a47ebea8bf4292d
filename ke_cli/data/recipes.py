"""What loaders of files share: which records are used, and which prompts are made for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from ke_cli.checks import check_at_least
from ke_cli.data.instructions import Questions, instruction
from ke_cli.data.relation_prompts import Templates, relation_probes
from ke_cli.data.types import Probe, Request
from ke_cli.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Settings of a loader whose files do not put facts as instructions.

    The names of recipes carry a version, so that a run's identity changes when their wording does.

    Args:
        limit: How many entries of the file are used; null for all. The whole file is checked all the same.
        offset: How many entries are skipped before them.
        instructions: How the fact is put as an instruction; null for not at all.
    """

    limit: int | None = None
    offset: int = 0
    instructions: Questions | None = "questions-1"

    def __post_init__(self) -> None:
        """Refuse numbers that leave nothing."""
        check_at_least(self, 1, "limit")
        check_at_least(self, 0, "offset")

    def made_instructions(self, request: Request, given: str = "") -> tuple[Probe, ...]:
        """Return the request as an instruction: the one of the file; a prompt that is one already; else a made one."""
        if self.instructions is None:
            return ()
        if given or request.text.endswith("?"):
            return (Probe(given or request.text),)
        return (instruction(request, self.instructions),)

    def window(self, entries: Sequence[T]) -> Sequence[T]:
        """Return the entries that are used.

        Raises:
            UserError: If the offset skips all.
        """
        if self.offset >= len(entries):
            what = f"an offset of {self.offset} skips all {len(entries)} entries of the file"
            raise UserError(what, where="dataset.offset", allowed=f"0 to {len(entries) - 1}")
        return entries[self.offset :][: self.limit]


@dataclass(frozen=True, kw_only=True)
class Recipes(Selection):
    """Settings of a loader whose files lack some of the prompts.

    Args:
        relation_specific_prompts: How prompts about other relations of the subject are made where the file
            has none; null for not at all.
        relation_specific_count: The most that are made for a case.
    """

    relation_specific_prompts: Templates | None = "templates-1"
    relation_specific_count: int = 5

    def __post_init__(self) -> None:
        """Refuse numbers that leave nothing."""
        super().__post_init__()
        check_at_least(self, 1, "relation_specific_count")

    def made_relation_specific(self, request: Request, kind: str | None = None) -> tuple[Probe, ...]:
        """Return prompts about other relations of the request's subject, of which the file may tell what it is."""
        recipe = self.relation_specific_prompts
        if recipe is None:
            return ()
        return relation_probes(request.relation, request.subject, self.relation_specific_count, recipe, kind)
