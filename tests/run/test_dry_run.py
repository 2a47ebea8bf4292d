"""``dry_run=true`` tells what would be done and does none of it; warnings come before the numbers."""

from __future__ import annotations

import re
from pathlib import Path
from signal import SIGTERM

import pytest

from ke_cli.config import compose_run, run_dir
from run.children import Moment, start
from run.commands import Command, arguments, only_run, record_of, run_folders

WARNING = re.compile(r"2 of 2 units hold several facts of one subject, which \w+ cannot keep apart")
SAME_SUBJECT = ("protocol=same_subject", "dataset.limit=2", "protocol.max_facts=2")


def plan_of(text: str) -> dict[str, str]:
    """The rows of the plan as it is printed, values of several lines joined."""
    rows: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith("│"):
            left, right = (cell.strip() for cell in line.strip("│").split("│"))
            name = left or name
            rows[name] = f"{rows.get(name, '')} {right}".strip()
    return rows


@pytest.mark.parametrize(
    ("kind", "method", "more", "expected"),
    [
        (
            "llama",
            "memit",
            (*SAME_SUBJECT, "batch_tokens=512"),
            {
                "edited modules": "model.layers.0.mlp.down_proj, model.layers.1.mlp.down_proj",
                "cases": "4 in 2 units of 2 facts",
                "computed": "up to 1 unit at a time, 2 times",
                "tokens in a batch": "512 (given)",
                "statistics": "490.0 KiB",  # 2 layers, 112 squared, float32 and twice float64
            },
        ),
        (
            "gpt2",
            "rome",
            ("dataset.limit=40", "batch_tokens=4096", "method.layers=[3]"),
            {
                "edited modules": "transformer.h.3.mlp.c_proj",
                "cases": "40 in 40 units of 1 fact",
                "computed": "up to 16 units at a time, 3 times",
                "statistics": "720.0 KiB",  # 1 layer, 192 squared
            },
        ),
        (
            "gpt2",
            "none",
            (),
            {
                "edited modules": "none",
                "computed": "all at once",
                "tokens in a batch": "8192 (estimated)",
                "statistics": "0 B",
            },
        ),
    ],
    ids=["memit", "rome", "none"],
)
def test_the_plan_is_shown_and_nothing_is_done(
    ke_run: Command,
    outputs: Path,
    request: pytest.FixtureRequest,
    loads: list[str],
    kind: str,
    method: str,
    more: tuple[str, ...],
    expected: dict[str, str],
) -> None:
    model = request.getfixturevalue(f"tiny_{kind}_dir")
    given = arguments(model, method, *more)
    result = ke_run(*given, "dry_run=true")
    assert (result.code, result.err, loads) == (0, "", [])
    plan = plan_of(result.out)
    statistics = expected.pop("statistics")
    assert {name: plan[name] for name in expected} == expected
    memory = f"{kib_of(model)} weights + {statistics} statistics + "
    assert re.fullmatch(re.escape(memory) + r"[\d.]+ MiB activations of a full batch", plan["expected memory"])
    assert plan["model"].replace(" ", "") == f"{model.name}({model},float32)"
    assert "what this run would do (dry_run=true)\n" in result.out
    assert plan["method"].startswith(method) and not re.search("True|False|None", plan["method"])
    assert plan["data set"].startswith("atlas (")
    assert "efficacy, efficacy_magnitude" in plan["metrics"]
    assert plan["results"] == str(run_dir(compose_run(given)))
    assert not outputs.exists() or run_folders(outputs) == []


def test_the_plan_for_a_model_that_is_not_here_needs_no_download(ke_run: Command, loads: list[str]) -> None:
    result = ke_run("model=gpt2-xl", "method=rome", "dataset.limit=5", "dry_run=true")
    assert (result.code, result.err, loads) == (0, "", [])
    plan = plan_of(result.out)
    assert plan["cases"] == "5 in 5 units of 1 fact"
    unknown = ("edited modules", "computed", "tokens in a batch", "expected memory")
    assert {plan[name] for name in unknown} == {"known once the model is downloaded"}


def kib_of(model: Path, share: float = 1.0) -> str:
    """The size of the stored float32 weights, from the file's own account of its header."""
    content = (model / "model.safetensors").read_bytes()
    return f"{share * (len(content) - 8 - int.from_bytes(content[:8], 'little')) / 1024:.1f} KiB"


def test_the_weights_in_the_plan_are_those_of_the_data_type(ke_run: Command, tiny_gpt2_dir: Path) -> None:
    half = plan_of(ke_run(*arguments(tiny_gpt2_dir, "none", "model.dtype=bfloat16"), "dry_run=true").out)
    assert half["expected memory"].startswith(f"{kib_of(tiny_gpt2_dir, 0.5)} weights")


@pytest.mark.parametrize(
    ("method", "warned"), [("memit", True), ("rome", True), ("memit_merge", False), ("rose", False), ("rets", False)]
)
def test_a_method_that_cannot_keep_facts_apart_is_warned_about(
    ke_run: Command, outputs: Path, tiny_gpt2_dir: Path, method: str, warned: bool
) -> None:
    given = arguments(tiny_gpt2_dir, method, *SAME_SUBJECT)
    result = ke_run(*given)
    assert (bool(WARNING.search(result.text)), "warning:" in result.text) == (warned, warned)
    notes = record_of(only_run(outputs))["notes"]
    assert [bool(WARNING.match(note)) for note in notes] == [True] * warned
    assert all("method=memit_merge or rose can" in note for note in notes)


def test_a_warning_is_recorded_once_however_often_the_run_is_interrupted(
    ke_run: Command, outputs: Path, tmp_path: Path, tiny_gpt2_dir: Path
) -> None:
    given = arguments(tiny_gpt2_dir, "memit", *SAME_SUBJECT, "batch_tokens=512")
    assert start(given, tmp_path / "log", Moment("append", 1, SIGTERM)).ended()[0] == 130
    assert "warning:" in ke_run(*given).out
    assert len(record_of(only_run(outputs))["notes"]) == 1


def test_a_unit_of_one_fact_needs_no_warning(ke_run: Command, outputs: Path, tiny_gpt2_dir: Path) -> None:
    result = ke_run(*arguments(tiny_gpt2_dir, "memit"))
    assert (result.code, "warning" in result.text, record_of(only_run(outputs))["notes"]) == (0, False, [])
