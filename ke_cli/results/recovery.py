"""What a writer finds in the case log of an earlier, perhaps killed, writer: keep the whole units only."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ke_cli.results.files import write_atomic
from ke_cli.results.journal import Block, scan, without_tail

REJECTED_FILE = "cases.rejected.jsonl"


@dataclass(frozen=True, slots=True)
class Recovered:
    """The units that stand in the log, by outcome (disjoint), and what was done to the file."""

    done: frozenset[str]
    failed: frozenset[str]
    notes: tuple[str, ...]


def recover(path: Path) -> Recovered:
    """Bring the case log to a state in which it holds whole units only.

    What a kill leaves behind, an unfinished unit and a torn line at the end, is cut off. Anything else that
    is not a whole unit is first copied to ``cases.rejected.jsonl``.

    Raises:
        OSError: The file system refuses.
    """
    if not path.exists():
        return Recovered(frozenset(), frozenset(), ())
    with path.open("rb") as stream:
        blocks = [_light(block) for block in scan(stream, whole=True)]
    kept = [block for block in blocks if block.complete]
    rejected = [block for block in without_tail(blocks) if not block.complete]
    notes = [*_reject(path, kept, rejected), *_cut(path, kept)]
    done = frozenset(block.lines[0].unit for block in kept if block.ok)
    return Recovered(done, frozenset(block.lines[0].unit for block in kept) - done, tuple(notes))


def _light(block: Block) -> Block:
    """The block without its numbers, which only tables need, so that a long log fits into little memory."""
    return replace(block, lines=tuple(replace(line, metrics={}, prompts_sha256="") for line in block.lines))


def _reject(path: Path, kept: Sequence[Block], rejected: Sequence[Block]) -> Iterator[str]:
    if not rejected:
        return
    _put_aside(path.with_name(REJECTED_FILE), b"".join(_texts(path, rejected)))
    write_atomic(path, _texts(path, kept))
    lines = sum(max(1, len(block.lines)) for block in rejected)
    why = next((block.problem for block in rejected if block.problem), "units that are not whole")
    yield f"{lines} bad line(s) of {path.name} were moved to {REJECTED_FILE} ({why}); they will be computed again"


def _put_aside(path: Path, text: bytes) -> None:
    """Append to a file, unless a process that was killed right behind this has done so already."""
    with path.open("a+b") as aside:
        aside.seek(max(0, aside.seek(0, os.SEEK_END) - len(text)))
        if aside.read() == text:
            return
        aside.write(text)
        aside.flush()
        os.fsync(aside.fileno())


def _texts(path: Path, blocks: Sequence[Block]) -> Iterator[bytes]:
    with path.open("rb") as stream:
        for block in blocks:
            stream.seek(block.start)
            yield stream.read(block.end - block.start)


def _cut(path: Path, kept: Sequence[Block]) -> Iterator[str]:
    size = sum(block.end - block.start for block in kept)
    excess = path.stat().st_size - size
    if excess == 0:
        return
    with path.open("r+b") as stream:
        stream.truncate(size)
        os.fsync(stream.fileno())
    yield f"an unfinished unit ({excess} bytes) was cut from the end of {path.name}; it will be computed again"
