"""Plain values to frozen dataclasses, strictly, with every problem told in the words of the configuration."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from types import MappingProxyType, NoneType, UnionType
from typing import Any, Final, get_args, get_type_hints

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from ke_cli.errors import UserError, did_you_mean

EXPECTED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "int_type": "an integer",
        "int_from_float": "an integer",
        "float_type": "a number",
        "finite_number": "a finite number",
        "string_type": "a string",
        "bool_type": "true or false",
        "list_type": "a list",
        "tuple_type": "a list",
        "set_type": "a list",
        "frozen_set_type": "a list",
        "dict_type": "a mapping",
        "dataclass_type": "a mapping",
        "none_required": "null",
    }
)
"""What pydantic's error types mean to somebody who wrote YAML."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a configuration.

    Args:
        where: Dotted path in the configuration; empty for the whole of it.
        what: What was expected and what was found.
    """

    where: str
    what: str

    def __str__(self) -> str:
        """Return ``path: what``."""
        return f"{self.where}: {self.what}" if self.where else self.what


def raise_problems(problems: Sequence[Problem]) -> None:
    """Raise one `UserError` for all problems; do nothing where there are none."""
    if len(problems) == 1:
        raise UserError(f"the configuration has a problem: {problems[0]}")
    if problems:
        lines = "".join(f"\n  - {problem}" for problem in problems)
        raise UserError(f"the configuration has {len(problems)} problems:{lines}")


def validate(cls: type[Any], raw: Mapping[str, Any], where: str) -> tuple[Any, list[Problem]]:
    """Build a dataclass from plain JSON values, strictly; unknown keys are problems at every depth.

    Args:
        cls: A standard-library dataclass.
        raw: Its fields.
        where: The place of ``raw`` in the whole configuration, for messages.

    Returns:
        The object, or None, and what is wrong.
    """
    try:
        built, errors = _attempt(cls, raw)
        if errors:
            # Invariants are looked at only where all types are right: ask again without the wrong values.
            wrong = {place[0] for error in errors if (place := _place(raw, error))}
            rest = {key: value for key, value in raw.items() if key not in wrong}
            errors += [error for error in _attempt(cls, rest)[1] if wrong and error["type"] == "value_error"]
    except PydanticUserError as error:
        return None, [Problem(where, f"the fields of {cls.__name__} cannot be read: {error.message}")]
    except UserError as error:
        return None, [Problem(where, str(error))]
    except Exception as error:
        return None, [Problem(where, f"{cls.__name__} refuses its values: {type(error).__name__}: {error}")]
    return built, list(_problems(cls, raw, where, errors))


def _attempt(cls: type[Any], raw: Mapping[str, Any]) -> tuple[Any, list[ErrorDetails]]:
    """Return the object, or None and pydantic's errors."""
    # A dataclass takes no config of its own here, but inherits that of the list around it.
    # A NaN is below no least value and above no greatest, so no invariant would find it.
    rules = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    adapter = TypeAdapter(list[cls], config=rules)  # type: ignore[valid-type]
    try:
        return adapter.validate_json(as_json([raw]))[0], []
    except ValidationError as error:
        return None, error.errors(include_url=False)


def as_json(value: object) -> str:
    """Return plain values as JSON; what JSON does not know as its text."""
    return json.dumps(value, default=str)


def dump(built: Any) -> dict[str, Any]:
    """Return the fields that a dataclass is built from, as plain JSON values."""
    plain = TypeAdapter(type(built)).dump_python(built, mode="json")
    return {item.name: plain[item.name] for item in fields(built) if item.init}


def _problems(cls: type[Any], raw: Mapping[str, Any], where: str, errors: list[ErrorDetails]) -> Iterator[Problem]:
    """Merge pydantic's errors by place: the branches of a union are one problem."""
    found: dict[tuple[str | int, ...], list[ErrorDetails]] = {}
    for error in errors:
        found.setdefault(_place(raw, error), []).append(error)
    for place, here in found.items():
        problem = Problem(_dotted(where, place), _message(cls, place, here))
        yield _narrowed(problem, field_names(cls, place))


def _narrowed(problem: Problem, names: Sequence[str]) -> Problem:
    """Move the ``field: `` with which an invariant's message begins into the path."""
    head, colon, rest = problem.what.partition(": ")
    if colon and head in names:
        return Problem(_dotted(problem.where, (head,)), rest)
    return problem


def _place(raw: Mapping[str, Any], error: ErrorDetails) -> tuple[str | int, ...]:
    """Return the part of an error's location that is a place in the data, without the tags of unions."""
    at: Any = [raw]
    place: list[str | int] = []
    location = error["loc"]
    for step, key in enumerate(location):
        absent = step == len(location) - 1 and error["type"] == "missing"
        if not absent and not _holds(at, key):
            break
        place.append(key)
        at = None if absent else at[key]
    return tuple(place[1:])


def _holds(at: Any, key: str | int) -> bool:
    if isinstance(at, Mapping):
        return key in at
    return isinstance(at, list) and isinstance(key, int) and key < len(at)


def _dotted(where: str, place: Sequence[str | int]) -> str:
    path = where
    for key in place:
        path += f"[{key}]" if isinstance(key, int) else f".{key}" if path else str(key)
    return path


def _message(cls: type[Any], place: tuple[str | int, ...], errors: Sequence[ErrorDetails]) -> str:
    """Say in one line what was expected at a place and what was found."""
    first = errors[0]
    match first["type"]:
        case "missing":
            return "missing"
        case "unexpected_keyword_argument":
            return _unknown_key(cls, place)
        case "value_error":
            return str(first["ctx"]["error"])
    expected = dict.fromkeys(_expected(error) for error in errors)
    return f"expected {' or '.join(expected)}, got {as_json(first['input'])}"


def _expected(error: ErrorDetails) -> str:
    if error["type"] == "literal_error":
        return f"one of {error['ctx']['expected'].replace(' or ', ', ')}"
    return EXPECTED.get(error["type"], error["msg"].removeprefix("Input should be "))


def _unknown_key(cls: type[Any], place: tuple[str | int, ...]) -> str:
    known = field_names(cls, place[:-1])
    return unknown_key(str(place[-1]) if place else "", known)  # some odd keys have no place


def unknown_key(key: str, known: Sequence[str]) -> str:
    """Say that a key does not exist, which keys do, and which of them is near."""
    near = did_you_mean(key, known)
    allowed = f"allowed: {', '.join(known)}" if known else "there are no keys here"
    return "; ".join(filter(None, ("unknown key", near, allowed)))


def field_names(cls: Any, place: Sequence[str | int] = ()) -> tuple[str, ...]:
    """Return the fields of a dataclass, or of the dataclass found at ``place`` inside it."""
    for key in place:
        cls = _not_none(get_type_hints(cls).get(str(key))) if is_dataclass(cls) else None
    return tuple(item.name for item in fields(cls) if item.init) if is_dataclass(cls) else ()


def _not_none(hint: Any) -> Any:
    """Return the type that an optional field has where it has a value."""
    given = [option for option in get_args(hint) if option is not NoneType]
    return given[0] if isinstance(hint, UnionType) and len(given) == 1 else hint
