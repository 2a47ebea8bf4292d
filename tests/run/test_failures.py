"""A unit that fails costs no other its result, is told with its reason, and is tried again by the same command."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from ke_cli.data.atlas import Atlas
from ke_cli.data.types import Case, EditUnit
from ke_cli.engine.edits import Edit, LowRank
from ke_cli.errors import UnitError, UserError
from ke_cli.methods.rome import Rome
from ke_cli.metrics.success import Efficacy
from ke_cli.results.reader import read_run
from ke_cli.results.store import RunStore
from run.commands import ONE_BY_ONE, Command, arguments, lines_of, measured, only_run, record_of

Fault = Callable[[pytest.MonkeyPatch], None]
REAL_EDIT = Rome.edit
REAL_MEASURE = Efficacy.measure


@cache
def hard() -> str:
    """The id of the second case, which is the one that fails."""
    return Atlas(limit=2).load().cases[1].case_id


def is_hard(cases: Sequence[Case]) -> bool:
    return any(case.case_id == hard() for case in cases)


def raising(patch: pytest.MonkeyPatch) -> None:
    """The editor finds no edit for one unit, whatever else is edited with it."""

    def edit(self: Rome, bench: Any, units: Sequence[EditUnit]) -> list[Edit]:
        if any(is_hard(unit.cases) for unit in units):
            raise ArithmeticError("the matrix is singular")
        return REAL_EDIT(self, bench, units)

    patch.setattr(Rome, "edit", edit)


def diverging(patch: pytest.MonkeyPatch) -> None:
    """One unit's edit holds a NaN."""

    def edit(self: Rome, bench: Any, units: Sequence[EditUnit]) -> list[Edit]:
        edits = REAL_EDIT(self, bench, units)
        return [spoilt(edit) if is_hard(unit.cases) else edit for unit, edit in zip(units, edits, strict=True)]

    patch.setattr(Rome, "edit", edit)


def spoilt(edit: Edit) -> Edit:
    ((name, update),) = edit.updates.items()
    assert isinstance(update, LowRank)
    left = update.left.clone()
    left[0] = torch.nan
    return replace(edit, updates={name: replace(update, left=left)})


def unmeasurable(patch: pytest.MonkeyPatch) -> None:
    """A metric cannot cope with the answers about one case."""

    def measure(self: Efficacy, case: Case, *answers: Any) -> Any:
        if is_hard([case]):
            raise IndexError("no such position")
        return REAL_MEASURE(self, case, *answers)

    patch.setattr(Efficacy, "measure", measure)


FAULTS = [
    (raising, "ArithmeticError: the matrix is singular"),
    (diverging, "the edit is not finite (the optimisation diverged)"),
    (unmeasurable, "IndexError: no such position"),
]


@pytest.mark.parametrize(("fault", "reason"), FAULTS, ids=[fault.__name__ for fault, _ in FAULTS])
def test_one_bad_unit_costs_no_other_its_result(
    ke_run: Command, outputs: Path, tiny_gpt2_dir: Path, fault: Fault, reason: str
) -> None:
    given = arguments(tiny_gpt2_dir, "rome")
    assert ke_run(*given, "output_dir=sound").code == 0
    sound = measured(only_run(Path("sound")))
    with pytest.MonkeyPatch.context() as patch:
        fault(patch)
        result = ke_run(*given)
    folder = only_run(outputs)
    check_failed(folder, reason, lines=3)
    assert result.code == 0
    assert f"rome: 1 case(s) failed, most often: {reason}" in result.text
    assert "On 2 of 3 cases." in result.text
    assert measured(folder) == {case: pytest.approx(sound[case], abs=1e-4) for case in sound if case != hard()}
    stored = (folder / "cases.jsonl").read_bytes()

    again = ke_run(*given)
    assert (again.code, "going on: 2 of 3 units are stored already" in again.out) == (0, True)
    assert (folder / "cases.jsonl").read_bytes().startswith(stored)
    record, run = record_of(folder), read_run(folder)
    assert (record["status"], record["counts"]) == ("complete", {"units_ok": 3, "units_failed": 0})
    assert (len(run.done), run.failed, run.problems) == (3, (), [])
    assert measured(folder) == {case: pytest.approx(sound[case], abs=1e-4) for case in sound}
    assert "failed" not in again.text and "On 3 of 3 cases." in again.text


