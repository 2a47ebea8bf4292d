"""Get an official data file once: verified, in the cache of the user, safe against other processes."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import urlsplit
from urllib.request import urlopen

from filelock import FileLock
from platformdirs import user_cache_dir

from ke_cli.errors import UserError

TIMEOUT_S = 60.0
CHUNK_BYTES = 1 << 20
HINT = "dataset.path=FILE, with a copy of the file"


def cache_dir() -> Path:
    """Return ``$KE_CACHE``, or the cache folder of the user."""
    return Path(os.environ.get("KE_CACHE") or user_cache_dir("ke-cli")).expanduser()


def fetch(url: str, sha256: str, size_bytes: int) -> Path:
    """Return the local copy of a file, downloading it first where there is no valid one.

    Args:
        url: Where the file is offered.
        sha256: Of its content, in hexadecimal digits.
        size_bytes: Of its content; not a byte more is read.

    Raises:
        UserError: If the file is not cached and cannot be had: offline, unreachable, or not the right one.
    """
    path = cache_dir() / "datasets" / sha256[:16] / (PurePosixPath(urlsplit(url).path).name or "data")
    with _explained(url, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not (path.is_file() and _digest(path) == sha256):
                _refuse_offline(url, path)
                _download(url, sha256, size_bytes, path)
    return path


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_offline(url: str, path: Path) -> None:
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise UserError(f"{path.name} is not in the cache, and HF_HUB_OFFLINE forbids downloads", where=url, hint=HINT)


def _download(url: str, sha256: str, size_bytes: int, path: Path) -> None:
    """Write the file beside its place, and move it there once it has proved right."""
    _tell(f"downloading {url} ({size_bytes / 1e6:.1f} MB)")
    part = path.with_name(f".{path.name}.part")  # ours alone: the caller holds the lock
    try:
        with part.open("wb") as file:
            digest, got = _copy(url, file, size_bytes)
            os.fsync(file.fileno())
        _verify(url, got, size_bytes, digest, sha256)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    _tell(f"downloaded to {path}")


def _copy(url: str, file: IO[bytes], size_bytes: int) -> tuple[str, int]:
    """Copy what a server sends, at most one chunk too much; return its SHA-256 and size in bytes."""
    digest, got = hashlib.sha256(), 0
    with urlopen(url, timeout=TIMEOUT_S) as response:
        while got <= size_bytes and (chunk := response.read(CHUNK_BYTES)):
            file.write(chunk)
            digest.update(chunk)
            got += len(chunk)
    return digest.hexdigest(), got


def _verify(url: str, got: int, size_bytes: int, digest: str, sha256: str) -> None:
    if got < size_bytes:
        raise UserError(f"the download broke off after {got} of {size_bytes} bytes", where=url, hint=HINT)
    if got > size_bytes:
        raise UserError(f"the server offers another file, longer than {size_bytes} bytes", where=url, hint=HINT)
    if digest != sha256:
        what = f"the server offers another file: SHA-256 {digest}"
        raise UserError(what, where=url, allowed=sha256, hint=HINT)


@contextmanager
def _explained(url: str, path: Path) -> Iterator[None]:
    """Turn what the network or the disk refuses into a `UserError`."""
    try:
        yield
    except (OSError, HTTPException) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path.name} could not be downloaded ({reason})", where=url, hint=HINT) from error


def _tell(note: str) -> None:
    print(note, file=sys.stderr, flush=True)
