"""Passes over text that are broken off, and taken up again where they were saved last."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ke_cli.data.text import TextSource
from ke_cli.engine import kept, moments
from ke_cli.engine.statistics import BookmarkFile, StatisticsSpec, StatisticsStore
from ke_cli.models.editable import EditableModel

from .benches import documents, load_tiny, write_text

ROOT = Path(__file__).resolve().parents[2]
LAYERS = [1, 3]

TinyModel = Callable[..., EditableModel]


class Broken(Exception):
    """The pass is broken off."""


def store_at(folder: Path) -> StatisticsStore:
    """A cache whose passes take some twenty batches in five windows."""
    folder.mkdir(exist_ok=True)
    text = write_text(folder / "text.txt", documents(2500))
    return StatisticsStore(folder / "cache", StatisticsSpec(text, tokens=2000, max_length=24), 100)


def matrices(store: StatisticsStore, model: EditableModel) -> list[Tensor]:
    return [one.matrix for one in store.covariances(model, LAYERS).values()]


def unfinished(store: StatisticsStore) -> list[Path]:
    return list(store.folder.glob("unfinished-*"))


@contextmanager
def breaking(where: str, at: int) -> Iterator[None]:
    """Let the text, or a forward pass, raise when it has been asked ``at`` times."""
    left = iter(range(at))
    run, lines = moments.run, TextSource._lines

    def counted_run(*args: Any) -> Any:
        if next(left, None) is None:
            raise Broken
        return run(*args)

    def counted_lines(source: TextSource) -> Iterator[str]:
        for line in lines(source):
            if next(left, None) is None:
                raise Broken
            yield line

    with pytest.MonkeyPatch.context() as patch:
        if where == "text":
            patch.setattr(TextSource, "_lines", counted_lines)
        else:
            patch.setattr(moments, "run", counted_run)
        yield


def break_off(store: StatisticsStore, model: EditableModel, where: str = "run", at: int = 7) -> None:
    with breaking(where, at), pytest.raises(Broken):
        store.covariances(model, LAYERS)


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save after every batch, and let windows be short."""
    monkeypatch.setattr(BookmarkFile, "due", lambda _: True)
    monkeypatch.setattr(moments, "WINDOW", 400)


@pytest.fixture
def model(tiny_model: TinyModel) -> EditableModel:
    return tiny_model("gpt2")


@pytest.fixture
def want(model: EditableModel, tmp_path: Path) -> list[Tensor]:
    """The matrices of a pass that nothing breaks off."""
    return matrices(store_at(tmp_path / "whole"), model)


@pytest.fixture
def store(tmp_path: Path) -> StatisticsStore:
    return store_at(tmp_path / "broken")


def assert_equal(found: list[Tensor], want: list[Tensor]) -> None:
    assert len(found) == len(want)
    assert all(torch.equal(one, other) for one, other in zip(found, want, strict=True))


@pytest.mark.parametrize(("where", "places"), [("text", (1, 40, 60, 80)), ("run", (0, 1, 2, 9, 3, 1))])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_same_to_the_last_bit(
    kind: str, where: str, places: tuple[int, ...], tiny_model: TinyModel, tmp_path: Path
) -> None:
    """Broken off several times: by the text at absolute places, by the model some batches further each time."""
    model, store = tiny_model(kind), store_at(tmp_path / "broken")
    for at in places:
        break_off(store, model, where, at)
    assert unfinished(store)
    assert_equal(matrices(store, model), matrices(store_at(tmp_path / "whole"), model))
    assert not unfinished(store)


def test_what_is_done_is_not_done_again(store: StatisticsStore, model: EditableModel) -> None:
    batches: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        run = moments.run
        patch.setattr(moments, "run", lambda model, rows: (batches.append(int(rows.mask.sum())), run(model, rows)))
        break_off(store, model, at=9)
        assert len(batches) == 9
        matrices(store, model)
    assert sum(batches) == 2000


