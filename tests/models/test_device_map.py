"""Loading a model onto several devices: accelerate's maps, off-loaded layers, limits, and what is said without it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.benches import LARGE, PROMPTS, REQUESTS, TARGETS, bench_of, load_tiny, reference_prompts, relative, unit_of
from engine.trap_tools import build
from ke_cli.engine.edits import Edit, merged
from ke_cli.engine.queries import Query, TargetQuery, TopTokensQuery
from ke_cli.engine.scoring import answer
from ke_cli.errors import UserError
from ke_cli.models import loading
from ke_cli.models.fingerprint import fingerprint
from ke_cli.models.loading import ModelSource, load
from ke_cli.models.memory import OutOfMemory

UNITS = [unit_of(REQUESTS[0], REQUESTS[2]), unit_of(REQUESTS[1])]
QUERIES: tuple[Query, ...] = (*(TargetQuery(p, t) for p in PROMPTS for t in TARGETS), TopTokensQuery(PROMPTS[3], 3))
OFF_LOADED = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "disk"}


def source(folder: Path, device_map: Any, **settings: Any) -> ModelSource:
    return ModelSource(name="tiny", path=str(folder), device_map=device_map, **settings)


def off_loaded(layers: int) -> dict[str, str]:
    """Every other layer, and the head, on disk."""
    return OFF_LOADED | {f"model.layers.{i}": "disk" if i % 2 else "cpu" for i in range(layers)}


@pytest.fixture
def accelerate() -> Any:
    return pytest.importorskip("accelerate", reason="needs the accelerate extra")


@pytest.mark.usefixtures("accelerate")
class TestSpread:
    """Numbers of a model that accelerate has put in place are those of the plain one."""

    @pytest.fixture(params=["one device", "its name", "off-loaded"])
    def device_map(self, request: pytest.FixtureRequest, tiny_llama_dir: Path) -> Any:
        layers = load_tiny(tiny_llama_dir).n_layers
        return {"one device": {"": "cpu"}, "its name": "cpu", "off-loaded": off_loaded(layers)}[request.param]

    @pytest.mark.parametrize("method", ["rome", "memit", "rose", "rect", "prune", "ft"])
    def test_edits_and_answers(self, device_map: Any, method: str, tiny_llama_dir: Path, tmp_path: Path) -> None:
        plain, model = load_tiny(tiny_llama_dir), load(source(tiny_llama_dir, device_map))
        stored = {p.device.type for p in model.hf.parameters()}
        assert stored == ({"cpu", "meta"} if isinstance(device_map, dict) and len(device_map) > 1 else {"cpu"})
        assert (model.fingerprint, model.device) == (plain.fingerprint, torch.device("cpu"))
        one, two = (bench_of(m, tmp_path, prompts=reference_prompts(30)) for m in (plain, model))
        want, got = (build(method, bench).edit(bench, UNITS) for bench in (one, two))
        for mine, theirs in zip(got, want, strict=True):
            assert mine.updates.keys() == theirs.updates.keys()
            for name, update in theirs.updates.items():
                assert relative(mine.updates[name].delta(), update.delta()) < 1e-3
        asked = [QUERIES] * len(want)
        for mine, theirs in zip(*(answer(m, asked, want, budget=LARGE) for m in (model, plain)), strict=True):
            for query, found in theirs.items():
                nlls = mine[query].nlls  # type: ignore[union-attr]
                assert nlls == pytest.approx(found.nlls, rel=1e-4, abs=1e-4)  # type: ignore[union-attr]

    def test_weights_that_are_on_disk_can_be_read(self, tiny_llama_dir: Path) -> None:
        plain = load_tiny(tiny_llama_dir)
        model = load(source(tiny_llama_dir, off_loaded(plain.n_layers)))
        name = plain.projection_name(1)
        assert model.hf.get_submodule(name).weight.device.type == "meta"
        assert torch.equal(model.weight(name), plain.weight(name))
        assert model.device_of(name) == torch.device("cpu")
        assert fingerprint(model.hf, None) == fingerprint(plain.hf, None)

    def test_but_not_written(self, tiny_llama_dir: Path, tmp_path: Path) -> None:
        model = load(source(tiny_llama_dir, off_loaded(load_tiny(tiny_llama_dir).n_layers)))
        bench = bench_of(model, tmp_path)
        (edit,) = build("rome", bench, layers=(1,)).edit(bench, UNITS[1:])
        with pytest.raises(UserError, match="off-loaded"), merged(model, edit):
            pass
        with merged(model, Edit({})):
            pass

    def test_limits_reach_transformers(self, tiny_llama_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        given: dict[str, Any] = {}

        def recording(*_: Any, **kwargs: Any) -> Any:
            given.update(kwargs)
            raise OSError("seen")

        monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", recording)
        with pytest.raises(UserError, match="seen"):
            load(source(tiny_llama_dir, "auto", max_memory={"0": "1GiB", "cpu": 10**9}))
        assert (given["device_map"], given["max_memory"]) == ("auto", {0: "1GiB", "cpu": 10**9})
        with pytest.raises(UserError, match="seen"):
            load(source(tiny_llama_dir, {"model": "1", "lm_head": "cpu"}))
        assert (given["device_map"], given["max_memory"]) == ({"model": 1, "lm_head": "cpu"}, None)

    def test_a_device_that_is_not_there_is_one_error(self, tiny_llama_dir: Path) -> None:
        with pytest.raises(UserError, match="cannot be loaded"):
            load(source(tiny_llama_dir, "cuda:99"))


def test_without_accelerate_a_map_is_refused(tiny_llama_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "is_accelerate_available", lambda: False)
    with pytest.raises(UserError, match="accelerate, which is not installed") as caught:
        load(source(tiny_llama_dir, "auto"))
    assert caught.value.where == "model.device_map=auto"
    assert caught.value.hint == "pip install 'ke-run[accelerate]'"
    assert load(source(tiny_llama_dir, None)).n_layers


@pytest.mark.parametrize(
    "failure",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
    ],
)
@pytest.mark.parametrize("moment", ["loading", "moving"])
def test_a_model_that_is_too_large(
    failure: Exception, moment: str, tiny_llama_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any, **__: Any) -> Any:
        raise failure

    place: Callable[..., Any] = loading.AutoModelForCausalLM if moment == "loading" else torch.nn.Module  # type: ignore
    monkeypatch.setattr(place, "from_pretrained" if moment == "loading" else "to", failing)
    with pytest.raises(UserError, match="does not fit into memory as float32") as caught:
        load(source(tiny_llama_dir, None))
    assert not isinstance(caught.value, OutOfMemory) and "model.device_map=auto" in str(caught.value)
