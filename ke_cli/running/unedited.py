"""What the unedited model answers: every question once, and kept on disk for every later run with the same model.

A run asks the unedited model the same things whatever its method and seed. The answers to the questions about a package
are one JSON file, named by the hash of everything that can change them: the model, its data type, the hardware, the
versions of the programs, the tokens in a batch, and the questions. The file repeats all of this beside the answers and
a checksum, so that a damaged, moved or foreign one is noticed. Numbers are written such that they are read back to the
bit.

Rows of a batch have an influence on each other's last digits. A file therefore holds what was computed together, and
answers those who ask for all of it: with a cache and without one a run has the same numbers, to the bit.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from ke_cli.engine.batching import Budget
from ke_cli.engine.edits import NO_EDIT
from ke_cli.engine.queries import (
    Answer,
    Answers,
    ContinuationQuery,
    Generation,
    Geometry,
    GeometryQuery,
    InstructionQuery,
    PredictionQuery,
    Predictions,
    Query,
    SampleQuery,
    Score,
    TargetQuery,
    TokenQuery,
    TopTokens,
    TopTokensQuery,
)
from ke_cli.engine.scoring import answer
from ke_cli.engine.workbench import Workbench
from ke_cli.models.editable import EditableModel
from ke_cli.provenance import computed_on, environment
from ke_cli.results.files import write_whole

log = logging.getLogger(__name__)

FORMAT: Final = 2
"""Rises when the same question begins to have another answer."""

PROGRAMS: Final = ("ke-run", "torch", "transformers", "tokenizers")
"""Programs whose version may change a number."""

KINDS: Final[Mapping[type[Query], type[Answer]]] = MappingProxyType(
    {
        TargetQuery: Score,
        TokenQuery: Score,
        TopTokensQuery: TopTokens,
        PredictionQuery: Predictions,
        InstructionQuery: Generation,
        ContinuationQuery: Generation,
        SampleQuery: Generation,
        GeometryQuery: Geometry,
    }
)
"""Which kind of answer a kind of question has."""


@dataclass
class AnswerCache:
    """Answers of one unedited model on disk. Several processes may use a folder; nothing is held in memory.

    A folder that cannot be read is given up, and one that cannot be written to is only read, each with one warning.

    Args:
        folder: Where the files are, in folders named by the first two digits of their hash; made when needed.
        model: What identifies the model and what it runs on.
    """

    folder: Path
    model: Mapping[str, Any]
    _readable: bool = field(default=True, init=False)
    _writable: bool = field(default=True, init=False)

    @classmethod
    def of(cls, folder: Path, model: EditableModel) -> AnswerCache:
        """The cache of a model in a folder that may hold those of others."""
        return cls(folder, identity_of(model))

    def read(self, queries: Sequence[Query], tokens: int = 0) -> dict[Query, Answer] | None:
        """The answers to questions that are asked together, or None where they are not known.

        Args:
            queries: Each once, in any order.
            tokens: In a batch.
        """
        if not self._readable:
            return None
        ordered, identity = self._identity(queries, tokens)
        path = self._path(identity)
        try:
            return _parsed(path.read_bytes(), ordered, identity)
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("answers of the unedited model in %s cannot be read (%s): not used", self.folder, error)
            self._readable = self._writable = False
        except (ValueError, TypeError) as error:
            log.warning("cache file %s is not used (%s): its answers are computed again", path, error)
        return None

    def write(self, queries: Sequence[Query], answers: Answers, tokens: int = 0) -> None:
        """Keep the answers to questions that were asked together; a number that is not finite keeps them out."""
        if not self._writable:
            return
        ordered, identity = self._identity(queries, tokens)
        try:
            found = _dump([_plain(answers[query]) for query in ordered]).encode("ascii")
        except ValueError:
            return
        try:
            self._put(self._path(identity), _head(identity) + found + _tail(found))
        except OSError as error:
            log.warning("answers of the unedited model cannot be kept in %s (%s): going on without", self.folder, error)
            self._writable = False

    def _put(self, path: Path, content: bytes) -> None:
        """Put a whole file in its place without waiting for the disk: one that a power cut tears is noticed."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, [content], durable=False)

    def _identity(self, queries: Sequence[Query], tokens: int) -> tuple[list[Query], str]:
        """The questions in the order in which their answers are kept, and the identity of the file as JSON."""
        texts = {query: _asked(query) for query in queries}
        ordered = sorted(texts, key=texts.__getitem__)
        asked = ",".join(texts[query] for query in ordered)
        return ordered, f'{{"model":{_dump(self.model)},"batch_tokens":{tokens},"queries":[{asked}]}}'

    def _path(self, identity: str) -> Path:
        name = _sha256(identity.encode("ascii"))
        return self.folder / name[:2] / f"{name}.json"


