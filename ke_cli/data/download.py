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

from filelock import FileLock, Timeout
from platformdirs import user_cache_dir

from ke_cli.errors import UserError

TIMEOUT_S = 60.0
CHUNK_BYTES = 1 << 20
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
"""Environment variables that forbid downloads, to us as to the clients of the Hugging Face hub."""

PATIENCE_S = 1800.0
"""How long another process may take to download the same file."""

HINT = "dataset.path=FILE, with a copy of the file"
CACHE_HINT = f"KE_CACHE=FOLDER in the environment, a folder you can write to; or {HINT}"


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
    if _is_right(path, sha256):
        return path  # also where the cache may only be read
    _refuse_offline(url, path)
    with _usable_cache(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path):
            if not _is_right(path, sha256):  # another process may have been faster
                _download(url, sha256, size_bytes, path)
    return path


def _is_right(path: Path, sha256: str) -> bool:
    """Return whether the file is here, whole and the right one."""
    try:
        return path.is_file() and _digest(path) == sha256
    except OSError:
        return False


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_offline(url: str, path: Path) -> None:
    for name in OFFLINE:
        if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE"):
            raise UserError(f"{path.name} is not in the cache, and {name} forbids downloads", where=url, hint=HINT)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the lock of a file, which the system drops when its holder dies."""
    lock = FileLock(f"{path}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _tell(f"waiting for another process that downloads {path.name}")
        try:
            lock.acquire(timeout=PATIENCE_S)
        except Timeout:
            what = f"another process has been downloading {path.name} for {PATIENCE_S / 60:.0f} minutes"
            raise UserError(what, where=lock.lock_file, hint=f"end that process, or {HINT}") from None
    try:
        yield
    finally:
        lock.release()


def _download(url: str, sha256: str, size_bytes: int, path: Path) -> None:
    """Write the file beside its place, and move it there once it has proved right."""
    _tell(f"downloading {url} ({size_bytes / 1e6:.1f} MB)")
    part = path.with_name(f".{path.name}.part")  # ours alone: the caller holds the lock
    try:
        part.unlink(missing_ok=True)  # of a process that was killed
        with part.open("xb") as file:
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
    for chunk in _received(url):
        file.write(chunk)
        digest.update(chunk)
        got += len(chunk)
        if got > size_bytes:
            break
    return digest.hexdigest(), got


def _received(url: str) -> Iterator[bytes]:
    """Yield what a server sends.

    Raises:
        UserError: It cannot be reached, refuses, or breaks off in a way that it announces.
    """
    try:
        with urlopen(url, timeout=TIMEOUT_S) as response:
            while chunk := response.read(CHUNK_BYTES):
                yield chunk
    except (OSError, HTTPException) as error:
        name, reason = PurePosixPath(urlsplit(url).path).name, f"{type(error).__name__}: {error}"
        raise UserError(f"{name} could not be downloaded ({reason})", where=url, hint=HINT) from error


def _verify(url: str, got: int, size_bytes: int, digest: str, sha256: str) -> None:
    if got < size_bytes:
        raise UserError(f"the download broke off after {got} of {size_bytes} bytes", where=url, hint=HINT)
    if got > size_bytes:
        raise UserError(f"the server offers another file, longer than {size_bytes} bytes", where=url, hint=HINT)
    if digest != sha256:
        what = f"the server offers another file: SHA-256 {digest}"
        raise UserError(what, where=url, allowed=sha256, hint=HINT)


@contextmanager
def _usable_cache(path: Path) -> Iterator[None]:
    """Turn what the disk refuses into a `UserError`."""
    try:
        yield
    except OSError as error:
        what = f"{path.name} could not be downloaded: the cache cannot be used ({error.strerror or error})"
        raise UserError(what, where=str(path.parent), hint=CACHE_HINT) from error


def _tell(note: str) -> None:
    print(note, file=sys.stderr, flush=True)
