"""Sweeps of real runs: one table at the end, one bad job, and the same sweep again."""

from __future__ import annotations

import re
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM, Signals

import pytest

from ke_cli.results.sweeps import Cases, Sweep, find_sweeps, read_sweep
from ke_cli.run import INTERRUPTED
from ke_cli.summarize import main as summarize
from marks import rest_slow
from run.children import Moment, start
from run.commands import (
    ONE_BY_ONE,
    SMALL,
    VALUE,
    Command,
    Result,
    arguments,
    lines_of,
    measured,
    record_of,
    run_folders,
)
from run.test_failures import disk_full, never_finished, raising


def methods_of(outputs: Path) -> dict[str, Path]:
    return {record_of(folder)["config"]["method"]["name"]: folder for folder in run_folders(outputs)}


def test_a_sweep_ends_with_one_table_and_is_not_done_twice(
    ke_run: Command, outputs: Path, tiny_gpt2_dir: Path, loads: list[str]
) -> None:
    given = ["-m", "model=local", f"model.path={tiny_gpt2_dir}", "method=none,rome", *SMALL]
    result = ke_run(*given)
    assert (result.code, len(loads)) == (0, 1)
    found = methods_of(outputs)
    assert sorted(found) == ["none", "rome"]
    assert all(record_of(folder)["status"] == "complete" for folder in found.values())
    table = result.out[result.out.index("gpt2 · atlas · single") :]
    assert result.out.count("gpt2 · atlas · single") == 1
    first = table[: table.index("\n\n", table.index("Method"))]
    assert [line.split()[0] for line in first.splitlines() if line[:4] in ("none", "rome")] == ["none", "rome"]
    assert "On the 3 cases common to both rows, of 3." in result.text
    assert sorted(path.name for path in Path().iterdir()) == ["outputs"]

    stored = {name: (folder / "cases.jsonl").read_bytes() for name, folder in found.items()}
    again = ke_run(*given)
    assert (again.code, len(loads)) == (0, 1)
    assert again.out.count("this run is complete") == 2
    assert again.out[again.out.index("gpt2 · atlas · single") :] == table
    assert {name: (folder / "cases.jsonl").read_bytes() for name, folder in found.items()} == stored


def test_one_bad_job_costs_no_other_its_run(ke_run: Command, outputs: Path, tiny_gpt2_dir: Path) -> None:
    common = ["model=local", f"model.path={tiny_gpt2_dir}", "method=rome", *SMALL, *VALUE]
    result = ke_run("-m", *common, "method.layers=[9],[1]")
    assert result.code == 1
    (folder,) = run_folders(outputs)
    assert record_of(folder)["config"]["method"]["layers"] == [1]
    assert (record_of(folder)["status"], len(measured(folder))) == ("complete", 3)
    at_once, _, in_the_end = result.err.partition("1 of 2 jobs failed:\n")
    for text in (at_once, in_the_end):
        assert "the model has no layer 9" in text and "allowed: 0 to 4" in text
    assert "method.layers=[9]" in in_the_end
    assert result.out.count("gpt2 · atlas · single") == 1


def swept(model: Path) -> list[str]:
    return ["-m", *arguments(model, "rome", ONE_BY_ONE), "seed=0,1,2"]


def the_sweep(outputs: Path) -> Sweep:
    """The latest."""
    return read_sweep(find_sweeps([outputs])[-1])


def shown(result: Result, row: str) -> int:
    """How often a row of the table of jobs ends so, up to its time."""
    return len(re.findall(rf" {re.escape(row)} +\d:\d\d:\d\d", re.sub(" +", " ", result.out)))


def stands(sweep: Sweep) -> list[tuple[str, Cases | None]]:
    return [(job.status, job.cases) for job in sweep.jobs]


