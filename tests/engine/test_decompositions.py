"""Factors and eigenvectors on disk beside their covariance: read, not computed again, and only where they belong."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from ke_cli.engine import kept, statistics
from ke_cli.engine.covariance import Covariance
from ke_cli.engine.statistics import StatisticsSpec, StatisticsStore
from ke_cli.errors import UserError
from ke_cli.methods.solves import nullspace, quiet_directions, regularised_solve
from ke_cli.models.editable import EditableModel

from .benches import LARGE, documents, write_text

TinyModel = Callable[..., EditableModel]


@pytest.fixture
def model(tiny_model: TinyModel) -> EditableModel:
    return tiny_model("gpt2")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StatisticsStore:
    """A store that keeps what is made of matrices as small as those of the tests."""
    monkeypatch.setattr(statistics, "WORTH_KEEPING", {("factor", "cpu"): 1, ("eigen", "cpu"): 1})
    text = write_text(tmp_path / "text.txt", documents(2500))
    return StatisticsStore(tmp_path / "cache", StatisticsSpec(text, tokens=2000, max_length=24), LARGE)


def covariance(store: StatisticsStore, model: EditableModel) -> Covariance:
    """As a later run finds it."""
    return replace(store).covariances(model, [1])[1]


def files(store: StatisticsStore, part: str) -> list[Path]:
    return sorted(store.folder.glob(f"{part}-*.safetensors"))


@pytest.fixture
def nothing_is_computed(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def forbid() -> None:
        def refuse(*_: object) -> None:
            raise AssertionError("computed again")

        monkeypatch.setattr(torch.linalg, "cholesky_ex", refuse)
        monkeypatch.setattr(torch.linalg, "eigh", refuse)

    return forbid


def test_found_again(store: StatisticsStore, model: EditableModel, nothing_is_computed: Callable[[], None]) -> None:
    first = covariance(store, model)
    shifted = first.shifted(0.5)
    want = first.factor.clone(), first.eigen[1].clone(), shifted.factor.clone()
    assert len(files(store, "factor")) == 2 and len(files(store, "eigen")) == 1
    torch.testing.assert_close(want[0] @ want[0].T, first.matrix.double())
    nothing_is_computed()
    again = covariance(store, model)
    assert torch.equal(again.factor, want[0])
    assert torch.equal(again.eigen[1], want[1]) and torch.equal(again.eigen[0], first.eigen[0])
    assert torch.equal(again.shifted(0.5).factor, want[2])


def test_another_matrix_has_another_factor(store: StatisticsStore, model: EditableModel) -> None:
    """Another layer, another shift, and other numbers under the same identity."""
    base = covariance(store, model)
    for one in (base, base.shifted(0.5), base.shifted(0.25), store.covariances(model, [2])[2]):
        torch.testing.assert_close(one.factor @ one.factor.T, one.matrix.double())
    assert len(files(store, "factor")) == 4
    file = store._file(store._identity(model, 1))
    file.save({"covariance": base.matrix * 2})
    changed = covariance(store, model)
    torch.testing.assert_close(changed.factor, base.factor * 2**0.5)
    assert len(files(store, "factor")) == 5


@pytest.mark.parametrize("damage", ["cut", "foreign"])
def test_damaged_ones_are_computed_again(
    damage: str, store: StatisticsStore, model: EditableModel, caplog: pytest.LogCaptureFixture
) -> None:
    first = covariance(store, model)
    want = first.factor.clone()
    (path,) = files(store, "factor")
    if damage == "cut":
        content = path.read_bytes()
        path.unlink()  # not in place: it is mapped by who still uses it
        path.write_bytes(content[:1000])
    else:
        _ = first.shifted(0.5).factor
        next(other for other in files(store, "factor") if other != path).replace(path)
    with caplog.at_level(logging.WARNING, logger="ke_cli"):
        assert torch.equal(covariance(store, model).factor, want)
    assert "computing it again" in caplog.text
    caplog.clear()
    assert torch.equal(covariance(store, model).factor, want)
    assert not caplog.records


def test_a_full_disk_is_no_error(
    store: StatisticsStore, model: EditableModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here = covariance(store, model)

    def full(_tensors: object, path: Path, **_: Any) -> None:
        path.write_bytes(b"half of it")
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(kept, "save_file", full)
    with caplog.at_level(logging.WARNING, logger="ke_cli"):
        torch.testing.assert_close(here.factor @ here.factor.T, here.matrix.double())
    assert "could not be stored (No space left" in caplog.text
    assert not files(store, "factor") and not list(store.folder.glob("*.tmp"))


def test_small_ones_are_not_stored(
    store: StatisticsStore, model: EditableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    here = covariance(store, model)
    assert here.factor.shape == here.eigen[1].shape == (192, 192)
    assert not files(store, "factor") and not files(store, "eigen")


def test_singular_ones_are_not_stored(store: StatisticsStore, model: EditableModel) -> None:
    few = replace(store, spec=replace(store.spec, tokens=50))
    with pytest.raises(UserError, match="singular"):
        _ = covariance(few, model).factor
    assert not files(store, "factor")


def test_a_checksum_is_compared_once(
    store: StatisticsStore, model: EditableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wide matrices are read again and again when there is no room for all layers."""
    covariance(store, model)
    sums: list[int] = []
    original = kept.checksum
    monkeypatch.setattr(kept, "checksum", lambda tensors: (sums.append(1), original(tensors))[1])
    same = replace(store)
    for _ in range(3):
        assert same.covariances(model, [1])[1].matrix.shape == (192, 192)
    assert len(sums) == 1