def identity_of(model: EditableModel) -> dict[str, Any]:
    """What the answers of a model depend on besides the questions."""
    versions = environment()
    return {
        "format": FORMAT,
        "model": model.fingerprint,
        "dtype": str(model.dtype),
        "device": model.device.type,
        "hardware": computed_on(model.device),
        "chat_template": _sha256(_dump(getattr(model.tokenizer, "chat_template", None)).encode("ascii")),
        "versions": {name: versions[name] for name in PROGRAMS},
    }


def unedited_answers(
    bench: Workbench, asked: Sequence[Sequence[Query]], cache: AnswerCache | None = None
) -> list[Answers]:
    """Ask the unedited model; a question that several cases have in common is computed once.

    Args:
        bench: The model and its token budget.
        asked: The questions of each case of a package, each once.
        cache: Where answers are looked up and kept; None for nowhere.

    Returns:
        Per case the answers to its questions.
    """
    together = in_order(query for queries in asked for query in queries)
    found = _together(bench, together, cache) if together else {}
    return [{query: found[query] for query in queries} for queries in asked]


def in_order(queries: Iterable[Query]) -> list[Query]:
    """Different questions in an order that depends on nothing but what they ask."""
    return sorted(dict.fromkeys(queries), key=_asked)


def _together(bench: Workbench, queries: Sequence[Query], cache: AnswerCache | None) -> Answers:
    """What is known of all the questions, or what the model says now."""
    tokens = Budget.of(bench.budget).tokens
    known = cache.read(queries, tokens) if cache else None
    if known is not None:
        return known
    found = answer(bench.model, [queries], [NO_EDIT], budget=bench.budget)[0]
    if cache and Budget.of(bench.budget).tokens == tokens:  # else memory ran out, and batches were other ones
        cache.write(queries, found, tokens)
    return found


def _parsed(text: bytes, ordered: Sequence[Query], identity: str) -> dict[Query, Answer]:
    """Read the content of a file, which is a JSON object written in one way only.

    Raises:
        ValueError: It is damaged, or does not hold what its name says.
        TypeError: An answer is not of the form that its question wants.
    """
    head, end = _head(identity), len(text) - len(_tail(b""))
    if not text.startswith(head):
        raise ValueError("it holds other answers than its name says")
    found = text[len(head) : end]
    if text[end:] != _tail(found):
        raise ValueError("its checksum is wrong")
    pairs = zip(ordered, json.loads(found), strict=True)
    return {query: KINDS[type(query)](**_frozen(fields_of)) for query, fields_of in pairs}


def _head(identity: str) -> bytes:
    return f'{{"identity":{identity},"answers":'.encode("ascii")


def _tail(found: bytes) -> bytes:
    return f',"sha256":"{_sha256(found)}"}}\n'.encode("ascii")


def _asked(query: Query) -> str:
    """A question as JSON."""
    return _dump({"ask": type(query).__name__, **_plain(query)})


def _plain(value: Query | Answer) -> dict[str, Any]:
    return {entry.name: getattr(value, entry.name) for entry in fields(value)}


def _frozen(found: Mapping[str, Any]) -> dict[str, Any]:
    """Lists of decoded JSON as the tuples they were."""

    def freeze(value: Any) -> Any:
        return tuple(map(freeze, value)) if isinstance(value, list) else value

    return {key: freeze(value) for key, value in dict(found).items()}


def _dump(value: Any) -> str:
    """One text for one value: ASCII, keys in order, numbers as short as they can be read back from.

    Raises:
        ValueError: A number is not finite.
    """
    return json.dumps(value, allow_nan=False, sort_keys=True, separators=(",", ":"))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
