"""Large tensors within a limit: on the shelf, and of a workbench whose editors must not notice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ke_cli.engine.covariance import Covariance
from ke_cli.engine.shelf import Shelf, bytes_of
from ke_cli.engine.workbench import ROOM, Workbench
from ke_cli.models.editable import EditableModel

from .benches import REQUESTS, bench_of, deltas_of, reference_prompts, unit_of
from .trap_tools import build

TinyModel = Callable[..., EditableModel]

UNITS = [unit_of(*REQUESTS[:2], name="a"), unit_of(REQUESTS[2], name="b")]
METHODS = {
    "memit": {},
    "encore": {"lambda_f": 0.5},
    "emmet": {"lambda_f": 0.5},
    "alphaedit": {},
    "rome": {},
    "rets": {},
    "rose-covariance": {"constraint": "covariance"},
    "rose-nullspace": {"constraint": "nullspace", "nullspace_share": 0.1},
    "prune": {},
}


def tensor(size: int) -> Tensor:
    return torch.zeros(size, dtype=torch.uint8)


class TestShelf:
    def test_the_least_recently_used_goes_first(self) -> None:
        made: list[str] = []
        shelf = Shelf(limit=30)

        def get(key: str) -> None:
            shelf.get(key, lambda: (made.append(key), tensor(10))[1])

        for key in "abcadaeb":
            get(key)
        assert made == list("abcdeb")
        assert shelf.held() == 30

    def test_one_over_the_limit_is_held_alone(self) -> None:
        shelf = Shelf(limit=30)
        small, large = shelf.get("small", lambda: tensor(5)), shelf.get("large", lambda: tensor(100))
        assert shelf.held() == 100
        assert shelf.get("large", lambda: tensor(1)) is large
        assert shelf.get("small", lambda: tensor(6)) is not small
        assert shelf.held() == 6

    def test_room_is_made_before_it_is_taken(self) -> None:
        shelf = Shelf(limit=30)
        shelf.get("a", lambda: tensor(20))
        shelf.make_room(10)
        assert shelf.held() == 20
        shelf.make_room(11)
        assert shelf.held() == 0

    def test_numbers_stay(self) -> None:
        shelf = Shelf(limit=0)
        assert shelf.get("number", lambda: 1.5) == 1.5
        shelf.get("large", lambda: tensor(100))
        assert shelf.get("number", lambda: 2.5) == 1.5

    def test_values_made_of_others(self) -> None:
        """Making one value asks for another, which may have to go at once."""
        shelf = Shelf(limit=25)
        found = shelf.get("sum", lambda: torch.cat([shelf.get("part", lambda: tensor(10)), tensor(10)]))
        assert len(found) == 20 and shelf.held() == 20

    def test_what_fails_is_not_held(self) -> None:
        shelf = Shelf()
        with pytest.raises(ZeroDivisionError):
            shelf.get("a", lambda: tensor(1 // 0))
        assert len(shelf.get("a", lambda: tensor(3))) == 3

    def test_bytes(self) -> None:
        assert bytes_of({"a": (tensor(3), [torch.zeros(2, 2, dtype=torch.float64)]), "b": 1.0}) == 35


class Watched(Shelf):
    """Takes note of what is made, and of the most bytes that stay."""

    def get(self, key: Any, make: Callable[[], Any]) -> Any:
        def making() -> Any:
            self.made.append(key[-1] if isinstance(key[-1], str) else key[1])
            return make()

        value = super().get(key, making)
        self.most = max(self.most, self.held())
        return value

    made: list[Any]
    most: int = 0


def watched(bench: Workbench, limit: int | None) -> Workbench:
    shelf = Watched()
    shelf.made = []
    there = Workbench(bench.model, bench.statistics, bench.budget, bench.reference_prompts, _shelf=shelf)
    shelf.limit = limit
    return there


@pytest.fixture(scope="module")
def base(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    return bench_of(tiny_model("llama"), tmp_path_factory.mktemp("shelf"), prompts=reference_prompts(230))


def editor_named(name: str, bench: Workbench) -> Any:
    method = name.partition("-")[0]
    own_prompts = {"reference_prompts": None} if method == "rets" else {}
    return build(method, bench, **METHODS[name], **own_prompts)


@pytest.mark.parametrize("name", METHODS)
def test_editors_do_not_notice(name: str, base: Workbench) -> None:
    """The same bits when nothing but the value asked for last is held."""
    roomy, tight = watched(base, None), watched(base, 1)
    want = editor_named(name, roomy).edit(roomy, UNITS)
    found = editor_named(name, tight).edit(tight, UNITS)
    for one, other in zip(found, want, strict=True):
        deltas = deltas_of(other)
        assert all(torch.equal(delta, deltas[module]) for module, delta in deltas_of(one).items())
    large = [value for value in tight._shelf._held.values() if bytes_of(value)]
    assert len(large) <= 1 and tight._shelf.held() < roomy._shelf.held()


@pytest.mark.parametrize("name", ["memit", "encore", "rose-covariance", "rets", "rome"])
def test_one_layer_at_a_time(name: str, base: Workbench) -> None:
    """With room for the matrix and the factor of a layer, each is made once for all facts of the layer."""
    width = base.model.weight(base.model.projection_name(0)).shape[1]
    here = watched(base, 12 * width**2)
    editor = editor_named(name, here)
    layers = editor.edited_layers(here.model.n_layers)
    editor.edit(here, [*UNITS, unit_of(REQUESTS[3], name="c")])
    shelf = here._shelf
    assert isinstance(shelf, Watched)
    assert shelf.made.count("factor") == len(layers)
    assert shelf.most <= 12 * width**2


def test_the_limit_of_a_workbench(base: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert base._shelf.limit == ROOM
    monkeypatch.setattr("ke_cli.engine.workbench.ROOM", 1000)
    assert watched(base, None)._shelf is not base._shelf
    width = base.model.weight(base.model.projection_name(0)).shape[1]
    assert Workbench(base.model, base.statistics, base.budget)._shelf.limit == 12 * width**2


def test_covariances_are_read_when_they_are_used(base: Workbench, tmp_path: Path) -> None:
    here = watched(base, None)
    found = here.covariances([0, 1, 2])
    assert here._shelf.held() == 0
    width = found[1].width
    assert here._shelf.held() == 0
    assert found[1].trace == pytest.approx(float(found[1].matrix.double().trace()), rel=1e-12)
    assert here._shelf.held() == 4 * width**2


def test_derived_covariances_share_the_shelf() -> None:
    shelf = Shelf()
    torch.manual_seed(0)
    keys = torch.randn(20, 6)
    plain = Covariance(torch.einsum("ni,nj->nij", keys, keys).sum(dim=0), "covariance").on(shelf)
    shifted, both = plain.shifted(0.5), plain.plus(torch.eye(6), "both")
    torch.testing.assert_close(shifted.matrix, plain.matrix.double() + 0.5 * torch.eye(6, dtype=torch.float64))
    torch.testing.assert_close(both.matrix, plain.matrix.double() + torch.eye(6, dtype=torch.float64))
    torch.testing.assert_close(shifted.factor @ shifted.factor.T, shifted.matrix)
    assert shelf.held() == 4 * 36 + 3 * 8 * 36