def check_failed(folder: Path, reason: str, lines: int) -> None:
    record = record_of(folder)
    assert (record["status"], record["counts"]) == ("complete", {"units_ok": 2, "units_failed": 1})
    assert len(lines_of(folder)) == lines
    for line in lines_of(folder):
        if line["case_id"] == hard():
            assert (line["status"], line["error"]) == ("failed", reason)
            assert (line["metrics"], line["before"], line["after"]) == ({}, [], [])
            assert line["time"]["edit_s"] > 0
        else:
            assert (line["status"], line["error"]) == ("ok", None)


def test_a_unit_that_fails_again_stays_failed_and_is_counted_once(
    ke_run: Command, outputs: Path, tiny_gpt2_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raising(monkeypatch)
    given = arguments(tiny_gpt2_dir, "rome", ONE_BY_ONE)
    for attempt in range(2):
        result = ke_run(*given)
        assert (result.code, "rome: 1 case(s) failed" in result.text) == (0, True)
        check_failed(only_run(outputs), "ArithmeticError: the matrix is singular", lines=3 + attempt)
    run = read_run(only_run(outputs))
    assert (len(run.done), len(run.failed), run.problems) == (2, 1, [])


def test_all_facts_of_a_failed_unit_are_failed(
    ke_run: Command, outputs: Path, tiny_gpt2_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raising(monkeypatch)
    assert ke_run(*arguments(tiny_gpt2_dir, "rome", "protocol=same_subject", "protocol.max_facts=2")).code == 0
    lines = lines_of(only_run(outputs))
    unit = next(line["unit"] for line in lines if line["case_id"] == hard())
    assert [line["status"] for line in lines if line["unit"] == unit] == ["failed", "failed"]
    assert [line["status"] for line in lines if line["unit"] != unit] == ["ok"] * 4
    assert record_of(only_run(outputs))["counts"] == {"units_ok": 2, "units_failed": 1}


def mistaken(patch: pytest.MonkeyPatch) -> None:
    """The editor finds, when it comes to the second unit, that the user has to change something."""
    calls: list[Sequence[EditUnit]] = []

    def edit(self: Rome, bench: Any, units: Sequence[EditUnit]) -> list[Edit]:
        calls.append(units)
        if len(calls) == 2:
            raise UserError("the method cannot edit this", where="method.layers", hint="method.layers=[1]")
        return REAL_EDIT(self, bench, units)

    patch.setattr(Rome, "edit", edit)


def disk_full(patch: pytest.MonkeyPatch) -> None:
    """The disk has room for one unit."""
    real, calls = RunStore._write, []

    def write(self: RunStore, text: bytes) -> None:
        calls.append(text)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, text)

    patch.setattr(RunStore, "_write", write)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (mistaken, "error: the method cannot edit this\n  where:   method.layers\n  try:     method.layers=[1]\n"),
        (disk_full, "error: the results cannot be written: No space left on device\n"),
    ],
)
def test_what_only_the_user_can_put_right_ends_the_run_with_everything_stored(
    ke_run: Command, outputs: Path, tiny_gpt2_dir: Path, fault: Fault, message: str
) -> None:
    given = arguments(tiny_gpt2_dir, "rome", ONE_BY_ONE)
    with pytest.MonkeyPatch.context() as patch:
        fault(patch)
        result = ke_run(*given)
    assert (result.code, result.err.startswith(message)) == (1, True), result.err
    record = record_of(only_run(outputs))
    assert (record["status"], record["counts"]) == ("failed", {"units_ok": 1, "units_failed": 0})
    assert len(lines_of(only_run(outputs))) == 1
    assert "going on: 1 of 3 units are stored already" in ke_run(*given).out
    assert record_of(only_run(outputs))["status"] == "complete"


def never_finished(patch: pytest.MonkeyPatch) -> None:
    """No unit can be edited."""

    def edit(self: Rome, bench: Any, units: Sequence[EditUnit]) -> list[Edit]:
        raise UnitError("its matrix is singular")

    patch.setattr(Rome, "edit", edit)


def test_a_run_of_which_nothing_could_be_finished_has_failed(
    ke_run: Command, outputs: Path, tiny_gpt2_dir: Path
) -> None:
    given = arguments(tiny_gpt2_dir, "rome")
    with pytest.MonkeyPatch.context() as patch:
        never_finished(patch)
        result = ke_run(*given)
    assert result.code == 1
    assert "no unit could be finished; the reason for 3 of 3 cases: its matrix is singular" in result.text
    record = record_of(only_run(outputs))
    assert (record["status"], record["counts"]) == ("failed", {"units_ok": 0, "units_failed": 3})
    assert ke_run(*given).code == 0
    assert record_of(only_run(outputs))["status"] == "complete"
