"""Runs that know what the unedited model answers: the same numbers, without asking it again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest

from ke_cli.running import unedited
from marks import each_once
from run.children import Moment, start
from run.commands import ONE_BY_ONE, SMALL, VALUE, Command, arguments, lines_of, only_run, run_folders
from tiny import tiny_gpt2

OFF = "unedited_cache=false"
KEYS = ("ask", "prompt", "target", "token", "k", "question")
"""What of a stored answer is the question."""


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder for the run; returns where answers will be."""
    monkeypatch.setenv("KE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "unedited"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many questions each call asks of the unedited model."""
    calls: list[int] = []
    real = unedited.answer

    def answer(model: Any, questions: Any, edits: Any, *, budget: Any) -> Any:
        calls.append(sum(map(len, questions)))
        return real(model, questions, edits, budget=budget)

    monkeypatch.setattr(unedited, "answer", answer)
    return calls


def results(folder: Path) -> list[dict[str, Any]]:
    """All lines of a run but for the time it took; equal if every number is the same to the bit."""
    return [{key: value for key, value in line.items() if key != "time"} for line in lines_of(folder)]


def files(fresh: Path) -> list[Path]:
    return sorted(fresh.rglob("*.json"))


@pytest.mark.parametrize(("tiny_dir", "method"), each_once(["gpt2", "llama"], ["rome", "none"]), indirect=["tiny_dir"])
def test_cold_warm_and_without_a_cache_are_the_same_run(
    ke_run: Command, tiny_dir: Path, fresh: Path, asked: list[int], method: str
) -> None:
    found, counts, kept = [], [], []
    for name, more in (("off", (OFF,)), ("cold", ()), ("warm", ())):
        asked.clear()
        assert ke_run(*arguments(tiny_dir, method, *more, f"output_dir={name}")).code == 0
        found.append(results(only_run(Path(name))))
        counts.append(sum(asked))
        kept.append(files(fresh))
    assert found[0] == found[1] == found[2]
    assert any(line["before"] for line in found[0])
    assert counts[0] == counts[1] > 0 == counts[2]
    assert kept[0] == [] and kept[1] == kept[2] != []


def test_the_second_method_of_a_sweep_asks_the_unedited_model_nothing(
    ke_run: Command, outputs: Path, tiny_gpt2_dir: Path, fresh: Path, asked: list[int]
) -> None:
    given = ["-m", "model=local", f"model.path={tiny_gpt2_dir}", *SMALL, *VALUE, "seed=0"]
    assert ke_run(*given, "method=rome,r_rome").code == 0
    once = list(asked)
    assert sum(once) > 0
    asked.clear()
    assert ke_run(*given, "method=rome", OFF, "output_dir=alone").code == 0
    assert asked == once, "one of the two methods asked everything, the other nothing"
    one, other = (results(folder) for folder in run_folders(outputs))
    assert [line["before"] for line in one] == [line["before"] for line in other]
    alone = results(only_run(Path("alone")))
    assert alone in (one, other)


def test_another_seed_asks_nothing(ke_run: Command, tiny_gpt2_dir: Path, fresh: Path, asked: list[int]) -> None:
    given = arguments(tiny_gpt2_dir, "rome")
    assert ke_run(*given).code == 0
    asked.clear()
    assert ke_run(*given, "seed=1", "output_dir=second").code == 0
    assert asked == []


@pytest.mark.slow
def test_other_batches_are_asked_for_themselves(ke_run: Command, tiny_dir: Path, fresh: Path, asked: list[int]) -> None:
    given = arguments(tiny_dir, "rome")
    assert ke_run(*given, ONE_BY_ONE, OFF, "output_dir=alone").code == 0
    assert ke_run(*given, "batch_tokens=100000", "output_dir=wide").code == 0
    asked.clear()
    assert ke_run(*given, ONE_BY_ONE, "output_dir=tight").code == 0
    assert len(asked) == 3, "what was computed in a large batch has other last digits"
    assert results(only_run(Path("tight"))) == results(only_run(Path("alone")))


@pytest.mark.slow
def test_a_killed_run_goes_on_with_what_it_knew(
    ke_run: Command, outputs: Path, tmp_path: Path, tiny_gpt2_dir: Path, fresh: Path, asked: list[int]
) -> None:
    given = arguments(tiny_gpt2_dir, "rome", ONE_BY_ONE)
    assert start(given, tmp_path / "log", Moment("append", 1, SIGKILL)).ended()[0] == -SIGKILL
    assert len(lines_of(only_run(outputs))) == 1
    known = {path: path.read_bytes() for path in files(fresh)}
    assert len(known) == 2, "the unit that was lost had been asked about"
    assert ke_run(*given).code == 0
    assert len(asked) == 1
    assert {path: path.read_bytes() for path in known} == known
    assert ke_run(*given, OFF, "output_dir=whole").code == 0
    assert results(only_run(outputs)) == results(only_run(Path("whole")))


def test_another_model_or_data_type_is_asked_itself(
    ke_run: Command, tmp_path: Path, tiny_gpt2_dir: Path, fresh: Path, asked: list[int]
) -> None:
    own = Path(shutil.copytree(tiny_gpt2_dir, tmp_path / "own"))
    counts = []
    for number, more in enumerate(((), ("model.dtype=float64",), ())):
        if number == 2:
            shutil.rmtree(own)
            tiny_gpt2(own, seed=99)
        asked.clear()
        assert ke_run(*arguments(own, "none", *more, f"output_dir=of{number}")).code == 0
        counts.append(sum(asked))
    assert counts[0] == counts[1] == counts[2] > 0
    found = [results(only_run(Path(f"of{number}"))) for number in range(3)]
    assert found[0] != found[1] != found[2] != found[0]


def test_damaged_files_cost_nothing_but_time(
    ke_run: Command, tiny_gpt2_dir: Path, fresh: Path, asked: list[int]
) -> None:
    given = arguments(tiny_gpt2_dir, "rome", ONE_BY_ONE)
    assert ke_run(*given, "output_dir=first").code == 0
    whole = {path: path.read_bytes() for path in files(fresh)}
    torn, other, _ = whole
    torn.write_bytes(whole[torn][:100])
    other.write_bytes(whole[torn])
    asked.clear()
    result = ke_run(*given, "output_dir=second")
    assert (result.code, len(asked)) == (0, 2)
    assert result.text.count("its answers are computed again") == 2
    assert {path: path.read_bytes() for path in files(fresh)} == whole
    assert results(only_run(Path("first"))) == results(only_run(Path("second")))


def test_a_run_does_without_a_cache_that_cannot_be_used(
    ke_run: Command, tiny_gpt2_dir: Path, fresh: Path, asked: list[int]
) -> None:
    given = arguments(tiny_gpt2_dir, "none", ONE_BY_ONE)
    fresh.parent.mkdir()
    fresh.write_text("in the way")
    result = ke_run(*given, "output_dir=first")
    assert (result.code, result.text.count("answers of the unedited model")) == (0, 1)
    assert ke_run(*given, OFF, "output_dir=second").code == 0
    assert results(only_run(Path("first"))) == results(only_run(Path("second")))
    assert fresh.read_text() == "in the way"


def test_cases_with_the_same_questions_ask_them_once(
    ke_run: Command, tiny_gpt2_dir: Path, fresh: Path, asked: list[int]
) -> None:
    more = ("protocol=same_subject", "dataset.limit=2", "protocol.max_facts=3")
    given = arguments(tiny_gpt2_dir, "memit_merge", *more)
    assert ke_run(*given, "output_dir=first").code == 0
    cases = results(only_run(Path("first")))
    assert len(cases) == 6
    different = {json.dumps({k: v for k, v in one.items() if k in KEYS}) for case in cases for one in case["before"]}
    assert asked == [len(different)], "facts of a subject are asked about what none of them writes"
    assert len(files(fresh)) == 1, "one package"
    asked.clear()
    assert ke_run(*given, "seed=3", "output_dir=second").code == 0
    assert asked == []
