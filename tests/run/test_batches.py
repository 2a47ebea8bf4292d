"""The token budget says how numbers are computed, never what they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from marks import rest_slow
from run.commands import QUICK, Command, arguments, lines_of, only_run, record_of

EDITORS = [method for method in QUICK if method != "none"]
LOOSE = {"rect": 2e-3}
"""RECT keeps the entries above a threshold: rounding moves single entries across it, and each goes as a whole."""
WAYS = {"single": ("gpt2", "dataset.limit=3"), "same_subject": ("llama", "dataset.limit=2", "protocol.max_facts=3")}


@pytest.mark.parametrize(
    ("method", "protocol"),
    rest_slow(
        [(name, list(WAYS)[i % 2]) for i, name in enumerate(EDITORS)],
        [("rome", "single"), ("memit", "single"), ("rose", "same_subject")],
    ),
)
def test_numbers_do_not_depend_on_the_budget(
    ke_run: Command,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    protocol: str,
) -> None:
    kind, *fewer = WAYS[protocol]
    given = arguments(request.getfixturevalue(f"tiny_{kind}_dir"), method, f"protocol={protocol}", *fewer)
    folders = []
    for budget in (150, 100_000):
        monkeypatch.setenv("KE_CACHE", str(tmp_path / f"cache{budget}"))  # the statistics are computed under it as well
        assert ke_run(*given, f"batch_tokens={budget}", f"output_dir=of{budget}").code == 0
        folders.append(only_run(Path(f"of{budget}")))
    tight, wide = folders
    assert tight.name == wide.name, "the budget is no part of a run's identity"
    assert len(asked := asked_of(tight)) > 100
    assert asked == pytest.approx(asked_of(wide), abs=LOOSE.get(method, 1e-4))
    for one, other in zip(lines_of(tight), lines_of(wide), strict=True):
        assert one["case_id"] == other["case_id"]
        assert one["metrics"] == pytest.approx(other["metrics"], abs=LOOSE.get(method, 1e-4))
        assert one["edit"] == pytest.approx(other["edit"], rel=1e-3)
        assert texts_of(one) == texts_of(other)
    assert record_of(tight)["context_templates"] == record_of(wide)["context_templates"]


def asked_of(folder: Path) -> dict[tuple[Any, ...], float]:
    """Every teacher-forced NLL of a run, by what was asked."""
    return {
        (line["case_id"], when, entry["prompt"], entry.get("target"), entry.get("token"), position): nll
        for line in lines_of(folder)
        for when in ("before", "after")
        for entry in line[when]
        if entry["ask"] in ("target", "token")
        for position, nll in enumerate(entry["nlls"])
    }


def texts_of(line: dict[str, Any]) -> list[str]:
    return [entry["text"] for entry in line["after"] if entry["ask"] == "instruction"]
