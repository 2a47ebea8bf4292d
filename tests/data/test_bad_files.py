"""Bad files: every kind is told where it is, all of a file at once, and nothing but a UserError comes out."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from counterfact_files import OFFICIAL, flat, record
from ke_cli.data.counterfact import CounterFact
from ke_cli.data.counterfact_same_subject import CounterFactSameSubject
from ke_cli.errors import UserError


def _complaint(path: str) -> str:
    with pytest.raises(UserError) as caught:
        CounterFact(path=path, **OFFICIAL).load()
    assert "dataset.path=FILE" in str(caught.value)
    return str(caught.value)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    missing = str(tmp_path / "no.json")
    assert _complaint(missing).startswith(f"the file does not exist\n  where:   {missing}\n")
    assert _complaint(str(tmp_path)).startswith("a file was expected, this is a folder")
    assert "not the path of a file" in _complaint("a\0b")
    assert "not the path of a file" in _complaint("~no-such-user-here/x.json")


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "closed.json"
    path.touch(0o000)
    assert "cannot be read: Permission denied" in _complaint(str(path))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["not JSON", "line 1, column 1"]),
        (b'[{"case_id": 1,\n  "x" 2}]', ["not JSON", "line 2, column 7"]),
        (b"[] []", ["not JSON: Extra data", "line 1, column 4"]),
        (b'["\xff"]', ["not UTF-8", "byte 2"]),
        (b"[" * 100_000, ["nested too deeply"]),
        (b"[" + b"1" * 5000 + b"]", ["not usable", "digits"]),
        (b'{"case_id": 1}', ["must be a list of records, not an object"]),
        (b"null", ["must be a list of records, not null"]),
        (b"[]", ["holds no records"]),
        (b'[3, null, "x", []]', ["4 problems", "record 0: must be an object, not an integer", "record 3"]),
    ],
)
def test_content_that_is_no_list_of_records(tmp_path: Path, content: bytes, words: list[str]) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    message = _complaint(str(path))
    assert all(word in message for word in words), message
    assert str(path) in message


BAD_FIELDS = [
    (record(case_id=None), "record 0: case_id is missing"),
    (record(case_id=True), "record 0: case_id must be a string, not true or false"),
    (record(case_id=1.5), "record 0: case_id must be a string, not a number"),
    (record(case_id="a\x1bb"), r"record 0 (case_id 'a\x1bb'): case_id holds characters that cannot be printed"),
    (record(case_id=" "), "record 0 (case_id ' '): case_id is empty"),
    (record(requested_rewrite={}), "requested_rewrite.prompt is missing"),
    (record(rewrite={"prompt": None}), "(case_id 7): requested_rewrite.prompt is missing"),
    (record(rewrite={"prompt": "Angola is in"}), "requested_rewrite.prompt must hold {} once, for the subject, not 0"),
    (record(rewrite={"prompt": "{} {} is in"}), "not 2 times: '{} {} is in'"),
    (record(rewrite={"prompt": "   "}), "requested_rewrite.prompt is empty"),
    (record(rewrite={"subject": ""}), "requested_rewrite.subject is empty"),
    (record(rewrite={"subject": ["Angola"]}), "requested_rewrite.subject must be a string, not a list"),
    (record(rewrite={"relation_id": 30}), "requested_rewrite.relation_id must be a string, not an integer"),
    (record(rewrite={"target_new": {"str": " "}}), "requested_rewrite.target_new.str is empty"),
    (record(rewrite={"target_new": "Asia"}), "requested_rewrite.target_new must be an object, not a string"),
    (record(rewrite={"target_true": {}}), "requested_rewrite.target_true.str is missing"),
    (
        record(rewrite={"target_true": {"str": " Antarctica"}}),
        "target_new is the same as the true target: 'Antarctica'",
    ),
    (record(paraphrase_prompts=None), "paraphrase_prompts is missing"),
    (record(paraphrase_prompts="one"), "paraphrase_prompts must be a list, not a string"),
    (record(neighborhood_prompts=["x", None]), "neighborhood_prompts[1] must be a string, not null"),
    (record(generation_prompts=[""]), "generation_prompts[0] is empty"),
    (record(relation_specific_prompts={}), "relation_specific_prompts must be a list, not an object"),
    (record(extra=float("nan")), "extra is nan, which JSON does not have"),
    (record(extra=[1, {"deep": float("-inf")}]), "extra[1].deep is -inf"),
    (record(paraphrase_prompts=["\ud800"]), "paraphrase_prompts[0] holds half of a surrogate pair"),
]


@pytest.mark.parametrize(("bad", "message"), BAD_FIELDS, ids=[message for _, message in BAD_FIELDS])
def test_each_problem_of_a_record(load: Any, bad: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        load([bad])
    assert message in str(caught.value)


def test_one_problem_is_told_once(load: Any) -> None:
    with pytest.raises(UserError) as caught:
        load([record(rewrite={"prompt": ""}), record(case_id=8, rewrite={"target_new": {}, "target_true": {}})])
    assert "has 3 problems" in str(caught.value)


@pytest.mark.parametrize("ids", [(5, 5), ("5", 5), ("x", "x")])
def test_repeated_ids(load: Any, ids: tuple[Any, Any]) -> None:
    with pytest.raises(UserError, match=rf"record 1 \(.*\): case_id '{ids[0]}' is also that of record 0"):
        load([record(case_id=case_id) for case_id in ids])


def test_repeated_keys(load: Any) -> None:
    good = json.dumps(record())
    twice = good.replace('"prompt":', '"prompt": "{} was in", "prompt":')
    with pytest.raises(UserError) as caught:
        load(f'[{good[:-1]}, "case_id": 8}}, {twice.replace("7", "9")}]'.encode())
    assert "record 0 (case_id 8): has the key 'case_id' more than once" in str(caught.value)
    assert "record 1 (case_id 9): requested_rewrite has the key 'prompt' more than once" in str(caught.value)


def test_a_number_that_overflows_is_an_infinity(load: Any) -> None:
    with pytest.raises(UserError, match="extra is inf"):
        load(json.dumps([record(extra=0)]).replace('"extra": 0', '"extra": 1e999').encode())


def test_all_problems_are_counted_and_the_first_twenty_shown(load: Any) -> None:
    bad = [record(case_id=i, rewrite={"subject": ""}) for i in range(25)]
    with pytest.raises(UserError) as caught:
        load([*bad, record(case_id=24)], limit=1)
    lines = str(caught.value).splitlines()
    assert lines[0] == "the file has 26 problems:"
    shown = [line for line in lines if line.startswith("  - ")]
    assert shown == [f"  - record {i} (case_id {i}): requested_rewrite.subject is empty" for i in range(20)]
    assert lines[21] == "  ... and 6 more"
    assert lines[22].startswith("  where:") and lines[22].endswith("mine.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def damaged(draw: st.DrawFn, whole: dict[str, Any]) -> Any:
    """A valid record with one value, at any depth, replaced or taken away."""
    copy = json.loads(json.dumps(whole))
    at = copy
    while True:
        key = draw(st.sampled_from(sorted(at))) if isinstance(at, dict) else draw(st.integers(0, len(at) - 1))
        if not (isinstance(at[key], (dict, list)) and at[key] and draw(st.booleans())):
            break
        at = at[key]
    if draw(st.booleans()):
        at[key] = draw(JSON)
    else:
        del at[key]
    return copy


def _only_user_errors(content: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        file.write(content)
        file.flush()
        for loader in (CounterFact(path=file.name, **OFFICIAL), CounterFactSameSubject(path=file.name)):
            try:
                dataset = loader.load()
            except UserError as error:
                assert str(error)
            else:
                assert dataset.cases
                for case in dataset.cases:
                    assert case.request.subject and case.request.target_new and case.case_id.isprintable()
                    case.request.text.encode()


fuzz = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@fuzz
@given(st.binary(max_size=200))
def test_random_bytes(content: bytes) -> None:
    _only_user_errors(content)


@fuzz
@given(JSON)
def test_random_documents(document: Any) -> None:
    _only_user_errors(json.dumps(document).encode())


@fuzz
@given(st.lists(damaged(record()) | damaged({"subject": "Peru", "records": [flat(), flat(case_id=2)]}), max_size=3))
def test_damaged_records(document: Any) -> None:
    _only_user_errors(json.dumps(document).encode())


def test_a_document_deeper_than_calls_can_be(tmp_path: Path) -> None:
    deep: bytes = b"[" + b'{"a":' * 900 + b"[" * 50 + b"]" * 50 + b"}" * 900 + b"]"
    _only_user_errors(deep)
