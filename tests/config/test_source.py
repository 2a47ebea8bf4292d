"""``edits_from=RUN``: the configuration is that of the run, but for what is typed, and no file has code run."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from dummies import CHOICES, write_conf
from ke_cli.config import EditsFrom, RunConfig, compose_run, config_dict, run_id, run_identity
from ke_cli.config.schema import CAMP
from ke_cli.errors import UserError
from ke_cli.results.edits import EditFolder
from ke_cli.results.store import RunStore
from marks import each_once
from results.runs import case

MADE_WITH = ("method.steps=9", "seed=5", "statistics.tokens=77", "dataset.limit=1", "model.dtype=float64")
METRICS = ("metrics=dummy_two",)
TYPED = tuple(choice for choice in CHOICES if not choice.startswith("metrics"))
"""What a user types who wants the run's parts, where they are code of other packages."""


@pytest.fixture
def source(compose, tmp_path: Path) -> Path:
    """A run of the dummies with one saved edit."""
    return made(tmp_path / "source", compose(*MADE_WITH))


def made(path: Path, config: RunConfig, content: bytes = b"an edit", **changes: Any) -> Path:
    record = {
        "schema": 1,
        "run_id": run_id(config),
        "config": config_dict(config) | changes,
        "model": {"fingerprint": "ab" * 32},
    }
    with RunStore.open(path, resume=True) as store:
        store.append([case("0", "0", edit={"saved": EditFolder(path).write("0", content).as_dict()})])
        store.write_record(record)
    return path


@pytest.fixture
def ours(source: Path) -> Path:
    """The same run as if all of its parts were our own, so that nobody has to vouch for them."""
    path = source / "run.json"
    record = json.loads(path.read_text())
    for part, target in (("method", "none:Unedited"), ("dataset", "atlas:Atlas"), ("protocol", "single:Single")):
        folder = {"method": "methods", "dataset": "data", "protocol": "protocols"}[part]
        record["config"][part] = {"name": target.partition(":")[0], "target": f"ke_cli.{folder}.{target}"}
    record["config"]["dataset"] |= {"limit": 7, "offset": 2, "order_seed": 3, "neighbors": 4}
    path.write_text(json.dumps(record))
    return source


def test_everything_but_the_metrics_is_that_of_the_run(compose, ours: Path) -> None:
    config = compose_run(["metrics=efficacy", f"edits_from={ours}"])
    made_by = compose(*MADE_WITH)
    assert (config.method.name, config.dataset.name, config.protocol.name) == ("none", "atlas", "single")
    assert config.dataset.settings["limit"] == 7
    assert (config.model, config.statistics, config.seed) == (made_by.model, made_by.statistics, 5)
    assert list(config.metrics) == ["efficacy"]
    assert config.edits_from is not None
    assert (config.edits_from.path, len(config.edits_from.fingerprint)) == (ours, 12)


def test_what_is_typed_wins(ours: Path, dummy_conf: Path) -> None:
    given = ["metrics=efficacy", f"edits_from={ours}", "dataset.limit=3", "seed=8", "statistics.max_length=99"]
    config = compose_run(given)
    assert (config.dataset.settings["limit"], config.dataset.settings["offset"], config.seed) == (3, 2, 8)
    assert (config.statistics.max_length, config.statistics.tokens) == (99, 77)
    assert (config.model.name, config.model.dtype) == ("tuned", "float64")
    config = compose_run([*given, "++model.dtype=float32"])
    assert (config.model.name, config.model.dtype) == ("tuned", "float32")
    config = compose_run([*given, "model=gpt2"])
    assert (config.model.name, config.model.dtype) == ("gpt2", "float32")
    config = compose_run([*given, "dataset=dummy", "dataset.limit=1"], dummy_conf)
    assert (config.dataset.name, config.dataset.settings) == ("dummy", {"limit": 1})


def test_the_method_may_be_typed_if_it_is_the_same(source: Path, dummy_conf: Path) -> None:
    config = compose_run([*TYPED, *METRICS, "method.steps=9", f"edits_from={source}"], dummy_conf)
    assert config.method.settings["steps"] == 9
    for steps in ((), ("method.steps=8",)):
        with pytest.raises(UserError, match=r"these edits were made by dummy \(.*steps=9") as error:
            compose_run([*TYPED, *METRICS, *steps, f"edits_from={source}"], dummy_conf)
        assert f"edits_from={source}" in str(error.value) and "leave method out" in str(error.value)


@pytest.mark.parametrize("part", ["method", "dataset", "protocol"])
def test_a_record_cannot_have_a_module_imported(ours: Path, tmp_path: Path, part: str) -> None:
    path = ours / "run.json"
    record = json.loads(path.read_text())
    record["config"][part]["target"] = "hostile_module:Anything"
    path.write_text(json.dumps(record))
    (tmp_path / "hostile_module.py").write_text(f"raise SystemExit('{part}')")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        with pytest.raises(UserError, match=f"the {part} '.*' of this run is not part of ke-run") as error:
            compose_run(["metrics=efficacy", f"edits_from={ours}"])
    assert f"--config-dir DIR {part}=" in str(error.value)


def test_a_record_cannot_have_the_code_of_a_model_run(ours: Path) -> None:
    path = ours / "run.json"
    record = json.loads(path.read_text())
    record["config"]["model"]["trust_remote_code"] = True
    path.write_text(json.dumps(record))
    given = ["metrics=efficacy", f"edits_from={ours}"]
    assert compose_run(given).model.trust_remote_code is False
    assert compose_run([*given, "++model.trust_remote_code=true"]).model.trust_remote_code is True


@pytest.mark.parametrize(
    ("value", "reason"),
    [("3", "expected the directory of a run"), ("''", "expected the directory"), ("nowhere/x", "there is no run")],
)
def test_what_is_no_run_is_told(value: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        compose_run([f"edits_from={value}"])


@pytest.mark.parametrize(
    ("part", "value"),
    each_once(["model", "dataset", "protocol", "statistics", "seed"], [None, [], "text", {"name": 3}]),
)
def test_a_damaged_configuration_is_told(ours: Path, part: str, value: object) -> None:
    path = ours / "run.json"
    record = json.loads(path.read_text())
    record["config"][part] = value
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=part):
        compose_run(["metrics=efficacy", f"edits_from={ours}", "++model.dtype=float32"])


class TestIdentity:
    def test_runs_that_edit_keep_their_name(self, compose) -> None:
        assert "edits_from" not in run_identity(compose())
        assert config_dict(compose())["edits_from"] is None

    def test_the_edits_count_and_not_the_folder(self, compose, source: Path, tmp_path: Path) -> None:
        given = [*TYPED, *METRICS, "method.steps=9"]
        conf = write_conf(tmp_path / "conf")
        config = compose_run([*given, f"edits_from={source}"], conf)
        assert config.edits_from is not None
        assert run_identity(config)["edits_from"] == {"fingerprint": config.edits_from.fingerprint}
        moved = source.rename(tmp_path / "moved")
        assert run_id(compose_run([*given, f"edits_from={moved}"], conf)) == run_id(config)
        other = made(tmp_path / "other", compose(*MADE_WITH), b"another edit")
        assert run_id(compose_run([*given, f"edits_from={other}"], conf)) != run_id(config)
        assert run_id(config) != run_id(replace(config, edits_from=None))

    def test_every_field_is_in_exactly_one_camp(self) -> None:
        camps = {item.name: item.metadata.get(CAMP) for item in fields(EditsFrom)}
        assert camps == {"path": "operational", "fingerprint": "scientific"}
