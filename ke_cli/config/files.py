"""What the configuration files were when a sweep began, and which of them are different now."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote


def folders_of(hydra: Any) -> list[Path]:
    """Return the folders on Hydra's search path, from the ``hydra`` section of a composed configuration."""
    return [Path(unquote(source.path)) for source in hydra.runtime.config_sources if source.schema == "file"]


def digests(folders: Iterable[Path]) -> dict[str, str]:
    """Return the path and the SHA-256 of every YAML file under some folders."""
    return {str(path): _digest(path) for folder in folders for path, _ in _files(folder)}


def fingerprint(folders: Iterable[Path]) -> str:
    """Return the SHA-256 of all YAML files under some folders, names and contents."""
    digest = hashlib.sha256()
    for folder in folders:
        for path, name in _files(folder):
            digest.update(f"{name}\0{_digest(path)}\n".encode())
    return digest.hexdigest()


def changed(before: Mapping[str, str], folders: Sequence[Path]) -> list[str]:
    """Return the files whose change can change what a command line means.

    A new file counts only where it hides, or is hidden by, one of the same name in another folder: no other can have
    been asked for when it was not there yet.

    Args:
        before: What `digests` returned for the same folders.
        folders: The folders.
    """
    names = {str(path): name for folder in folders for path, name in _files(folder)}
    known = {_name(path, folders) for path in before}
    return [*edited(before), *(path for path, name in names.items() if path not in before and name in known)]


def edited(before: Mapping[str, str]) -> list[str]:
    """Return those of some files that are not what they were, or not there any more."""
    return [path for path, digest in before.items() if _digest(Path(path)) != digest]


def _files(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield the files that Hydra would read, with their names in the folder; editors leave hidden ones beside them."""
    for path in sorted(folder.rglob("*.yaml")):
        if not path.name.startswith("."):
            yield path, str(path.relative_to(folder))


def _name(path: str, folders: Sequence[Path]) -> str | None:
    """Return what a file is called in the folder it is, or was, in."""
    return next((str(Path(path).relative_to(folder)) for folder in folders if Path(path).is_relative_to(folder)), None)


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:  # removed a moment ago, a link to nowhere, a folder: nothing that Hydra could read
        return "unreadable"
