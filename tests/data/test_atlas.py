"""Which of the cases are taken, and in which order."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from ke_cli.data.atlas import Atlas
from ke_cli.data.atlas_facts import Facts, facts_fingerprint, read_facts
from ke_cli.data.types import Case
from ke_cli.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def facts() -> Facts:
    return read_facts()


@pytest.fixture(scope="module")
def cases() -> tuple[Case, ...]:
    return Atlas(limit=None).load().cases


def test_limit_takes_the_first_cases_of_the_order(cases: tuple[Case, ...]) -> None:
    dataset = Atlas(limit=30).load()
    assert dataset.cases == cases[:30]
    assert dataset.name == "atlas"
    assert dataset.fingerprint == facts_fingerprint()
    assert len(dataset.fingerprint) == 64
    assert len(Atlas().load().cases) == 200


@pytest.mark.parametrize(("limit", "offset"), [(30, 10), (1, 0), (None, 200), (50, 1_000)])
def test_offset_skips_cases_before_the_limit(cases: tuple[Case, ...], limit: int | None, offset: int) -> None:
    dataset = Atlas(limit=limit, offset=offset).load()
    assert dataset.cases == cases[offset : None if limit is None else offset + limit]
    assert dataset.prompts == tuple(case.request.text for case in cases)


def test_an_offset_near_the_end_leaves_fewer_cases_and_one_beyond_it_is_refused(cases: tuple[Case, ...]) -> None:
    assert Atlas(limit=10, offset=len(cases) - 1).load().cases == cases[-1:]
    with pytest.raises(UserError, match=rf"an offset of {len(cases)} skips all {len(cases)} cases") as caught:
        Atlas(offset=len(cases)).load()
    assert "dataset.offset" in str(caught.value) and f"0 to {len(cases) - 1}" in str(caught.value)


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
    [({"limit": 0}, "limit"), ({"limit": -3}, "limit"), ({"offset": -1}, "offset"), ({"neighbors": 1}, "neighbors")],
)
def test_numbers_out_of_range_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=f"{message}: expected at least .* got {arguments[message]}"):
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
