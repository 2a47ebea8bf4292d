"""The experiments of the package, and what an experiment may say about itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from ke_cli.config import ExperimentConfig, PublishedConfig, ReportConfig, RunConfig, compose_run, config_dict
from ke_cli.config.grids import Grid, jobs, sampled
from ke_cli.errors import UserError
from ke_cli.paths import conf_dir

EXPERIMENTS = sorted((conf_dir() / "experiment").glob("*.yaml"))
JOBS = {
    "rose_ablation": 180,
    "overgeneralisation": 5,
    "rets_llama2_7b": 4,
    "rome_counterfact": 4,
    "rome_zsre": 4,
    "memit_10000": 3,
    "alphaedit_2000": 7,
    "top_gpt2_xl": 6,
    "same_subject": 18,
    "rose_llama3.1_8b": 8,
}


@cache
def swept(path: Path) -> list[list[str]]:
    """The overrides of each job of an experiment."""
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        hydra = compose("config", overrides=[f"experiment={path.stem}"], return_hydra_config=True).hydra
    assert hydra.mode.name == "MULTIRUN"
    params, grids = (
        (OmegaConf.to_container(part) if part else None) for part in (hydra.sweeper.params, hydra.sweeper.grids)
    )
    return jobs(parsed(params or {}), [parsed(grid) for grid in grids or []], {"experiment": (path.stem,)})


def one_of_each(rows: list[list[str]]) -> Iterator[list[str]]:
    """So many of the jobs that each override is in one of them."""
    seen: set[str] = set()
    for row in rows:
        if not seen.issuperset(row):
            seen.update(row)
            yield row


def parsed(grid: dict[str, Any]) -> Grid:
    assert not any(sign in str(value) for value in grid.values() for sign in "[({'")
    return {key: tuple(str(value).split(",")) for key, value in grid.items()}


@cache
def composed(*overrides: str) -> RunConfig:
    return compose_run(overrides)


def columns_of(config: RunConfig) -> set[str]:
    """The columns of a run's metrics."""
    found = [plugin.build() for plugin in config.metrics.values()]
    return {column.name for each in found for column in (*each.columns, *each.derived)}


