"""Loading good files: every field arrives, and nothing else."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from counterfact_files import OFFICIAL, flat, record
from ke_cli.data.counterfact import CounterFact
from ke_cli.data.counterfact_same_subject import CounterFactSameSubject
from ke_cli.data.types import Probe, Request
from ke_cli.errors import UserError


def test_a_record_becomes_a_case(load: Any) -> None:
    (case,) = load([record()]).cases
    assert case.case_id == "7"
    assert case.request == Request("{} is located in", "Angola", "Antarctica", "Africa", "P30")
    assert case.request.text == "Angola is located in"
    assert case.paraphrases == (Probe("A map.\nAngola belongs to the continent of"),)
    assert case.neighborhood == (Probe("Ghana is in"), Probe("Kenya is in"))
    assert case.instructions == (Probe("Which continent is Angola on?"),)
    assert case.generation == ("Angola's surroundings include",)


def test_spaces_that_joining_would_double_are_stripped_and_nothing_else(load: Any) -> None:
    odd = record(
        rewrite={
            "prompt": " {} \tis in  ",
            "subject": "Angola ",
            "target_new": {"str": "  New  York "},
            "target_true": {"str": " a"},
        },
        paraphrase_prompts=["\n In a  line\n", "end  "],
    )
    (case,) = load([odd]).cases
    assert case.request == Request(" {} \tis in", "Angola", "New  York ", "a", "P30")
    assert [probe.prompt for probe in case.paraphrases] == ["\n In a  line\n", "end"]


def test_legal_oddities_load(load: Any) -> None:
    self_named = record(case_id=1, rewrite={"target_new": {"str": "Angola"}, "relation_id": None})
    again = record(case_id="b", generation_prompts=None, neighborhood_prompts=[])
    braces = record(case_id="c", neighborhood_prompts=["{} and {}"], attribute_prompts=5)
    first, second, third = load([self_named, again, braces]).cases
    assert (first.request.target_new, first.request.relation) == ("Angola", "")
    assert first.relation_specific == ()
    assert first.instructions[0].prompt.endswith('words only: "Angola is located in"')
    assert (second.case_id, second.generation, second.neighborhood) == ("b", (), ())
    assert third.neighborhood[0].prompt == "{} and {}"


def test_given_relation_specific_prompts_win_over_made_ones(load: Any) -> None:
    given = record(relation_specific_prompts=["The capital of Angola is ", "Angola was founded in"])
    (case,) = load([given]).cases
    assert case.relation_specific == (Probe("The capital of Angola is"), Probe("Angola was founded in"))


@pytest.mark.parametrize(
    ("settings", "made", "asked"),
    [
        ({}, 5, 1),
        ({"relation_specific_count": 2}, 2, 1),
        ({"relation_specific_prompts": None}, 0, 1),
        ({"instructions": None}, 5, 0),
    ],
)
def test_recipes_are_settings(load: Any, settings: dict[str, Any], made: int, asked: int) -> None:
    (case,) = load([record()], **settings).cases
    assert (len(case.relation_specific), len(case.instructions)) == (made, asked)


def test_window_counts_records_but_prompts_are_of_the_whole_file(load: Any) -> None:
    subjects = ["A", "B", "C", "D"]
    document = [record(case_id=i, rewrite={"subject": name}) for i, name in enumerate(subjects)]
    dataset = load(document, limit=2, offset=1)
    assert [case.case_id for case in dataset.cases] == ["1", "2"]
    assert dataset.prompts == tuple(f"{name} is located in" for name in subjects)
    assert dataset.fingerprint == hashlib.sha256(json.dumps(document).encode()).hexdigest()
    assert Path(dataset.source).name == "mine.json"
    with pytest.raises(UserError, match="offset of 4 skips all 4"):
        load(document, offset=4)


def test_a_byte_order_mark_is_no_problem(load: Any) -> None:
    assert len(load(b"\xef\xbb\xbf" + json.dumps([record()]).encode()).cases) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("limit", 0),
        ("offset", -1),
        ("relation_specific_count", 0),
        ("size_bytes", 0),
        ("sha256", "ABC"),
        ("url", "ftp://host/file"),
        ("url", "http://host"),
    ],
)
def test_impossible_settings_name_their_field(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{field}: expected .*{value}"):
        CounterFact(**{**OFFICIAL, field: value})


def test_real_records_all_load(shared_dir: Path) -> None:
    path = shared_dir / "data" / "counterfact_500.json"
    raw = json.loads(path.read_text(encoding="utf-8"))
    dataset = CounterFact(path=str(path), **OFFICIAL).load()
    assert len(dataset.cases) == 500
    for case, one in zip(dataset.cases, raw, strict=True):
        rewrite = one["requested_rewrite"]
        assert case.case_id == str(one["case_id"])
        assert case.request.text == rewrite["prompt"].format(rewrite["subject"])
        assert case.request.target_new == rewrite["target_new"]["str"]
        assert case.request.target_true == rewrite["target_true"]["str"]
        assert [probe.prompt for probe in case.paraphrases] == one["paraphrase_prompts"]
        assert [probe.prompt for probe in case.neighborhood] == one["neighborhood_prompts"]
        assert case.generation == tuple(one["generation_prompts"])
        assert len(case.relation_specific) == 5
        assert all(case.request.subject in probe.prompt for probe in case.relation_specific)


def _same_subject(path: Path, document: Any, **settings: Any) -> Any:
    path.write_text(json.dumps(document), encoding="utf-8")
    return CounterFactSameSubject(path=str(path), **settings).load()


def test_flat_facts_become_cases(tmp_path: Path) -> None:
    other = flat(case_id=2, relation_id=None, target_new="Bergen", locality_ground_truth="Quito")
    groups = [{"subject": "Peru", "records": [flat(), other]}]
    first, second = _same_subject(tmp_path / "f.json", groups).cases
    assert first.request == Request("The capital of {} is", "Peru", "Oslo", "Lima", "P36")
    assert first.paraphrases == ()
    assert first.neighborhood == (Probe("The mayor of Lima works in"),)
    assert first.instructions == (Probe("Which city is the capital of Peru?"),)
    assert second.neighborhood == (Probe("The mayor of Lima works in", "Quito"),)
    assert second.relation_specific == ()


def test_the_window_of_grouped_facts_counts_subjects(tmp_path: Path) -> None:
    def fact(case_id: int, subject: str) -> dict[str, Any]:
        return flat(case_id=case_id, subject=subject, prompt=f"The capital of {subject} is")

    groups = [{"subject": name, "records": [fact(i, name), fact(i + 10, name)]} for i, name in enumerate("ABC")]
    dataset = _same_subject(tmp_path / "f.json", groups, limit=1, offset=1)
    assert [case.case_id for case in dataset.cases] == ["1", "11"]
    assert len(dataset.prompts) == 6


def test_grouped_facts_must_agree_with_their_group(tmp_path: Path) -> None:
    facts = [flat(), flat(case_id=1), flat(case_id=2, subject="Chile"), flat(case_id=3, prompt="Peru")]
    with pytest.raises(UserError) as caught:
        _same_subject(tmp_path / "f.json", [{"subject": "Peru", "records": facts}])
    message = str(caught.value)
    assert "4 problems" in message
    where = "record 0 (subject 'Peru'), records"
    assert f"{where} 1 (case_id 1): case_id '1' is also that of {where} 0" in message
    assert f"{where} 2 (case_id 2): subject is not that of its group: 'Chile' instead of 'Peru'" in message
    assert f"{where} 3 (case_id 3): prompt is not prompt_template with the subject filled in" in message


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"subject": "Peru"}, "record 0 (subject 'Peru'): records is missing"),
        ({"subject": "Peru", "records": []}, "record 0 (subject 'Peru'): records is empty"),
        ({"subject": "Peru", "records": {}}, "records must be a list, not an object"),
        ({"subject": "Peru", "records": [1]}, "records 0: must be an object, not an integer"),
        ({"records": [flat()]}, "record 0: subject is missing"),
        ({"subject": "Peru", "records": [flat(locality_prompt="")]}, "(case_id 1): locality_prompt is empty"),
        ({"subject": "Peru", "records": [flat(ground_truth="Oslo")]}, "is the same as the true target: 'Oslo'"),
    ],
)
def test_problems_of_groups(tmp_path: Path, group: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        _same_subject(tmp_path / "f.json", [group])
    assert "has 1 problem:" in str(caught.value)
    assert message in str(caught.value)


def test_real_grouped_facts_all_load(shared_dir: Path) -> None:
    dataset = CounterFactSameSubject(path=str(shared_dir / "data" / "counterfact_same_subject.json")).load()
    assert len(dataset.cases) == 2604
    assert len({case.request.subject for case in dataset.cases}) == 1076
    assert len({case.case_id for case in dataset.cases}) == 2604
    assert sum(case.request.relation == "" for case in dataset.cases) == 2
    assert all(len(case.relation_specific) == 5 for case in dataset.cases if case.request.relation)
