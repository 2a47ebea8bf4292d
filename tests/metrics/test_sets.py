"""The sets of metrics in the configuration."""

from __future__ import annotations

import pytest

from ke_cli.config import compose_run
from ke_cli.metrics.evaluate import check_columns

STANDARD = ["efficacy", "paraphrase", "neighborhood", "r_specificity", "instruction", "score"]


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("standard", STANDARD),
        ("quick", [name for name in STANDARD if name != "instruction"]),
        *((name, [name]) for name in STANDARD),
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