@pytest.mark.parametrize("damage", ["cut", "empty", "numbers", "layers"])
def test_one_that_cannot_be_trusted_is_left(
    damage: str,
    store: StatisticsStore,
    model: EditableModel,
    want: list[Tensor],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Cut short, empty, other numbers, or of a pass over other layers: begun anew, and said so."""
    break_off(store, model)
    (path,) = unfinished(store)
    if damage == "layers":
        with breaking("run", 5), pytest.raises(Broken):
            store.covariances(model, [1, 2, 3])
        assert unfinished(store) == [path]
    elif damage == "numbers":
        with kept.safe_open(path, framework="pt") as file:
            notes = file.metadata()
        changed = load_file(path)
        changed["place"][2] += 1
        kept.save_file(changed, path, metadata=notes)
    else:
        path.write_bytes(path.read_bytes()[: 3000 if damage == "cut" else 0])
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="ke_cli"):
        assert_equal(matrices(store, model), want)
    assert "beginning anew" in caplog.text


def test_a_full_disk_is_no_error(
    store: StatisticsStore,
    model: EditableModel,
    want: list[Tensor],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    original = kept.save_file

    def full(tensors: dict[str, Tensor], path: Path, **rest: Any) -> None:
        if "place" in tensors:
            path.write_bytes(b"half of it")
            raise SafetensorError("No space left on device")
        original(tensors, path, **rest)

    monkeypatch.setattr(kept, "save_file", full)
    with caplog.at_level(logging.WARNING, logger="ke_cli"):
        assert_equal(matrices(store, model), want)
    assert "could not be saved: No space left" in caplog.text
    assert not list(store.folder.glob("*.tmp"))


def test_short_passes_are_not_saved(
    store: StatisticsStore, model: EditableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    break_off(store, model)
    assert not unfinished(store)


def test_saving_takes_a_thirtieth_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every minute, or less often where it takes long."""
    monkeypatch.undo()
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    file = kept.Kept(tmp_path / "unfinished.safetensors", {})
    bookmark = BookmarkFile(file, 60)
    now += 59
    assert not bookmark.due()
    now += 2
    assert bookmark.due()

    def slow(*_: Any, **__: Any) -> None:
        nonlocal now
        now += 10

    with monkeypatch.context() as patch:
        patch.setattr(kept.Kept, "save", slow)
        bookmark.save({})
    now += 299
    assert not bookmark.due()
    now += 2
    assert bookmark.due()


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from engine.benches import load_tiny
from engine.test_resume import LAYERS, store_at
from ke_cli.engine import moments
from ke_cli.engine.statistics import BookmarkFile
BookmarkFile.due = lambda self: True
moments.WINDOW = 400
run = moments.run
moments.run = lambda *args: (time.sleep(0.05), run(*args))
print("begun", flush=True)
store_at(Path(sys.argv[1])).covariances(load_tiny(Path(sys.argv[3])), LAYERS)
print("finished", flush=True)
"""


@pytest.mark.slow
def test_after_kill_9(tmp_path: Path, tiny_gpt2_dir: Path) -> None:
    """Killed three times at whatever it was doing, in the middle of a write perhaps."""
    here, model = tmp_path / "broken", load_tiny(tiny_gpt2_dir)
    command = [sys.executable, "-c", KILLED, str(here), str(ROOT / "tests"), str(tiny_gpt2_dir)]
    for seconds in (0.0, 0.17, 0.31):
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None and process.stdout.readline() == "begun\n"
            began = time.monotonic()
            while not list(here.glob("cache/unfinished-*.safetensors")) and time.monotonic() - began < 60:
                time.sleep(0.01)
            time.sleep(seconds)
            process.send_signal(signal.SIGKILL)
            assert process.stdout.read() == ""
    store = store_at(here)
    assert unfinished(store)
    assert_equal(matrices(store, model), matrices(store_at(tmp_path / "whole"), model))