def test_a_killed_sweep_is_owed_until_the_same_sweep_has_completed_it(
    ke_run: Command, outputs: Path, tmp_path: Path, tiny_gpt2_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = swept(tiny_gpt2_dir)
    assert ke_run(*given, "output_dir=sound").code == 0
    sound = {folder.name: measured(folder) for folder in run_folders(Path("sound"))}
    code, printed = start(given, tmp_path / "log", Moment("append", 4, SIGKILL)).ended()
    assert code == -SIGKILL, printed
    assert stands(the_sweep(outputs)) == [("complete", Cases(3, 0, 3)), ("died", None), ("not begun", None)]
    assert summarize([str(outputs)]) == 0
    err = capsys.readouterr().err
    assert "2 of 3 jobs of the sweep outputs/.sweeps/" in err.replace(f"{Path.cwd()}/", "")
    assert "- job 1 (seed=1): died" in err and "- job 2 (seed=2): never began" in err
    assert f"try:     ke-run -m model=local model.path={tiny_gpt2_dir} " in err

    again = ke_run(*given)
    assert again.code == 0
    assert again.out.count("this run is complete") == 1
    assert again.out.count("going on: 1 of 3 units are stored already") == 1
    assert shown(again, "complete 3/3") == 3
    assert {folder.name: measured(folder) for folder in run_folders(outputs)} == sound
    assert [len(lines_of(folder)) for folder in run_folders(outputs)] == [3, 3, 3]
    assert summarize([str(outputs)]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("what", rest_slow([SIGTERM, SIGINT], [SIGTERM]))
def test_an_interrupted_sweep_ends_cleanly_and_goes_on(
    ke_run: Command, outputs: Path, tmp_path: Path, tiny_gpt2_dir: Path, what: Signals
) -> None:
    given = swept(tiny_gpt2_dir)
    code, printed = start(given, tmp_path / "log", Moment("append", 5, what)).ended()
    assert (code, "Traceback" in printed) == (130, False), printed
    assert "2 of 3 jobs did not end (1 interrupted, 1 not begun)" in printed
    assert " 2/3 " in printed and printed.rstrip().endswith(INTERRUPTED)
    sweep = the_sweep(outputs)
    assert stands(sweep) == [("complete", Cases(3, 0, 3)), ("interrupted", Cases(2, 0, 3)), ("not begun", None)]
    assert record_of(Path(sweep.jobs[1].directory))["status"] == "interrupted"
    assert ke_run(*given).code == 0
    assert [len(lines_of(folder)) for folder in run_folders(outputs)] == [3, 3, 3]


def test_the_same_sweep_tries_again_what_failed_unless_told_not_to(
    ke_run: Command, outputs: Path, tiny_gpt2_dir: Path, loads: list[str]
) -> None:
    given = ["-m", *arguments(tiny_gpt2_dir, "rome"), "seed=0,1"]
    with pytest.MonkeyPatch.context() as patch:
        raising(patch)
        result = ke_run(*given)
    assert (result.code, len(loads)) == (0, 1)
    assert shown(result, "complete 2/3, 1 failed") == 2
    assert stands(the_sweep(outputs)) == [("complete", Cases(2, 1, 3))] * 2
    left = ke_run(*given, "retry_failed=false")
    assert (left.code, len(loads)) == (0, 1)
    what = "1 unit(s) failed before and are left as they are (retry_failed=false)"
    assert left.out.count(f"{what}; the reason for 1 of 1 cases: ArithmeticError: the matrix is singular") == 2
    assert shown(left, "complete 2/3, 1 failed") == 2
    again = ke_run(*given)
    assert (again.code, len(loads)) == (0, 1), "the model has stayed loaded"
    assert shown(again, "complete 3/3") == 2


def test_a_run_of_which_everything_failed_stays_failed_when_nothing_is_tried_again(
    ke_run: Command, outputs: Path, tiny_gpt2_dir: Path
) -> None:
    given = arguments(tiny_gpt2_dir, "rome")
    with pytest.MonkeyPatch.context() as patch:
        never_finished(patch)
        assert ke_run(*given).code == 1
    result = ke_run(*given, "retry_failed=false")
    assert result.code == 1
    reason = "no unit could be finished; the reason for 3 of 3 cases: its matrix is singular"
    assert result.err.startswith(f"error: {reason}\n  where:   outputs/")
    assert "  try:     retry_failed=true tries them again" in result.err
    assert record_of(run_folders(outputs)[0])["status"] == "failed"
    assert ke_run(*given).code == 0


@pytest.mark.slow
def test_a_job_that_stops_half_way_shows_how_far_it_came(ke_run: Command, outputs: Path, tiny_gpt2_dir: Path) -> None:
    given = ["-m", *arguments(tiny_gpt2_dir, "rome", ONE_BY_ONE), "seed=0,1"]
    with pytest.MonkeyPatch.context() as patch:
        disk_full(patch)
        result = ke_run(*given)
    assert result.code == 1
    assert stands(the_sweep(outputs)) == [("failed", Cases(1, 0, 3)), ("complete", Cases(3, 0, 3))]
    assert shown(result, "failed 1/3") == 1 and "No space left on device" in result.err
    assert ke_run(*given).code == 0
