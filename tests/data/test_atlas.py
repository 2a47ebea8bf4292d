from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from ke_cli.data.atlas import GENERATION, Atlas
from ke_cli.data.atlas_facts import Facts, facts_fingerprint, parse_facts, read_facts, slug
from ke_cli.data.atlas_prose import prose
from ke_cli.data.types import PLACE, Case
from ke_cli.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
RAW = files("ke_cli.data").joinpath("bundled/atlas.json").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def facts() -> Facts:
    return read_facts()


@pytest.fixture(scope="module")
def cases() -> tuple[Case, ...]:
    return Atlas(limit=None).load().cases


def _every_text(facts: Facts) -> list[str]:
    return [
        text
        for relation in facts.relations.values()
        for text in (relation.prompt, *(one.text for one in (*relation.paraphrases, *relation.instructions)))
    ]


# --- the file ---------------------------------------------------------------------------------------------


def test_the_file_is_large_enough(facts: Facts) -> None:
    assert len(list(facts.triples())) >= 1_000
    assert len(facts.relations) >= 20
    assert sum(len(subject.facts) >= 4 for subject in facts.subjects.values()) >= 150
    assert all(subject.facts for subject in facts.subjects.values())


def test_json_objects_have_no_repeated_key() -> None:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({key for key, _ in pairs}) == len(pairs), Counter(key for key, _ in pairs).most_common(2)
        return dict(pairs)

    json.loads(RAW, object_pairs_hook=unique)


def test_most_facts_have_two_neighbors(facts: Facts) -> None:
    sharing: dict[str, set[str]] = {}
    for fact in facts.triples():
        sharing.setdefault(fact.object, set()).add(fact.subject)
    rich = [fact for fact in facts.triples() if len(sharing[fact.object] - {fact.subject}) >= 2]
    assert len(rich) >= 0.85 * len(list(facts.triples()))


def test_templates_have_one_place_and_end_before_the_object(facts: Facts) -> None:
    texts = _every_text(facts)
    for text in texts:
        assert text.count(PLACE) == 1, text
        assert text == text.strip(), text
        assert "  " not in text, text
        assert text.split()[-1] not in {"an", PLACE}, text
    assert len(set(texts)) == len(texts)


def test_an_indefinite_article_never_meets_a_vowel(facts: Facts) -> None:
    objects: dict[str, set[str]] = {}
    for fact in facts.triples():
        objects.setdefault(fact.relation, set()).add(fact.object)
    for name, relation in facts.relations.items():
        if any(one.endswith(" a") for one in (relation.prompt, *(one.text for one in relation.paraphrases))):
            assert not [answer for answer in objects[name] if answer[0].lower() in "aeiou"], name


def test_prompts_put_the_subject_in_different_places(facts: Facts) -> None:
    statements = [one.text for relation in facts.relations.values() for one in relation.statements]
    first = sum(text.startswith(PLACE) for text in statements)
    late = sum(len(text.split(PLACE)[1].split()) >= 2 for text in statements)
    assert 0.1 < first / len(statements) < 0.5
    assert late / len(statements) > 0.6


def test_every_relation_has_seen_and_held_out_wordings(facts: Facts) -> None:
    for name, relation in facts.relations.items():
        assert len(relation.paraphrases) >= 3, name
        assert len(relation.instructions) >= 2, name
        assert {one.held_out for one in relation.paraphrases} == {True, False}, name
        assert {one.held_out for one in relation.instructions} == {True, False}, name
        assert all(text.text[-1] in "?." for text in relation.instructions), name
        assert not any(one.held_out for one in (*relation.statements, *relation.questions)), name
        assert relation.statements[0].text == relation.prompt


def test_objects_are_short_and_differ_from_their_subject(facts: Facts) -> None:
    for fact in facts.triples():
        assert fact.object != fact.subject
        assert 1 <= len(fact.object.split()) <= 3, fact
        assert fact.object.isascii() and fact.subject.isascii()
        assert len(fact.subject.split()) <= 4, fact


def test_objects_of_a_relation_are_spelt_one_way(facts: Facts) -> None:
    spellings = {fact.object for fact in facts.triples()}
    assert len({spelling.casefold() for spelling in spellings}) == len(spellings)


# --- the cases --------------------------------------------------------------------------------------------


def test_nearly_every_fact_becomes_a_case(facts: Facts, cases: tuple[Case, ...]) -> None:
    assert len(cases) >= 0.85 * len(list(facts.triples()))
    assert len({case.case_id for case in cases}) == len(cases)


def test_requests_are_the_facts_with_another_object(facts: Facts, cases: tuple[Case, ...]) -> None:
    objects: dict[str, set[str]] = {}
    for fact in facts.triples():
        objects.setdefault(fact.relation, set()).add(fact.object)
    for case in cases:
        request = case.request
        subject = facts.subjects[request.subject]
        assert case.case_id == f"{slug(request.subject)}--{request.relation}"
        assert request.target_true == subject.facts[request.relation]
        assert request.target_new in objects[request.relation] - {request.target_true}
        assert request.target_new not in subject.also.get(request.relation, ())
        assert request.prompt == facts.relations[request.relation].prompt


