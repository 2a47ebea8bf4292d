"""What a user should know before the numbers of a run are believed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ke_cli.config import RunConfig
from ke_cli.data.types import Case, Dataset, EditUnit
from ke_cli.running import partition

if TYPE_CHECKING:
    from ke_cli.methods.base import Editor


def cautions(config: RunConfig, editor: Editor, dataset: Dataset, units: Sequence[EditUnit]) -> tuple[str, ...]:
    """Return warnings about a method, the cases it writes together, and how the run is split."""
    return (*_crowded(config, editor, units), *_left_out(config, dataset, units), *_idle(config, units))


def _left_out(config: RunConfig, dataset: Dataset, units: Sequence[EditUnit]) -> list[str]:
    """Say so where a protocol that groups nothing writes fewer facts than there are."""
    missing = len(dataset.cases) - sum(len(unit.cases) for unit in units)
    if config.protocol.build().groups_cases or not missing:
        return []
    return [
        f"left out, because an earlier fact has the same subject and relation: {missing} of {len(dataset.cases)} facts "
        "(protocol.distinct_relations=false keeps them)"
    ]


def _crowded(config: RunConfig, editor: Editor, units: Sequence[EditUnit]) -> list[str]:
    crowded = sum(1 for unit in units if _repeats_subject(unit.cases))
    if editor.holds_subject or not crowded:
        return []
    return [
        f"{crowded} of {len(units)} units hold several facts of one subject, which {config.method.name} cannot keep "
        "apart: their keys are nearly equal, so the facts overwrite each other (method=memit_merge or rose can)"
    ]


def _idle(config: RunConfig, units: Sequence[EditUnit]) -> list[str]:
    """Say so where a run is split into more shards than have work."""
    count, blocks = config.shard.count, -(-len(units) // partition.block_size(len(units)))
    if count <= blocks:
        return []
    return [
        f"{count - blocks} of {count} shards have nothing to do: shards take whole blocks of "
        f"{partition.block_size(len(units))} units, and the run has {blocks} (shard.count={blocks})"
    ]


def _repeats_subject(cases: Sequence[Case]) -> bool:
    return max(Counter(case.request.subject for case in cases).values()) > 1
