"""The sets of metrics in the configuration."""

from __future__ import annotations

import pytest

from ke_cli.config import compose_run, run_id, run_identity
from ke_cli.errors import UserError
from ke_cli.metrics.evaluate import check_columns

SINGLE = [
    "token_accuracy",
    "portability",
    "locality",
    "reverse",
    "alias",
    "agreement",
    "fluency",
    "wild",
    "multi_hop",
    "generalization",
    "overlap",
]
FORMS = ["token_accuracy", "generalization", "portability", "reverse"]
STANDARD = ["efficacy", "paraphrase", "neighborhood", "r_specificity", "instruction", "score"]


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("standard", STANDARD),
        ("quick", [name for name in STANDARD if name != "instruction"]),
        ("knowedit", ["efficacy", "token_accuracy", "r_specificity", "portability", "locality"]),
        ("zsre", ["efficacy", "paraphrase", "token_accuracy", "portability"]),
        ("generation", [*STANDARD, "fluency", "wild"]),
        ("mquake", ["efficacy", "token_accuracy", "locality", "multi_hop"]),
        ("ripple_edits", ["efficacy", "r_specificity", "portability", "locality"]),
        ("unke", ["token_accuracy", "portability", "overlap"]),
        ("hallueditbench", ["efficacy", *FORMS, "agreement", "instruction", "wild"]),
        ("easyedit", ["token_accuracy", "agreement", "portability", "fluency"]),
        *((name, [name]) for name in (*STANDARD[:-1], *SINGLE)),
    ],
)
def test_sets(choice: str, names: list[str]) -> None:
    metrics = compose_run([f"metrics={choice}"]).metrics
    assert list(metrics) == names
    built = [plugin.build() for plugin in metrics.values()]
    assert [metric.name for metric in built] == names
    check_columns(built)


def test_counterfact_and_protocols_compose_to_what_their_files_say() -> None:
    config = compose_run(["dataset=counterfact", "protocol=same_subject", "dataset.limit=3"])
    assert config.dataset.settings["size_bytes"] == 45_108_470
    assert config.dataset.settings["sha256"].startswith("d017056125178a13")
    assert config.dataset.settings["limit"] == 3


def test_the_nll_of_r_specificity_is_that_of_the_published_code_unless_told() -> None:
    config = compose_run(["metrics=r_specificity"])
    assert config.metrics["r_specificity"].settings["target_nll"] == "max"
    other = compose_run(["metrics=r_specificity", "metrics.r_specificity.target_nll=mean"])
    assert run_id(config) != run_id(other)
    with pytest.raises(UserError, match=r"metrics\.r_specificity\.target_nll.*'max', 'mean'|'max' or 'mean'"):
        compose_run(["metrics=r_specificity", "metrics.r_specificity.target_nll=min"])


@pytest.mark.parametrize(("data", "target"), [("", "alt"), ("dataset.edit_target=answers", "answers")])
def test_the_edit_target_of_zsre_is_part_of_the_identity(data: str, target: str) -> None:
    config = compose_run(["dataset=zsre", "dataset.path=x.json", *filter(None, [data])])
    assert run_identity(config)["dataset"]["edit_target"] == target


def test_a_score_of_nothing_is_refused() -> None:
    (score,) = compose_run(["metrics=score"]).metrics.values()
    with pytest.raises(UserError, match="nothing would be measured") as caught:
        check_columns([score.build()])
    assert "metrics=[efficacy,neighborhood,score]" in str(caught.value)
