"""The configuration files of the package: every one composes, builds, and says in one line what it is."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from ke_cli.command_line.help import description
from ke_cli.config import RunConfig, compose_run
from ke_cli.config.plugins import load_target
from ke_cli.paths import conf_dir

FILES = sorted(path.relative_to(conf_dir()) for path in conf_dir().rglob("*.yaml"))
CHOICES = [path for path in FILES if len(path.parts) == 2]
AT_LEAST = {"model": 50, "method": 17, "dataset": 14, "metrics": 25, "protocol": 2, "experiment": 3}
"""How many choices the groups had when this was written: a pattern that finds none must not pass."""

FILES_OF_WORDS = Path(__file__).resolve().parents[1] / "metrics" / "tfidf"
TFIDF = {"vocabulary": FILES_OF_WORDS / "vocabulary.json", "idf": FILES_OF_WORDS / "idf.json"}
"""What a user must give to a metric, which reads it before anything else happens."""


def composed(path: Path, *overrides: str) -> RunConfig:
    """Compose the default run with one choice of one group, and values for what a user must give."""
    group, name = path.parent.name, path.stem
    inside = OmegaConf.to_container(OmegaConf.load(conf_dir() / path), resolve=False)
    assert isinstance(inside, dict)
    given = [f"{group}.{key}=given" for key, value in inside.items() if value == "???"]
    few = ["metrics=efficacy"] if group in ("model", "method", "dataset", "protocol") else []
    return compose_run([f"{group}={name}", *few, *given, *overrides])


def test_the_files_are_found() -> None:
    assert {str(path) for path in FILES if len(path.parts) == 1} == {"config.yaml"}
    for group, least in AT_LEAST.items():
        assert sum(path.parts[0] == group for path in CHOICES) >= least, group


@pytest.mark.parametrize("path", [path for path in CHOICES if path.parts[0] not in ("metrics", "experiment")], ids=str)
def test_every_file_composes_and_builds(path: Path) -> None:
    """Those of metrics are composed together below; those of experiments in `test_experiments`."""
    config = composed(path)
    for plugin in (config.method, config.dataset, config.protocol):
        assert plugin.build() == plugin.build()


def test_all_metrics_compose_and_build_together() -> None:
    names = [path.stem for path in CHOICES if path.parts[0] == "metrics"]
    config = compose_run(
        [f"metrics=[{','.join(names)}]", *(f"metrics.consistency.{key}={file}" for key, file in TFIDF.items())]
    )
    inside = [OmegaConf.load(conf_dir() / "metrics" / f"{name}.yaml") for name in names]
    assert set(config.metrics) == {key for file in inside for key in file if key != "defaults"}
    for plugin in config.metrics.values():
        assert plugin.build() == plugin.build()


@pytest.mark.parametrize("path", [path for path in CHOICES if path.parts[0] != "metrics"], ids=str)
def test_the_name_inside_is_the_name_of_the_file(path: Path) -> None:
    inside = OmegaConf.load(conf_dir() / path)
    inside = inside.experiment if path.parts[0] == "experiment" else inside
    assert inside.get("name") == (None if path.name == "local.yaml" else path.stem)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_file_begins_with_one_line_that_describes_it(path: Path) -> None:
    text = description(conf_dir() / path)
    assert 10 <= len(text) <= 110


@pytest.mark.parametrize("path", [path for path in CHOICES if path.parts[0] in AT_LEAST], ids=str)
def test_every_number_of_a_target_stands_in_its_file(path: Path) -> None:
    inside = _contents(conf_dir() / path)
    for part in [inside] if "target" in inside else inside.values():
        if isinstance(part, dict) and "target" in part:
            settings = [item for item in fields(load_target(part["target"])) if item.init]
            assert set(part) - {"name", "target"} == {item.name for item in settings} - {"name", "version"}
            unasked = {item.name: item.default for item in settings if _is_number(item.default)}
            assert {name: part[name] for name in unasked} == unasked, "two numbers for one setting"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _contents(path: Path) -> dict[str, Any]:
    """What a file says together with the files of its folder that it is made of."""
    inside = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    assert isinstance(inside, dict)
    parts = [str(part) for part in inside.pop("defaults", []) if str(part).endswith("@_here_")]
    shared = [_contents(path.parent / f"{part.removesuffix('@_here_')}.yaml") for part in parts]
    return {key: value for part in [*shared, inside] for key, value in part.items()}  # type: ignore[misc]


def _read_by(path: Path, method: str) -> set[tuple[str, str]]:
    """Families and keys of ``model.editing`` that a method's file asks for, with those of the files it is made of."""
    text = path.read_text(encoding="utf-8")
    read = set(re.findall(r"model\.editing\.(\w+)\.(\w+)", text.replace("${method.name}", method)))
    for shared in re.findall(r"- (?:shared/)?(\w+)@_here_", text):
        read |= _read_by(conf_dir() / "method" / "shared" / f"{shared}.yaml", method)
    return read


