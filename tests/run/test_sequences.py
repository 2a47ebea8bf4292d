"""Batches and sequences of edits through the command: what is stored, and going on in the middle."""

from __future__ import annotations

import json
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest
from safetensors.torch import load_file

from ke_cli.errors import UnitError
from ke_cli.export import main as export
from ke_cli.methods.alphaedit import AlphaEdit
from ke_cli.running.sequence import Lifelong
from run.children import Moment, start
from run.commands import Command, answers, arguments, lines_of, measured, only_run, record_of

SEQUENCE = ("protocol=sequential", "dataset.limit=5", "protocol.size=1", "protocol.checkpoints=[2,4]")
NO_CHECKPOINTS = "protocol.every=null"


def sequence(model: Path, *more: str) -> list[str]:
    return quick(model, "alphaedit", *SEQUENCE, NO_CHECKPOINTS, *more)


def quick(model: Path, method: str, *more: str) -> list[str]:
    """The arguments of a run that measures little."""
    given = arguments(model, method, *more, "metrics=quick")
    return [text for text in given if "max_new_tokens" not in text]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the run lies that nobody disturbed."""
    return tmp_path_factory.mktemp("reference")


@pytest.fixture
def undisturbed(ke_run: Command, reference: Path, tiny_gpt2_dir: Path) -> Path:
    if not any(reference.iterdir()):
        result = ke_run(*sequence(tiny_gpt2_dir, f"output_dir={reference}", "save_edits=true"))
        assert result.code == 0, result.text
        (reference / "said.txt").write_text(result.text, encoding="utf-8")
    return next(path for path in reference.iterdir() if path.is_dir() and not path.name.startswith("."))


def stages(folder: Path) -> dict[int, list[dict[str, Any]]]:
    """The lines of each checkpoint."""
    found: dict[int, list[dict[str, Any]]] = {}
    for line in lines_of(folder):
        found.setdefault(line["checkpoint"], []).append(line)
    return found


def without_times(folder: Path) -> list[dict[str, Any]]:
    return [{**line, "time": None, "edit": {**line["edit"], "saved": None}} for line in lines_of(folder)]


def test_at_each_checkpoint_all_facts_so_far_are_stored(undisturbed: Path) -> None:
    found, record = stages(undisturbed), record_of(undisturbed)
    assert list(found) == [2, 4, 5]
    for count, lines in found.items():
        assert [line["position"] for line in lines] == list(range(1, count + 1))
        assert {(line["unit"], line["unit_size"]) for line in lines} == {(f"facts-1-{count}", count)}
        assert [line["case_id"] for line in lines] == [line["case_id"] for line in found[5]][:count]
        assert [line["prompts_sha256"] for line in lines] == [line["prompts_sha256"] for line in found[5]][:count]
    assert record["status"] == "complete"
    assert record["totals"] == {"cases": 5, "units": 3, "checkpoints": [2, 4, 5]}
    assert [told["facts"] for told in record["checkpoints"]] == [2, 4, 5]
    norms = [sum(told["norms"].values()) for told in record["checkpoints"]]
    assert norms == sorted(norms) and norms[0] > 0


def test_each_checkpoint_is_said(undisturbed: Path, reference: Path) -> None:
    said = (reference / "said.txt").read_text(encoding="utf-8")
    for count in (2, 4, 5):
        assert f"after {count} facts: efficacy" in said
    assert "atlas · sequential" in said and "On 5 of 5 cases" in said


def test_the_state_is_one_matrix_for_each_weight_and_what_is_remembered(undisturbed: Path) -> None:
    tensors = load_file(undisturbed / "state.safetensors")
    names = {name.partition("::")[0] for name in tensors}
    assert names == {"total", "memory"}
    assert len(list(undisturbed.glob("state*"))) == 1, "only the last state is kept"


@pytest.mark.parametrize("turn", [3, *(pytest.param(turn, marks=pytest.mark.slow) for turn in (0, 1, 2, 4))])
def test_a_sequence_goes_on_where_it_was_stopped(
    turn: int,
    ke_run: Command,
    outputs: Path,
    undisturbed: Path,
    tiny_gpt2_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = written(monkeypatch, stop=turn)
    given = sequence(tiny_gpt2_dir, "protocol.save_every=3")
    assert ke_run(*given).code == 130
    result = ke_run(*given)
    assert result.code == 0, result.text
    assert without_times(only_run(outputs)) == without_times(undisturbed)
    saved = [0, 0, 2, 3, 4][turn]
    assert len(calls) - turn - 1 == 5 - saved, "batches behind the saved state are written again, no others"


def written(monkeypatch: pytest.MonkeyPatch, stop: int) -> list[str]:
    """Record every batch that is written, and interrupt the one with the number ``stop``, once."""
    calls: list[str] = []
    real = Lifelong._written

    def recording(self: Lifelong, state: Any, unit: Any) -> Any:
        calls.append(unit.unit_id)
        if len(calls) == stop + 1:
            raise KeyboardInterrupt
        return real(self, state, unit)

    monkeypatch.setattr(Lifelong, "_written", recording)
    return calls


@pytest.mark.parametrize("place", ["append-1", "torn-1", "store-3"])
@pytest.mark.slow
def test_a_killed_sequence_goes_on(
    place: str, ke_run: Command, outputs: Path, tmp_path: Path, undisturbed: Path, tiny_gpt2_dir: Path
) -> None:
    name, _, turn = place.partition("-")
    given = sequence(tiny_gpt2_dir)
    code, printed = start(given, tmp_path / "log", Moment(name, int(turn), SIGKILL)).ended()
    assert code == -SIGKILL, printed
    whole = (only_run(outputs) / "cases.jsonl").read_bytes().count(b"\n")
    assert 2 <= whole <= 6, "some checkpoints are stored, the last is not"
    assert ke_run(*given).code == 0
    assert without_times(only_run(outputs)) == without_times(undisturbed)


@pytest.mark.slow
def test_without_its_state_a_sequence_is_written_again(
    ke_run: Command, outputs: Path, undisturbed: Path, tiny_gpt2_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damaged, and for a checkpoint that lies behind it: the numbers are the same, and nothing is stored twice."""
    calls = written(monkeypatch, stop=4)
    given = sequence(tiny_gpt2_dir, "protocol.save_every=null")
    assert ke_run(*given).code == 130
    folder = only_run(outputs)
    state = folder / "state.safetensors"
    content = bytearray(state.read_bytes())
    content[-3] ^= 1
    state.write_bytes(content)
    result = ke_run(*given)
    assert result.code == 0, result.text
    assert calls[5:] == [f"facts-{n}-{n}" for n in range(1, 6)]
    assert without_times(folder) == without_times(undisturbed)
    lines = (folder / "cases.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "cases.jsonl").write_bytes(b"".join(lines[:2] + lines[6:]))  # the second checkpoint is lost
    assert ke_run(*given).code == 0
    assert sorted(map(str, without_times(folder))) == sorted(map(str, without_times(undisturbed)))


def test_a_complete_sequence_is_recognised(ke_run: Command, undisturbed: Path, tiny_gpt2_dir: Path, loads: list[str]):
    result = ke_run(*sequence(tiny_gpt2_dir, f"output_dir={undisturbed.parent}", "save_edits=true"))
    assert result.code == 0 and "this run is complete" in result.text and loads == []


def test_a_saved_checkpoint_is_evaluated_as_a_batch(
    ke_run: Command, outputs: Path, undisturbed: Path, tiny_gpt2_dir: Path
) -> None:
    given = quick(tiny_gpt2_dir, "alphaedit", "protocol=batch", "protocol.size=5", "dataset.limit=5")
    result = ke_run(*given, f"edits_from={undisturbed}")
    assert result.code == 0, result.text
    want = {line["case_id"]: line["metrics"] for line in stages(undisturbed)[5]}
    found = measured(only_run(outputs))
    for case_id, metrics in want.items():
        assert found[case_id] == pytest.approx(metrics, abs=1e-5)


def test_checkpoints_are_exported_one_by_one(
    undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export([str(undisturbed), "--all", "--to", str(tmp_path / "all"), "--as", "checkpoint"]) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "cannot be added" in told and "--units facts-1-5" in told
    given = ["--units", "facts-1-4", "--to", str(tmp_path / "one"), "--as", "checkpoint", "--check"]
    assert export([str(undisturbed), *given]) == 0
    assert "checked: logits after 4 prompts" in capsys.readouterr().out


def test_the_unedited_model_answers_as_ever(
    ke_run: Command, outputs: Path, undisturbed: Path, tiny_gpt2_dir: Path
) -> None:
    """At every checkpoint "before" is the model that nobody has edited."""
    found = stages(undisturbed)
    before = {line["case_id"]: line["before"] for line in found[5]}
    for lines in found.values():
        for line in lines:
            assert numbers_only(line["before"]) == pytest.approx(numbers_only(before[line["case_id"]]), abs=1e-5)
    assert any(line["after"] != line["before"] for line in found[5])


def numbers_only(asked: list[dict[str, Any]]) -> list[float]:
    return [nll for answer in asked for nll in answer.get("nlls", ())]


def test_a_batch_that_cannot_be_written_is_left_out_and_said(
    ke_run: Command, outputs: Path, tiny_gpt2_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, units = AlphaEdit.follow, []

    def failing(self: AlphaEdit, bench: Any, unit: Any, memory: Any) -> Any:
        units.append((unit.unit_id, {name: float(matrix.trace()) for name, matrix in memory.items()}))
        if unit.unit_id == "facts-2-2":
            raise UnitError("it would not converge")
        return real(self, bench, unit, memory)

    monkeypatch.setattr(AlphaEdit, "follow", failing)
    result = ke_run(*sequence(tiny_gpt2_dir))
    assert result.code == 0, result.text
    record = record_of(only_run(outputs))
    assert "facts-2-2 could not be written: it would not converge" in record["notes"]
    assert [told["skipped"] for told in record["checkpoints"]] == [{"facts-2-2": "it would not converge"}] * 3
    assert len(stages(only_run(outputs))[5]) == 5, "it counts among the facts all the same"
    assert units[1][1] == units[2][1], "nothing is remembered of it"


def test_a_sequence_of_failures_is_stopped(
    ke_run: Command, outputs: Path, tiny_gpt2_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: AlphaEdit, bench: Any, unit: Any, memory: Any) -> Any:
        raise UnitError("it would not converge")

    monkeypatch.setattr(AlphaEdit, "follow", failing)
    result = ke_run(*sequence(tiny_gpt2_dir, "stop_failed={share: 0.5, after: 2}"))
    assert result.code == 1
    assert "the run was stopped: 2 of the 2 units tried failed" in result.text


def test_editors_may_forget(ke_run: Command, outputs: Path, undisturbed: Path, tiny_gpt2_dir: Path) -> None:
    assert ke_run(*sequence(tiny_gpt2_dir, "protocol.remember=false")).code == 0
    folder = only_run(outputs)
    assert folder.name != undisturbed.name
    assert not [name for name in load_file(folder / "state.safetensors") if name.startswith("memory")]
    assert record_of(folder)["checkpoints"][-1]["norms"] != record_of(undisturbed)["checkpoints"][-1]["norms"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("shard.count=2",), "cannot be split into shards"),
        (("protocol.ability=[hellaswag]",), "pip install -e '.[ability]'"),
        (("protocol.size=2", "protocol.checkpoints=[3]"), "3 facts are not whole batches of 2"),
    ],
)
def test_what_a_sequence_cannot_do(more: tuple[str, ...], message: str, ke_run: Command, tiny_gpt2_dir: Path) -> None:
    if "ability" in more[0] and __import__("importlib").util.find_spec("lm_eval"):
        pytest.skip("lm-evaluation-harness is installed here")
    result = ke_run(*sequence(tiny_gpt2_dir, *more))
    assert result.code == 1 and message in result.text, result.text


def test_general_ability_is_asked_at_every_checkpoint(
    ke_run: Command, outputs: Path, tiny_gpt2_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys
    from types import ModuleType

    asked: list[tuple[float, tuple[str, ...], int | None]] = []
    fake = ModuleType("ke_cli.running.ability")

    def measure_ability(model: Any, edit: Any, tasks: Any, limit: int | None, *, manager: Any) -> dict[str, float]:
        asked.append((edit.norm, tuple(tasks), limit))
        assert manager == f"read {tasks} once"
        return {task: 0.25 + len(asked) for task in tasks}

    read = iter(["read ['mmlu'] once"])  # a second time is an error
    fake.measure_ability = measure_ability  # type: ignore[attr-defined]
    fake.check_tasks = lambda tasks: next(read)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ke_cli.running.ability", fake)
    monkeypatch.setattr("ke_cli.running.sequence_plan.find_spec", lambda name: object())
    result = ke_run(*sequence(tiny_gpt2_dir, "protocol.ability=[mmlu]", "protocol.ability_limit=7"))
    assert result.code == 0, result.text
    assert [limit for *_, limit in asked] == [7] * 4 and asked[0][0] == 0.0 < asked[1][0]
    told = record_of(only_run(outputs))["checkpoints"]
    assert [(entry["facts"], entry["ability"]["mmlu"]) for entry in told] == [
        (0, 1.25),
        (2, 2.25),
        (4, 3.25),
        (5, 4.25),
    ]
    assert "mmlu 4.250" in result.text


def test_a_plan_says_when_a_sequence_is_evaluated(ke_run: Command, tiny_gpt2_dir: Path) -> None:
    result = ke_run(*sequence(tiny_gpt2_dir, "dry_run=true"))
    assert "after 2, 4, 5 facts" in result.text and "each unit on top of the earlier ones" in result.text


def test_a_batch_is_written_at_once_and_all_of_it_evaluated(
    ke_run: Command, outputs: Path, tiny_gpt2_dir: Path
) -> None:
    given = arguments(tiny_gpt2_dir, "memit", "protocol=batch", "protocol.size=3", "dataset.limit=5")
    result = ke_run(*given)
    assert result.code == 0, result.text
    lines = lines_of(only_run(outputs))
    assert [(line["unit"], line["unit_size"]) for line in lines] == [("facts-1-3", 3)] * 3 + [("facts-4-5", 2)] * 2
    norms = {line["unit"]: line["edit"]["norm"] for line in lines}
    assert len(set(norms.values())) == 2
    assert json.dumps(answers(only_run(outputs)))
