"""Runs most of whose units fail are stopped, and go on when what was wrong is put right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from faults.test_computing import REAL_EDIT, without_instruction
from ke_cli.data.types import EditUnit
from ke_cli.errors import UnitError
from ke_cli.methods.rome import Rome
from ke_cli.results.reader import read_run
from ke_cli.running.failures import Failures
from run.commands import ONE_BY_ONE, Command, arguments, lines_of, only_run, record_of


class TestHopelessRuns:
    """``stop_failed``: more than a share of the units failed, once enough were tried."""

    @pytest.fixture
    def failing(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """Units fail while they are in front of the number in the list."""
        healed, count = [10**9], iter(range(10**9))

        def edit(self: Rome, bench: Any, units: Sequence[EditUnit]) -> Any:
            assert len(units) == 1
            if next(count) < healed[0]:
                raise UnitError("its matrix is singular")
            return REAL_EDIT(self, bench, units)

        monkeypatch.setattr(Rome, "edit", edit)
        return healed

    def test_a_hopeless_run_is_stopped_and_goes_on_when_it_is_healed(
        self, ke_run: Command, outputs: Path, tiny_gpt2_dir: Path, failing: list[int]
    ) -> None:
        given = arguments(tiny_gpt2_dir, "rome", ONE_BY_ONE, "dataset.limit=24")
        result = ke_run(*given)
        assert result.code == 1
        assert result.err.startswith(
            "error: the run was stopped: 20 of the 20 units tried failed; "
            "the reason for 20 of 20 cases: its matrix is singular\n"
        )
        assert "  allowed: up to 50 % once 20 units were tried (stop_failed)" in result.err
        assert "stop_failed=null" in result.err
        record = record_of(only_run(outputs))
        assert (record["status"], record["counts"]) == ("failed", {"units_ok": 0, "units_failed": 20})
        assert record["config"]["stop_failed"] == {"share": 0.5, "after": 20}
        failing[0] = 0
        assert ke_run(*given).code == 0
        record = record_of(only_run(outputs))
        assert (record["status"], record["counts"]) == ("complete", {"units_ok": 24, "units_failed": 0})
        assert len(read_run(only_run(outputs)).done) == 24

    @pytest.mark.parametrize(
        ("more", "tried", "code"),
        [
            (("stop_failed=null",), 8, 1),
            (("stop_failed.after=4",), 4, 1),
            (("stop_failed.after=4", "stop_failed.share=1"), 8, 1),
            (("stop_failed={share: 0, after: 1}",), 1, 1),
            (("stop_failed.after=8",), 8, 1),
        ],
    )
    def test_where_it_stops(
        self,
        ke_run: Command,
        outputs: Path,
        tiny_gpt2_dir: Path,
        failing: list[int],
        more: tuple[str, ...],
        tried: int,
        code: int,
    ) -> None:
        result = ke_run(*arguments(tiny_gpt2_dir, "rome", ONE_BY_ONE, "dataset.limit=8", *more))
        assert (result.code, len(lines_of(only_run(outputs)))) == (code, tried)
        assert ("the run was stopped" in result.err) == (tried < 8), "behind the last unit there is nothing to stop"

    def test_a_share_that_is_allowed_is_no_reason(
        self, ke_run: Command, outputs: Path, tiny_gpt2_dir: Path, failing: list[int]
    ) -> None:
        """Three of the first six: exactly half."""
        failing[0] = 3
        given = arguments(
            tiny_gpt2_dir, "rome", ONE_BY_ONE, "dataset.limit=8", "stop_failed.after=6", "metrics=efficacy"
        )
        assert ke_run(*without_instruction(given)).code == 0
        assert record_of(only_run(outputs))["counts"] == {"units_ok": 5, "units_failed": 3}

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("stop_failed.share=1.5", "share: expected 0 to 1, got 1.5"),
            ("stop_failed.after=0", "after: expected at least 1, got 0"),
            ("stop_failed=often", "stop_failed: expected a mapping"),
            ("+stop_failed.before=3", "stop_failed.before: unknown key"),
        ],
    )
    def test_what_is_no_threshold(self, ke_run: Command, tiny_gpt2_dir: Path, override: str, message: str) -> None:
        result = ke_run(*arguments(tiny_gpt2_dir, "rome", override))
        assert result.code in (1, 2) and message in result.err

    def test_units_are_counted_not_cases(self) -> None:
        failures = Failures(None, Path("run"))
        failures.add(
            [{"unit": "a", "status": "failed", "error": "why"}] * 5 + [{"unit": "b", "status": "ok", "error": None}]
        )
        assert (failures.tried, failures.failed, failures.reasons) == (2, 1, {"why": 5})
        failures.refuse_hopeless()
