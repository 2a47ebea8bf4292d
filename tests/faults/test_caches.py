"""Caches that are damaged, that several processes use at once, or that cannot be used at all."""

from __future__ import annotations

import logging
import os
import random
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from engine.benches import documents, load_tiny, write_text
from faults.driver import process
from ke_cli.data.text import TextSource
from ke_cli.engine import kept, statistics
from ke_cli.engine.kept import Kept
from ke_cli.engine.statistics import StatisticsSpec, StatisticsStore
from ke_cli.errors import UserError
from run import children
from run.commands import ONE_BY_ONE, Command, answers, arguments, lines_of, measured, only_run, record_of

WRITERS = 4


def store_at(folder: Path) -> StatisticsStore:
    folder.mkdir(parents=True, exist_ok=True)
    text = folder / "text.txt"
    if not text.exists():
        write_text(text, documents(600))
    return StatisticsStore(folder / "cache", StatisticsSpec(TextSource(str(text)), tokens=500, max_length=24), 400)


class TestDamage:
    """A file of tensors is what was saved, or it is not used: whichever of its bytes is another."""

    @pytest.fixture
    def file(self, tmp_path: Path) -> Kept:
        made = Kept(tmp_path / "kept.safetensors", {"format": 1, "model": "ab" * 8, "layers": [1, 2]})
        made.save({"covariance": torch.arange(12.0).reshape(3, 4), "place": torch.tensor([1, 2, 3])}, tokens_seen="9")
        return made

    def test_every_byte(self, file: Kept) -> None:
        """Three other values for each: in the length of the head, in the head, in the numbers."""
        whole, dice, used = file.path.read_bytes(), random.Random(0), 0
        want = file.load()
        assert want is not None
        for place in range(len(whole)):
            for value in {whole[place] ^ 1, whole[place] ^ 0x80, dice.randrange(256)} - {whole[place]}:
                file.path.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
                found = file.load()
                if found is not None:
                    used += 1
                    assert found.keys() == want.keys()
                    assert all(torch.equal(found[name], want[name]) for name in want)
                    assert all(found[name].dtype == want[name].dtype for name in want)
        assert used < 100, "blanks of the head, and a note that says nothing about the numbers"

    @pytest.mark.parametrize(
        "other",
        [
            {"covariance": torch.arange(12.0).reshape(4, 3)},
            {"covariance": torch.arange(12.0).reshape(3, 4).view(torch.int32)},
            {"covariants": torch.arange(12.0).reshape(3, 4)},
        ],
        ids=["shape", "type", "name"],
    )
    def test_the_same_numbers_under_another_head(self, file: Kept, other: dict[str, torch.Tensor]) -> None:
        with safe_open(file.path, framework="pt") as opened:
            notes = opened.metadata()
        file.save({"covariance": torch.arange(12.0).reshape(3, 4)})
        with safe_open(file.path, framework="pt") as opened:
            notes = opened.metadata()
        save_file(other, file.path, metadata=notes)
        assert file.load() is None

    @pytest.mark.parametrize(
        "identity", ["{", "[" * 100_000, "null", '"ab"', "\ud800".encode("utf-8", "replace").decode()]
    )
    def test_a_head_that_says_nothing_sensible(self, file: Kept, identity: str) -> None:
        save_file({"covariance": torch.ones(2)}, file.path, metadata={"identity": identity, "sha256": "x"})
        assert file.notes() is None and file.load() is None

    def test_a_damaged_file_is_put_aside_and_made_again(
        self, tmp_path: Path, tiny_gpt2_dir: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        store, model = store_at(tmp_path), load_tiny(tiny_gpt2_dir)
        want = store.covariances(model, [1, 2])
        want = {layer: found.matrix.clone() for layer, found in want.items()}
        path = store._path(store._identity(model, 1))
        whole = path.read_bytes()
        path.write_bytes(damaged := whole[:-9] + bytes([whole[-9] ^ 4]) + whole[-8:])
        with caplog.at_level(logging.WARNING, logger="ke_cli"):
            found = StatisticsStore(store.folder, store.spec, 400).covariances(model, [1, 2])
            assert all(torch.equal(found[layer].matrix, want[layer]) for layer in want)
        assert "computing it again" in caplog.text and str(path) in caplog.text
        assert path.with_name(f"{path.name}.damaged").read_bytes() == damaged
        file = Kept(path, store._identity(model, 1)).load()
        assert file is not None and torch.equal(file["covariance"], want[1])

    def test_a_run_with_damaged_statistics_is_the_same_run(
        self, ke_run: Command, outputs: Path, tmp_path: Path, tiny_gpt2_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("KE_CACHE", str(tmp_path / "own"))
        given = arguments(tiny_gpt2_dir, "rome")
        assert ke_run(*given).code == 0
        for path in (tmp_path / "own" / "statistics").glob("*.safetensors"):
            content = path.read_bytes()
            path.write_bytes(content[: len(content) // 2] + b"\x01\x02\x03" + content[len(content) // 2 + 3 :])
        for path in (tmp_path / "own" / "unedited").rglob("*.json"):
            path.write_bytes(path.read_bytes().replace(b"1", b"2", 9))
        assert ke_run(*given, "output_dir=again").code == 0
        assert answers(only_run(outputs)) == answers(only_run(Path("again")))
        assert measured(only_run(outputs)) == measured(only_run(Path("again")))

    def test_a_text_that_changes_while_it_is_read(
        self, tmp_path: Path, tiny_gpt2_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its statistics would be kept under the name of the old text for ever."""
        store, model = store_at(tmp_path), load_tiny(tiny_gpt2_dir)
        real = statistics.collect

        def collect(*args: Any, **kwargs: Any) -> Any:
            found = real(*args, **kwargs)
            write_text(Path(store.spec.text.source), documents(600, seed=5))
            return found

        with monkeypatch.context() as patch:
            patch.setattr(statistics, "collect", collect)
            with pytest.raises(UserError, match="the statistics text changed while it was read"):
                store.covariances(model, [1])
        assert not list(store.folder.glob("*.safetensors"))
        store.covariances(model, [1])
        assert len(list(store.folder.glob("*.safetensors"))) == 1


class TestLeftovers:
    def test_those_of_killed_processes_go_by_the_clock_of_the_file_system(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A clock that jumps ahead here must not take the files away that others are writing."""
        folder = tmp_path / "cache"
        folder.mkdir()
        monkeypatch.setattr(time, "time", lambda: 9e9)
        writing, left, other = (folder / f"{name}.tmp" for name in ("kept.7.aa", "kept.8.bb", "else.9.cc"))
        for path in (writing, left, other):
            path.write_bytes(b"half")
        for path in (left, other):
            os.utime(path, (path.stat().st_mtime - 7200,) * 2)
        Kept(folder / "kept.safetensors", {}).save({"one": torch.ones(1)})
        assert sorted(path.name for path in folder.iterdir()) == [
            "else.9.cc.tmp",
            "kept.7.aa.tmp",
            "kept.safetensors",
        ]

    @pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
    def test_nothing_is_left_by_an_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
    ) -> None:
        def broken(tensors: Any, path: Path, **_: Any) -> None:
            path.write_bytes(b"half")
            raise error

        monkeypatch.setattr(kept, "save_file", broken)
        with pytest.raises(error):
            Kept(tmp_path / "work" / "kept.safetensors", {}).save({"one": torch.ones(1)})
        assert list((tmp_path / "work").iterdir()) == []


def recorded(arguments_: list[str], log: str, folder: str, environment: dict[str, str], passes: str, go: str) -> None:
    """Be a ``ke-run`` that notes every pass over the statistics text, and waits for a file before it makes one."""
    real = statistics.collect

    def collect(model: Any, layers: Sequence[int], *args: Any, **kwargs: Any) -> Any:
        with open(passes, "a", encoding="utf-8") as file:
            file.write(f"{os.getpid()} {sorted(layers)}\n")
        children.wait_for(Path(go).exists, timeout_s=120)
        return real(model, layers, *args, **kwargs)

    statistics.collect = collect
    children.command(arguments_, log, folder, environment, None)


class TestSharing:
    """Several processes begin at the same time with an empty cache."""

    @pytest.fixture
    def environment(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
        monkeypatch.setenv("KE_CACHE", str(tmp_path / "shared cache"))
        return {name: os.environ[name] for name in ("KE_CACHE", "HF_HUB_OFFLINE", "HYDRA_FULL_ERROR")}

    @pytest.fixture
    def begin(self, tmp_path: Path, environment: dict[str, str]) -> Callable[..., Any]:
        def begin(name: str, given: list[str]) -> Any:
            files = (str(tmp_path / part) for part in ("passes", "go"))
            log = str(tmp_path / f"log-{name}")
            return process(recorded, [*given, f"output_dir={name}"], log, os.getcwd(), environment, *files)

        return begin

    @pytest.mark.slow
    def test_one_computes_and_all_have_it(
        self, ke_run: Command, tmp_path: Path, tiny_gpt2_dir: Path, begin: Callable[..., Any], monkeypatch: Any
    ) -> None:
        """Four runs of different seeds, which need the same statistics and ask the same of the unedited model."""
        given = [arguments(tiny_gpt2_dir, "rome", f"seed={seed}", ONE_BY_ONE) for seed in range(WRITERS)]
        running = [begin(f"of{seed}", given[seed]) for seed in range(WRITERS)]
        children.wait_for(lambda: waiting(tmp_path) == WRITERS - 1)
        (tmp_path / "go").touch()
        for child in running:
            child.join(240)
        logs = [(tmp_path / f"log-of{seed}").read_text() for seed in range(WRITERS)]
        assert [child.exitcode for child in running] == [0] * WRITERS, logs
        assert len((tmp_path / "passes").read_text().splitlines()) == 1
        left = [path.name for path in (tmp_path / "shared cache").rglob("*") if ".tmp" in path.name]
        assert left == [] and not list((tmp_path / "shared cache").rglob("unfinished-*"))
        monkeypatch.setenv("KE_CACHE", str(tmp_path / "own cache"))
        for seed in range(WRITERS):
            assert ke_run(*given[seed], f"output_dir=alone{seed}").code == 0
            mine, alone = only_run(Path(f"of{seed}")), only_run(Path(f"alone{seed}"))
            assert answers(mine) == answers(alone) and measured(mine) == measured(alone)

    def test_when_the_one_that_computes_is_killed_another_takes_its_place(
        self, tmp_path: Path, tiny_gpt2_dir: Path, begin: Callable[..., Any]
    ) -> None:
        given = [arguments(tiny_gpt2_dir, "rome", f"seed={seed}", ONE_BY_ONE) for seed in range(3)]
        first = begin("of0", given[0])
        children.wait_for((tmp_path / "passes").exists)
        others = [begin(f"of{seed}", given[seed]) for seed in (1, 2)]
        children.wait_for(lambda: waiting(tmp_path) == 2)
        first.kill()
        (tmp_path / "go").touch()
        for child in (first, *others):
            child.join(240)
        assert [child.exitcode for child in (first, *others)] == [-SIGKILL, 0, 0]
        passes = (tmp_path / "passes").read_text().splitlines()
        assert len(passes) == 2 and passes[0].startswith(f"{first.pid} ")
        assert all(len(lines_of(only_run(Path(f"of{seed}")))) == 3 for seed in (1, 2))

    def test_another_model_need_not_wait(
        self, tmp_path: Path, tiny_gpt2_dir: Path, tiny_llama_dir: Path, begin: Callable[..., Any]
    ) -> None:
        """Both are in the middle of their pass at the same time."""
        running = [begin(path.name, arguments(path, "rome")) for path in (tiny_gpt2_dir, tiny_llama_dir)]
        passes = tmp_path / "passes"
        children.wait_for(lambda: passes.exists() and len(passes.read_text().splitlines()) == 2)
        (tmp_path / "go").touch()
        for child in running:
            child.join(240)
        assert [child.exitcode for child in running] == [0, 0]
        assert waiting(tmp_path) == 0

    @pytest.mark.slow
    def test_several_that_want_the_same_run(
        self, ke_run: Command, tmp_path: Path, outputs: Path, tiny_gpt2_dir: Path, begin: Callable[..., Any]
    ) -> None:
        """One has it; the others are told so, or find it complete. Every case is there once."""
        given = arguments(tiny_gpt2_dir, "rome", ONE_BY_ONE, "dataset.limit=6")
        (tmp_path / "go").touch()
        for _ in range(3):
            running = [begin("outputs", given), begin("outputs", given), begin("outputs", given)]
            for child in running:
                child.join(240)
            assert {child.exitcode for child in running} <= {0, 1} and 0 in {child.exitcode for child in running}
            folder = only_run(outputs)
            assert len({line["case_id"] for line in lines_of(folder)}) == len(lines_of(folder)) == 6
            assert record_of(folder)["status"] == "complete"
            shutil.rmtree(outputs)


def waiting(folder: Path) -> int:
    """How many runs have said that they wait for the statistics of another."""
    logs = (path.read_text(encoding="utf-8") for path in folder.glob("log-*"))
    return sum("waiting for another process" in log for log in logs)
