"""What parts runs into tables where no case is in all of them, so that none could be compared."""

from __future__ import annotations

from collections.abc import Sequence

from ke_cli.report.rows import causes, group_runs, setting
from ke_cli.results.reader import Run

OF_CASES = ("protocol.", "dataset.")
"""Settings that say what is asked of a case, or which cases there are."""

_TOLD_ELSEWHERE = (".name", ".target", ".fingerprint")


def needed_split(runs: Sequence[Run]) -> tuple[str, ...]:
    """Return the settings by which tables are parted unasked, because otherwise they would be empty.

    Args:
        runs: All that are shown. Those of one model, data set and protocol share a table, and are compared on the cases
            that all have with the same prompts.
    """
    groups = [[run for run in members if run.done] for _, members in group_runs(runs)]
    return tuple(dict.fromkeys(key for members in groups if members for key in _parting(members)))


def _parting(runs: Sequence[Run]) -> Sequence[str]:
    keys = [key for key in causes(runs) if key.startswith(OF_CASES) and not key.endswith(_TOLD_ELSEWHERE)]
    if not keys or _share_a_case(runs):
        return ()
    ways = (*([key] for key in keys), keys)
    return next((way for way in ways if all(map(_share_a_case, _parts(runs, way)))), ())


def _parts(runs: Sequence[Run], keys: Sequence[str]) -> list[list[Run]]:
    found: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        found.setdefault(tuple(setting(run, key) for key in keys), []).append(run)
    return list(found.values())


def _share_a_case(runs: Sequence[Run]) -> bool:
    first, *others = runs
    common = set(zip(first.done.ids, first.done.prompts, strict=True))
    for run in others:
        common.intersection_update(zip(run.done.ids, run.done.prompts, strict=True))
    return bool(common)
