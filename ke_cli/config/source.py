"""``edits_from=RUN``: model, method, data and protocol are those of the run, except for what is typed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

from ke_cli.config.plugins import Plugin, plugin
from ke_cli.config.validation import as_json
from ke_cli.errors import UserError
from ke_cli.results.source import SourceRun, read_source

PARTS: Final = ("model", "dataset", "protocol", "statistics", "seed")
"""What comes from the run unless it is typed; the method always does."""

TARGETS: Final = ("method", "dataset", "protocol")
"""Parts that name the code that is run for them."""

OURS: Final = "ke_cli."
"""How the modules begin that a record may name without anybody vouching for it."""

DIGITS: Final = 12
"""Of a fingerprint in the configuration, and so in tables."""


def with_source(raw: Mapping[str, Any], typed: Sequence[str]) -> dict[str, Any]:
    """Return a resolved configuration as its ``edits_from`` makes it; unchanged where that is null.

    Args:
        raw: The composed configuration as plain values.
        typed: The overrides of the command line.

    Raises:
        UserError: There is no such run, it has no saved edits, or the command line asks for another method.
    """
    path = raw.get("edits_from")
    if path is None:
        return dict(raw)
    if not isinstance(path, str) or not path.strip():
        raise UserError(
            f"edits_from: expected the directory of a run, got {as_json(path)}", hint="edits_from=outputs/RUN"
        )
    source = read_source(Path(os.path.abspath(os.path.expanduser(path))))
    keys = list(_keys(typed))
    parts = {part: _part(part, raw, source, keys) for part in PARTS} | {"method": source.config["method"]}
    for part in TARGETS:
        _refuse_foreign(part, parts[part], raw.get(part), source)
    if _below("method", keys):
        _refuse_another_method(raw.get("method"), source)
    return {**raw, **parts, "edits_from": {"path": str(source.path), "fingerprint": source.fingerprint[:DIGITS]}}


def _keys(typed: Iterable[str]) -> Iterable[str]:
    """The settings that overrides are about: ``dataset.limit`` of ``++dataset.limit=3``."""
    for override in typed:
        if found := re.match(r"[+~]*([^=@]+)", override):
            yield found[1].strip()


def _below(part: str, keys: Sequence[str]) -> list[str]:
    return [key for key in keys if key == part or key.startswith(f"{part}.")]


def _part(part: str, raw: Mapping[str, Any], source: SourceRun, keys: Sequence[str]) -> Any:
    """A part as the run recorded it, with the typed settings of it; as composed where it was chosen as a whole."""
    typed = _below(part, keys)
    if part in typed:
        return raw.get(part)
    found = deepcopy(source.config.get(part))
    if part == "model" and isinstance(found, dict) and isinstance(raw.get("model"), Mapping):
        # A record must not be able to have the code run that comes with a model.
        found["trust_remote_code"] = raw["model"].get("trust_remote_code", False)
    if isinstance(found, dict) and isinstance(raw.get(part), Mapping):
        for key in typed:
            _copy(raw[part], found, key.split(".")[1:])
    return found


def _copy(typed: Any, found: Any, place: Sequence[str]) -> None:
    """Set one typed value in ``found``; what was taken away on the command line is taken away here."""
    for key in place[:-1]:
        typed, found = typed.get(key, {}), found.setdefault(key, {})
    if place[-1] in typed:
        found[place[-1]] = typed[place[-1]]
    else:
        found.pop(place[-1], None)


def _refuse_another_method(typed: object, source: SourceRun) -> None:
    asked, _ = plugin("method", typed, "method")
    known, _ = plugin("method", source.config["method"], "method")
    if asked is not None and asked != known:
        raise UserError(
            f"these edits were made by {_shown(known, source.method)}, not by {_shown(asked, asked.name)}",
            where=f"edits_from={source.path}",
            hint="leave method out: it is that of the run",
        )


def _shown(method: Plugin[Any] | None, name: str) -> str:
    settings = method.settings if method else {}
    return f"{name} ({', '.join(f'{key}={as_json(value)}' for key, value in settings.items())[:200]})"


def _refuse_foreign(part: str, chosen: Any, composed: Any, source: SourceRun) -> None:
    """Refuse to import a module because a file says so: what is not ours must be chosen on the command line."""
    target = chosen.get("target") if isinstance(chosen, Mapping) else None
    typed = composed.get("target") if isinstance(composed, Mapping) else None
    if isinstance(target, str) and not target.startswith(OURS) and target != typed:
        name = chosen.get("name")
        raise UserError(
            f"the {part} {name!r} of this run is not part of ke-run ({target!r:.120})",
            where=f"edits_from={source.path}",
            hint=f"choose it by name, as that run did: --config-dir DIR {part}={name} ...",
        )
