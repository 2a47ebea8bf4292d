"""Edits that were saved are evaluated as if they had just been made; those of anything else are refused."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest

from counterfact_files import record
from ke_cli.data.types import EditUnit
from ke_cli.engine.edits import NO_EDIT, Edit
from ke_cli.methods.rome import Rome
from ke_cli.models.loading import ModelSource, load
from ke_cli.results.edits import EditFolder
from ke_cli.running.stored import EditKeeper
from marks import rest_slow
from run.children import Moment, start
from run.commands import ONE_BY_ONE, Command, answers, arguments, lines_of, measured, only_run, record_of
from run.test_failures import diverging, hard, raising, unmeasurable
from run.test_methods import METHODS, PROTOCOLS

SAVE = "save_edits=true"
AGAIN = ("output_dir=again", "device=cpu", "progress=plain", "metrics.instruction.max_new_tokens=4")
"""What the evaluation of stored edits has in common with the run that made them, besides what is taken from it."""

RECORDS = [
    record(case_id=number, rewrite={"subject": name}, neighborhood_prompts=["Kenya is in", "Ghana is in"])
    for number, name in enumerate(("Angola", "Chad", "Mali"))
]


@pytest.fixture
def no_editing(monkeypatch: pytest.MonkeyPatch) -> None:
    def edit(self: Rome, bench: Any, units: Sequence[EditUnit]) -> list[Edit]:
        raise AssertionError("an edit was computed")

    monkeypatch.setattr(Rome, "edit", edit)


def check_files(folder: Path) -> list[str]:
    """Every line names a file that is as it says, and no file is unnamed; returns their names."""
    named = {line["edit"]["saved"]["file"]: line["edit"]["saved"] for line in lines_of(folder)}
    for name, saved in named.items():
        content = (folder / "edits" / name).read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (saved["sha256"], saved["size_bytes"])
    assert sorted(path.name for path in (folder / "edits").iterdir()) == sorted(named)
    return sorted(named)


@pytest.mark.parametrize(
    ("method", "protocol"),
    rest_slow(
        product(METHODS, PROTOCOLS),
        [("ft", "single"), ("memit", "single"), ("rose", "same_subject")],
    ),
)
def test_stored_edits_are_the_edits(
    ke_run: Command, outputs: Path, tiny_gpt2_dir: Path, method: str, protocol: str
) -> None:
    given = arguments(tiny_gpt2_dir, method, f"protocol={protocol}", *PROTOCOLS[protocol], SAVE)
    assert ke_run(*given).code == 0
    source = only_run(outputs)
    units = {line["unit"] for line in lines_of(source)}
    assert len(check_files(source)) == len(units)
    result = ke_run(f"edits_from={source}", *AGAIN)
    assert result.code == 0, result.text
    check_same(source, only_run(Path("again")))
    assert f"{method}" in result.out[result.out.index("Method") :]


def check_same(source: Path, again: Path) -> None:
    """The same numbers and answers, to the bit, about edits that were not made anew."""
    assert measured(again) == measured(source)
    assert answers(again) == answers(source)
    before, after = record_of(source), record_of(again)
    assert (after["status"], after["totals"]) == ("complete", before["totals"])
    for part in ("model", "method", "dataset", "protocol", "statistics", "seed"):
        assert after["config"][part] == before["config"][part]
    assert after["model"] == before["model"]
    for line, other in zip(lines_of(source), lines_of(again), strict=True):
        made = {key: value for key, value in line["edit"].items() if key != "saved"}
        # A norm is summed up in an order that depends on how a matrix lies in memory.
        assert other["edit"] == made | {"norm": pytest.approx(made["norm"], rel=1e-6)}


@pytest.mark.parametrize("method", rest_slow(["ft", "rome", "memit"], ["memit"]))
def test_on_a_llama_too(ke_run: Command, outputs: Path, tiny_llama_dir: Path, method: str) -> None:
    assert ke_run(*arguments(tiny_llama_dir, method, SAVE)).code == 0
    assert ke_run(f"edits_from={only_run(outputs)}", *AGAIN).code == 0
    check_same(only_run(outputs), only_run(Path("again")))


def test_other_metrics_need_no_other_edits(ke_run: Command, source: Path, no_editing: None) -> None:
    metrics = ("metrics=[efficacy,geometry]", "output_dir=again", "progress=plain")
    assert ke_run(f"edits_from={source}", *metrics).code == 0
    again = only_run(Path("again"))
    assert again.name.startswith(f"{source.name.rpartition('_')[0]}_") and again.name != source.name
    for case, values in measured(again).items():
        assert values["efficacy"] == measured(source)[case]["efficacy"]
        assert values["drift_gain"] is not None
    assert not (again / "edits").exists()
    shown = ke_run(f"edits_from={source}", *metrics)
    assert "this run is complete" in shown.out


def test_both_stand_in_one_table_under_the_method_that_made_them(
    ke_run: Command, outputs: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ke_cli.summarize import main

    assert ke_run(f"edits_from={source}", "metrics=efficacy", "device=cpu", "progress=plain").code == 0
    again = next(path for path in outputs.glob("gpt2_*") if path != source)
    capsys.readouterr()
    assert main([str(outputs), "--format", "markdown"]) == 0
    rows = [
        line.split("|")[1].strip().replace("\\", "") for line in capsys.readouterr().out.splitlines() if "rome" in line
    ]
    fingerprint = record_of(again)["config"]["edits_from"]["fingerprint"]
    assert set(rows) == {"rome", f"rome (edits_from.fingerprint={fingerprint})"}


def test_fewer_cases_and_another_order_of_questions(ke_run: Command, source: Path, no_editing: None) -> None:
    assert ke_run(f"edits_from={source}", *AGAIN, "dataset.limit=2", "dataset.neighbors=2").code == 0
    found = measured(only_run(Path("again")))
    assert len(found) == 2 < len(measured(source)) and set(found) < set(measured(source))
    for case, values in found.items():
        assert values["efficacy"] == pytest.approx(measured(source)[case]["efficacy"], abs=1e-6)


def test_a_dry_run_says_whose_edits_they_are(ke_run: Command, source: Path, loads: list[str]) -> None:
    before = len(loads)
    result = ke_run(f"edits_from={source}", "dry_run=true")
    assert (result.code, len(loads)) == (0, before)
    assert source.name in "".join(result.out.split())


def test_edits_can_be_saved_once_more(ke_run: Command, source: Path, no_editing: None) -> None:
    assert ke_run(f"edits_from={source}", *AGAIN, SAVE).code == 0
    assert check_files(only_run(Path("again"))) == check_files(source)


@pytest.mark.parametrize(
    "fault", rest_slow([raising, diverging, unmeasurable], [raising, unmeasurable]), ids=lambda fault: fault.__name__
)
def test_a_unit_that_failed_fails_with_its_reason(
    ke_run: Command, outputs: Path, tiny_gpt2_dir: Path, fault: Any
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fault(patch)
        assert ke_run(*arguments(tiny_gpt2_dir, "rome", SAVE)).code == 0
    source = only_run(outputs)
    (failed,) = (line for line in lines_of(source) if line["status"] == "failed")
    assert ("saved" in failed["edit"]) == (fault is unmeasurable), "an edit that could not be measured is still one"
    assert ke_run(f"edits_from={source}", *AGAIN).code == 0
    lines = {line["case_id"]: line for line in lines_of(only_run(Path("again")))}
    reason = None if fault is unmeasurable else f"there is no edit: {failed['error']}"
    assert lines[hard()]["error"] == reason
    assert [line["status"] for case, line in lines.items() if case != hard()] == ["ok", "ok"]


@pytest.mark.parametrize(
    ("moment", "stored"),
    rest_slow(
        [(Moment(place, 1, SIGKILL), 1) for place in ("append", "torn", "saved")], [(Moment("saved", 1, SIGKILL), 1)]
    ),
    ids=str,
)
def test_a_kill_between_an_edit_and_its_line_costs_nothing(
    ke_run: Command, outputs: Path, tmp_path: Path, tiny_gpt2_dir: Path, moment: Moment, stored: int
) -> None:
    given = arguments(tiny_gpt2_dir, "rome", ONE_BY_ONE, SAVE)
    assert ke_run(*given, "output_dir=undisturbed").code == 0
    code, printed = start(given, tmp_path / "log", moment).ended()
    assert code == -SIGKILL, printed
    assert (only_run(outputs) / "cases.jsonl").read_bytes().count(b"\n") == stored
    assert ke_run(*given).code == 0
    assert check_files(only_run(outputs)) == check_files(only_run(Path("undisturbed")))
    assert measured(only_run(outputs)) == measured(only_run(Path("undisturbed")))


def test_a_full_disk_stops_before_a_line_names_what_is_not_there(
    ke_run: Command, outputs: Path, tiny_gpt2_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = arguments(tiny_gpt2_dir, "rome", ONE_BY_ONE, SAVE)
    replace = os.replace

    def full(old: Any, new: Any) -> None:
        if (
            str(new).endswith(".safetensors")
            and outputs in Path(new).absolute().parents
            and list(Path(new).parent.glob("[!.]*.safetensors"))
        ):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(new))
        replace(old, new)

    monkeypatch.setattr(os, "replace", full)
    result = ke_run(*given)
    assert (result.code, "No space left on device" in result.err) == (1, True)
    assert len(lines_of(only_run(outputs))) == 1
    monkeypatch.undo()


def test_only_the_wanted_units_of_a_package_are_saved(tmp_path: Path, tiny_gpt2_dir: Path) -> None:
    model = load(ModelSource(name="gpt2", path=str(tiny_gpt2_dir), device="cpu"))
    units = [EditUnit(name, ()) for name in "abc"]
    keeper = EditKeeper(EditFolder(tmp_path), "none").only(frozenset("ac"))
    said = keeper.keep(model, units, [NO_EDIT, NO_EDIT, "it diverged"])
    assert [list(entry) for entry in said] == [["saved"], [], []]
    assert [path.name for path in (tmp_path / "edits").iterdir()] == [said[0]["saved"]["file"]]


@pytest.mark.parametrize("stored", [1, 3])
def test_results_without_their_edits_are_not_mixed_with_others(
    ke_run: Command, outputs: Path, tmp_path: Path, tiny_gpt2_dir: Path, stored: int
) -> None:
    given = arguments(tiny_gpt2_dir, "rome", ONE_BY_ONE)
    if stored == 3:
        assert ke_run(*given).code == 0
    else:
        start(given, tmp_path / "log", Moment("append", stored, SIGKILL)).ended()
    folder = only_run(outputs)
    before = (folder / "cases.jsonl").read_bytes()
    result = ke_run(*given, SAVE)
    assert result.code == 1
    assert f"{stored} of {stored} stored units have no saved edit" in result.text
    assert "resume=false computes them anew" in result.text
    assert (folder / "cases.jsonl").read_bytes() == before
    assert not (folder / "edits").exists()
    assert ke_run(*given, SAVE, "resume=false").code == 0
    assert len(check_files(folder)) == 3
    assert ke_run(*given, SAVE).code == 0, "what is complete and has its edits is shown"


def test_the_parts_of_a_split_run_are_one_source(ke_run: Command, source: Path) -> None:
    lines = (source / "cases.jsonl").read_bytes().splitlines(keepends=True)
    for number, part in enumerate((lines[:1], lines[1:])):
        folder = source.with_name(f"{source.name}_shard-{number}-of-2")
        shutil.copytree(source, folder)
        (folder / "cases.jsonl").write_bytes(b"".join(part))
    whole = source.rename(source.with_name("aside"))
    assert ke_run(f"edits_from={source}", *AGAIN).code == 0
    check_same(whole, only_run(Path("again")))
