"""A run whose saved edits are used again: what it is, whose edits they are, and which units it has."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

from ke_cli.errors import UserError
from ke_cli.results.edits import SourceUnit, stored_units
from ke_cli.results.files import open_plain
from ke_cli.results.journal import SCHEMA
from ke_cli.results.record import RUN_FILE
from ke_cli.results.strict_json import load_object

SHARDS = "_shard-*-of-*"
"""What follows the name of a run in the names of its parts."""


@dataclass(frozen=True, eq=False)
class SourceRun:
    """A run, or all parts of a run that was split, as their records and case logs say.

    Args:
        path: As given.
        folders: The run directories.
        record: ``run.json`` of the first of them.
        units: By id.
    """

    path: Path
    folders: tuple[Path, ...]
    record: Mapping[str, Any]
    units: Mapping[str, SourceUnit]

    @property
    def run_id(self) -> str:
        """Identity of the configuration the edits were made with."""
        return str(self.record["run_id"])

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration the edits were made with."""
        config: Mapping[str, Any] = self.record["config"]
        return config

    @property
    def method(self) -> str:
        """Name of the method that made the edits."""
        return str(self.config["method"]["name"])

    @property
    def model(self) -> str:
        """Fingerprint of the model that was edited."""
        return str(self.record["model"]["fingerprint"])

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the configuration's identity, the model, and every saved edit of the run."""
        edits = {unit: found.saved.sha256 for unit, found in self.units.items() if found.saved}
        content = json.dumps([self.run_id, self.model, edits], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode("ascii")).hexdigest()


def read_source(path: Path) -> SourceRun:
    """Read a run directory with saved edits; the name of a run that was split stands for all of its parts.

    Raises:
        UserError: There is no such run, its record cannot be used, or it has no saved edit.
    """
    folders = _folders(path)
    records = [_record(folder) for folder in folders]
    units: dict[str, SourceUnit] = {}
    for folder in folders:
        for unit, found in _units(folder).items():
            if unit not in units or not units[unit].saved:
                units[unit] = found
    if len({(record["run_id"], record["model"]["fingerprint"]) for record in records}) > 1:
        raise UserError("the parts of this run do not belong together", where=", ".join(map(str, folders)))
    if not any(unit.saved for unit in units.values()):
        raise UserError(
            "this run has no saved edits",
            where=str(path),
            hint="the command of that run with save_edits=true resume=false computes them",
        )
    return SourceRun(path, tuple(folders), records[0], units)


def _folders(path: Path) -> Sequence[Path]:
    found = [path] if path.is_dir() else sorted(path.parent.glob(f"{escape(path.name)}{SHARDS}")) if path.name else []
    folders = [folder for folder in found if (folder / RUN_FILE).is_file()]
    if not folders:
        raise UserError(
            "there is no run" if not path.exists() else "this is not the folder of a run",
            where=str(path),
            allowed=f"a folder with {RUN_FILE}, as ke-run makes it with save_edits=true",
            hint="the last line of ke-run names it: results: outputs/...",
        )
    return folders


def _record(folder: Path) -> dict[str, Any]:
    """Return ``run.json`` with everything in it that the properties of `SourceRun` use."""
    path = folder / RUN_FILE
    try:
        with open_plain(path) as stream:
            record = load_object(stream.read())
        if record.get("schema") != SCHEMA:
            raise ValueError(f"written by another version (schema {record.get('schema')!r:.40}, not {SCHEMA})")
        _check(record)
    except (OSError, ValueError) as error:
        raise UserError(f"the record of the run cannot be used: {error}", where=str(path)) from error
    return record


def _check(record: Mapping[str, Any]) -> None:
    """Raise ValueError where a part that is needed is missing."""
    for place in ("run_id", "config.method.name", "model.fingerprint"):
        value: Any = record
        for key in place.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if not isinstance(value, str) or not value:
            raise ValueError(f"{place} is missing")


def _units(folder: Path) -> dict[str, SourceUnit]:
    try:
        return stored_units(folder)
    except (OSError, ValueError) as error:
        raise UserError(f"the cases of the run cannot be read: {error}", where=str(folder)) from error
