"""One configuration, one set of numbers: to the last bit, however a run is split, interrupted or ordered."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from counterfact_files import record
from ke_cli.running import partition
from run.commands import Command, arguments, lines_of, measured, only_run, record_of, run_folders

TEN = ("dataset.limit=10", "batch_tokens=512")
"""Ten units in packages of two; with `small_blocks` in blocks of four."""

WAYS = {
    "none": ("gpt2",),
    "rome": ("llama",),
    "rets": ("gpt2",),
    "ft": ("gpt2",),
    "memit": ("llama", "protocol=same_subject", "protocol.max_facts=2", "batch_tokens=1024"),
    "rose": ("gpt2", "protocol=same_subject", "protocol.max_facts=2", "batch_tokens=1024"),
}


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition, "SMALLEST", 4)


QUICKLY = ("memit",)


@pytest.fixture(params=[name if name in QUICKLY else pytest.param(name, marks=pytest.mark.slow) for name in WAYS])
def given(request: pytest.FixtureRequest, small_blocks: None) -> list[str]:
    """The arguments of a run of ten units, by one of several methods."""
    kind, *more = WAYS[request.param]
    return arguments(request.getfixturevalue(f"tiny_{kind}_dir"), request.param, *TEN, *more)


def digits(*folders: Path) -> dict[str, str]:
    """All that runs say about their cases but for the time it took: equal texts if every number is, to the bit."""
    lines = [line for folder in folders for line in lines_of(folder)]
    found = {line["case_id"]: json.dumps({k: v for k, v in line.items() if k != "time"}) for line in lines}
    assert len(found) == len(lines), "a case is stored once"
    return found


def done(ke_run: Command, *args: str) -> Path:
    """Do a run in an output folder of its own; return the run's folder."""
    name = f"own{len(list(Path().iterdir()))}"
    result = ke_run(*args, f"output_dir={name}")
    assert result.code == 0, result.text
    return only_run(Path(name))


def rewritten(folder: Path, keep: Any) -> None:
    """Leave only some units in a case log, as a killed run does that stored others before."""
    path = folder / "cases.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(line for line in lines if keep(json.loads(line)["unit"])))


def test_neighbours_have_an_influence(ke_run: Command, tiny_gpt2_dir: Path) -> None:
    """Without which the tests below would prove nothing."""
    args = arguments(tiny_gpt2_dir, "rome", *TEN)
    pairs, single = digits(done(ke_run, *args)), digits(done(ke_run, *args, "batch_tokens=256"))
    assert pairs.keys() == single.keys()
    assert pairs != single


def test_shards_are_the_run_in_parts(ke_run: Command, given: list[str]) -> None:
    whole = done(ke_run, *given)
    for index in (2, 0, 3, 1):
        result = ke_run(*given, "shard.count=4", f"shard.index={index}", "output_dir=parts")
        assert result.code == 0
        assert "1 of 4 shards have nothing to do: shards take whole blocks of 4 units" in result.text
    folders = run_folders(Path("parts"))
    name = whole.name
    assert [folder.name for folder in folders] == [f"{name}_shard-{index}-of-4" for index in range(4)]
    assert [len({line["unit"] for line in lines_of(folder)}) for folder in folders] == [4, 4, 2, 0]
    assert digits(*folders) == digits(whole)
    records = [record_of(folder) for folder in folders]
    total = record_of(whole)["totals"]
    for index, found in enumerate(records):
        own = {"cases": len(lines_of(folders[index])), "units": len({x["unit"] for x in lines_of(folders[index])})}
        assert found["totals"] == {**own, "whole": total}
        assert (found["run_id"], found["status"]) == (record_of(whole)["run_id"], "complete")
        assert found["config"]["shard"] == {"count": 4, "index": index} and "shard" not in found["identity"]


def test_whatever_is_stored_the_rest_has_the_same_numbers(ke_run: Command, given: list[str]) -> None:
    whole = done(ke_run, *given)
    expected = digits(whole)
    units = sorted({json.loads(line)["unit"] for line in expected.values()})
    for turn in range(3):
        kept = set(random.Random(turn).sample(units, 5))
        rewritten(whole, kept.__contains__)
        assert len({line["unit"] for line in lines_of(whole)}) == 5
        result = ke_run(*given, f"output_dir={whole.parent}")
        assert (result.code, "going on: 5 of 10 units are stored already" in result.text) == (0, True)
        assert digits(whole) == expected
        assert record_of(whole)["counts"] == {"units_ok": 10, "units_failed": 0}


