"""What is shown while a run goes on: plain lines, a bar, or nothing."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from ke_cli.data.types import EditUnit
from ke_cli.metrics.success import Efficacy, Neighborhood, Paraphrase
from ke_cli.report.standing import Standing
from ke_cli.results.store import RunStore
from ke_cli.running.plan import Plan
from ke_cli.running.progress import Bar, Lines, Progress, Silent, make_progress
from ke_cli.running.showing import columns_of, progress_of
from results.runs import case, efficacies, filled
from run.commands import ONE_BY_ONE, Command, Result, arguments, measured, only_run
from screens import Screen, in_a_terminal

LINE = re.compile(r"(\S.*): (\d+)/3 cases(.*?)  ES (\d+\.\d)  PS \d+\.\d  NS \d+\.\d")


def means(folder: Path) -> list[float]:
    """The running mean of ES after each case, in the order in which they were stored."""
    values = [float(metrics["efficacy"] or 0) for metrics in measured(folder).values()]
    return [100 * sum(values[:done]) / done for done in range(1, len(values) + 1)]


def found(result: Result) -> list[tuple[str, int, float]]:
    return [(title, int(done), float(mean)) for title, done, _, mean in LINE.findall(result.out)]


def test_lines_tell_the_first_and_the_last_cases_and_the_running_means(
    ke_run: Command, outputs: Path, tiny_gpt2_dir: Path
) -> None:
    result = ke_run(*arguments(tiny_gpt2_dir, "none", ONE_BY_ONE))
    expected = means(only_run(outputs))
    assert found(result) == [
        ("none on atlas", done, pytest.approx(expected[done - 1], abs=0.051)) for done in (1, 3)
    ], "lines in between are seconds apart"
    assert re.search(r"none on atlas: 3/3 cases in 0:\d\d:\d\d, \d+(\.\d)?/\w+, peak \d+\.\d [MG]iB  ES ", result.out)


def test_the_means_of_a_run_that_goes_on_are_over_everything_stored(
    ke_run: Command, outputs: Path, tiny_gpt2_dir: Path
) -> None:
    given = arguments(tiny_gpt2_dir, "none", ONE_BY_ONE)
    ke_run(*given)
    log = only_run(outputs) / "cases.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:2]))
    assert found(ke_run(*given)) == [("none on atlas", 3, pytest.approx(means(only_run(outputs))[-1], abs=0.051))]


def test_a_quiet_run_prints_its_folder_and_nothing_else(ke_run: Command, outputs: Path, tiny_gpt2_dir: Path) -> None:
    given = arguments(tiny_gpt2_dir, "none", "progress=none")
    folder = f"outputs/{ke_run(*given).out.strip().rpartition('/')[2]}\n"
    assert only_run(outputs) == Path(folder.strip()).absolute()
    spoken = arguments(tiny_gpt2_dir, "none", "progress=plain")
    assert ke_run("-q", *spoken) == ke_run(*spoken, "--quiet") == Result(0, folder, ""), "nor when nothing is left"
    assert "3 in 3 units" in ke_run(*given, "dry_run=true").text, "to be shown is all that a dry run is for"
    failed = ke_run(*given, "dataset.limit=-1")
    assert (failed.code, failed.out) == (1, "") and failed.err.startswith("error: ")


def test_a_quiet_sweep_prints_the_folders_of_its_runs(ke_run: Command, outputs: Path, tiny_gpt2_dir: Path) -> None:
    given = arguments(tiny_gpt2_dir, "none", "progress=none", "dataset.limit=2")
    result = ke_run("-m", *given, "dataset.offset=9999,0")
    assert (result.code, result.out) == (1, f"outputs/{only_run(outputs).name}\n")
    assert "1 of 2 jobs failed" in result.err, "errors are shown"


def test_a_sweep_has_a_line_for_each_job(ke_run: Command, outputs: Path, tiny_gpt2_dir: Path) -> None:
    given = ["-m", *arguments(tiny_gpt2_dir, "none"), "seed=0,1"]
    result = ke_run(*given)
    assert result.out.startswith("a sweep of 2 jobs; to follow it: ke-summarize outputs --watch\n")
    assert [(title, done) for title, done, _ in found(result)] == [("[0] seed=0", 3), ("[1] seed=1", 3)]
    assert result.out.endswith("\nresults: outputs\n") and result.out.count("results: ") == 1
    again = ke_run(*given)
    assert re.findall(r"(\[\d\] seed=\d): this run is complete, 3/3 cases  ES ", again.out) == [
        "[0] seed=0",
        "[1] seed=1",
    ]


METRICS = (Efficacy(), Paraphrase(), Neighborhood())


def standing() -> Standing:
    return Standing(tuple(columns_of(METRICS)))


def line(name: str, efficacy: float | None = 1.0, status: str = "ok") -> dict[str, Any]:
    return {
        "unit": name,
        "subject": name,
        "status": status,
        "metrics": {"efficacy": efficacy} if status == "ok" else {},
    }


def units(*names: str) -> list[EditUnit]:
    return [cast(EditUnit, SimpleNamespace(unit_id=name)) for name in names]


class Clock:
    """Tells the time that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def go(progress: Progress, clock: Clock, packages: Sequence[Sequence[dict[str, Any]]], step_s: float) -> None:
    for lines in packages:
        progress.begin(units(*(line["unit"] for line in lines)))
        clock.now += step_s
        progress.advance(lines)


