"""Instruction following: what counts as the first sentence, and what as the same words."""

from __future__ import annotations

import pytest

from ke_cli.data.types import Case, Probe, Request
from ke_cli.engine.queries import Generation, InstructionQuery
from ke_cli.metrics.instruction import InstructionFollowing, contains, is_exact, normalized

REQUEST = Request("{} is in", "Rome", "New York", "Italy")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  The  United\tKingdom. ", "united kingdom"),
        ("Côte d\N{RIGHT SINGLE QUOTATION MARK}Ivoire", "côte divoire"),
        ("Cote d'Ivoire", "cote divoire"),
        ("hip-hop", "hip hop"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("\N{LATIN SMALL LIGATURE FI}lm", "film"),
        ("e\N{COMBINING ACUTE ACCENT}", "é"),
        ("हिन्दी", "हिन्दी"),
        ("a", "a"),
        ("  ?! ", "?!"),
        ("", ""),
    ],
)
def test_normalized(text: str, expected: str) -> None:
    assert normalized(text) == expected


@pytest.mark.parametrize(
    ("text", "target", "exact", "inside"),
    [
        ("New York", "New York", True, True),
        (" new york.", "New York", True, True),
        ("New York! It is big.", "New York", True, True),
        ("New York\nQuestion: what else?", "New York", True, True),
        ("\n\nThe New York", "New York", True, True),
        ("It is New York.", "New York", False, True),
        ("It is big. New York.", "New York", False, True),
        ("New Yorker.", "New York", False, False),
        ("New. York", "New York", True, True),
        ("York New", "New York", False, False),
        ("St. Petersburg. It lies", "St. Petersburg", True, True),
        ("Washington, D.C. is", "Washington", False, True),
        ("42.5 km", "42", False, True),
        ("The Iranian city", "Iran", False, False),
        ("", "New York", False, False),
        ("...", "New York", False, False),
    ],
)
def test_exact_and_contained(text: str, target: str, exact: bool, inside: bool) -> None:
    assert (is_exact(text, target), contains(text, target)) == (exact, inside)


def test_measure() -> None:
    metric = InstructionFollowing(max_new_tokens=4)
    probes = (Probe("a?"), Probe("b?", tag="held_out"), Probe("c?"), Probe("d?", tag="held_out"))
    case = Case("1", REQUEST, instructions=probes)
    texts = ["New York.", "It is New York.", "Italy", "New York"]
    answers = {InstructionQuery(p.prompt, 4): Generation(text) for p, text in zip(probes, texts, strict=True)}
    assert metric.before(case) == ()
    assert list(metric.after(case, {})) == list(answers)
    values = metric.measure(case, {}, answers)
    assert values == {"instruction_exact": 0.5, "instruction_contains": 0.75, "instruction_held_out": 0.5}
    assert [column.name for column in metric.columns] == list(values)


def test_cases_without_instructions() -> None:
    metric = InstructionFollowing()
    assert set(metric.measure(Case("1", REQUEST), {}, {}).values()) == {None}
    seen = Case("1", REQUEST, instructions=(Probe("a?"),))
    values = metric.measure(seen, {}, {InstructionQuery("a?", 16): Generation("no")})
    assert values == {"instruction_exact": 0.0, "instruction_contains": 0.0, "instruction_held_out": None}


def test_subjects_are_recalled_when_all_their_facts_are_exact() -> None:
    (derived,) = InstructionFollowing().derived
    assert (derived.name, derived.kind, derived.of) == ("subjects_recalled", "all_in_unit", ("instruction_exact",))


def test_impossible_settings() -> None:
    with pytest.raises(ValueError, match=r"^max_new_tokens: expected at least 1, got 0"):
        InstructionFollowing(max_new_tokens=0)
