"""The case log: one JSON line per case; the lines of a unit are written together and count only together.

Every line ends with a checksum of itself, so that a garbled digit, which leaves it JSON, is noticed all the same.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar

from pydantic_core import SchemaValidator, core_schema

from ke_cli.results.strict_json import dump, load_object

SCHEMA = 1
CASES_FILE = "cases.jsonl"
LONGEST_LINE = 1 << 26
"""Bytes read for one line; more of it is bad content, like any other."""

RAW_KEYS = ("before", "after")
ABOUT_KEYS = ("subject", "relation")
_RAW_START = b',"before":'
_CHECK_START = b',"check":"'
_CHECK_LENGTH = len(_CHECK_START + b'00000000"}\n')

T = TypeVar("T")


def _plain() -> SchemaValidator:
    text, whole = core_schema.str_schema(strict=True), core_schema.int_schema(strict=True, ge=1)
    values = core_schema.nullable_schema(core_schema.float_schema(strict=True))
    fields = {
        "schema": core_schema.literal_schema([SCHEMA]),
        "case_id": text,
        "unit": text,
        "unit_size": whole,
        "status": core_schema.literal_schema(["ok", "failed"]),
        "error": core_schema.nullable_schema(text),
        "prompts_sha256": text,
        "metrics": core_schema.dict_schema(text, values),
    }
    required = {name: core_schema.typed_dict_field(kind) for name, kind in fields.items()}
    about = {name: core_schema.typed_dict_field(text, required=False) for name in ABOUT_KEYS}
    return SchemaValidator(core_schema.typed_dict_schema(required | about, extra_behavior="ignore"))


_PLAIN = _plain()


@dataclass(frozen=True, slots=True)
class CaseLine:
    """What tables need of one case; the raw answers stay in the file.

    Args:
        case_id: Unique in its data set.
        unit: The unit the case was edited in.
        unit_size: How many cases that unit has.
        ok: Whether the case was finished; if not, ``error`` says why.
        error: The reason of a failure, or nothing.
        prompts_sha256: Hash of the prompts that were really used.
        metrics: Column name to value; None where the case has no such prompts. May hold NaN or infinities.
        subject: What the edited fact is about; empty where the line does not tell.
        relation: The relation of the edited fact; empty where the line does not tell.
    """

    case_id: str
    unit: str
    unit_size: int
    ok: bool
    error: str
    prompts_sha256: str
    metrics: Mapping[str, float | None]
    subject: str = ""
    relation: str = ""

    @classmethod
    def parse_plain(cls, text: bytes) -> CaseLine:
        """Decode and check a line at one go, in compiled code that accepts only what is exactly as `encode` writes it.

        Raises:
            ValueError: It is not; `parse` may accept it all the same, and if not says why.
        """
        raw = _PLAIN.validate_json(text)
        return cls(
            case_id=raw["case_id"],
            unit=raw["unit"],
            unit_size=raw["unit_size"],
            ok=raw["status"] == "ok",
            error=(raw["error"] or "")[:1000],
            prompts_sha256=raw["prompts_sha256"][:128],
            metrics=raw["metrics"],
            **_about(raw),
        )

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> CaseLine:
        """Check one decoded line.

        Raises:
            ValueError: A field is missing, or is not what it should be.
        """
        if raw.get("schema") != SCHEMA:
            raise ValueError(f"schema {raw.get('schema')!r:.40} is not {SCHEMA}")
        if raw.get("status") not in ("ok", "failed"):
            raise ValueError(f"status is {raw.get('status')!r:.40}, not 'ok' or 'failed'")
        if (size := _field(raw, "unit_size", int)) < 1:
            raise ValueError(f"unit_size is {size}")
        return cls(
            case_id=_field(raw, "case_id", str),
            unit=_field(raw, "unit", str),
            unit_size=size,
            ok=raw["status"] == "ok",
            error=str(raw.get("error") or "")[:1000],
            prompts_sha256=str(raw.get("prompts_sha256") or "")[:128],
            metrics={key: _number(value) for key, value in _field(raw, "metrics", dict).items()},
            **_about(raw),
        )


def _about(raw: Mapping[str, Any]) -> dict[str, str]:
    """Return what the fact is about, where it is told as text; no table needs it, so nothing else is refused."""
    found = {key: raw.get(key) for key in ABOUT_KEYS}
    return {key: value[:500] for key, value in found.items() if isinstance(value, str)}


def _field(raw: Mapping[str, Any], key: str, kind: type[T]) -> T:
    value = raw.get(key)
    if not isinstance(value, kind):
        raise ValueError(f"{key} is missing, or not of type {kind.__name__}")
    return value


def _number(value: object) -> float | None:
    if value is None:
        return None
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise ValueError(f"a metric is not a number: {value!r:.40}")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def encode(line: Mapping[str, Any]) -> bytes:
    """Return the line as it is stored: strict JSON, the bulky raw answers behind all that tables need, a checksum."""
    raw = {key: line[key] for key in RAW_KEYS if key in line}
    rest = {key: value for key, value in line.items() if key not in raw and key != "check"}
    content = dump({"schema": SCHEMA, **rest, **raw})[:-1]
    return content + seal(content)


def seal(content: bytes) -> bytes:
    """The end of a line: the CRC-32 of all that stands before it, an object without its last brace."""
    return _CHECK_START + b'%08x"}\n' % zlib.crc32(content)


def sealed_anew(line: bytes) -> bytes:
    """The line with the checksum of what it says now, for those who put other numbers into one that `encode` wrote."""
    content = line[:-_CHECK_LENGTH]
    return content + seal(content)


def is_sealed(text: bytes) -> bool:
    """Whether a line has a checksum, as all have that were not written before there was one.

    Raises:
        ValueError: It is wrong.
    """
    end = text[-_CHECK_LENGTH:]
    if not end.startswith(_CHECK_START):
        return False
    if end != seal(text[:-_CHECK_LENGTH]):
        raise ValueError("garbled: its checksum is wrong")
    return True


def decode(text: bytes, *, whole: bool) -> CaseLine:
    """Read a stored line; unless ``whole``, without decoding the raw answers that make up most of it.

    The raw answers start where the bytes ``,"before":`` stand: inside a JSON string its quotes would be escaped,
    and at a deeper level the head would not be an object. Lines of other writers, and those
    without a checksum, are decoded whole.

    Raises:
        ValueError: Not a case line.
    """
    if not text.endswith(b"\n"):
        raise ValueError("torn: no end of line")
    sealed = is_sealed(text)  # then it is as it was written, and nobody looks for keys that stand twice
    if sealed and not whole and (head := head_of(text)) is not text:
        with suppress(ValueError):
            return CaseLine.parse_plain(head)
        with suppress(ValueError):
            return CaseLine.parse(load_object(head, sealed=True))
    return CaseLine.parse(load_object(text, sealed=sealed))


def head_of(text: bytes) -> bytes:
    """A stored line without its raw answers; the line itself where it has none."""
    end = text.find(_RAW_START)
    return text[:end] + b"}" if end >= 0 else text


@dataclass(frozen=True, slots=True)
class Block:
    """A stretch of the file: the lines of one unit, or (with no lines) one line that nobody can read.

    Args:
        start: Offset of its first byte.
        end: Offset behind its last byte.
        lines: The cases, at most ``unit_size``, no ``case_id`` twice.
        problem: Why the line cannot be read, or nothing.
        torn: Whether the file ends inside it.
    """

    start: int
    end: int
    lines: tuple[CaseLine, ...] = ()
    problem: str = ""
    torn: bool = False

    @property
    def complete(self) -> bool:
        """Whether all the cases of the unit are here."""
        return bool(self.lines) and len(self.lines) == self.lines[0].unit_size

    @property
    def ok(self) -> bool:
        """Whether all the cases of the unit are here and finished."""
        return self.complete and all(line.ok for line in self.lines)


def scan(stream: BinaryIO, *, whole: bool) -> Iterator[Block]:
    """Cut the case log into blocks that cover it without gaps."""
    start = end = 0
    lines: dict[str, CaseLine] = {}
    while text := stream.readline(LONGEST_LINE):
        line, problem = _attempt(text, whole)
        if lines and not (line and _belongs(line, lines)):
            yield Block(start, end, tuple(lines.values()))
            start, lines = end, {}
        end += len(text)
        if line:
            lines[line.case_id] = line
        else:
            yield Block(start, end, problem=problem, torn=not text.endswith(b"\n"))
            start = end
    if lines:
        yield Block(start, end, tuple(lines.values()))


def _attempt(text: bytes, whole: bool) -> tuple[CaseLine | None, str]:
    try:
        return decode(text, whole=whole), ""
    except (ValueError, RecursionError) as error:
        return None, str(error)


def _belongs(line: CaseLine, lines: Mapping[str, CaseLine]) -> bool:
    first = next(iter(lines.values()))
    return line.unit == first.unit and len(lines) < first.unit_size and line.case_id not in lines


def without_tail(blocks: Sequence[Block]) -> Sequence[Block]:
    """Leave out what a killed writer leaves: at most one torn line, and the start of its unit before it."""
    if blocks and blocks[-1].torn:
        blocks = blocks[:-1]
    if blocks and blocks[-1].lines and not blocks[-1].complete:
        blocks = blocks[:-1]
    return blocks
