"""Exported edits, loaded as their users load them, say what the attached edit says."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from ke_cli.engine.edits import Edit, LowRank, attached, merged, sum_of
from ke_cli.exporting.adapter import write_adapter
from ke_cli.models.editable import EditableModel
from ke_cli.models.loading import ModelSource, load
from ke_cli.results.edits import stored_units
from ke_cli.running.stored import read_edit
from marks import rest_slow
from run.commands import Command, Export, arguments, lines_of, only_run
from tiny import TEXT, tiny_gpt2

peft = pytest.importorskip("peft", reason="the extra 'export' is not installed")

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft's own business

PROMPTS = [line for line in TEXT.splitlines() if line][:6]


def made(ke_run: Command, outputs: Path, model: Path, method: str, *more: str) -> Path:
    """A run with saved edits."""
    assert ke_run(*arguments(model, method, "save_edits=true", *more)).code == 0
    return only_run(outputs)


def edited(run: Path, *units: str) -> Edit:
    """The sum of some saved edits."""
    found = stored_units(run)
    edit = Edit({})
    for unit in units:
        edit = sum_of(edit, read_edit(found[unit], unit)[0])
    return edit


def units_of(run: Path) -> list[str]:
    return list(dict.fromkeys(line["unit"] for line in lines_of(run)))


def loaded(folder: Path, dtype: str = "float32") -> EditableModel:
    return load(ModelSource(name=folder.name, path=str(folder), dtype=dtype, device="cpu"))


@torch.no_grad()
def logits(hf: Any, tokenizer: Any) -> list[Tensor]:
    """Logits at every position of each prompt."""
    return [hf(**tokenizer(prompt, return_tensors="pt")).logits[0] for prompt in PROMPTS]


def attached_logits(model: EditableModel, edit: Edit) -> list[Tensor]:
    with attached(model, [edit], [0]):
        return logits(model.hf, model.tokenizer)


def assert_close(found: list[Tensor], wanted: list[Tensor], tolerance: float) -> None:
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def assert_moved(model: EditableModel, wanted: list[Tensor]) -> None:
    """The edit is one that can be seen."""
    plain = logits(model.hf, model.tokenizer)
    assert max(float((one - other).abs().max()) for one, other in zip(plain, wanted, strict=True)) > 1e-2


class TestAdapter:
    @pytest.mark.parametrize(
        ("tiny_dir", "method"),
        rest_slow(
            product(("gpt2", "llama"), ("rome", "memit", "rose", "alphaedit", "prune")),
            [("gpt2", "rome"), ("llama", "memit")],
        ),
        indirect=["tiny_dir"],
    )
    def test_peft_says_what_the_edit_says(
        self, ke_run: Command, outputs: Path, tiny_dir: Path, ke_export: Export, method: str
    ) -> None:
        run = made(ke_run, outputs, tiny_dir, method)
        unit = units_of(run)[1]
        code, text = ke_export(run, "--units", unit, "--to", "adapter", "--as", "peft", "--check")
        assert code == 0, text
        assert "written: adapter (LoRA of rank" in text and "checked: logits after 1 prompts differ by" in text
        base = AutoModelForCausalLM.from_pretrained(tiny_dir)
        adapted = peft.PeftModel.from_pretrained(base, "adapter").eval()
        model = loaded(tiny_dir)
        wanted = attached_logits(model, edited(run, unit))
        assert_moved(model, wanted)
        assert_close(logits(adapted, model.tokenizer), wanted, 1e-5)
        with adapted.disable_adapter():
            assert_close(logits(adapted, model.tokenizer), logits(model.hf, model.tokenizer), 1e-5)
        assert_close(logits(adapted.merge_and_unload(), model.tokenizer), wanted, 1e-4)

    def test_the_sum_of_all_edits(self, ke_run: Command, outputs: Path, tiny_dir: Path, ke_export: Export) -> None:
        run = made(ke_run, outputs, tiny_dir, "rome")
        code, text = ke_export(run, "--all", "--to", "adapter", "--as", "peft")
        assert (code, "3 edits are added up; each was made for the unedited model" in text) == (0, True)
        config = json.loads(Path("adapter/adapter_config.json").read_text())
        assert (config["r"], config["lora_alpha"], config["rank_pattern"]) == (3, 3, {})
        assert config["fan_in_fan_out"] == (tiny_dir.name == "gpt2")
        assert config["base_model_name_or_path"] == str(tiny_dir)
        model = loaded(tiny_dir)
        adapted = peft.AutoPeftModelForCausalLM.from_pretrained("adapter").eval()
        assert_close(logits(adapted, model.tokenizer), attached_logits(model, edited(run, *units_of(run))), 1e-5)

    def test_projections_of_different_ranks(self, tiny_dir: Path, tmp_path: Path) -> None:
        model = loaded(tiny_dir, "float64")
        generator = torch.Generator().manual_seed(0)
        updates = {}
        for layer, rank in ((0, 2), (1, 5), (3, 1)):
            name = model.projection_name(layer)
            out, into = model.weight(name).shape
            left, right = (
                0.3 * torch.randn(shape, generator=generator, dtype=torch.float64)
                for shape in ((out, rank), (rank, into))
            )
            updates[name] = LowRank(left, right)
        edit = Edit(updates)
        base = {"base_model_name_or_path": str(tiny_dir), "revision": None}
        write_adapter(tmp_path, edit, base, conv1d=tiny_dir.name == "gpt2")
        assert json.loads((tmp_path / "adapter_config.json").read_text())["r"] == 5
        hf = AutoModelForCausalLM.from_pretrained(tiny_dir, dtype=torch.float64)
        adapted = peft.PeftModel.from_pretrained(hf, tmp_path).eval()
        wanted = attached_logits(model, edit)
        assert_moved(model, wanted)
        assert_close(logits(adapted, model.tokenizer), wanted, 1e-10)

    def test_half_precision(self, ke_run: Command, outputs: Path, tiny_llama_dir: Path, ke_export: Export) -> None:
        run = made(ke_run, outputs, tiny_llama_dir, "rome", "model.dtype=bfloat16")
        unit = units_of(run)[0]
        assert ke_export(run, "--units", unit, "--to", "adapter", "--as", "peft", "--check")[0] == 0
        weights = load_file("adapter/adapter_model.safetensors")
        assert {tensor.dtype for tensor in weights.values()} == {torch.float32}

    @pytest.mark.parametrize("method", ["ft", "rect"])
    def test_a_change_without_a_low_rank_is_refused(
        self, ke_run: Command, outputs: Path, tiny_gpt2_dir: Path, ke_export: Export, method: str
    ) -> None:
        run = made(ke_run, outputs, tiny_gpt2_dir, method, "dataset.limit=1")
        code, text = ke_export(run, "--to", "adapter", "--as", "peft")
        assert (code, "has no low rank, so a LoRA adapter cannot hold it" in text) == (1, True)
        assert "--as checkpoint" in text
        assert sorted(path.name for path in Path().iterdir()) == ["outputs"]

    def test_a_wrong_adapter_does_not_pass_the_check(
        self,
        ke_run: Command,
        outputs: Path,
        tiny_gpt2_dir: Path,
        ke_export: Export,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        run = made(ke_run, outputs, tiny_gpt2_dir, "rome", "dataset.limit=1")

        def doubled(folder: Path, edit: Edit, *args: Any, **kwargs: Any) -> None:
            write_adapter(folder, sum_of(edit, edit), *args, **kwargs)

        monkeypatch.setattr("ke_cli.exporting.artifacts.write_adapter", doubled)
        code, text = ke_export(run, "--to", "adapter", "--as", "peft", "--check")
        assert (code, "the exported model does not say what the edited one says" in text) == (1, True)

    def test_without_peft_the_check_says_what_to_install(
        self,
        ke_run: Command,
        outputs: Path,
        tiny_gpt2_dir: Path,
        ke_export: Export,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        run = made(ke_run, outputs, tiny_gpt2_dir, "rome", "dataset.limit=1")
        monkeypatch.setitem(__import__("sys").modules, "peft", None)
        assert ke_export(run, "--to", "adapter", "--as", "peft")[0] == 0
        code, text = ke_export(run, "--to", "other", "--as", "peft", "--check")
        assert (code, "pip install 'ke-run[export]'" in text) == (1, True)


class TestCheckpoint:
    @pytest.mark.parametrize(
        ("tiny_dir", "method"),
        rest_slow(product(("gpt2", "llama"), ("ft", "rome", "memit")), [("gpt2", "memit"), ("llama", "ft")]),
        indirect=["tiny_dir"],
    )
    def test_transformers_says_what_the_edit_says(
        self, ke_run: Command, outputs: Path, tiny_dir: Path, ke_export: Export, method: str
    ) -> None:
        run = made(ke_run, outputs, tiny_dir, method)
        units = units_of(run)[:2]
        given = ("--units", *units, "--to", "merged", "--as", "checkpoint")
        code, text = ke_export(run, *given, "--shard-size", "50KB", "--check")
        assert code == 0, text
        assert "rounding to float32 changed the edit by" in text and "checked: logits after 2 prompts" in text
        assert len(list(Path("merged").glob("*.safetensors"))) > 1
        assert not list(Path("merged").glob("*.bin"))
        hf = AutoModelForCausalLM.from_pretrained("merged").eval()
        tokenizer = AutoTokenizer.from_pretrained("merged")
        model, edit = loaded(tiny_dir), edited(run, *units)
        assert [tokenizer(prompt)["input_ids"] for prompt in PROMPTS] == [
            model.tokenizer(prompt)["input_ids"] for prompt in PROMPTS
        ]
        found, wanted = logits(hf, tokenizer), attached_logits(model, edit)
        assert_moved(model, wanted)
        assert_close(found, wanted, 1e-4)
        with merged(model, edit):
            state = model.hf.state_dict()
            assert all(torch.equal(tensor, state[name]) for name, tensor in hf.state_dict().items())

    def test_the_edited_facts_are_what_the_checkpoint_knows(
        self, ke_run: Command, outputs: Path, tiny_gpt2_dir: Path, ke_export: Export
    ) -> None:
        """The merged model, measured without editing, has the scores of the edited one."""
        run = made(ke_run, outputs, tiny_gpt2_dir, "rome", "dataset.limit=1")
        assert ke_export(run, "--to", "merged", "--as", "checkpoint")[0] == 0
        plain = ("dataset.limit=1", "output_dir=plain", "model.name=gpt2")
        assert ke_run(*arguments(Path("merged").resolve(), "none", *plain)).code == 0
        (known,), (written,) = (lines_of(folder) for folder in (only_run(Path("plain")), run))
        for name in ("efficacy", "paraphrase", "neighborhood"):
            for column in (name, f"{name}_magnitude", f"{name}_accuracy"):
                assert known["metrics"][column] == pytest.approx(written["metrics"][column], abs=1e-5)

    def test_coarse_weights_lose_some_of_the_edit_and_fine_ones_none(
        self, ke_run: Command, outputs: Path, tiny_llama_dir: Path, ke_export: Export
    ) -> None:
        run = made(ke_run, outputs, tiny_llama_dir, "rome", "model.dtype=bfloat16", "dataset.limit=1")
        code, coarse = ke_export(run, "--to", "coarse", "--as", "checkpoint")
        assert (code, "rounding to bfloat16 changed the edit by" in coarse) == (0, True)
        code, fine = ke_export(run, "--to", "fine", "--as", "checkpoint", "--dtype", "float32", "--check")
        assert (code, "rounding to float32 changed the edit by" in fine) == (0, True)
        lost = [float(text.partition("changed the edit by ")[2].split()[0]) for text in (coarse, fine)]
        assert lost[0] > 1e-3 and lost[1] < 1e-5
        for folder, dtype in (("coarse", torch.bfloat16), ("fine", torch.float32)):
            assert AutoModelForCausalLM.from_pretrained(folder).dtype == dtype

    def test_another_model_is_refused(
        self, ke_run: Command, outputs: Path, tmp_path: Path, tiny_gpt2_dir: Path, ke_export: Export
    ) -> None:
        run = made(ke_run, outputs, tiny_gpt2_dir, "rome", "dataset.limit=1")
        other = tiny_gpt2(tmp_path / "other", seed=99)
        code, text = ke_export(run, "--to", "merged", "--as", "checkpoint", "--model", other)
        assert (code, "these edits were made for another model" in text) == (1, True)
        assert sorted(path.name for path in Path().iterdir()) == ["outputs"]


def test_tensors_that_share_memory_are_written_apart(tmp_path: Path) -> None:
    """A low-rank pair may be two views of one matrix, which safetensors refuses, so each is copied out."""
    whole = torch.randn(6, 6)
    base = {"base_model_name_or_path": "x", "revision": None}
    write_adapter(tmp_path, Edit({"a": LowRank(whole[:, :2], whole[:2])}), base, conv1d=False)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    assert torch.equal(weights["base_model.model.a.lora_A.weight"], whole[:2])
    assert torch.equal(weights["base_model.model.a.lora_B.weight"], whole[:, :2])