@pytest.mark.parametrize(
    ("method", "protocol"),
    [
        ("memit", "same_subject"),
        pytest.param("rets", "single", marks=pytest.mark.slow),
        pytest.param("rome", "single", marks=pytest.mark.slow),
        pytest.param("rose", "same_subject", marks=pytest.mark.slow),
    ],
)
def test_the_order_of_the_data_changes_no_number(
    ke_run: Command, tmp_path: Path, tiny_gpt2_dir: Path, method: str, protocol: str
) -> None:
    countries = ("Angola", "Chad", "Mali", "Ghana", "Kenya", "Togo")
    facts = [
        record(case_id=number, rewrite={"subject": name, "relation_id": relation, "prompt": prompt})
        for number, (name, (relation, prompt)) in enumerate(
            (name, fact) for name in countries for fact in (("P30", "{} is located in"), ("P36", "{} is governed from"))
        )
    ]
    path = tmp_path / "facts.json"
    data = (f"dataset.path='{path}'", "dataset.limit=null", "batch_tokens=1024", f"protocol={protocol}")
    args = arguments(tiny_gpt2_dir, method, "dataset=counterfact", *data)
    found = []
    for turn in range(3):
        order = list(range(6))
        random.Random(turn).shuffle(order)
        mixed = [fact for place in (range(6) if turn == 0 else order) for fact in facts[2 * place : 2 * place + 2]]
        path.write_text(json.dumps(mixed), encoding="utf-8")
        found.append(digits(done(ke_run, *args)))
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 12