def test_what_a_killed_process_left_is_swept(store: StatisticsStore, model: EditableModel) -> None:
    import os

    identity = store._identity(model, 1)
    path = store._file(identity).path
    store.folder.mkdir()
    old, new = path.with_name(f"{path.stem}.1.tmp"), path.with_name(f"{path.stem}.2.tmp")
    old.write_bytes(b"half")
    new.write_bytes(b"being written")
    os.utime(old, (0, 0))
    covariance(store, model)
    assert not old.exists() and new.exists()


class TestSolves:
    @staticmethod
    def case(m: int, n: int, *, alike: bool = False) -> tuple[Covariance, torch.Tensor]:
        torch.manual_seed(0)
        base = torch.randn(m, 3 * m, dtype=torch.float64)
        keys = torch.randn(m, 1 if alike else n, dtype=torch.float64).expand(m, n).clone()
        return Covariance(base @ base.T / (3 * m), "covariance"), keys

    @pytest.mark.parametrize(("n", "weight"), [(1, 15.0), (8, 0.0), (8, 15.0), (40, 1e-3), (41, 15.0), (200, 15.0)])
    def test_as_written_in_the_paper(self, n: int, weight: float) -> None:
        """``K^T (w C + K K^T)^-1``, for fewer keys than the width and for more; for ``w = 0`` its limit."""
        covariance, keys = self.case(40, n)
        inverse = torch.linalg.inv(covariance.matrix)
        small = keys.T @ inverse @ keys + weight * torch.eye(n, dtype=torch.float64)
        want = torch.linalg.solve(small, keys.T @ inverse)
        torch.testing.assert_close(regularised_solve(covariance, weight, keys), want, rtol=1e-8, atol=1e-10)
        if weight:
            whole = torch.linalg.inv(weight * covariance.matrix + keys @ keys.T)
            torch.testing.assert_close(want, keys.T @ whole, rtol=1e-6, atol=1e-8)

    def test_equal_keys(self) -> None:
        covariance, keys = self.case(40, 3, alike=True)
        found = regularised_solve(covariance, 2.0, keys)
        want = keys.T @ torch.linalg.inv(2 * covariance.matrix + keys @ keys.T)
        torch.testing.assert_close(found, want, rtol=1e-9, atol=1e-12)

    def test_the_factor_is_made_once_for_all_facts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        covariance, keys = self.case(40, 3)
        sizes: list[int] = []
        original = torch.linalg.cholesky_ex
        monkeypatch.setattr(torch.linalg, "cholesky_ex", lambda m: (sizes.append(len(m)), original(m))[1])
        for weight in (1.0, 2.0, 3.0):
            regularised_solve(covariance, weight, keys)
        assert sizes == [40, 3, 3, 3]

    def test_bases_are_views(self) -> None:
        """Eigenvectors of a wide model are gigabytes: a second copy of most of them would be as large."""
        covariance, _ = self.case(40, 1)
        values, vectors = covariance.eigen
        for basis in (nullspace(covariance, float(values[20])), quiet_directions(covariance, 0.2)):
            assert basis.untyped_storage().data_ptr() == vectors.untyped_storage().data_ptr()
            assert torch.equal(basis, vectors[:, : basis.shape[1]])
        assert nullspace(covariance, float(values[20])).shape[1] == 20
