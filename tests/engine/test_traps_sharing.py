"""Known traps of existing implementations, those about what must not be shared or passed over in silence."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from ke_cli.config import compose_run
from ke_cli.engine.statistics import StatisticsSpec
from ke_cli.engine.workbench import ContextSpec, Workbench
from ke_cli.models.editable import EditableModel
from ke_cli.running.plan import make_plan

from .benches import (
    REQUESTS,
    bench_of,
    deltas_of,
    documents,
    relative,
    unit_of,
)
from .trap_tools import SOME, build

TinyModel = Callable[..., EditableModel]


class TestSharing:
    def test_templates_are_not_shared_between_models(self, tiny_model: TinyModel, tmp_path: Path) -> None:
        spec = ContextSpec((("The", 6, 1), ("", 6, 2)))
        benches = [bench_of(tiny_model(kind), tmp_path / kind) for kind in ("gpt2", "llama", "llama3")]
        benches[0].use_templates(spec, ("{}", "Only here. {}"))
        texts = [here.templates(spec) for here in benches]
        assert len(set(texts)) == 3 and "Only here. {}" not in (*texts[1], *texts[2])
        anew = [bench_of(here.model, tmp_path / "new").templates(spec) for here in benches]
        assert "Only here. {}" not in anew[0] and anew[1:] == texts[1:]

    def test_statistics_are_not_shared_between_models(self, tiny_model: TinyModel, tmp_path: Path) -> None:
        """One cache folder, two models of one shape; each workbench computes its own."""
        llamas = [tiny_model(kind) for kind in ("llama", "llama3")]
        matrices = [bench_of(model, tmp_path).covariances([1])[1].matrix for model in llamas]
        assert matrices[0].shape == matrices[1].shape and not torch.equal(*matrices)
        again = [bench_of(model, tmp_path).covariances([1])[1].matrix for model in llamas]
        assert all(torch.equal(a, b) for a, b in zip(matrices, again, strict=True))

    def test_statistics_of_another_model_are_recognised(
        self, tiny_model: TinyModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A file put into another model's place is not used."""
        mine, other = (bench_of(tiny_model(kind), tmp_path).statistics for kind in ("llama", "llama3"))
        want = mine.covariances(tiny_model("llama"), [1])[1].matrix
        places = [s._path(s._identity(tiny_model(k), 1)) for s, k in ((mine, "llama"), (other, "llama3"))]
        other.covariances(tiny_model("llama3"), [1])
        shutil.copy(places[1], places[0])
        assert torch.equal(mine.covariances(tiny_model("llama"), [1])[1].matrix, want)
        assert "does not hold what its name says" in caplog.text

    def test_statistics_are_known_by_all_that_changes_them(self, tiny_model: TinyModel, tmp_path: Path) -> None:
        """Token count, maximum length, text, data type, layer: each its own file; the batch size is none of them."""
        store = bench_of(tiny_model("gpt2"), tmp_path).statistics
        text = replace(store.spec.text, source=str(tmp_path / "other.txt"))
        Path(text.source).write_text("\n".join(documents(50)) + "\n")
        specs: list[StatisticsSpec] = [
            store.spec,
            replace(store.spec, tokens=1919),
            replace(store.spec, max_length=25),
            replace(store.spec, text=text),
        ]
        models = [tiny_model("gpt2"), tiny_model("gpt2", "float64")]
        paths = [
            one._path(one._identity(model, layer))
            for one in (replace(store, spec=spec) for spec in specs)
            for model in models
            for layer in (1, 2)
        ]
        assert len(set(paths)) == len(paths) == 16
        assert {replace(store, budget=b)._path(store._identity(models[0], 1)) for b in (1, 99)} == {paths[0]}

    @pytest.mark.parametrize("name", SOME)
    def test_a_sweep_over_lr_changes_the_value(self, name: str, bench: Callable[..., Workbench]) -> None:
        """On one workbench, as a sweep in one process has it: nothing stale, and the first value comes again."""
        here, unit = bench("gpt2"), [unit_of(*REQUESTS[:2])]
        edits = [deltas_of(build(name, here, lr=lr).edit(here, unit)[0]) for lr in (0.4, 0.1, 0.01, 0.4)]
        for weight, delta in edits[0].items():
            assert torch.equal(edits[3][weight], delta)
            values = [delta, edits[1][weight], edits[2][weight]]
            if name != "ft_l":  # the bound on every entry makes large rates equal
                assert all(relative(a, b) > 1e-3 for a, b in pairwise(values))


class TestWarnings:
    @pytest.mark.parametrize(("method", "warned"), [("memit", True), ("memit_merge", False), ("rose", False)])
    def test_several_facts_of_one_subject(self, method: str, warned: bool, tiny_gpt2_dir: Path) -> None:
        common = ["model=local", f"model.path={tiny_gpt2_dir}", f"method={method}", "dataset=atlas", "metrics=quick"]
        together = make_plan(compose_run([*common, "protocol=same_subject"]))
        assert any("several facts of one subject" in text for text in together.warnings) == warned
        single = make_plan(compose_run([*common, "protocol=single"]))
        assert not any("several facts of one subject" in text for text in single.warnings)