@pytest.mark.slow
def test_what_is_remembered_changes_no_number(
    ke_run: Command, tmp_path: Path, tiny_gpt2_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers and statistics of other runs: of more cases, fewer, other methods, layers and budgets."""
    args = arguments(tiny_gpt2_dir, "rome", *TEN)
    monkeypatch.setenv("KE_CACHE", str(tmp_path / "fresh"))
    expected = digits(done(ke_run, *args))
    monkeypatch.setenv("KE_CACHE", str(tmp_path / "used"))
    for others in (
        ("memit", "dataset.limit=10", "batch_tokens=2048"),
        ("memit", "dataset.limit=3", "method.layers=[1,2,3]"),
        ("none", "dataset.limit=9", "batch_tokens=512"),
        ("none", "dataset.limit=20", "batch_tokens=512", "metrics.instruction.max_new_tokens=2"),
    ):
        done(ke_run, *arguments(tiny_gpt2_dir, *others))
        assert digits(done(ke_run, *args)) == expected
    assert digits(done(ke_run, *args, "unedited_cache=false")) == expected


def test_the_order_of_metrics_changes_no_number(ke_run: Command, tiny_gpt2_dir: Path) -> None:
    args = [arg for arg in arguments(tiny_gpt2_dir, "rome", *TEN) if not arg.startswith("metrics.")]
    orders = ("[efficacy,paraphrase,neighborhood]", "[neighborhood,paraphrase,efficacy]")
    first, second = (done(ke_run, *args, f"metrics={order}", "unedited_cache=false") for order in orders)
    assert first.name == second.name
    assert measured(first) == measured(second)
    assert len(measured(first)) == 10


def test_statistics_are_the_same_whoever_needs_them_first(
    ke_run: Command, tmp_path: Path, tiny_gpt2_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[dict[str, torch.Tensor]] = []
    for turn, first in enumerate((("rome", "batch_tokens=150"), ("memit", "batch_tokens=100000"))):
        cache = tmp_path / f"cache{turn}"
        monkeypatch.setenv("KE_CACHE", str(cache))
        done(ke_run, *arguments(tiny_gpt2_dir, *first, "method.layers=[2]" if turn == 0 else "method.layers=[1,2,3]"))
        done(ke_run, *arguments(tiny_gpt2_dir, "memit", "method.layers=[1,2,3]"))
        files = (cache / "statistics").glob("covariance-*")
        kept.append({path.name: load_file(path)["covariance"] for path in files})
    assert len(kept[0]) == 3 and kept[0].keys() == kept[1].keys()
    assert all(torch.equal(matrix, kept[1][name]) for name, matrix in kept[0].items())


@pytest.mark.slow
def test_what_ran_before_in_this_process_changes_no_number(
    ke_run: Command, tmp_path: Path, tiny_llama_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = ("ft", "rome", "rose", "alphaedit")
    found: list[dict[str, dict[str, str]]] = []
    for turn, order in enumerate((methods, methods[::-1])):
        monkeypatch.setenv("KE_CACHE", str(tmp_path / f"cache{turn}"))
        found.append({name: digits(done(ke_run, *arguments(tiny_llama_dir, name, *TEN))) for name in order})
    for method in methods:
        assert found[0][method] == found[1][method], method


def test_the_number_of_threads_is_the_configured_one_for_the_time_of_the_run(
    ke_run: Command, tiny_gpt2_dir: Path
) -> None:
    before = torch.get_num_threads()
    given = arguments(tiny_gpt2_dir, "rome", *TEN)
    here, fixed = done(ke_run, *given), done(ke_run, *given, "cpu_threads=2")
    assert (record_of(here)["hardware"]["threads"], record_of(fixed)["hardware"]["threads"]) == (before, 2)
    assert here.name == fixed.name and torch.get_num_threads() == before
    torch.set_num_threads(3)
    try:
        assert digits(done(ke_run, *given, "cpu_threads=2", "unedited_cache=false")) == digits(fixed)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_fresh_processes_with_other_hash_seeds_have_the_same_numbers(
    ke_run: Command, tmp_path: Path, tiny_gpt2_dir: Path
) -> None:
    given = arguments(tiny_gpt2_dir, "rets", *TEN, "cpu_threads=1", "unedited_cache=false")
    expected = digits(done(ke_run, *given))
    for seed, threads in (("1", "1"), ("77", "3")):
        own = {"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": threads, "KE_CACHE": str(tmp_path / seed)}
        command = [sys.executable, "-m", "ke_cli.run", *given, f"output_dir=seed{seed}"]
        ended = subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        assert digits(only_run(Path(f"seed{seed}"))) == expected


def test_an_empty_shard_is_complete_and_says_so(ke_run: Command, tiny_gpt2_dir: Path, loads: list[str]) -> None:
    given = arguments(tiny_gpt2_dir, "rome", "shard.count=2", "shard.index=1")
    folder = done(ke_run, *given)
    found = record_of(folder)
    assert (found["status"], found["totals"]["units"], found["totals"]["whole"]["units"], loads) == (
        "complete",
        0,
        3,
        [],
    )
    assert lines_of(folder) == []
    assert ke_run(*given, f"output_dir={folder.parent}").code == 0


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("shard.count=0",), "shard.count: expected at least 1, got 0"),
        (("shard.count=2", "shard.index=2"), "shard.index: expected 0 to 1 (shard.count=2), got 2"),
        (("shard.index=-1",), "shard.index: expected 0 to 0 (shard.count=1), got -1"),
        (("shard.count=x",), 'shard.count: expected an integer, got "x"'),
        (("cpu_threads=0",), "cpu_threads: expected at least 1, got 0"),
    ],
)
def test_a_shard_that_there_is_not_is_refused(
    ke_run: Command, tiny_gpt2_dir: Path, args: tuple[str, ...], expected: str
) -> None:
    result = ke_run(*arguments(tiny_gpt2_dir, "none", *args))
    assert (result.code, expected in result.text) == (1, True), result.text


def test_the_plan_tells_what_a_shard_is(ke_run: Command, tiny_gpt2_dir: Path) -> None:
    given = arguments(tiny_gpt2_dir, "none", "dataset.limit=40", "batch_tokens=2048", "shard.count=2", "shard.index=1")
    text = ke_run(*given, "dry_run=true").text
    assert "40 in 40 units of 1 fact" in text and "1 of 2: 16 of the cases in 16 units" in text
    assert "up to 8 units at a time, 2 times" in text


@pytest.mark.slow
def test_shards_are_swept(ke_run: Command, tiny_gpt2_dir: Path, small_blocks: None) -> None:
    given = arguments(tiny_gpt2_dir, "none", *TEN)
    whole = done(ke_run, *given)
    assert ke_run("-m", *given, "shard.count=3", "shard.index=range(3)", "output_dir=parts").code == 0
    folders = run_folders(Path("parts"))
    assert digits(*folders) == digits(whole)
    shutil.rmtree(folders[1])
    assert ke_run("-m", *given, "shard.count=3", "shard.index=range(3)", "output_dir=parts").code == 0
    assert digits(*run_folders(Path("parts"))) == digits(whole)
