"""Composition: what the choices, the command line and the model's own numbers come to."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from dummies import CHOICES, DummyEditor, DummyMetric
from ke_cli.config import compose_run
from ke_cli.errors import UserError
from ke_cli.paths import BUNDLED


def test_everything_arrives_as_one_frozen_object(compose) -> None:
    config = compose("seed=3", "output_dir=/tmp/results", "device=cuda:1")
    assert (config.seed, config.output_dir, config.device) == (3, Path("/tmp/results"), "cuda:1")
    assert config.statistics.text == "atlas"
    assert config.statistics.tokens_per_width == 10.0
    assert config.protocol.name == "dummy"
    assert config.dataset.build().load().cases[0].request.subject == "Ann"
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 4  # type: ignore[misc]


def test_method_numbers_come_from_the_command_line_then_the_model_then_the_method(compose) -> None:
    editor = compose().method.build()
    assert editor == DummyEditor(layers=(1, 2), steps=7)
    assert compose("method.steps=9").method.build().steps == 9
    assert compose("model.editing.dummy.steps=8").method.build().steps == 8


def test_metrics_are_a_mapping_in_the_order_of_the_choice(compose) -> None:
    metrics = compose("metrics=[dummy_two,dummy]").metrics
    assert list(metrics) == ["dummy_two", "dummy"]
    assert metrics["dummy_two"].build() == DummyMetric(k=2)
    assert list(compose("metrics=[dummy_two,dummy]", "~metrics.dummy_two").metrics) == ["dummy"]


def test_settings_hold_the_defaults_that_no_file_names(dummy_conf: Path) -> None:
    (dummy_conf / "method" / "short.yaml").write_text(
        '# Short\nname: short\ntarget: "dummies:DummyEditor"\nlayers: [3]\n', encoding="utf-8"
    )
    config = compose_run([*CHOICES, "method=short"], dummy_conf)
    expected = {"layers": [3], "steps": 20, "lr": 0.5, "mode": "joint", "inner": {"depth": 1}, "chunk": 8}
    assert config.method.settings == expected


class TestModelPath:
    """``model.path=DIR`` puts another model in the place of one that the numbers were tuned on."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "my model"
        folder.mkdir()
        return folder

    def test_the_bundled_entry_keeps_its_numbers(self, compose) -> None:
        model = compose().model
        assert (model.name, model.path) == ("tuned", f"{BUNDLED}tuned-folder")
        assert model.editing["dummy"] == {"layers": [1, 2], "steps": 7}

    def test_name_and_numbers_go_the_text_stays(self, compose, folder: Path) -> None:
        config = compose(f"model.path='{folder}'")
        assert (config.model.name, config.model.path) == ("my model", str(folder))
        assert config.model.editing == {}
        assert config.statistics.text == "atlas"
        assert config.method.build() == DummyEditor(layers=(0.25,), steps=20)

    def test_the_command_line_still_wins(self, compose, folder: Path) -> None:
        config = compose(f"model.path='{folder}'", "model.name=mine", "method.layers=[5]")
        assert config.model.name == "mine"
        assert config.method.build().layers == (5,)

    def test_a_relative_folder_becomes_absolute(self, compose, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(folder)
        config = compose("model.path=.")
        assert (config.model.name, config.model.path) == ("my model", str(folder))

    def test_a_hub_id_stays_as_it_is(self, compose) -> None:
        config = compose("model.path=owner/some-model")
        assert (config.model.name, config.model.path) == ("some-model", "owner/some-model")

    def test_an_entry_of_a_real_model_keeps_its_numbers_with_a_local_copy(self, compose, folder: Path) -> None:
        config = compose("model=llama2-7b", f"model.path='{folder}'")
        assert config.model.name == "llama2-7b"
        assert config.model.editing["rome"]["layers"] == [5]

    def test_the_local_entry_needs_a_path_and_takes_its_name_from_it(self, compose, folder: Path) -> None:
        assert compose("model=local", f"model.path='{folder}'").model.name == "my model"
        with pytest.raises(UserError, match=r"lacks a value for model\.path") as caught:
            compose("model=local")
        assert caught.value.hint == "ke-run model.path=..."

    @pytest.mark.parametrize("path", ["/nowhere/at/all", "./nowhere", "../nowhere", "a/b/c"])
    def test_a_folder_that_does_not_exist_is_a_problem(self, compose, path: str) -> None:
        with pytest.raises(UserError, match=r"model\.path: there is no such folder"):
            compose(f"model.path={path}")

    def test_a_file_is_no_model(self, compose, tmp_path: Path) -> None:
        file = tmp_path / "model.safetensors"
        file.touch()
        with pytest.raises(UserError, match=r"model\.path: a model is a folder"):
            compose(f"model.path='{file}'")


def test_an_experiment_changes_choices_and_numbers_together(dummy_conf: Path) -> None:
    (dummy_conf / "experiment").mkdir()
    (dummy_conf / "experiment" / "long.yaml").write_text(
        "# @package _global_\n# More steps\ndefaults:\n  - override /method: dummy\nmethod: {steps: 99}\nseed: 5\n",
        encoding="utf-8",
    )
    rest = [choice for choice in CHOICES if not choice.startswith("method")]
    config = compose_run([*rest, "experiment=long", "seed=6"], dummy_conf)
    assert (config.method.name, config.method.build().steps, config.seed) == ("dummy", 99, 6)
