"""Where the files of data sets are offered, and which copy of them is read."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from ke_cli.data.download import fetch
from ke_cli.data.recipes import Selection

OPERATIONAL: Final = MappingProxyType({"camp": "operational"})
"""Of addresses and checksums: the fingerprint of what was read says which file it was."""

LATER: Final = MappingProxyType({"later": True})
"""Of settings that came after the first results: with their default a run is the one it was before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Official:
    """A file that the authors of a data set offer.

    Args:
        url: Its address.
        sha256: Of the file, in hexadecimal digits; null where it is not known: then that of the first download is
            written down, and later copies must have the same.
        size_bytes: Of the file; null where it is not known.
    """

    url: str
    sha256: str | None = None
    size_bytes: int | None = None

    def __post_init__(self) -> None:
        """Refuse an address or a checksum that no file could have."""
        check_official(self.url, self.sha256, self.size_bytes)

    def fetched(self) -> str:
        """Return the path of a local copy, downloading it first where there is none.

        Raises:
            UserError: If it cannot be had, or is another file.
        """
        return str(fetch(self.url, self.sha256, self.size_bytes))


@dataclass(frozen=True, kw_only=True)
class Parts(Selection):
    """Settings of a loader whose data set has several files.

    Args:
        path: A file of one's own; null for that of the authors, downloaded once into the cache.
        part: Which of the files is meant.
        files: What the authors offer for each part.
    """

    path: str | None = None
    part: str = field(default="", metadata=LATER)
    files: dict[str, Official] = field(default_factory=dict, metadata=OPERATIONAL)

    def __post_init__(self) -> None:
        """Refuse numbers that leave nothing, and a part without a file where no other file is given."""
        super().__post_init__()
        if self.path is None and self.part not in self.files:
            known = (
                f"one of {', '.join(self.files)}" if self.files else "no part, but a path: there are no official files"
            )
            raise ValueError(f"part: expected {known}, got {self.part!r}")

    def found(self) -> tuple[str, str]:
        """Return the path to read from, and where it is from, for people.

        Raises:
            UserError: If the official file cannot be had.
        """
        if self.path is not None:
            return self.path, self.path
        official = self.files[self.part]
        return official.fetched(), official.url


def check_official(url: str, sha256: str | None, size_bytes: int | None) -> None:
    """Raise ValueError for an address, a checksum or a size that no file could have."""
    if not re.fullmatch(r"https?://[^/\s]+/\S+", url):
        raise ValueError(f"url: expected the http address of a file, got {url!r}")
    if sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise ValueError(f"sha256: expected 64 hexadecimal digits in lower case, got {sha256!r}")
    if size_bytes is not None and size_bytes < 1:
        raise ValueError(f"size_bytes: expected at least 1, got {size_bytes}")
