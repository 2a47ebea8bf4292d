"""The shards of a run, put together: every case once, and what is missing told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ke_cli.report.tables import build_tables
from ke_cli.results.reader import Run, read_run
from ke_cli.results.shards import each_once, join_shards
from results.runs import case, efficacies, record, shard, unit, write_run


@pytest.fixture
def three(tmp_path: Path) -> list[Run]:
    return [shard(tmp_path, index, efficacies([1, 0.5 * index], first=2 * index)) for index in range(3)]


def test_all_shards_are_the_whole_run(tmp_path: Path, three: list[Run]) -> None:
    whole = read_run(write_run(tmp_path / "whole", efficacies([1, 0, 1, 0.5, 1, 1])))
    (joined,) = join_shards(three)
    assert joined.finished
    assert (joined.record.status, joined.record.total, joined.problems) == ("complete", 6, [])
    assert joined.record.name == "gpt2_rose_abc"
    assert "shard.index" not in joined.record.settings
    assert list(joined.done) == list(whole.done)
    assert joined.shards is not None and (joined.shards.missing, joined.shards.unfinished) == ((), {})
    (table,), (plain,) = build_tables([joined]), build_tables([whole])
    assert (table.lines[0].cells, table.caption, table.footnotes) == (plain.lines[0].cells, plain.caption, ())


def test_other_runs_stay_as_and_where_they_are(tmp_path: Path, three: list[Run]) -> None:
    other = read_run(write_run(tmp_path / "other", efficacies([1])))
    found = join_shards([three[0], other, three[1], three[2]])
    assert found[1] is other
    assert [len(run.done) for run in found] == [6, 1]


def test_shards_may_lie_in_several_folders_and_come_in_any_order(tmp_path: Path) -> None:
    runs = [shard(tmp_path / f"host{i}", i, efficacies([1, 1], first=2 * i)) for i in (2, 0, 1)]
    (joined,) = join_shards(runs)
    assert joined.finished
    assert joined.done.ids == ("c0", "c1", "c2", "c3", "c4", "c5")


def test_what_is_missing_or_unfinished_is_told(tmp_path: Path) -> None:
    runs = [
        shard(tmp_path, 0, efficacies([1, 1]), count=5, whole=10),
        shard(tmp_path, 3, efficacies([1], first=6), count=5, whole=10, status="interrupted"),
    ]
    (joined,) = join_shards(runs)
    assert not joined.finished
    assert (joined.record.status, joined.record.total, len(joined.done)) == ("interrupted", 10, 3)
    (table,) = build_tables([joined])
    assert table.lines[0].label == "rose*"
    assert table.footnotes[0] == (
        "* rose: interrupted: shard.index=3; missing: shard.index=1,2,4 (shard.count=5), 3 of 10 cases done."
    )


def test_missing_shards_alone_make_a_run_unfinished(three: list[Run]) -> None:
    (joined,) = join_shards(three[:2])
    assert (joined.finished, joined.record.status) == (False, "incomplete")
    (table,) = build_tables([joined])
    assert table.footnotes[0] == "* rose: missing: shard.index=2 (shard.count=3), 4 of 6 cases done."


def test_a_shard_that_says_complete_without_all_its_cases_is_not(tmp_path: Path, three: list[Run]) -> None:
    (joined,) = join_shards([shard(tmp_path / "again", 0, efficacies([1])), *three[1:]])
    assert joined.shards is not None and joined.shards.unfinished == {"incomplete": (0,)}
    assert not joined.finished


def test_shards_without_a_finished_case(tmp_path: Path) -> None:
    (joined,) = join_shards([shard(tmp_path, 1, [], status="running")])
    (table,) = build_tables([joined])
    assert table.footnotes == (
        "Not shown: gpt2_rose_abc (running, or killed: shard.index=1; missing: shard.index=0,2 (shard.count=3), "
        "no case finished).",
    )


def test_of_copies_the_one_that_has_come_furthest_counts(tmp_path: Path, three: list[Run]) -> None:
    copy = shard(tmp_path / "copy", 1, efficacies([0], first=2), status="running")
    (joined,) = join_shards([copy, *three])
    assert joined.finished and list(joined.done) == list(join_shards(three)[0].done)
    (problem,) = joined.problems
    assert problem.startswith(f"{copy.path} is left out: {three[1].path} is the same shard")


def test_a_case_in_two_shards_counts_once(tmp_path: Path, three: list[Run]) -> None:
    other = shard(tmp_path / "again", 2, [*efficacies([0], first=1), case("new", status="failed", metrics={})])
    (joined,) = join_shards([*three[:2], other])
    assert (joined.done.ids, [line.case_id for line in joined.failed]) == (("c0", "c1", "c2", "c3"), ["new"])
    assert joined.done[1].metrics["efficacy"] == 0.0
    assert joined.problems == ["1 case(s) left out that stand in several shards"]


def test_a_failed_case_that_another_shard_finished_is_finished(tmp_path: Path, three: list[Run]) -> None:
    failed = shard(tmp_path / "again", 2, [case("c0", status="failed", metrics={}), *efficacies([1], first=5)])
    (joined,) = join_shards([*three[:2], failed])
    assert (len(joined.done), joined.failed) == (5, ())


@pytest.mark.parametrize(
    "changes",
    [
        {"run_id": "other"},
        {"model": {"fingerprint": "f2"}},
        {"dataset": {"fingerprint": "d2"}},
        {"count": 4},
    ],
)
def test_shards_of_different_runs_are_not_mixed(tmp_path: Path, changes: dict[str, Any]) -> None:
    same = {"model": {"fingerprint": "f1"}, "dataset": {"fingerprint": "d1"}}
    first = shard(tmp_path / "a", 0, efficacies([1, 1]), **same)
    second = shard(tmp_path / "b", 1, efficacies([1, 1], first=2), **(same | changes))
    assert [len(run.done) for run in join_shards([first, second])] == [2, 2]


def test_a_shard_that_has_not_loaded_its_model_belongs_to_the_others(tmp_path: Path) -> None:
    first = shard(tmp_path, 0, [], status="running", model={})
    second = shard(tmp_path, 1, efficacies([1, 1], first=2), model={"fingerprint": "f1"})
    (joined,) = join_shards([first, second])
    assert joined.record.settings["model.fingerprint"] == "f1"
    assert joined.shards is not None
    assert (joined.shards.unfinished, joined.shards.missing) == ({"running": (0,)}, (2,))


def test_units_of_several_cases(tmp_path: Path) -> None:
    runs = [shard(tmp_path, i, unit(f"u{i}", 2), count=2, whole=4) for i in range(2)]
    (joined,) = join_shards(runs)
    assert joined.done.units == ("u0", "u0", "u1", "u1")
    (table,) = build_tables([joined])
    assert "2 groups of cases edited together" in table.caption


@pytest.mark.parametrize("config", [{"count": 1, "index": 0}, {"count": 3, "index": 3}, {"count": "3"}, 5, None])
def test_what_is_no_shard(tmp_path: Path, config: object) -> None:
    plain = record()["config"] | {"shard": config}
    run = read_run(write_run(tmp_path / "run", efficacies([1]), config=plain))
    assert (run.problems, run.record.shard) == ([], None)
    assert join_shards([run, run]) == [run, run]


def test_a_run_that_was_also_done_whole_counts_once(tmp_path: Path, three: list[Run]) -> None:
    whole = read_run(write_run(tmp_path / "whole", efficacies([1, 0, 1, 0.5, 1, 1])))
    (kept,) = each_once(join_shards([*three, whole]))
    assert (kept.path, kept.shards, list(kept.done)) == (whole.path, None, list(whole.done))
    assert kept.problems == [f"{three[0].path} is left out: {whole.path} is the same run and has as many cases or more"]


def test_complete_shards_stay_instead_of_a_whole_run_that_was_interrupted(tmp_path: Path, three: list[Run]) -> None:
    whole = read_run(write_run(tmp_path / "whole", efficacies([1, 0]), status="interrupted", total=6))
    (kept,) = each_once(join_shards([whole, *three]))
    assert kept.shards is not None and kept.finished
    (problem,) = kept.problems
    assert problem.startswith(f"{whole.path} is left out: ")


def test_copies_of_a_whole_run_are_compared(tmp_path: Path) -> None:
    runs = [read_run(write_run(tmp_path / name, efficacies([1, 0]))) for name in ("here", "there")]
    assert [run.path for run in each_once(runs)] == [run.path for run in runs]


def test_unfinished_shards_of_another_number_stay_too(tmp_path: Path, three: list[Run]) -> None:
    other = shard(tmp_path, 1, efficacies([1], first=3), count=6)
    assert len(each_once(join_shards([*three[:2], other]))) == 2
