"""Bad input is met with one message, what and where and what to do, before any model is loaded."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from counterfact_files import record
from ke_cli.config import compose_run, run_dir
from run.commands import Command, Result, arguments, run_folders


@pytest.fixture
def refused(ke_run: Command, outputs: Path, loads: list[str]) -> Any:
    """Run a command that must be refused: one message on stderr, nothing else anywhere; returns the message."""

    def called(*args: str) -> str:
        result: Result = ke_run(*args)
        assert (result.code, result.out, loads) == (1, "", [])
        assert result.err.startswith("error: ") and result.err.count("error: ") == 1
        assert not outputs.is_dir() or run_folders(outputs) == []
        return result.err

    return called


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("method=rom", ["unknown method 'rom'", "allowed: alphaedit, blue, emmet", "did you mean 'rome'?"]),
        ("model=gpt2xl", ["unknown model 'gpt2xl'", "did you mean 'gpt2-xl'?"]),
        ("dataset=counterfacts", ["unknown dataset 'counterfacts'", "did you mean 'counterfact'?"]),
        ("metrics=efficiency", ["unknown metrics 'efficiency'", "did you mean 'efficacy'?"]),
        ("protocol=samesubject", ["unknown protocol 'samesubject'", "did you mean 'same_subject'?"]),
        ("+dataset.limits=3", ["dataset.limits: unknown key; did you mean 'limit'?"]),
        ("method.layers=2", ["method.layers: expected a list, got 2"]),
        ("dataset.limit=0", ["dataset.limit: expected at least 1, got 0"]),
    ],
)
def test_what_the_configuration_does_not_have(
    refused: Any, tiny_gpt2_dir: Path, override: str, parts: list[str]
) -> None:
    message = refused(*arguments(tiny_gpt2_dir, "rome", override))
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("method", "layers"),
    [("ft_l", "[5]"), ("rets", "[-1]"), ("memit", "[0,99]"), ("rome", "[1.5]"), ("rose", "[]"), ("top", "[5]")],
)
def test_a_layer_that_the_model_does_not_have(refused: Any, tiny_llama_dir: Path, method: str, layers: str) -> None:
    message = refused(*arguments(tiny_llama_dir, method, f"method.layers={layers}"))
    missing = {"[5]": "5", "[-1]": "-1", "[0,99]": "99", "[1.5]": "7"}
    what = f"the model has no layer {missing[layers]}" if layers in missing else "no layer to edit is given"
    assert message == (
        f"error: {what}\n  where:   method.layers\n  allowed: 0 to 4, or fractions of the depth such as 0.5\n"
        "  try:     method.layers=[2]\n"
    )


def counterfact(model: Path, data: Path) -> list[str]:
    return arguments(model, "rome", "dataset=counterfact", f"dataset.path='{data}'")


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (None, ["the file does not exist"]),
        ("[{]", ["the file is not JSON", "line 1, column 3"]),
        ("[]", ["holds no records"]),
        (json.dumps([record(rewrite={"prompt": "Angola is in"})]), ["requested_rewrite.prompt must hold {} once"]),
        (json.dumps([record(rewrite={"target_new": {"str": ""}})]), ["requested_rewrite.target_new.str is empty"]),
        (
            json.dumps([record(case_id=1, rewrite={"prompt": "x"}), record(case_id=2, rewrite={"target_true": {}})]),
            ["record 0 (case_id 1): requested_rewrite.prompt", "record 1 (case_id 2): requested_rewrite.target_true"],
        ),
    ],
    ids=["missing", "not JSON", "empty", "without {}", "empty target", "two problems"],
)
def test_a_data_file_that_cannot_be_used(
    refused: Any, tmp_path: Path, tiny_gpt2_dir: Path, content: str | None, parts: list[str]
) -> None:
    data = tmp_path / "bad data.json"
    if content is not None:
        data.write_text(content, encoding="utf-8")
    message = refused(*counterfact(tiny_gpt2_dir, data))
    for part in (*parts, str(data), "  try:     dataset.path=FILE"):
        assert part in message


@pytest.mark.parametrize(
    ("removed", "what"),
    [
        (["*.safetensors"], "the model folder lacks safetensors weights (*.safetensors)"),
        (["tokenizer.json"], "the model folder lacks a tokenizer (tokenizer.json)"),
        (["config.json"], "the model folder lacks config.json"),
        (["*"], "the model folder lacks config.json and safetensors weights (*.safetensors) and a tokenizer"),
    ],
)
def test_a_model_folder_that_is_not_whole(
    refused: Any, tmp_path: Path, tiny_gpt2_dir: Path, removed: list[str], what: str
) -> None:
    model = Path(shutil.copytree(tiny_gpt2_dir, tmp_path / "half a model"))
    for pattern in removed:
        for path in model.glob(pattern):
            path.unlink()
    message = refused(*arguments(model, "rome"))
    assert message.startswith(f"error: {what}")
    assert f"  where:   model.path={model} (has: " in message
    assert "  allowed: a folder written by save_pretrained" in message
    assert "  try:     save model and tokenizer with transformers' save_pretrained(DIR)" in message


@pytest.mark.parametrize(
    ("content", "what"),
    [("{", "config.json cannot be read"), ("[]", "config.json is not a JSON object")],
)
def test_a_model_whose_config_is_damaged(
    refused: Any, tmp_path: Path, tiny_gpt2_dir: Path, content: str, what: str
) -> None:
    model = Path(shutil.copytree(tiny_gpt2_dir, tmp_path / "model"))
    (model / "config.json").write_text(content)
    message = refused(*arguments(model, "rome"))
    assert what in message and f"model.path={model}" in message


@pytest.mark.parametrize("path", ["no/such/model", "/no/such/model"])
def test_a_model_folder_that_is_not_there(refused: Any, path: str) -> None:
    assert f"model.path: there is no such folder: {path}" in refused(*arguments(Path(path), "rome"))


def test_weights_that_are_damaged_are_told_in_one_message(ke_run: Command, tmp_path: Path, tiny_gpt2_dir: Path) -> None:
    model = Path(shutil.copytree(tiny_gpt2_dir, tmp_path / "model"))
    (model / "model.safetensors").write_bytes(b"no weights")
    for more in ([], ["dry_run=true"]):
        result = ke_run(*arguments(model, "none", *more))
        assert result.code == 1
        assert result.err.startswith("error: ") and "header" in result.err


@pytest.mark.parametrize("place", ["outputs", "outputs/deeper"])
def test_a_file_in_the_place_of_the_output_folder(refused: Any, tiny_gpt2_dir: Path, place: str) -> None:
    Path("outputs").write_text("a file")
    message = refused(*arguments(tiny_gpt2_dir, "rome", f"output_dir={place}"))
    assert "a file or folder cannot be used: " in message
    assert "outputs" in message and "  try:     output_dir=FOLDER" in message
    assert Path("outputs").read_text() == "a file"


def test_a_file_in_the_place_of_the_run_folder(
    ke_run: Command, outputs: Path, tiny_gpt2_dir: Path, loads: list[str]
) -> None:
    given = arguments(tiny_gpt2_dir, "rome")
    folder = run_dir(compose_run(given))
    outputs.mkdir()
    folder.write_text("a file")
    result = ke_run(*given)
    assert (result.code, loads) == (1, [])
    assert result.err.startswith("error: the results cannot be written: ")
    assert f"  where:   {folder}" in result.err and "output_dir=" in result.err


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_folder_that_is_closed(refused: Any, tmp_path: Path, tiny_gpt2_dir: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o555)
    message = refused(*arguments(tiny_gpt2_dir, "rome", f"output_dir='{tmp_path / 'closed'}'"))
    assert "cannot write to the output folder" in message


def test_a_protocol_that_finds_nothing_to_group(refused: Any, tmp_path: Path, tiny_gpt2_dir: Path) -> None:
    data = tmp_path / "data.json"
    data.write_text(json.dumps([record()]), encoding="utf-8")
    message = refused(*counterfact(tiny_gpt2_dir, data), "protocol=same_subject")
    assert message.startswith(
        "error: no subject has 2 facts of different relations\n  where:   1 cases about 1 subject"
    )
    assert "  try:     protocol.min_facts=1" in message


def test_everything_that_is_wrong_is_told_at_once(refused: Any, tiny_gpt2_dir: Path) -> None:
    wrong = [
        "device=gpu",
        "method.steps=0",
        "+method.foo=1",
        "dataset.neighbors=1",
        "statistics.text=/no/file",
    ]
    message = refused(*arguments(tiny_gpt2_dir, "rome", *wrong))
    assert message.startswith("error: the configuration has 5 problems:\n")
    for place in ("device", "method.steps", "method.foo", "dataset.neighbors", "statistics.text"):
        assert f"  - {place}: " in message