def console(width: int) -> Console:
    return Console(file=io.StringIO(), width=width, height=24, force_terminal=True, legacy_windows=False)


def drawn(console: Console) -> Screen:
    screen = Screen(console.width)
    screen.feed(cast(io.StringIO, console.file).getvalue())
    return screen


@pytest.mark.parametrize("retried", [True, False])
def test_what_failed_before_counts_unless_it_is_tried_again(tmp_path: Path, retried: bool) -> None:
    config = SimpleNamespace(retry_failed=retried, progress="plain", method=SimpleNamespace(name="rome"))
    parts = {"config": config, "dataset": SimpleNamespace(name="atlas"), "metrics": METRICS, "totals": {"cases": 3}}
    filled(tmp_path / "run", efficacies([1, 0]), [case("bad", status="failed", error="why", metrics={})])
    with RunStore.open(tmp_path / "run", resume=True) as store:
        progress = progress_of(cast(Plan, SimpleNamespace(**parts)), store, Console())
    assert progress.line() == f"rome on atlas: {'2/3 cases' if retried else '3/3 cases in 0:00:00, 1 failed'}  ES 50.0"


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("title", ["rome on atlas", "[12] method=rome method.layers=[1,2,3,4,5,6,7,8] seed=1"])
def test_the_bar_shows_rate_means_failures_and_what_is_computed(width: int, title: str) -> None:
    clock, screen = Clock(), console(width)
    with Bar(title, 21_919, standing(), screen, clock=clock) as bar:
        go(bar, clock, [[line("a"), line("b", status="failed"), line("c", 0.0)], [line("d", None)]], step_s=6)
        bar.begin(units("e-17", "f", "g"))
    shown = drawn(screen)
    assert shown.cursor
    first, second, third = shown.text.splitlines()[-3:]
    assert first.startswith(title[: width // 4 - 2]) and " 4/21919 " in first and first.endswith(" 18:15:45 left")
    assert (("20/min" in first), ("0:00:12, 18" in first)) == (width > 40, width > 40)
    assert (second, third[:8]) == ("ES 50.0", "1 failed"), "a column without a value has no mean"
    assert ("computing e-17 and 2 more" in third) == (width > 40)
    assert re.search(r"peak \d+\.\d [MG]iB", third)


def test_a_complete_bar_says_how_long_it_took() -> None:
    clock, screen = Clock(), console(80)
    with Bar("rome on atlas", 2, standing(), screen, clock=clock) as bar:
        go(bar, clock, [[line("a")], [line("b")]], step_s=36)
    *_, first, second, third = drawn(screen).text.splitlines()
    assert first.endswith("2/2  1.7/min  in 0:01:12") and second == "ES 100.0"
    assert "left" not in first and "computing" not in third


def test_in_a_sweep_the_bar_gives_way_to_a_line() -> None:
    clock, screen = Clock(), console(80)
    with Bar("[3] seed=1", 2, standing(), screen, one_of_many=True, clock=clock) as bar:
        go(bar, clock, [[line("a")], [line("b", status="failed")]], step_s=1)
    assert drawn(screen).text == "[3] seed=1: 2/2 cases in 0:00:02, 1 failed  ES 100.0"


def test_a_bar_that_is_interrupted_leaves_how_far_it_came() -> None:
    clock, screen = Clock(), console(80)
    with pytest.raises(KeyboardInterrupt), Bar("[3] seed=1", 9, standing(), screen, one_of_many=True) as bar:
        go(bar, clock, [[line("a")]], step_s=1)
        raise KeyboardInterrupt
    assert drawn(screen).text == "[3] seed=1: 1/9 cases  ES 100.0"


def test_lines_come_when_they_are_due(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Lines("rome on atlas", 1000, standing(), clock) as lines:
        go(lines, clock, [[line(f"u{number}")] for number in range(1000)], step_s=1)
    shown = capsys.readouterr().out.splitlines()
    assert [int(one.partition("/")[0].rpartition(" ")[2]) for one in shown[:3]] == [1, 11, 21]
    assert shown[1].startswith("rome on atlas: 11/1000 cases, 1.0/s, 0:16:29 left, peak ")
    assert 40 < len(shown) < 60 and "1000/1000 cases in 0:16:40, 1.0/s, peak" in shown[-1]


def test_lines_end_with_how_far_it_came(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with pytest.raises(KeyboardInterrupt), Lines("rome on atlas", 9, standing(), clock) as lines:
        go(lines, clock, [[line("a")], [line("b", 0.0)]], step_s=1)
        raise KeyboardInterrupt
    assert capsys.readouterr().out.splitlines()[-1].startswith("rome on atlas: 2/9 cases, 1.0/s, 0:00:07 left, peak")


def test_a_sequence_advances_with_what_is_written_and_is_measured_at_checkpoints(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    checkpoints = Standing(tuple(columns_of(METRICS)), sequence=True)
    with Lines("alphaedit on atlas", 4, checkpoints, clock) as lines:
        for written, measured in ((1, []), (2, []), (2, [1.0, 0.0]), (4, []), (4, [1.0, 0.0, 0.0, 0.0])):
            clock.now += 20
            lines.advance([line(f"first-{written}", value) for value in measured], written=written)
    shown = capsys.readouterr().out.splitlines()
    assert [re.sub(r", .* peak [^ ]+ \w+", "", one).partition(": ")[2] for one in shown] == [
        "1/4 cases",
        "2/4 cases",
        "2/4 cases  ES 50.0",
        "4/4 cases in 0:01:20  ES 50.0",
        "4/4 cases in 0:01:40  ES 25.0",
    ]


def test_there_is_no_bar_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(kind: str) -> Progress:
        return make_progress(kind, Console(), "a run", 1, standing())

    assert isinstance(made("auto"), Lines)
    assert isinstance(made("rich"), Bar)
    assert isinstance(made("none"), Silent)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert isinstance(made("auto"), Bar)
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert isinstance(made("auto"), Lines)


@pytest.mark.slow
@pytest.mark.parametrize("width", [80, 120])
def test_a_sweep_in_a_terminal(tiny_gpt2_dir: Path, outputs: Path, width: int) -> None:
    given = ["-m", *arguments(tiny_gpt2_dir, "rome", ONE_BY_ONE, "progress=auto"), "seed=0,1"]
    bars: set[str] = set()

    def look(screen: Screen, process: int) -> None:
        bars.update(re.findall(r"\[(\d)\] seed=\d .* \d/3 ", screen.text))

    command = [sys.executable, "-m", "ke_cli.run", *given]
    code, screen = in_a_terminal(command, width, dict(os.environ), look)
    assert (code, screen.cursor, bars) == (0, True, {"0", "1"}), screen.text
    head, first, second, blank, *_ = screen.text.splitlines()
    assert head.startswith("a sweep of 2 jobs;") and blank == ""
    assert first.startswith("[0] seed=0: 3/3 cases in 0:00:") and second.startswith("[1] seed=1: 3/3 cases in 0:00:")
    assert screen.text.endswith("results: outputs")
