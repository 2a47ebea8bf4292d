"""Which cases are resampled together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ke_cli.report.clusters import choose, numbered
from ke_cli.report.statistics import IntArray
from ke_cli.report.tables import View
from report.looking import table_of
from results.runs import case, write_run


def numbers(*values: int) -> IntArray:
    return np.array(values, dtype=np.intp)


ALONE = numbers(0, 1, 2, 3, 4, 5)
PAIRS = numbers(0, 0, 1, 1, 2, 2)
UNKNOWN = numbers(*[-1] * 6)


@pytest.mark.parametrize(
    ("wanted", "units", "subjects", "relations", "expected", "by"),
    [
        ("auto", ALONE, UNKNOWN, UNKNOWN, [0, 1, 2, 3, 4, 5], "case"),
        ("auto", PAIRS, UNKNOWN, UNKNOWN, [0, 0, 1, 1, 2, 2], "unit"),
        ("auto", PAIRS, PAIRS, UNKNOWN, [0, 0, 1, 1, 2, 2], "unit"),
        ("auto", ALONE, PAIRS, UNKNOWN, [0, 0, 1, 1, 2, 2], "subject"),
        ("auto", PAIRS, numbers(0, 1, 1, 2, 3, 4), UNKNOWN, [0, 0, 0, 0, 1, 1], "subject"),
        ("auto", ALONE, numbers(*[0] * 6), UNKNOWN, [0, 1, 2, 3, 4, 5], "case"),
        ("auto", PAIRS, numbers(*[0] * 6), UNKNOWN, [0, 0, 1, 1, 2, 2], "unit"),
        ("auto", ALONE, UNKNOWN, PAIRS, [0, 1, 2, 3, 4, 5], "case"),
        ("case", PAIRS, PAIRS, PAIRS, [0, 1, 2, 3, 4, 5], "case"),
        ("subject", ALONE, PAIRS, UNKNOWN, [0, 0, 1, 1, 2, 2], "subject"),
        ("relation", ALONE, UNKNOWN, numbers(0, 1, 0, 1, 0, -1), [0, 1, 0, 1, 0, 2], "relation"),
        ("relation", PAIRS, UNKNOWN, numbers(0, 1, 2, 3, 4, 4), [0, 0, 1, 1, 2, 2], "relation"),
    ],
)
def test_choice(
    wanted: str, units: IntArray, subjects: IntArray, relations: IntArray, expected: list[int], by: str
) -> None:
    clusters = choose(wanted, [units], subjects, relations)
    assert (clusters.labels.tolist(), clusters.by, clusters.note) == (expected, by, "")
    assert clusters.count == max(expected) + 1


def test_what_cannot_be_done_is_said() -> None:
    unknown = choose("relation", [PAIRS], UNKNOWN, UNKNOWN)
    assert (unknown.labels.tolist(), unknown.note) == (PAIRS.tolist(), "The runs do not tell the relations.")
    single = choose("subject", [ALONE], numbers(*[0] * 6), UNKNOWN)
    assert single.labels.tolist() == ALONE.tolist()
    assert single.note.startswith("All cases share one subject")


def test_nothing_at_all() -> None:
    assert choose("auto", [numbers()], numbers(), numbers()).count == 0


def test_equal_texts_have_one_number() -> None:
    assert numbered(["a", "", "b", "a"]).tolist() == [0, -1, 1, 0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sixty cases about twelve subjects that differ from each other, not within; three relations."""
    for method, right in (("rome", 6), ("rose", 9)):
        lines = [
            case(f"c{i}", subject=f"s{i % 12}", relation=f"r{i % 3}", metrics={"efficacy": float(i % 12 < right)})
            for i in range(60)
        ]
        write_run(tmp_path / method, lines, method)
    return tmp_path


@pytest.mark.parametrize(
    ("cluster", "text", "note"),
    [
        ("auto", "of 12 subjects.", "With only 12 subjects the intervals are rather too narrow."),
        ("subject", "of 12 subjects.", "With only 12 subjects the intervals are rather too narrow."),
        ("relation", "of 3 relations.", "With only 3 relations the intervals are rather too narrow."),
        ("case", "of the cases.", ""),
    ],
)
def test_the_caption_says_what_was_resampled(folder: Path, cluster: str, text: str, note: str) -> None:
    table = table_of(folder, View(cluster=cluster))
    assert text in table.caption
    assert [n for n in table.footnotes if "narrow" in n] == ([note] if note else [])


def test_cases_of_one_subject_make_nothing_surer(tmp_path: Path) -> None:
    lines = [case(f"c{i}", subject=f"s{i % 80}", metrics={"efficacy": float(i % 80 < 40)}) for i in range(400)]
    write_run(tmp_path / "rome", lines)
    widths = {}
    for cluster in ("auto", "case"):
        estimate = table_of(tmp_path, View(cluster=cluster)).lines[0].cells[0].estimate
        assert estimate.low is not None and estimate.high is not None
        widths[cluster] = estimate.high - estimate.low
    assert widths["auto"] == pytest.approx(np.sqrt(5) * widths["case"], rel=0.15)


def test_a_run_that_does_not_tell_leaves_it_to_others(folder: Path) -> None:
    lines = [{key: value for key, value in case(f"c{i}").items() if key != "subject"} for i in range(60)]
    write_run(folder / "memit", lines, "memit")
    assert "of 12 subjects." in table_of(folder, View()).caption
