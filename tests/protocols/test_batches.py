"""Batches and sequences: which facts are written together, and what is still asked about each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ke_cli.config import compose_run
from ke_cli.data.types import MULTI_HOP, Case, Dataset, Probe, Request
from ke_cli.errors import UserError
from ke_cli.protocols.batch import Batch
from ke_cli.protocols.sequential import Sequential
from ke_cli.running.cautions import cautions


def capital(number: int, subject: str, **more: object) -> Case:
    request = Request("The capital of {} is", subject, "Oslo", "Rome", "P36")
    return Case(str(number), request, **more)  # type: ignore[arg-type]


CASES = [capital(number, f"Land {number}") for number in range(7)]


def sizes(units: list[object]) -> list[tuple[str, int]]:
    return [(unit.unit_id, len(unit.cases)) for unit in units]  # type: ignore[attr-defined]


def test_a_batch_holds_the_next_facts_and_the_last_one_what_is_left() -> None:
    protocol = Batch(size=3)
    units = protocol.units(CASES)
    assert sizes([*units]) == [("facts-1-3", 3), ("facts-4-6", 3), ("facts-7-7", 1)]
    assert [case.case_id for unit in units for case in unit.cases] == list("0123456")
    assert protocol.independent and not protocol.groups_cases


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [7]),
        ({"every": 2}, [2, 4, 6, 7]),
        ({"checkpoints": (4,)}, [4, 7]),
        ({"checkpoints": (2, 100), "every": 4}, [2, 4, 7]),
        ({"every": 8}, [7]),
    ],
)
def test_checkpoints_hold_all_facts_so_far(settings: dict[str, object], expected: list[int]) -> None:
    protocol = Sequential(size=2, **settings)  # type: ignore[arg-type]
    batches = protocol.units(CASES)
    assert sizes([*batches]) == [("facts-1-2", 2), ("facts-3-4", 2), ("facts-5-6", 2), ("facts-7-7", 1)]
    stages = protocol.stages(batches)
    assert sizes([*stages]) == [(f"facts-1-{count}", count) for count in expected]
    assert all(stage.cases == stages[-1].cases[: len(stage.cases)] for stage in stages)
    assert not protocol.independent


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "size: expected at least 1"),
        ({"size": 100, "every": 150}, r"every: 150 facts are not whole batches of 100 \(try 200\)"),
        ({"size": 100, "checkpoints": (100, 30)}, r"checkpoints: 30 facts .* \(try 100\)"),
        ({"size": 1, "save_every": 0}, "save_every: expected at least 1"),
    ],
)
def test_numbers_that_fit_no_batch_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sequential(**settings)  # type: ignore[arg-type]


def test_a_typed_checkpoint_is_refused_with_its_name() -> None:
    with pytest.raises(UserError, match=r"protocol\.every: 50 facts are not whole batches of 20"):
        compose_run(["protocol=sequential", "protocol.size=20", "protocol.every=50"])


@pytest.mark.parametrize("protocol", [Batch(2), Sequential(2)], ids=["batch", "sequential"])
def test_of_contradicting_facts_the_first_is_kept(protocol: Batch | Sequential) -> None:
    other = Case("b", Request("Its capital, says {}, is", "Peru", "Bern", "Lima", "P36"))
    unknown = [Case(name, Request(f"{{}} likes {name}", "Peru", "x", "y", "")) for name in ("tea", "tea", "rye")]
    cases = [capital(0, "Peru"), other, *unknown]
    kept = [case.case_id for unit in protocol.units(cases) for case in unit.cases]
    assert kept == ["0", "tea", "rye"]


def test_contradictions_are_kept_where_they_are_wanted() -> None:
    cases = [capital(0, "Peru"), capital(1, "Peru")]
    assert len(Batch(2, distinct_relations=False).units(cases)[0].cases) == 2


def test_facts_that_are_left_out_are_counted() -> None:
    cases = (capital(0, "Peru"), capital(1, "Peru"), capital(2, "Chile"))
    config = compose_run(["protocol=batch", "method=rose"])
    units = Batch(2).units(cases)
    (told,) = cautions(config, config.method.build(), Dataset("own", cases, "00", "nowhere"), units)
    assert told.startswith("left out, ") and "1 of 3 facts (protocol.distinct_relations=false" in told


def test_no_cases_are_an_error() -> None:
    with pytest.raises(UserError, match="no cases"):
        Batch(2).units([])


NEIGHBORS = (
    Probe("The capital of Chile is"),
    Probe("Everybody in Chile knows its capital,"),
    Probe("The capital of Chilean dreams is"),
    Probe("The capital of Kenya is"),
)


def test_neighbors_that_are_written_themselves_are_not_asked() -> None:
    cases = [capital(0, "Peru", neighborhood=NEIGHBORS), capital(1, "Chile"), capital(2, "Ghana")]
    (unit,) = Batch(3).units(cases)
    assert [probe.prompt for probe in unit.cases[0].neighborhood] == [NEIGHBORS[2].prompt, NEIGHBORS[3].prompt]
    (alone, *_) = Batch(1).units(cases)
    assert alone.cases[0].neighborhood == NEIGHBORS


def test_the_same_is_asked_at_every_checkpoint() -> None:
    """A neighbor that is written only later is left out from the start."""
    cases = [capital(0, "Peru", neighborhood=NEIGHBORS), capital(1, "Ghana"), capital(2, "Chile")]
    first, last = Sequential(1, checkpoints=(1,)).stages(Sequential(1).units(cases))
    assert first.cases[0] is last.cases[0]
    assert [probe.prompt for probe in first.cases[0].neighborhood] == [NEIGHBORS[2].prompt, NEIGHBORS[3].prompt]


FLAG = Case("flag", Request("The flag of {} is", "Peru", "blue", "red", "P163"))
OWN = (Probe("The flag of Peru is", "red"), Probe("The currency of Peru is", "sol", tag="P38"))


@pytest.mark.parametrize("protocol", [Batch(3, ask_about_written=True), Sequential(2, ask_about_written=True)], ids=str)
def test_all_prompts_are_asked_where_that_is_wanted(protocol: Batch | Sequential) -> None:
    cases = [capital(0, "Peru", neighborhood=NEIGHBORS, relation_specific=OWN), capital(1, "Chile"), FLAG]
    found = [case for unit in protocol.units(cases) for case in unit.cases]
    assert [replace(case, companions=()) for case in found] == cases
    assert found[0].companions == (FLAG.request,)


def test_facts_of_one_subject_know_each_other() -> None:
    cases = [capital(0, "Peru", relation_specific=OWN), capital(1, "Ghana"), FLAG]
    for units in (Batch(3).units(cases), Sequential(1).units(cases)):
        found = [case for unit in units for case in unit.cases]
        assert [probe.prompt for probe in found[0].relation_specific] == [OWN[1].prompt]
        assert found[0].companions == (FLAG.request,) and found[1].companions == ()


QUESTION = Probe("Where do the capitals of A and B lie?", "Norway", MULTI_HOP, MULTI_HOP)


def grouped(*groups: str) -> list[Case]:
    """A fact for each letter; those of the same word are one edit, and its first one carries a question about all."""
    return [
        capital(place, letter, group=group, probes=(QUESTION,) if place == 0 else ())
        for group in groups
        for place, letter in enumerate(group)
    ]


@pytest.mark.parametrize(
    ("size", "groups", "expected"),
    [
        (3, ("AB", "CD", "E", "FG"), ["AB", "CDE", "FG"]),
        (2, ("A", "BCD", "EF"), ["A", "BCD", "EF"]),
        (4, ("AB", "CD"), ["ABCD"]),
    ],
)
def test_facts_of_one_edit_stay_together(size: int, groups: tuple[str, ...], expected: list[str]) -> None:
    for protocol in (Batch(size), Sequential(size)):
        units = protocol.units(grouped(*groups))
        assert ["".join(case.request.subject for case in unit.cases) for unit in units] == expected
        assert sum(case.probes == (QUESTION,) for unit in units for case in unit.cases) == len(groups)


def test_facts_of_one_edit_are_put_together_wherever_they_stand() -> None:
    one, two, three = grouped("ABC")
    other = capital(1, "D")
    (first, second) = Sequential(3).units([one, other, two, three])
    assert ["".join(case.request.subject for case in unit.cases) for unit in (first, second)] == ["ABC", "D"]


def test_checkpoints_are_whole_batches_also_where_groups_made_them_shorter() -> None:
    protocol = Sequential(3, every=3)
    stages = protocol.stages(protocol.units(grouped("AB", "CD", "E", "FG")))
    assert [stage.unit_id for stage in stages] == ["facts-1-2", "facts-1-5", "facts-1-7"]


def test_questions_about_facts_that_are_not_written_are_not_asked() -> None:
    """The fact B of the second edit is left out: it is written already, in a batch that is another model."""
    cases = grouped("AB", "CB")
    together, apart = Batch(3).units(cases), Batch(2).units(cases)
    assert [len(case.probes) for unit in together for case in unit.cases] == [1, 0, 1]
    assert [[len(case.probes) for case in unit.cases] for unit in apart] == [[1, 0], [0]]
    lifelong = Sequential(2).units(cases)
    assert [[len(case.probes) for case in unit.cases] for unit in lifelong] == [[1, 0], [1]]
