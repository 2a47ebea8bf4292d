"""Limit and offset of a data set: cases, or units where the protocol puts cases together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from counterfact_files import flat, record
from ke_cli.config import compose_run
from ke_cli.errors import UserError
from ke_cli.running.plan import load_units

SUBJECTS = ("Peru", "Chile", "Kenya", "Ghana")


def units_of(*overrides: str) -> list[tuple[str, tuple[str, ...]]]:
    """The units of a run: their names and the cases in them."""
    _, units = load_units(compose_run(["method=none", "metrics=efficacy", *overrides]))
    return [(unit.unit_id, tuple(case.case_id for case in unit.cases)) for unit in units]


@pytest.fixture(params=["atlas", "counterfact", "counterfact_same_subject"])
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """The overrides that choose each data set; the files have two facts each of four subjects, mixed."""
    if request.param == "atlas":
        return ["dataset=atlas"]
    path = tmp_path / "facts.json"
    if request.param == "counterfact":
        facts = [(subject, relation) for relation in ("P30", "P36") for subject in SUBJECTS]
        content = [
            record(case_id=number, rewrite={"subject": subject, "relation_id": relation})
            for number, (subject, relation) in enumerate(facts)
        ]
    else:
        content = [
            {"subject": subject, "records": [fact(subject, 2 * number), fact(subject, 2 * number + 1)]}
            for number, subject in enumerate(SUBJECTS)
        ]
    path.write_text(json.dumps(content), encoding="utf-8")
    return [f"dataset={request.param}", f"dataset.path={path}"]


def fact(subject: str, number: int) -> dict[str, object]:
    """A fact of the same-subject form; odd ones are of another relation."""
    relation = ("P36", "P30")[number % 2]
    prompt = f"The capital of {subject} is"
    return flat(case_id=number, subject=subject, prompt=prompt, relation_id=relation)


GROUPED = ["protocol=same_subject", "protocol.max_facts=2"]


@pytest.mark.parametrize(("limit", "offset"), [("2", 0), ("2", 1), ("null", 2), ("1", 3), ("9", 3)])
def test_a_grouping_protocol_counts_units(dataset: list[str], limit: str, offset: int) -> None:
    whole = units_of(*dataset, *GROUPED, "dataset.limit=null")
    assert len(whole) >= len(SUBJECTS)
    assert {len(cases) for _, cases in whole} == {2}
    chosen = units_of(*dataset, *GROUPED, f"dataset.limit={limit}", f"dataset.offset={offset}")
    assert chosen == whole[offset : None if limit == "null" else offset + int(limit)]


def test_without_grouping_cases_are_counted(dataset: list[str]) -> None:
    if dataset[0].endswith("same_subject"):
        pytest.skip("its limit and offset count subjects")
    whole = units_of(*dataset, "dataset.limit=null")
    assert units_of(*dataset, "dataset.limit=2", "dataset.offset=3") == whole[3:5]
    assert all(cases == (name,) for name, cases in whole)


def test_an_offset_counts_the_units_that_are_left_not_all_subjects() -> None:
    large = units_of(*GROUPED[:1], "protocol.min_facts=8", "dataset.limit=null")
    assert units_of(*GROUPED[:1], "protocol.min_facts=8", "dataset.limit=3", "dataset.offset=40") == large[40:43]


def test_an_offset_beyond_the_units_is_refused(dataset: list[str]) -> None:
    count = len(units_of(*dataset, *GROUPED, "dataset.limit=null"))
    with pytest.raises(UserError, match=f"an offset of {count} skips all {count} units") as caught:
        units_of(*dataset, *GROUPED, f"dataset.offset={count}")
    assert "dataset.offset" in str(caught.value) and f"0 to {count - 1}" in str(caught.value)