@pytest.fixture(scope="module", params=EXPERIMENTS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_all_are_known_here() -> None:
    assert {path.stem for path in EXPERIMENTS} == set(JOBS)


def test_every_experiment_is_a_sweep_whose_jobs_compose(path: Path) -> None:
    found = swept(path)
    assert len(found) == JOBS[path.stem]
    for overrides in [found[0], found[-1]]:
        config = composed(*overrides)
        assert config.experiment is not None
        assert config.experiment.name == path.stem
        assert [plugin.build() for plugin in (config.method, config.dataset, config.protocol)]


@pytest.mark.slow
def test_any_two_of_its_settings_compose(path: Path) -> None:
    for overrides in sampled(swept(path)):
        assert composed(*overrides).experiment is not None


@pytest.fixture(scope="module")
def all_columns() -> set[str]:
    """Those of every metric of the package."""
    metrics = [path.stem for path in (conf_dir() / "metrics").glob("*.yaml") if path.stem != "consistency"]
    return columns_of(composed(f"metrics=[{','.join(metrics)}]"))


def test_it_names_only_what_there_is(path: Path, all_columns: set[str]) -> None:
    found = [composed(*overrides) for overrides in one_of_each(swept(path))]
    settings = {
        f"{part}.{key}"
        for config in found
        for part, value in config_dict(config).items()
        if isinstance(value, dict)
        for key in value
    }
    methods = {config.method.name for config in found}
    experiment = found[0].experiment
    assert experiment is not None
    assert {*experiment.report.by, *experiment.report.split} <= settings
    assert experiment.report.against in {None, *methods}
    assert {*experiment.report.metrics} <= all_columns
    columns = columns_of(found[0])
    assert len(columns & {*experiment.report.metrics}) >= 3
    if experiment.published:
        assert set(experiment.published.rows) == methods
        assert {column for row in experiment.published.rows.values() for column in row} <= columns
        names = (found[0].model.name, found[0].dataset.name, found[0].protocol.name)
        said = (experiment.published.model, experiment.published.dataset, experiment.published.protocol)
        assert all(name in (real, None) for name, real in zip(said, names, strict=True))


def test_groups_of_every_size_are_of_the_same_subjects() -> None:
    units = {}
    cases = composed("dataset.limit=null").dataset.build().load().cases
    for size in (2, 8):
        config = composed("experiment=rose_ablation", f"protocol.max_facts={size}")
        units[size] = [unit.unit_id for unit in config.protocol.build().units(cases)]
        assert len(units[size]) >= 80
    assert units[2] == units[8]


def test_published_scores_are_the_means_of_their_parts() -> None:
    experiment = composed("experiment=rets_llama2_7b").experiment
    assert experiment is not None and experiment.published is not None
    for row in experiment.published.rows.values():
        parts = [row[name] for name in ("efficacy", "paraphrase", "neighborhood", "r_specificity")]
        assert sum(parts) / 4 == pytest.approx(row["score_arith"], abs=0.06)


class TestSection:
    """The section ``experiment`` of a configuration."""

    @pytest.fixture
    def written(self, dummy_conf: Path, compose):
        def composed(section: str, *overrides: str) -> RunConfig:
            (dummy_conf / "experiment").mkdir(exist_ok=True)
            text = f"# @package _global_\n# A trial\nexperiment: {section}\n"
            (dummy_conf / "experiment" / "mine.yaml").write_text(text, encoding="utf-8")
            return compose("experiment=mine", *overrides)

        return composed

    def test_there_is_none_without_an_experiment(self, compose) -> None:
        assert compose().experiment is None
        assert config_dict(compose())["experiment"] is None

    def test_it_arrives_as_an_object_and_in_the_record(self, written) -> None:
        config = written(
            "{name: mine, report: {by: [method.steps], metrics: [a, b]}, published: {source: here, rows: {x: {a: 1}}}}"
        )
        assert config.experiment == ExperimentConfig(
            name="mine",
            report=ReportConfig(by=("method.steps",), metrics=("a", "b")),
            published=PublishedConfig(source="here", rows={"x": {"a": 1.0}}),
        )
        plain = json.loads(json.dumps(config_dict(config)))["experiment"]
        assert plain["report"] == {"by": ["method.steps"], "split": [], "against": None, "metrics": ["a", "b"]}
        assert plain["published"]["rows"] == {"x": {"a": 1.0}}

    def test_the_command_line_reaches_into_it(self, written) -> None:
        config = written("{name: mine}", "+experiment.report={split: [seed]}")
        assert config.experiment.report.split == ("seed",)

    @pytest.mark.parametrize(
        ("section", "message"),
        [
            ("{report: {}}", "experiment.name: missing"),
            ("{name: ' '}", "experiment.name: expected a non-empty string"),
            ("{name: x, reprt: {}}", "experiment.reprt: unknown key; did you mean 'report'?"),
            ("{name: x, report: {bye: [a]}}", "experiment.report.bye: unknown key; did you mean 'by'?"),
            ("{name: x, report: {by: seed}}", "experiment.report.by: expected a list"),
            ("{name: x, report: {by: [a, b], split: [b]}}", "either rows or tables; b stands in by too"),
            ("{name: x, report: {metrics: ['']}}", "metrics: expected names, got an empty one"),
            ("{name: x, published: {source: '', rows: {}}}", "source: expected where the figures were published"),
            ("{name: x, published: {source: s, rows: {m: {a: high}}}}", "published.rows.m.a: expected a number"),
            ("{name: x, published: {source: s, row: {}}}", "experiment.published.row: unknown key; did you mean"),
        ],
    )  # fmt: skip
    def test_mistakes_in_it_are_named(self, written, section: str, message: str) -> None:
        with pytest.raises(UserError) as caught:
            written(section)
        assert message in str(caught.value)
