"""Memory that runs out, optimisations that diverge, cases that raise, devices that fail: nobody else's case is lost."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from counterfact_files import record
from ke_cli.data.atlas import Atlas
from ke_cli.data.types import EditUnit
from ke_cli.engine.queries import Score
from ke_cli.engine.workbench import Workbench
from ke_cli.errors import UnitError, UserError
from ke_cli.methods.rome import Rome
from ke_cli.models import memory
from ke_cli.models.memory import OutOfMemory
from ke_cli.results.reader import read_run
from ke_cli.running import attempts, evaluate
from marks import rest_slow
from run.commands import ONE_BY_ONE, QUICK, Command, answers, arguments, lines_of, measured, only_run, record_of

DIVERGED = "the edit is not finite (the optimisation diverged)"
NAN = "the answers of the edited model are no numbers (NaN)"
REAL_EDIT = Rome.edit


@cache
def hard() -> str:
    """The id of the second case, which is the one that something is wrong with."""
    return Atlas(limit=2).load().cases[1].case_id


def place_of(units: Sequence[EditUnit]) -> int | None:
    """Where the hard case is among some units."""
    return next((n for n, unit in enumerate(units) if any(case.case_id == hard() for case in unit.cases)), None)


def check_one_failed(folder: Path, sound: Path, reason: str) -> None:
    """The hard case failed with its reason, and no other number is another."""
    run = read_run(folder)
    assert [(line.case_id, line.error) for line in run.failed] == [(hard(), reason)]
    assert (len(run.done), run.problems, record_of(folder)["status"]) == (2, [], "complete")
    expected = measured(sound)
    assert measured(folder) == {case: pytest.approx(expected[case], abs=1e-4) for case in expected if case != hard()}


class TestNumbersThatAreNone:
    def test_one_optimisation_that_diverges_leaves_the_others_alone(
        self, ke_run: Command, outputs: Path, tiny_gpt2_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A NaN in the middle of a batch of optimisations, where a sum over all losses is differentiated."""
        given = arguments(tiny_gpt2_dir, "rome")
        assert ke_run(*given, "output_dir=sound").code == 0
        real, editing = Workbench.optimise, []

        def edit(self: Rome, bench: Any, units: Sequence[EditUnit]) -> Any:
            editing[:] = [place_of(units)]
            return REAL_EDIT(self, bench, units)

        def optimise(self: Workbench, problems: Any, *args: Any, **kwargs: Any) -> Any:
            spoilt = list(problems)
            if (place := editing[0]) is not None:
                spoilt[place] = replace(spoilt[place], start=torch.full((self.model.width,), torch.nan))
            return real(self, spoilt, *args, **kwargs)

        monkeypatch.setattr(Rome, "edit", edit)
        monkeypatch.setattr(Workbench, "optimise", optimise)
        result = ke_run(*given)
        assert (result.code, f"rome: 1 case(s) failed, most often: {DIVERGED}" in result.text) == (0, True)
        check_one_failed(only_run(outputs), only_run(Path("sound")), DIVERGED)
        monkeypatch.undo()

    @pytest.mark.parametrize(
        "method", rest_slow([name for name in QUICK if name not in ("none", "ft_l")], ["ft", "rome", "memit", "rose"])
    )
    def test_steps_that_overflow(self, ke_run: Command, outputs: Path, tiny_gpt2_dir: Path, method: str) -> None:
        """Of every method: nothing is clipped into something that looks sane. (FT-L clips by definition.)"""
        given = arguments(tiny_gpt2_dir, method, "method.lr=1e37", "dataset.limit=2", "metrics=efficacy")
        result = ke_run(*without_instruction(given))
        assert (result.code, "no unit could be finished" in result.text) == (1, True), result.text
        lines = lines_of(only_run(outputs))
        assert len(lines) == 2 and all(line["status"] == "failed" and line["metrics"] == {} for line in lines)
        assert all("diverged" in line["error"] or "finite" in line["error"] for line in lines), lines[0]["error"]

    def test_answers_that_are_no_numbers_are_no_failures_of_the_edit(
        self, ke_run: Command, outputs: Path, tiny_gpt2_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A comparison with NaN says no, which would be counted as an edit without effect."""
        given = arguments(tiny_gpt2_dir, "rome")
        assert ke_run(*given, "output_dir=sound").code == 0
        real, spoilt = evaluate.answer, measured_prompt()

        def answer(*args: Any, **kwargs: Any) -> Any:
            return [
                {
                    query: Score((torch.nan,) * len(found.nlls), found.hits)
                    if isinstance(found, Score) and getattr(query, "prompt", "") == spoilt
                    else found
                    for query, found in answered.items()
                }
                for answered in real(*args, **kwargs)
            ]

        monkeypatch.setattr(evaluate, "answer", answer)
        assert ke_run(*given).code == 0
        check_one_failed(only_run(outputs), only_run(Path("sound")), NAN)

    @pytest.fixture
    def damaged(self, tiny_gpt2_dir: Path, tmp_path: Path) -> Path:
        """A model one of whose weights is a NaN."""
        folder = Path(shutil.copytree(tiny_gpt2_dir, tmp_path / "damaged"))
        weights = load_file(folder / "model.safetensors")
        weights["transformer.h.4.mlp.c_proj.bias"][3] = torch.nan
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    def test_a_model_whose_weights_are_damaged(self, ke_run: Command, outputs: Path, damaged: Path) -> None:
        result = ke_run(*arguments(damaged, "none"))
        assert result.code == 1
        assert {line["status"] for line in lines_of(only_run(outputs))} == {"failed"}
        assert "no unit could be finished" in result.text and "(NaN)" in result.text

    @pytest.mark.parametrize("metrics", ["instruction", "efficacy", "r_specificity"])
    def test_no_metric_takes_it_for_an_answer(
        self, ke_run: Command, outputs: Path, damaged: Path, metrics: str
    ) -> None:
        given = arguments(damaged, "ft", f"metrics={metrics}")
        result = ke_run(*(given if metrics == "instruction" else without_instruction(given)))
        assert result.code == 1
        assert all(line["status"] == "failed" and not line["metrics"] for line in lines_of(only_run(outputs)))

    def test_nor_a_method_for_a_context(self, ke_run: Command, damaged: Path) -> None:
        result = ke_run(*arguments(damaged, "rome", "method.layers=[1]"))
        assert result.code == 1
        assert "error: the unedited model's predictions are no numbers (NaN)" in result.err
        assert "model.dtype=bfloat16" in result.err


def measured_prompt() -> str:
    """The edit prompt of the hard case."""
    return Atlas(limit=2).load().cases[1].request.text


def without_instruction(given: list[str]) -> list[str]:
    """The arguments for a set of metrics in which nothing is generated."""
    return [argument for argument in given if not argument.startswith("metrics.")]


class Memory:
    """A device on which a layer cannot take more than some tokens at once, or sometimes none of its larger batches."""

    def __init__(self, patch: pytest.MonkeyPatch, tokens: int | None = None, seed: int | None = None) -> None:
        self.tokens, self.dice, self.refused = tokens, random.Random(seed) if seed is not None else None, 0
        real = torch.nn.LayerNorm.forward

        def forward(layer: torch.nn.LayerNorm, x: torch.Tensor) -> torch.Tensor:
            asked = x.numel() // x.shape[-1]
            if (self.tokens and asked > self.tokens) or (self.dice and asked > 100 and self.dice.random() < 0.01):
                self.refused += 1
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return real(layer, x)

        patch.setattr(torch.nn.LayerNorm, "forward", forward)


class TestMemory:
    def test_a_case_that_does_not_fit_costs_no_other_its_result(
        self, ke_run: Command, outputs: Path, tmp_path: Path, tiny_gpt2_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The second of four has a prompt of 200 tokens; everything else fits."""
        cases = [
            record(case_id=number, rewrite={"subject": name}) for number, name in enumerate(("Chad", "Mali", "Peru"))
        ]
        long = record(case_id=9, rewrite={"subject": "Oslo"}, paraphrase_prompts=["the river and " * 40 + "Oslo is in"])
        data = tmp_path / "cases.json"
        data.write_text(json.dumps([cases[0], long, *cases[1:]]), encoding="utf-8")
        given = arguments(tiny_gpt2_dir, "rome", "dataset=counterfact", f"dataset.path='{data}'", "dataset.limit=4")
        more = ("metrics=quick",)
        assert ke_run(*without_instruction(given), *more, "output_dir=sound").code == 0
        with monkeypatch.context() as patch:
            full = Memory(patch, tokens=130)
            result = ke_run(*without_instruction(given), *more)
        assert (result.code, full.refused > 0) == (0, True), result.text
        run = read_run(only_run(outputs))
        assert [line.case_id for line in run.failed] == ["9"]
        assert run.failed[0].error.startswith("out of memory with 1 row of up to ")
        sound = measured(only_run(Path("sound")))
        assert len(run.done) == 3
        assert all(found == pytest.approx(sound[case], abs=1e-4) for case, found in measured(only_run(outputs)).items())
        assert ke_run(*without_instruction(given), *more).code == 0, "with more memory it is tried again"
        assert len(measured(only_run(outputs))) == 4

    @pytest.mark.slow
    @pytest.mark.parametrize("method", rest_slow(["rome", "memit", "ft_l"], ["memit"]))
    def test_memory_that_runs_out_now_and_then(
        self, ke_run: Command, outputs: Path, tiny_gpt2_dir: Path, monkeypatch: pytest.MonkeyPatch, method: str
    ) -> None:
        given = arguments(tiny_gpt2_dir, method, "dataset.limit=4")
        assert ke_run(*given, "output_dir=sound", "unedited_cache=false").code == 0
        refused = 0
        for seed in range(4):
            with monkeypatch.context() as patch:
                short = Memory(patch, seed=seed)
                assert ke_run(*given, f"output_dir=of{seed}", "unedited_cache=false").code == 0
            refused += short.refused
            folder, sound = only_run(Path(f"of{seed}")), only_run(Path("sound"))
            assert read_run(folder).failed == ()
            assert list(measured(folder)) == list(measured(sound))
            for case, found in measured(folder).items():
                assert found == pytest.approx(measured(sound)[case], abs=1e-4)
            assert answers(folder).keys() == answers(sound).keys()
        assert refused >= 4


class TestDevices:
    def test_a_device_that_fails_ends_the_run_at_once(
        self, ke_run: Command, outputs: Path, tiny_gpt2_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After an illegal access every further call fails: the cases that are left are not recorded as failed."""
        given, lost = arguments(tiny_gpt2_dir, "rome", ONE_BY_ONE), []

        def edit(self: Rome, bench: Any, units: Sequence[EditUnit]) -> Any:
            if place_of(units) is not None:
                lost.append("CUDA error: an illegal memory access was encountered")
            if lost:
                raise RuntimeError(lost[0])
            return REAL_EDIT(self, bench, units)

        with monkeypatch.context() as patch:
            patch.setattr(Rome, "edit", edit)
            patch.setattr(attempts, "broken_device", lambda: lost[0] if lost else None)
            result = ke_run(*given)
        assert result.code == 1
        assert "the device has failed, and nothing can be computed on it" in result.err
        assert "an illegal memory access" in result.err and "start the same command again" in result.err
        stored = [line["status"] for line in lines_of(only_run(outputs))]
        assert set(stored) <= {"ok"} and len(stored) < 3
        assert record_of(only_run(outputs))["status"] == "failed"
        assert ke_run(*given).code == 0
        assert len(measured(only_run(outputs))) == 3

    def test_devices_are_asked_only_where_there_are_some(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert memory.broken_device() is None
        asked: list[int] = []

        def synchronize(number: int) -> None:
            asked.append(number)
            raise RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might be ...")

        cuda = torch.cuda
        for name, value in {"is_available": True, "is_initialized": True, "device_count": 3}.items():
            monkeypatch.setattr(cuda, name, lambda value=value: value)
        monkeypatch.setattr(cuda, "memory_allocated", lambda number: 5 * (number == 1))
        monkeypatch.setattr(cuda, "synchronize", synchronize)
        assert (memory.broken_device(), asked) == ("CUDA error: device-side assert triggered", [1])


class TestAttempts:
    """What is done together, and one by one where that fails."""

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (ArithmeticError("singular"), "ArithmeticError: singular"),
            (UnitError("its matrix is singular"), "its matrix is singular"),
            (OutOfMemory("out of memory with 1 row", where="here", hint="less"), "out of memory with 1 row"),
            (torch.OutOfMemoryError("CUDA out of memory"), "OutOfMemoryError: CUDA out of memory"),
        ],
    )
    def test_only_the_one_that_fails_has_a_reason(self, error: Exception, reason: str) -> None:
        def work(items: Sequence[int]) -> list[int]:
            if 3 in items:
                raise error
            return [10 * item for item in items]

        assert attempts.together_or_apart(work, [1, 2, 3, 4], "counting") == [10, 20, reason, 40]

    def test_results_that_are_not_one_for_each(self) -> None:
        found = attempts.together_or_apart(lambda items: [0] * (len(items) - 1), [1, 2], "counting")
        assert found == ["0 results came back for 1 units"] * 2

    def test_what_only_the_user_can_put_right(self) -> None:
        def work(items: Sequence[int]) -> list[int]:
            raise UserError("no such layer")

        with pytest.raises(UserError, match="no such layer"):
            attempts.together_or_apart(work, [1, 2], "counting")

    def test_nothing(self) -> None:
        assert attempts.together_or_apart(lambda _: [1], [], "counting") == []
