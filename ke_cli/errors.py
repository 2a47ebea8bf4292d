"""The one error type that users see: what is wrong, where, what is allowed, what to type."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A problem the user can solve; the command line prints it without a traceback.

    Args:
        what: One sentence that names the problem.
        where: The file, record, field or override it was found in.
        allowed: What would have been accepted.
        hint: What to type, or to do, next.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        allowed: str | None = None,
        hint: str | None = None,
    ) -> None:
        """Keep the parts and render the message."""
        self.what, self.where, self.allowed, self.hint = what, where, allowed, hint
        super().__init__(self.render())

    def render(self) -> str:
        """Return the message as the lines that are printed."""
        parts = [
            self.what,
            f"  where:   {self.where}" if self.where else "",
            f"  allowed: {self.allowed}" if self.allowed else "",
            f"  try:     {self.hint}" if self.hint else "",
        ]
        return visible("\n".join(part for part in parts if part))


def visible(text: str) -> str:
    """Return text with everything spelled out that a terminal would obey or cannot show; lines stay lines.

    Messages quote what files hold, and an escape sequence in a file must not reach the screen as one.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    if character.isprintable() or character == "\n":
        return character
    return character.encode("unicode_escape").decode("ascii")


class UnitError(Exception):
    """What was asked cannot be computed for some facts: they are recorded as failed, the run goes on."""


def did_you_mean(given: str, known: Iterable[str]) -> str | None:
    """Return ``did you mean 'x'?`` for the known name nearest to ``given``, or None."""
    near = difflib.get_close_matches(given, list(known), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else None


def unknown_name(kind: str, given: str, known: Iterable[str], where: str | None = None) -> UserError:
    """Build the error for a name that no registry or configuration group has."""
    names = sorted(known)
    return UserError(
        f"unknown {kind} {given!r}",
        where=where,
        allowed=", ".join(names) or "(none found)",
        hint=did_you_mean(given, names),
    )
