"""Instruction following: does a user who asks for the edited fact get it?"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ke_cli.checks import check_at_least
from ke_cli.data.types import Case, Probe
from ke_cli.engine.queries import Answers, InstructionQuery, Query
from ke_cli.metrics.answers import generated, held_out, mean
from ke_cli.metrics.base import Column, Derived, Metric, Values

SENTENCE_END = re.compile(r"[.!?]+(?=\s|$)")
ARTICLES = frozenset({"a", "an", "the"})

Test = Callable[[str, str], bool]
"""Whether a text is right, given the target."""


@dataclass(frozen=True)
class InstructionFollowing(Metric):
    """The fact asked as an instruction, answered by greedy decoding.

    Exact: the first sentence of the text is the new object, after `normalized`. Contains: the words of the new
    object stand next to each other anywhere in the text. ``subjects_recalled`` is the share of
    subjects all of whose facts that were written together are exact.

    Args:
        max_new_tokens: Length of the generated text.
    """

    max_new_tokens: int = 16

    name = "instruction"
    version = 1

    def __post_init__(self) -> None:
        """Refuse a length that leaves no text."""
        check_at_least(self, 1, "max_new_tokens")

    @property
    def columns(self) -> Sequence[Column]:
        """Exact match, containment, and exact match on held-out instructions."""
        return (
            Column("instruction_exact", "Instr."),
            Column("instruction_contains", "Instr. contains", main=False),
            Column("instruction_held_out", "Instr. held out", main=False),
        )

    @property
    def derived(self) -> Sequence[Derived]:
        """The share of subjects whose facts are all recalled."""
        return (Derived("subjects_recalled", "Subjects", "all_in_unit", ("instruction_exact",)),)

    def after(self, case: Case, before: Answers) -> Sequence[Query]:
        """Ask every instruction."""
        return [self._query(probe) for probe in case.instructions]

    def measure(self, case: Case, before: Answers, after: Answers) -> Values:
        """Average over the instructions, and over those held out."""
        return {
            "instruction_exact": self._share(is_exact, case, case.instructions, after),
            "instruction_contains": self._share(contains, case, case.instructions, after),
            "instruction_held_out": self._share(is_exact, case, held_out(case.instructions), after),
        }

    def _share(self, right: Test, case: Case, probes: Sequence[Probe], after: Answers) -> float | None:
        """Return the share of instructions whose text is right."""
        target = case.request.target_new
        return mean(float(right(generated(after, self._query(probe)), target)) for probe in probes)

    def _query(self, probe: Probe) -> InstructionQuery:
        return InstructionQuery(probe.prompt, self.max_new_tokens)


def normalized(text: str) -> str:
    """Return the words of a text for comparison.

    Unicode compatibility forms are unified (NFKC), case is folded, every character that is neither letter nor
    digit nor combining mark separates words (apostrophes are dropped instead), and the articles a, an and the
    go. A text of which nothing would be left is kept, with its case folded.
    """
    folded = (
        unicodedata.normalize("NFKC", text).casefold().replace("'", "").replace("\N{RIGHT SINGLE QUOTATION MARK}", "")
    )
    spaced = "".join(char if unicodedata.category(char)[0] in "LNM" else " " for char in folded)
    words = [word for word in spaced.split() if word not in ARTICLES]
    return " ".join(words) or " ".join(folded.split())


def is_exact(text: str, target: str) -> bool:
    """Return whether the first sentence of a text is the target, after normalisation.

    A sentence ends with its line, or at a full stop, exclamation or question mark before a space. Every such
    mark is tried, so that one inside the target (``St. Petersburg``) does not count as the end.
    """
    line = text.strip().partition("\n")[0]
    ends = [match.start() for match in SENTENCE_END.finditer(line)]
    return normalized(target) in {normalized(line[:end]) for end in (*ends, len(line))}


def contains(text: str, target: str) -> bool:
    """Return whether the words of the target stand next to each other in the text, after normalisation."""
    return f" {normalized(target)} " in f" {normalized(text)} "