def test_new_targets_are_spread_over_the_objects(facts: Facts, cases: tuple[Case, ...]) -> None:
    for relation in facts.relations:
        drawn = Counter(case.request.target_new for case in cases if case.request.relation == relation)
        possible = {fact.object for fact in facts.triples() if fact.relation == relation}
        assert len(drawn) >= min(len(possible), drawn.total()) * 0.5, relation


def test_neighbors_are_other_subjects_with_the_same_object(facts: Facts, cases: tuple[Case, ...]) -> None:
    known = {
        wording.fill(fact.subject): fact
        for fact in facts.triples()
        for wording in facts.relations[fact.relation].statements
    }
    for case in cases:
        neighbors = [known[probe.prompt] for probe in case.neighborhood]
        assert 2 <= len(neighbors) <= 5
        assert {fact.object for fact in neighbors} == {case.request.target_true}
        assert {probe.answer for probe in case.neighborhood} == {case.request.target_true}
        assert len({fact.subject for fact in neighbors} | {case.request.subject}) == len(neighbors) + 1


def test_the_same_relation_comes_first_among_neighbors(facts: Facts, cases: tuple[Case, ...]) -> None:
    holders = Counter((fact.relation, fact.object) for fact in facts.triples())
    for case in cases:
        relation = case.request.relation
        same = min(holders[relation, case.request.target_true] - 1, len(case.neighborhood))
        wordings = [one.text.split(PLACE) for one in facts.relations[relation].statements]
        for probe in case.neighborhood[:same]:
            assert any(probe.prompt.startswith(a) and probe.prompt.endswith(b) for a, b in wordings), probe


def test_relation_specific_probes_ask_for_the_other_facts(facts: Facts, cases: tuple[Case, ...]) -> None:
    for case in cases:
        others = {
            facts.relations[relation].prompt.replace(PLACE, case.request.subject): answer
            for relation, answer in facts.subjects[case.request.subject].facts.items()
            if relation != case.request.relation
        }
        assert {probe.prompt: probe.answer for probe in case.relation_specific} == others
        assert len(others) >= 2


def test_held_out_probes_are_tagged(facts: Facts, cases: tuple[Case, ...]) -> None:
    for case in cases:
        relation = facts.relations[case.request.relation]
        pairs = ((case.paraphrases, relation.paraphrases), (case.instructions, relation.instructions))
        for probes, templates in pairs:
            texts = [one.fill(case.request.subject) for one in templates]
            assert [probe.prompt for probe in probes] == texts
            assert [probe.tag == "held_out" for probe in probes] == [one.held_out for one in templates]


def test_no_place_is_left_in_any_probe(cases: tuple[Case, ...]) -> None:
    for case in cases:
        probes = (*case.paraphrases, *case.neighborhood, *case.relation_specific, *case.instructions)
        for prompt in (*(probe.prompt for probe in probes), *case.generation):
            assert PLACE not in prompt
            assert prompt == prompt.strip()
        assert len(case.generation) == len(GENERATION)


# --- selection --------------------------------------------------------------------------------------------


def test_limit_takes_the_first_cases_of_the_order(cases: tuple[Case, ...]) -> None:
    dataset = Atlas(limit=30).load()
    assert dataset.cases == cases[:30]
    assert dataset.name == "atlas"
    assert dataset.fingerprint == facts_fingerprint()
    assert len(dataset.fingerprint) == 64
    assert len(Atlas().load().cases) == 200


def test_the_order_seed_changes_the_order_only(cases: tuple[Case, ...]) -> None:
    other = Atlas(limit=None, order_seed=1).load().cases
    assert other != cases
    assert {case.case_id: case for case in other} == {case.case_id: case for case in cases}


def test_the_number_of_neighbors_does_not_change_the_selection(cases: tuple[Case, ...]) -> None:
    narrow = Atlas(limit=None, neighbors=2).load().cases
    assert [case.case_id for case in narrow] == [case.case_id for case in cases]
    assert all(case.neighborhood == wide.neighborhood[:2] for case, wide in zip(narrow, cases, strict=True))


def test_the_first_cases_mix_types_of_subjects(facts: Facts) -> None:
    types = Counter(facts.subjects[case.request.subject].type for case in Atlas().load().cases)
    assert set(types) == set(facts.types)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"limit": 0}, "limit"), ({"limit": -3}, "limit"), ({"neighbors": 1}, "neighbors")],
)
def test_numbers_out_of_range_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=f"{message}: allowed is .* got {arguments[message]}"):
        Atlas(**arguments)


