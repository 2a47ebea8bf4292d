"""Covariances on disk: found again when they are the same, computed again when they are not."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ke_cli.data.text import TextSource
from ke_cli.engine import statistics
from ke_cli.engine.statistics import StatisticsSpec, StatisticsStore
from ke_cli.errors import UserError
from ke_cli.models.editable import EditableModel

from .benches import LARGE, SMALL, documents, load_tiny, plain, relative, write_text

TinyModel = Callable[..., EditableModel]


@pytest.fixture
def store(tmp_path: Path) -> StatisticsStore:
    text = write_text(tmp_path / "text.txt", documents(2500))
    return StatisticsStore(tmp_path / "cache", StatisticsSpec(text, tokens=2000, max_length=24), LARGE)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The layers of every pass over the text."""
    seen: list[list[int]] = []
    original = statistics.collect

    def collecting(model: EditableModel, layers: list[int], *args: object, **kwargs: object) -> object:
        seen.append(list(layers))
        return original(model, layers, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(statistics, "collect", collecting)
    return seen


def files(store: StatisticsStore) -> list[Path]:
    return sorted(store.folder.glob("*.safetensors"))


def test_the_matrix_is_that_of_the_plain_implementation(store: StatisticsStore, model: EditableModel) -> None:
    from textbook.covariance import covariance

    texts = documents(600)
    text = write_text(Path(store.spec.text.source), texts)
    whole = replace(store, spec=replace(store.spec, text=text, tokens=10**9))
    found = whole.covariances(model, [1, 4])
    for layer in (1, 4):
        want, _ = covariance(*plain(model), texts, layer, 24)
        assert relative(found[layer].matrix, want) < 1e-5


def test_missing_layers_come_from_one_pass(
    store: StatisticsStore, model: EditableModel, passes: list[list[int]]
) -> None:
    first = store.covariances(model, [3, 1])
    again = store.covariances(model, [1, 2, 3, 4])
    assert passes == [[3, 1], [2, 4]]
    assert torch.equal(first[3].matrix, again[3].matrix)
    other = replace(store, budget=SMALL).covariances(model, [1, 2, 3, 4])
    assert passes == [[3, 1], [2, 4]]  # the batch size does not change the value and is no part of the identity
    assert torch.equal(first[1].matrix, other[1].matrix)


def test_everything_that_changes_the_value_names_another_file(
    store: StatisticsStore, tiny_model: TinyModel, tmp_path: Path, passes: list[list[int]]
) -> None:
    """Token count, maximum length, text, model, layer and data type."""
    spec = store.spec
    other_text = write_text(tmp_path / "other.txt", documents(2500, seed=9))
    specs = [
        spec,
        replace(spec, tokens=1999),
        replace(spec, max_length=23),
        replace(spec, text=other_text),
        replace(spec, tokens=None, tokens_per_width=9),
    ]
    for number, one in enumerate(specs, start=1):
        replace(store, spec=one).covariances(tiny_model("gpt2"), [1])
        assert len(files(store)) == len(passes) == number
    for number, (kind, dtype) in enumerate([("gpt2", "float64"), ("llama", "float32"), ("llama3", "float32")], start=6):
        store.covariances(tiny_model(kind, dtype), [1])
        assert len(files(store)) == len(passes) == number
    store.covariances(tiny_model("gpt2"), [2])
    assert len(files(store)) == len(passes) == 9


def test_tokens_in_units_of_the_width_are_the_same_tokens(
    store: StatisticsStore, tiny_model: TinyModel, passes: list[list[int]]
) -> None:
    relative_spec = replace(store.spec, tokens=None, tokens_per_width=10)
    assert relative_spec.count(192) == 1920
    replace(store, spec=relative_spec).covariances(tiny_model("gpt2"), [1])
    replace(store, spec=replace(store.spec, tokens=1920)).covariances(tiny_model("gpt2"), [1])
    assert len(passes) == 1


def test_the_same_text_under_another_name_is_the_same(
    store: StatisticsStore, model: EditableModel, tmp_path: Path, passes: list[list[int]]
) -> None:
    store.covariances(model, [1])
    copy = tmp_path / "copy.txt"
    copy.write_bytes(Path(store.spec.text.source).read_bytes())
    replace(store, spec=replace(store.spec, text=TextSource(str(copy)))).covariances(model, [1])
    assert len(passes) == 1


def test_a_changed_text_is_another_text(store: StatisticsStore, model: EditableModel, passes: list[list[int]]) -> None:
    first = store.covariances(model, [1])[1].matrix
    write_text(Path(store.spec.text.source), documents(2500, seed=4))
    assert not torch.equal(store.covariances(model, [1])[1].matrix, first)
    assert len(passes) == 2


def test_changed_weights_are_another_model(
    store: StatisticsStore, tiny_gpt2_dir: Path, tmp_path: Path, passes: list[list[int]]
) -> None:
    """Recognised by the content of the files, not by name or path."""
    from tiny import tiny_gpt2

    model = load_tiny(tiny_gpt2_dir)
    other = load_tiny(tiny_gpt2(tmp_path / "there" / tiny_gpt2_dir.name, seed=99))
    same = load_tiny(tiny_gpt2(tmp_path / "another name"))
    assert model.name == other.name and model.fingerprint == same.fingerprint != other.fingerprint
    mine, same_ = store.covariances(model, [1])[1].matrix, store.covariances(same, [1])[1].matrix
    assert torch.equal(mine, same_) and len(passes) == 1
    assert not torch.equal(mine, store.covariances(other, [1])[1].matrix)


def test_the_file_says_what_it_holds(store: StatisticsStore, model: EditableModel) -> None:
    store.covariances(model, [2])
    (path,) = files(store)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    identity = json.loads(metadata["identity"])
    assert identity["model"] == model.fingerprint
    assert identity["module"] == model.projection_name(2)
    assert identity["text"] == store.spec.text.identity()
    assert (identity["tokens"], identity["max_length"], identity["dtype"]) == (2000, 24, "torch.float32")
    assert metadata["tokens_seen"] == "2000"
    assert not list(store.folder.glob("*.tmp"))


@pytest.mark.parametrize("damage", ["foreign", "cut", "empty", "edited"])
def test_a_file_that_is_not_what_its_name_says_is_computed_again(
    damage: str, store: StatisticsStore, tiny_model: TinyModel, caplog: pytest.LogCaptureFixture
) -> None:
    """Statistics of another model copied into place, a cut file, an empty one, other numbers."""
    model = tiny_model("gpt2")
    want = store.covariances(model, [1])[1].matrix
    (path,) = files(store)
    if damage == "foreign":
        store.covariances(tiny_model("gpt2", "float64"), [1])
        (other,) = (file for file in files(store) if file != path)
        other.replace(path)
    elif damage == "edited":
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        matrix = load_file(path)["covariance"].clone()
        matrix[0, 0] += 1
        save_file({"covariance": matrix}, path, metadata=metadata)
    else:
        path.write_bytes(path.read_bytes()[: 1000 if damage == "cut" else 0])
    with caplog.at_level(logging.WARNING, logger="ke_cli"):
        assert torch.equal(store.covariances(model, [1])[1].matrix, want)
    assert "computing it again" in caplog.text
    caplog.clear()
    store.covariances(model, [1])
    assert not caplog.records


def test_a_text_of_fewer_tokens_is_used_up(store: StatisticsStore, model: EditableModel) -> None:
    store = replace(store, spec=replace(store.spec, tokens=10**9))
    store.covariances(model, [1])
    with safe_open(files(store)[0], framework="pt") as file:
        assert 2500 < int(file.metadata()["tokens_seen"]) < 10**9


def test_too_few_tokens_are_a_singular_matrix(store: StatisticsStore, model: EditableModel) -> None:
    width = model.weight(model.projection_name(1)).shape[1]
    for tokens in (50, width - 5):
        few = replace(store, spec=replace(store.spec, tokens=tokens))
        with pytest.raises(UserError, match="covariance of layer 1 is singular"):
            few.covariances(model, [1])[1].solve(torch.ones(width, 1))


def test_no_text_file(store: StatisticsStore, model: EditableModel, tmp_path: Path) -> None:
    gone = replace(store, spec=replace(store.spec, text=TextSource(str(tmp_path / "gone.txt"))))
    with pytest.raises(UserError, match="not a file"):
        gone.covariances(model, [1])


def test_statistics_that_cannot_be_stored(store: StatisticsStore, model: EditableModel) -> None:
    store.folder.mkdir()
    path = store._path(store._identity(model, 1))
    path.mkdir()
    with pytest.raises(UserError, match="could not be stored"):
        store.covariances(model, [1])
    assert not list(store.folder.glob("*.tmp"))
