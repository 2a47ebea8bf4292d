"""Plain text for covariance statistics: a named source or a file, as a stream of documents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader, TextIOWrapper
from pathlib import Path

from ke_cli.data.plain_file import open_plain
from ke_cli.errors import UserError

WIKIPEDIA = ("wikimedia/wikipedia", "20231101.en")
"""Repository and configuration of the Wikipedia dump on the Hugging Face hub."""

ALLOWED = "wikipedia, atlas, or the path of a UTF-8 text file"
HINT = "statistics.text=FILE"

LONGEST = 1 << 26
"""Characters of one line; a file without line ends would be read into memory as a whole."""


@dataclass(frozen=True, slots=True)
class TextSource:
    """Where statistics text comes from.

    Args:
        source: ``atlas`` (bundled prose), ``wikipedia`` (the hub), or the path of a UTF-8 text file with one
            document per line.
    """

    source: str

    def identity(self) -> str:
        """What tells this text from any other: name and revision, or the SHA-256 of the file."""
        if self.source == "wikipedia":
            return "/".join(WIKIPEDIA)
        if self.source == "atlas":
            from ke_cli.data.atlas_prose import prose

            digest = hashlib.sha256()
            for text in prose():
                digest.update(text.encode())
            return f"atlas/{digest.hexdigest()}"
        with self._opened() as file:
            return f"file/{hashlib.file_digest(file, 'sha256').hexdigest()}"

    def documents(self) -> Iterator[str]:
        """Yield documents, none of them empty.

        Raises:
            UserError: If the file is missing or not UTF-8, or the hub cannot be reached.
        """
        if self.source == "wikipedia":
            yield from _wikipedia()
        elif self.source == "atlas":
            from ke_cli.data.atlas_prose import prose

            yield from prose()
        else:
            yield from self._lines()

    def _opened(self) -> BufferedReader:
        try:
            return open_plain(Path(self.source).expanduser())
        except (FileNotFoundError, UserError, ValueError, RuntimeError) as error:  # no file, or no path of one
            raise self._unusable("is not a file") from error
        except OSError as error:
            raise self._unusable(f"cannot be read: {error.strerror or error}") from error

    def _unusable(self, what: str) -> UserError:
        return UserError(
            f"the statistics text {self.source!r:.300} {what}", where="statistics.text", allowed=ALLOWED, hint=HINT
        )

    def _lines(self) -> Iterator[str]:
        number = 1
        with TextIOWrapper(self._opened(), encoding="utf-8-sig") as file:
            try:
                while line := file.readline(LONGEST + 1):
                    if len(line) > LONGEST:
                        raise self._unusable(f"has a line of more than {LONGEST:,} characters (line {number})")
                    if line.strip():
                        yield line.strip()
                    number += 1
            except UnicodeDecodeError as error:  # what is read ahead is decoded ahead
                raise self._unusable(f"is not UTF-8 text (after line {number - 1})") from error


def _wikipedia() -> Iterator[str]:
    """Stream articles from the hub.

    Raises:
        UserError: If the hub is out of reach (offline, or no network).
    """
    try:
        from datasets import load_dataset  # type: ignore[import-untyped]

        stream = load_dataset(WIKIPEDIA[0], WIKIPEDIA[1], split="train", streaming=True)
        for record in stream:
            if record["text"].strip():
                yield record["text"].strip()
    except Exception as error:  # whatever the clients of the hub raise, it is the hub that cannot be had
        raise UserError(
            "Wikipedia could not be read from the Hugging Face hub for the covariance statistics",
            where=f"{'/'.join(WIKIPEDIA)}: {type(error).__name__}",
            allowed="a reachable hub, or a local text",
            hint="statistics.text=FILE (UTF-8, one document per line) or statistics.text=atlas",
        ) from error