def test_two_processes_agree() -> None:
    code = (
        "import hashlib; from ke_cli.data.atlas import Atlas; from ke_cli.data.atlas_prose import prose;"
        "print(hashlib.sha256(repr((Atlas(limit=None).load(), list(prose()))).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_loading_needs_no_torch() -> None:
    code = "import sys, ke_cli.data.atlas, ke_cli.data.atlas_prose; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# --- damaged files ----------------------------------------------------------------------------------------


def _damaged(change: Callable[[Any], object]) -> bytes:
    content = json.loads(RAW)
    change(content)
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda c: c.update(version=2), "version"),
        (lambda c: c.pop("relations"), "relations"),
        (lambda c: c.update(colour="red"), "colour"),
        (
            lambda c: c["relations"]["capital"].update(prompt="The capital is"),
            "relations.capital: 'The capital is'",
        ),
        (
            lambda c: c["relations"]["capital"].update(prompt="{} is ruled from "),
            "'{} is ruled from ' starts or ends",
        ),
        (lambda c: c["relations"]["capital"].update(subject_type="planet"), "relations.capital.subject_type"),
        (lambda c: c["relations"]["capital"].update(paraphrases=[]), "relations.capital.paraphrases"),
        (
            lambda c: c["relations"]["capital"]["paraphrases"][0].update(text=3),
            "relations.capital.paraphrases.0.text",
        ),
        (
            lambda c: c["relations"]["continent"].update(prompt=c["relations"]["capital"]["prompt"]),
            "occurs 2 times",
        ),
        (lambda c: c["subjects"]["France"].pop("type"), "subjects.France.type"),
        (lambda c: c["subjects"]["France"]["facts"].update(author="Zola"), "subjects.France.facts.author"),
        (lambda c: c["subjects"]["France"]["facts"].update(size="big"), "subjects.France.facts.size"),
        (
            lambda c: c["subjects"]["France"]["facts"].update(capital="France"),
            "subjects.France.facts.capital",
        ),
        (
            lambda c: c["subjects"]["France"]["facts"].update(capital=" Paris"),
            "subjects.France.facts.capital",
        ),
        (lambda c: c["subjects"]["France"].update(also={"author": ["Zola"]}), "subjects.France.also.author"),
        (
            lambda c: c["subjects"]["France"].update(also={"driving_side": ["left"]}),
            "subjects.France.facts.driving",
        ),
        (lambda c: c["subjects"].update({"france": c["subjects"]["France"]}), "2 share the case id 'france'"),
    ],
)
def test_a_malformed_file_is_refused_with_the_place(change: Callable[[Any], object], place: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_facts(_damaged(change), "facts.json")
    assert place in str(caught.value)
    assert "facts.json" in str(caught.value)


def test_text_that_is_no_json_is_refused() -> None:
    with pytest.raises(UserError, match="malformed"):
        parse_facts(b"{", "facts.json")


def test_many_problems_are_cut_short() -> None:
    with pytest.raises(UserError, match=r"and \d+ more"):
        parse_facts(_damaged(lambda content: content["types"].clear()), "facts.json")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no-facts"):
        read_facts(tmp_path / "no-facts.json")


def test_another_file_can_be_read(tmp_path: Path, facts: Facts) -> None:
    copy = tmp_path / "copy.json"
    copy.write_text(RAW, encoding="utf-8")
    assert read_facts(copy) == facts
    assert facts_fingerprint(copy) == facts_fingerprint()


# --- prose ------------------------------------------------------------------------------------------------


def test_prose_is_long_and_repeats_itself_exactly() -> None:
    paragraphs = list(prose())
    assert sum(map(len, paragraphs)) > 300_000
    assert paragraphs == list(prose())
    assert paragraphs != list(prose(seed=1))
    assert all(paragraph and paragraph == paragraph.strip() for paragraph in paragraphs)


def test_prose_holds_every_seen_wording_once_and_no_held_out_one(facts: Facts) -> None:
    text = "\n\n".join(prose())
    for fact in facts.triples():
        relation = facts.relations[fact.relation]
        for one in relation.statements:
            assert f"{one.fill(fact.subject)} {fact.object}." in text
        for one in relation.questions:
            assert f"Question: {one.fill(fact.subject)}\nAnswer: {fact.object}." in text
        for one in (*relation.paraphrases, *relation.instructions):
            assert not one.held_out or one.fill(fact.subject) not in text, one


def test_prose_has_three_kinds_of_paragraph(facts: Facts) -> None:
    paragraphs = list(prose())
    questions = [one for one in paragraphs if one.startswith("Question: ")]
    lists = [one for one in paragraphs if "\n" in one and not one.startswith("Question: ")]
    assert min(len(questions), len(lists), len(paragraphs) - len(questions) - len(lists)) > 50
    listed = [line for one in lists for line in one.splitlines()]
    assert all(line.endswith(".") and ": " in line for line in listed)
    assert len(listed) >= len(facts.subjects) - 3  # the last paragraph may hold a single list
