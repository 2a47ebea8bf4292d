"""General ability: lm-evaluation-harness on an edited model, with a task of our own from a local file."""

from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.benches import load_tiny, plain, state_hash
from ke_cli.engine.edits import NO_EDIT, Dense, Edit, LowRank, merged
from ke_cli.errors import UserError
from ke_cli.models.editable import EditableModel
from ke_cli.running import ability
from ke_cli.running.ability import check_tasks, measure_ability
from textbook import scoring as textbook

QUESTIONS = [
    {"question": "The capital of Norway is", "choices": ["Oslo", "Tokyo", "a baker"], "answer": 0},
    {"question": "Lena Vogel lives in", "choices": ["Lima", "Berlin"], "answer": 1},
    {"question": "Greta Hollis works as a", "choices": ["baker", "painter", "violin"], "answer": 0},
    {"question": "Ahmed Farouk plays", "choices": ["football", "the violin in the orchestra"], "answer": 0},
    {"question": "The river", "choices": ["rose", "bridge", "and the people went home"], "answer": 0},
]
TASK = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
"""
CHOICE = """\
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
doc_to_choice: choices
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
WRITTEN = """\
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 4, do_sample: false}
metric_list: [{metric: exact_match}]
"""

installed = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="the extra ability is not installed")


@pytest.fixture(scope="module")
def model(tiny_llama_dir: Path) -> EditableModel:
    return load_tiny(tiny_llama_dir, "float64")


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of a task, and another one beside it; what is made of their data goes to a folder of the test."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    data = tmp_path / "questions.jsonl"
    data.write_text("\n".join(map(json.dumps, QUESTIONS)), encoding="utf-8")
    for name, text in (("ours_choice", CHOICE), ("ours_written", WRITTEN)):
        (tmp_path / f"{name}.yaml").write_text(TASK.format(name=name, data=data) + text, encoding="utf-8")
    return tmp_path / "ours_choice.yaml"


def edit_of(model: EditableModel, *, dense: bool = False) -> Edit:
    """A change that is felt: some columns of the weight itself, turned round."""
    generator = torch.Generator().manual_seed(0)
    updates: dict[str, Any] = {}
    for layer in (1, 3):
        name = model.projection_name(layer)
        rows, columns = model.weight(name).shape
        left = torch.randn(rows, 2, generator=generator, dtype=torch.float64)
        right = torch.randn(2, columns, generator=generator, dtype=torch.float64)
        updates[name] = Dense(left @ right) if dense else LowRank(left, right)
    return Edit(updates)


def accuracy_by_textbook(model: EditableModel, questions: list[dict[str, Any]]) -> float:
    """The share of questions whose right choice has the highest probability."""

    def log_probability(prompt: str, choice: str) -> float:
        return -sum(textbook.nll(*plain(model), prompt, choice).nlls)

    right = [
        max(range(len(one["choices"])), key=lambda n: log_probability(one["question"], one["choices"][n]))
        == one["answer"]
        for one in questions
    ]
    return sum(right) / len(right)


@installed
@pytest.mark.parametrize("dense", [False, True])
def test_an_attached_edit_counts_as_one_in_the_weights(model: EditableModel, task: Path, dense: bool) -> None:
    edit, before, manager = edit_of(model, dense=dense), state_hash(model.hf), check_tasks([str(task)])
    found = measure_ability(model, edit, [str(task)], None, manager=manager, batch_size=2)
    assert state_hash(model.hf) == before
    with merged(model, edit):  # the tasks serve a second time
        assert measure_ability(model, NO_EDIT, [str(task)], None, manager=manager) == found
        assert found["ours_choice/acc"] == accuracy_by_textbook(model, QUESTIONS)
    assert set(found) == {"ours_choice/acc", "ours_choice/acc_norm"}


@installed
def test_texts_are_written_by_the_edited_model(model: EditableModel, task: Path) -> None:
    edit, written = edit_of(model), str(task.with_name("ours_written.yaml"))
    found = measure_ability(model, edit, [str(task), written], 2)
    assert set(found) == {"ours_choice/acc", "ours_choice/acc_norm", "ours_written/exact_match"}
    with merged(model, edit):
        assert found["ours_choice/acc"] == accuracy_by_textbook(model, QUESTIONS[:2])
        assert measure_ability(model, NO_EDIT, [str(task), written], 2) == found


@installed
def test_nothing_of_the_harness_stays(model: EditableModel, task: Path) -> None:
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    kept = (random.getstate(), str(np.random.get_state()), torch.get_rng_state())
    tokens = (model.tokenizer.pad_token, model.tokenizer.padding_side)
    measure_ability(model, NO_EDIT, [str(task)], 1)
    assert (random.getstate(), str(np.random.get_state())) == kept[:2]
    assert torch.equal(torch.get_rng_state(), kept[2])
    assert (model.tokenizer.pad_token, model.tokenizer.padding_side) == tokens
    assert not any(module._forward_hooks for module in model.hf.modules())


@installed
@pytest.mark.slow
def test_a_task_that_the_harness_lacks() -> None:
    with pytest.raises(UserError, match=r"no task 'helaswag'; did you mean 'hellaswag'\?"):
        check_tasks(["helaswag"])


@installed
def test_a_file_that_is_no_task(task: Path) -> None:
    task.write_text("dataset_path: json\n", encoding="utf-8")
    with pytest.raises(UserError, match="does not say which task it is"):
        check_tasks([str(task)])
    with pytest.raises(UserError, match=r"cannot be read \(FileNotFoundError\)"):
        check_tasks([str(task.with_name("none.yaml"))])


@installed
def test_data_that_cannot_be_had(model: EditableModel, task: Path) -> None:
    task.with_name("questions.jsonl").unlink()
    with pytest.raises(UserError, match="lm-evaluation-harness failed"):
        measure_ability(model, NO_EDIT, [str(task)], None)


def test_the_harness_is_an_extra(model: EditableModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ability.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"(?s)which is not installed.*pip install 'ke-run\[ability\]'"):
        measure_ability(model, NO_EDIT, ["hellaswag"], None)
