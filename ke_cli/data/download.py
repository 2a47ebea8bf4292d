"""Get an official data file once: verified, in the cache of the user, safe against other processes."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import urlsplit
from urllib.request import urlopen

from filelock import FileLock, Timeout

from ke_cli.data.json_file import MOST_BYTES
from ke_cli.errors import UserError
from ke_cli.paths import cache_dir

TIMEOUT_S = 60.0
CHUNK_BYTES = 1 << 20
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
"""Environment variables that forbid downloads, to us as to the clients of the Hugging Face hub."""

PATIENCE_S = 1800.0
"""How long another process may take to download the same file."""

HINT = "dataset.path=FILE, with a copy of the file"
CACHE_HINT = f"KE_CACHE=FOLDER in the environment, a folder you can write to; or {HINT}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file on a server.

    Args:
        url: Where it is offered.
        sha256: Of its content, in hexadecimal digits; None where it is not known before the first download.
        size_bytes: Of its content, not a byte more is read; None where it is not known.
    """

    url: str
    sha256: str | None
    size_bytes: int | None

    @property
    def name(self) -> str:
        """The last part of its address."""
        return PurePosixPath(urlsplit(self.url).path).name or "data"

    @property
    def path(self) -> Path:
        """Its place in the cache."""
        key = self.sha256[:16] if self.sha256 else f"url-{hashlib.sha256(self.url.encode()).hexdigest()[:16]}"
        return cache_dir() / "datasets" / key / self.name

    @property
    def record(self) -> Path:
        """What the first download came to, for a file whose checksum is not known."""
        return self.path.with_name(f"{self.name}.sha256")

    def expected(self) -> str | None:
        """The checksum that is known by now; None before the first download."""
        if self.sha256 is not None:
            return self.sha256
        try:
            text = self.record.read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return None
        return text if re.fullmatch(r"[0-9a-f]{64}", text) else None

    def is_here(self) -> bool:
        """Whether the cache has it, whole and the right one."""
        expected = self.expected()
        try:
            return expected is not None and self.path.is_file() and _digest(self.path) == expected
        except OSError:
            return False


def fetch(url: str, sha256: str | None, size_bytes: int | None) -> Path:
    """Return the local copy of a file, downloading it first where there is no valid one.

    A file whose checksum is not known is recorded with the one that it has when it is first downloaded; later it must
    have the same.

    Args:
        url: Where the file is offered.
        sha256: Of its content, in hexadecimal digits; None where it is not known.
        size_bytes: Of its content; None where it is not known.

    Raises:
        UserError: If the file is not cached and cannot be had: offline, unreachable, or not the right one.
    """
    wanted = Wanted(url, sha256, size_bytes)
    path = wanted.path
    if wanted.is_here():
        return path  # also where the cache may only be read
    _refuse_offline(url, path)
    with _usable_cache(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path):
            if not wanted.is_here():  # another process may have been faster
                _download(wanted)
    return path


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


def _download(wanted: Wanted) -> None:
    """Write the file beside its place, and move it there once it has proved right."""
    size = f" ({wanted.size_bytes / 1e6:.1f} MB)" if wanted.size_bytes else ""
    _tell(f"downloading {wanted.url}{size}")
    with _beside(wanted.path) as part:
        with part.open("xb") as file:
            digest, got = _copy(wanted.url, file, wanted.size_bytes or MOST_BYTES)
            os.fsync(file.fileno())
        _verify(wanted, got, digest)
        os.replace(part, wanted.path)
    if wanted.sha256 is None:
        _keep(wanted.record, digest)
    _tell(f"downloaded to {wanted.path}")


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Yield a place beside a file to write it at, where nothing is, and nothing is left."""
    part = path.with_name(f".{path.name}.part")  # ours alone: the caller holds the lock
    try:
        part.unlink(missing_ok=True)  # of a process that was killed
        yield part
    finally:
        part.unlink(missing_ok=True)


def _keep(record: Path, digest: str) -> None:
    """Write down the checksum of a first download; that of a later one is the same."""
    with _beside(record) as part:
        part.write_text(f"{digest}\n", encoding="ascii")
        os.replace(part, record)


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


def _verify(wanted: Wanted, got: int, digest: str) -> None:
    url, most = wanted.url, wanted.size_bytes or MOST_BYTES
    if wanted.size_bytes and got < wanted.size_bytes:
        raise UserError(f"the download broke off after {got} of {most} bytes", where=url, hint=HINT)
    if got > most:
        raise UserError(f"the server offers another file, longer than {most} bytes", where=url, hint=HINT)
    expected = wanted.expected() or digest
    if digest != expected and wanted.sha256:
        what = f"the server offers another file: SHA-256 {digest}"
        raise UserError(what, where=url, allowed=expected, hint=HINT)
    if digest != expected:
        what = f"the server offers another file than the first time: SHA-256 {digest}"
        hint = f"{HINT}; or remove {wanted.record}, if the new file is wanted"
        raise UserError(what, where=url, allowed=expected, hint=hint)


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
