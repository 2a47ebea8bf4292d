"""A run that is killed, at whatever moment, and started again is the run that was never killed."""

from __future__ import annotations

import random
from pathlib import Path
from signal import SIGKILL

import pytest

from run.children import Moment, start
from run.commands import ONE_BY_ONE, Command, answers, arguments, lines_of, measured, only_run, record_of, strict

SMALL_RUN = ("dataset.limit=4", ONE_BY_ONE)

KILLED = [
    (Moment("store", 0, SIGKILL), 0),  # nothing is there but a locked folder
    (Moment("load", 0, SIGKILL), 0),
    (Moment("statistics", 0, SIGKILL), 0),
    (Moment("torn", 0, SIGKILL), 0),
    (Moment("append", 2, SIGKILL), 2),
    (Moment("advance", 3, SIGKILL), 4),  # everything is stored, and nobody knows
    (Moment("table", 0, SIGKILL), 4),
]
"""When a run is killed, and how many of its four units are stored by then."""

KILLED_TOO = [
    (Moment("torn", 2, SIGKILL), 2),
    (Moment("advance", 1, SIGKILL), 2),  # stored, but not yet counted
    (Moment("store", 1, SIGKILL), 0),  # the templates are sampled, but not yet recorded
    (Moment("edit", 0, SIGKILL), 0),
    (Moment("evaluate", 1, SIGKILL), 1),
    (Moment("sync", 10, SIGKILL), 2),
    (Moment("replace", 4, SIGKILL), 3),
]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where runs lie that nobody disturbed."""
    return tmp_path_factory.mktemp("reference")


def undisturbed(ke_run: Command, reference: Path, given: list[str], name: str) -> Path:
    """The folder of the run, which is made when first asked for."""
    if not (reference / name).exists():
        assert ke_run(*given, f"output_dir={reference / name}").code == 0
    return only_run(reference / name)


@pytest.mark.parametrize(
    ("moment", "stored"),
    [*KILLED, *(pytest.param(*more, marks=pytest.mark.slow) for more in KILLED_TOO)],
    ids=str,
)
def test_a_killed_run_goes_on(
    ke_run: Command,
    outputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_gpt2_dir: Path,
    reference: Path,
    moment: Moment,
    stored: int,
) -> None:
    monkeypatch.setenv("KE_CACHE", str(reference / "cache"))
    given = arguments(tiny_gpt2_dir, "rome", *SMALL_RUN)
    expected = undisturbed(ke_run, reference, given, "rome")
    if moment.place == "statistics":
        monkeypatch.setenv("KE_CACHE", str(tmp_path / "empty cache"))
    code, printed = start(given, tmp_path / "log", moment).ended()
    assert code == -SIGKILL, printed
    folder = only_run(outputs)
    kept = whole_lines(folder)
    assert kept.count(b"\n") == stored
    before = record_of(folder) if (folder / "run.json").exists() else {"wall_s": 0.0, "status": "running"}
    assert before["status"] == ("complete" if moment.place == "table" else "running")
    counted = [strict(line)["time"] for line in kept.decode().splitlines()[: max(0, stored - 1)]]
    assert before["wall_s"] >= sum(sum(times.values()) for times in counted), "a kill loses the time of a unit at most"

    result = ke_run(*given)
    assert result.code == 0
    check_same_run(folder, expected)
    assert (folder / "cases.jsonl").read_bytes().startswith(kept), "what was stored is not touched"
    record = record_of(folder)
    assert record["wall_s"] >= before["wall_s"]
    assert record["wall_s"] >= sum(sum(line["time"].values()) for line in lines_of(folder))
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "cases.jsonl", "run.json"]


def whole_lines(folder: Path) -> bytes:
    """The case log up to the last whole line."""
    log = folder / "cases.jsonl"
    content = log.read_bytes() if log.exists() else b""
    return content[: content.rfind(b"\n") + 1]


def check_same_run(folder: Path, expected: Path) -> None:
    """Compare a run with one that nobody disturbed: each case once, every number the same, to the last bit."""
    record, other = record_of(folder), record_of(expected)
    assert (record["status"], record["name"], record["totals"]) == ("complete", other["name"], other["totals"])
    assert (record["counts"], record["model"], record["dataset"]) == (other["counts"], other["model"], other["dataset"])
    assert record["context_templates"] == other["context_templates"]
    lines, others = lines_of(folder), lines_of(expected)
    assert [line["case_id"] for line in lines] == [line["case_id"] for line in others]
    assert measured(folder) == measured(expected)
    assert answers(folder) == answers(expected)
    assert [line["edit"] for line in lines] == [line["edit"] for line in others]


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_as_if_it_had_not_been(
    ke_run: Command, outputs: Path, tmp_path: Path, tiny_llama_dir: Path, reference: Path
) -> None:
    several = ("protocol=same_subject", "dataset.limit=6", "protocol.max_facts=2", "batch_tokens=512")
    given = arguments(tiny_llama_dir, "memit_merge", *several)
    expected = undisturbed(ke_run, reference, given, "memit_merge")
    times, kills = random.Random(0), 0
    for turn in range(50):
        child = start(given, tmp_path / f"log{turn}")
        child.process.join(times.uniform(0.1, 0.4 + turn / 6))  # in the end long enough, however busy the machine
        child.process.kill()
        code, printed = child.ended()
        assert code in (0, -SIGKILL), printed
        if code == 0:
            break
        kills += 1
    assert (kills >= 2, code) == (True, 0)
    check_same_run(only_run(outputs), expected)
    assert not list(only_run(outputs).glob("*rejected*"))