def test_the_numbers_of_a_model_are_all_read_by_some_method() -> None:
    read = {pair for path in (conf_dir() / "method").glob("*.yaml") for pair in _read_by(path, path.stem)}
    assert len(read) > 100
    for path in (conf_dir() / "model").glob("*.yaml"):
        for family, numbers in OmegaConf.load(path).editing.items():
            assert {(family, key) for key in numbers} <= read, f"{path.stem}: {family}"


@pytest.mark.parametrize(
    ("model", "method", "expected"),
    [
        ("gpt2-xl", "rome", {"layers": (17,), "steps": 20}),
        ("gpt2-xl", "memit", {"layers": (13, 14, 15, 16, 17), "lambda_": 20000.0}),
        ("gpt2-xl", "top", {"layers": (17, 18), "relation_offset": 1, "vec_loss_factor": 0.1}),
        ("gpt-j-6b", "rets", {"layers": (17,), "steps": 20}),
        ("gpt-neox-20b", "rome", {"layers": (15,), "steps": 20}),
        ("gpt-neox-20b", "alphaedit", {"layers": (6, 7, 8, 9, 10)}),
        ("llama3.1-8b-instruct", "encore", {"layers": (4, 5, 6, 7, 8), "lambda_f": 20.0, "patience": 2}),
        ("llama3.2-1b", "memit", {"layers": (4, 5, 6, 7, 8), "clamp": 4.0, "weight_decay": 1e-3}),
        ("mistral-7b", "rome", {"layers": (5,), "covariance": False}),
        ("qwen2.5-7b-instruct", "top", {"layers": (5,), "relation_offset": 5, "covariance": False}),
        ("gpt-j-6b", "ft_l", {"layers": (0,), "lr": 5e-5}),
        ("llama2-7b", "rome", {"layers": (5,), "steps": 25, "weight_decay": 1e-3}),
        ("llama3-8b", "memit", {"layers": (4, 5, 6, 7, 8), "lr": 0.1, "lambda_": 15000.0}),
        ("qwen2.5-7b", "memit", {"clamp": 4.0, "weight_decay": 1e-3}),
        ("gpt2-xl", "r_rome", {"layers": (17,), "steps": 20, "key": "templates"}),
        ("gpt2-xl", "alphaedit", {"layers": (13, 14, 15, 16, 17), "l2": 10.0, "nullspace_threshold": 0.02}),
        ("qwen2.5-7b", "alphaedit", {"clamp": 4.0, "weight_decay": 1e-3, "l2": 1.0}),
        ("llama2-7b", "emmet", {"layers": (5,), "lambda_": 1e5, "ridge": 0.1, "steps": 20}),
        ("llama3-8b", "encore", {"layers": (4, 5, 6, 7, 8), "lambda_f": 20.0, "patience": 2}),
        ("gpt-j-6b", "pmet", {"steps": 30, "lr": 0.2, "kl_factor": 1.0, "lambda_": 6000.0}),
        ("gpt2-xl", "blue", {"layers": (13, 14, 15, 16, 17), "lambda_": 20000.0}),
        ("gpt-j-6b", "rect", {"lambda_": 15000.0, "keep": 0.4}),
    ],
)
def test_published_numbers_reach_the_editor(model: str, method: str, expected: dict[str, object]) -> None:
    editor = compose_run([f"model={model}", f"method={method}"]).method.build()
    assert {name: getattr(editor, name) for name in expected} == expected
