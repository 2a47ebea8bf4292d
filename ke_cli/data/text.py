"""Plain text for covariance statistics: a named source or a file, as a stream of documents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ke_cli.errors import UserError

WIKIPEDIA = ("wikimedia/wikipedia", "20231101.en")
"""Repository and configuration of the Wikipedia dump on the Hugging Face hub."""


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
        return f"file/{hashlib.sha256(self._file().read_bytes()).hexdigest()}"

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

    def _file(self) -> Path:
        path = Path(self.source).expanduser()
        if not path.is_file():
            raise UserError(
                f"the statistics text {self.source!r} is not a file",
                where="statistics.text",
                allowed="wikipedia, atlas, or the path of a UTF-8 text file",
                hint="statistics.text=FILE",
            )
        return path

    def _lines(self) -> Iterator[str]:
        path = self._file()
        try:
            with path.open(encoding="utf-8") as file:
                yield from (line.strip() for line in file if line.strip())
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8 text (byte {error.start})", where="statistics.text") from error


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
    except (OSError, ConnectionError, ValueError) as error:
        raise UserError(
            "Wikipedia could not be read from the Hugging Face hub for the covariance statistics",
            where=f"{'/'.join(WIKIPEDIA)}: {type(error).__name__}",
            allowed="a reachable hub, or a local text",
            hint="statistics.text=FILE (UTF-8, one document per line) or statistics.text=atlas",
        ) from error
