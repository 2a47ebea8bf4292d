"""Reading folders of runs for pandas."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from ke_cli.errors import UserError
from ke_cli.results.frames import Results
from ke_cli.results.parallel import read_runs
from ke_cli.results.reader import find_runs
from ke_cli.results.shards import each_once, join_shards

IN_THIS_PROCESS = sys.maxsize
"""Other processes would begin by running the user's script once more, up to where it opens the results."""


def open_results(paths: Sequence[Path]) -> Results:
    """Read the runs at or below some folders.

    Raises:
        UserError: A folder does not exist, or there is no run in any of them.
    """
    for path in paths:
        if not path.exists():
            raise UserError("no such folder", where=str(path), hint="name the folder that ke-run wrote to: outputs")
    folders = find_runs(paths)
    if not folders:
        where = ", ".join(map(str, paths))
        raise UserError("no run (a folder with a run.json) was found", where=where, hint="ke-run method=rose")
    return Results(each_once(join_shards(read_runs(folders, share=IN_THIS_PROCESS))))
