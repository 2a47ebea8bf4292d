"""Where the numbers of a run come from: what ``run.json`` tells beside the configuration."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ke_cli.results.files import open_plain
from ke_cli.results.record import LARGEST_RECORD, RUN_FILE, Scalar, flat
from ke_cli.results.strict_json import load_object
from ke_cli.results.text import printable

PARTS = ("versions", "git", "hardware", "computed_on", "model", "dataset", "references", "batch_tokens")
SINGLE = ("started_at", "wall_s", "peak_memory_bytes", "context_templates", "notes")


def surroundings(folder: Path) -> dict[str, Scalar]:
    """Return versions, git state, hardware, fingerprints, times and the command of a run, flat: dotted key to value.

    What cannot be read is left out.
    """
    raw = _raw(folder)
    told = {key: raw[key] for key in PARTS if isinstance(raw.get(key), Mapping)}
    told |= {key: raw[key] for key in SINGLE if key in raw}
    with suppress(RecursionError):
        return dict(flat({**told, "command": shlex.join(("ke-run", *typed(raw)))}))
    return {}


def _raw(folder: Path) -> Mapping[str, Any]:
    with suppress(OSError, ValueError, RecursionError), open_plain(folder / RUN_FILE) as stream:
        return load_object(stream.read(LARGEST_RECORD))
    return {}


def typed(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what was typed behind ``ke-run``, as a decoded ``run.json`` tells it."""
    command = raw.get("command")
    return tuple(map(str, command[1:])) if isinstance(command, list) else ()


def overrides_typed(folder: Path) -> tuple[str, ...]:
    """Return the settings that were typed for a run, those of Hydra apart; nothing where the run does not tell."""
    return tuple(printable(part) for part in typed(_raw(folder)) if "=" in part and not part.startswith("hydra"))
