"""Cases: what the fields that came later mean, and that results from before them still compare."""

from __future__ import annotations

import hashlib
import json

import pytest

from ke_cli.data.types import MULTI_HOP, Case, Probe, Request
from ke_cli.metrics.evaluate import prompts_hash
from ke_cli.protocols.same_subject import SameSubject
from ke_cli.protocols.single import Single

REQUEST = Request("{} lives in", "Ann", "Oslo", "Rome", "P551")


def test_the_answers_of_a_probe() -> None:
    assert Probe("x").answers == ()
    assert Probe("x", "Oslo", aliases=("Christiania",)).answers == ("Oslo", "Christiania")
    assert Case("1", REQUEST, generation=("Ann is",)).generation == ("Ann is",)


def test_a_case_without_the_later_fields_has_its_old_hash() -> None:
    case = Case("1", REQUEST, paraphrases=(Probe("Ann's home is", tag="held_out"),), generation=("Ann is",))
    old = {
        "request": {
            "prompt": "{} lives in", "subject": "Ann", "target_new": "Oslo", "target_true": "Rome", "relation": "P551",
        },
        "paraphrases": [{"prompt": "Ann's home is", "answer": None, "tag": "held_out"}],
        "neighborhood": [], "relation_specific": [], "instructions": [], "generation": ["Ann is"],
    }  # fmt: skip
    text = json.dumps(old, sort_keys=True, separators=(",", ":"))
    assert prompts_hash(case) == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    "case",
    [
        Case("1", REQUEST, probes=(Probe("x", "y", "multi_hop/2"),)),
        Case("1", REQUEST, probes=(Probe("x", "y", "multi_hop/2", MULTI_HOP),)),
        Case("1", REQUEST, probes=(Probe("x", "y", "multi_hop/2", MULTI_HOP, ("z",)),)),
        Case("1", REQUEST, consistency_texts=("Oslo is cold.",)),
        Case("1", REQUEST, group="7"),
    ],
)
def test_each_later_field_changes_the_hash(case: Case) -> None:
    cases = [Case("1", REQUEST), Case("1", REQUEST, probes=(Probe("x", "y", "multi_hop/2"),))]
    assert prompts_hash(case) not in {prompts_hash(other) for other in cases if other != case}


def test_the_facts_of_a_group_are_written_together() -> None:
    hop = Probe("Where does the friend of Ann live?", "Oslo", "multi_hop/2", MULTI_HOP)
    friend = Request("The friend of {} is", "Bob", "Ann", "Eve")
    cases = [Case("7-0", REQUEST, group="7", probes=(hop,)), Case("8", REQUEST), Case("7-1", friend, group="7")]
    first, second = Single().units(cases)
    assert [unit.unit_id for unit in (first, second)] == ["7", "8"]
    assert [(case.case_id, case.companions) for case in first.cases] == [("7-0", (friend,)), ("7-1", (REQUEST,))]
    assert first.cases[0].probes == (hop,) and second.cases == (cases[1],)
    grouped = SameSubject(min_facts=1).units(cases)
    assert all(not case.probes for unit in grouped for case in unit.cases)
