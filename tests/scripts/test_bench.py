"""The benchmark script: every sub-command once on a tiny model, what it refuses, and that it notices other numbers."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from ke_cli.engine.edits import Edit, LowRank
from marks import rest_slow

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bench.py"
ONCE = ("--repeats", "1", "--warmup", "0", "--matmul-size", "64")
QUICK = ("--set", "method.steps=3", "method.context_prefixes=[[The,3,2]]")
SIDES = ["textbook", "engine"]

Bench = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bench(script: ModuleType, tiny_gpt2_dir: Path, tmp_path: Path) -> Bench:
    """Runs a comparing sub-command on a tiny model and returns the exit status and the JSON."""

    def run(command: str, *arguments: str, quick: bool = True) -> tuple[int, dict[str, Any]]:
        file = tmp_path / "out" / "report.json"
        common = ("--model", str(tiny_gpt2_dir), "--device", "cpu", *ONCE, *(QUICK if quick else ()))
        status = script.main([command, *common, "--json", str(file), *arguments])
        return status, json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}

    return run


def check_comparison(report: dict[str, Any], *, same_cases: bool = True) -> None:
    """What every comparison of the two sides has to say; only of the same cases can the operations be compared."""
    textbook, engine = (report["sides"][name] for name in SIDES)
    assert textbook["flops_each"] > 0 < engine["flops_each"]
    assert engine["flops_each"] < textbook["flops_each"] or not same_cases
    for side in (textbook, engine):
        assert side["seconds_each"] > 0 and len(side["seconds"]) == 1
        assert side["share_of_matmul_rate"] > 0
        assert side["flops"] == side["flops_each"] * side["amount"]
    ratio = report["ratios"]["textbook / engine"]
    assert ratio["pairs"] == [pytest.approx(textbook["seconds_each"] / engine["seconds_each"])]
    assert ratio["min"] <= ratio["median"] <= ratio["max"]
    assert report["agreement"]["agrees"] is True
    assert all(finding["compared"] and finding["agrees"] for finding in report["agreement"]["findings"])
    assert report["matmul_flops_per_s"] > 0
    assert report["machine"]["device"] == "cpu" and report["machine"]["dtype"] == "float32"
    assert report["command"][0].endswith("bench.py") and "--json" in report["command"]


@pytest.mark.parametrize(
    ("command", "findings"),
    [
        ("edit", ["edits"]),
        ("evaluate", ["answers", "means of the metric columns", "metric columns, case by case"]),
        ("end_to_end", ["edits", "answers", "means of the metric columns", "metric columns, case by case"]),
    ],
)
def test_both_sides_compute_the_same_and_are_measured(bench: Bench, command: str, findings: list[str]) -> None:
    status, report = bench(command, "--cases", "2")
    assert status == 0
    check_comparison(report)
    assert report["benchmark"] == command and report["method"] == "rome"
    assert [finding["what"] for finding in report["agreement"]["findings"]] == findings
    assert report["sides"]["engine"]["amount"] == report["sides"]["textbook"]["amount"] == 2
    if command != "evaluate":
        assert report["steps"] == {"textbook": 3, "engine": 3}


def test_the_textbook_may_do_fewer_cases(bench: Bench) -> None:
    status, report = bench("end_to_end", "--cases", "3", "--textbook-cases", "1")
    assert status == 0
    check_comparison(report, same_cases=False)
    assert [report["sides"][name]["amount"] for name in SIDES] == [1, 3]


def test_a_batch_is_one_unit_and_is_not_cut(bench: Bench) -> None:
    batch = ("--cases", "4", "--unit-size", "2", "--textbook-cases", "1")
    status, report = bench("end_to_end", "--method", "memit", *batch)
    assert status == 0
    check_comparison(report, same_cases=False)
    assert (report["cases"], report["units"]) == (4, 2)
    assert [report["sides"][name]["amount"] for name in SIDES] == [2, 4]


@pytest.mark.slow
@pytest.mark.parametrize("method", rest_slow(["rose", "memit_merge"], ["memit_merge"]))
def test_all_facts_of_a_subject(bench: Bench, method: str) -> None:
    more = ("method.joint_steps=2",) if method == "rose" else ()
    status, report = bench(
        "end_to_end", "--method", method, "--same-subject", "--cases", "1", *QUICK, *more, quick=False
    )
    assert status == 0
    check_comparison(report)
    assert report["protocol"] == "same_subject" and report["units"] == 1 and report["cases"] > 1


@pytest.mark.parametrize("method", rest_slow(["rets", "top", "r_rome"], ["rets"]))
def test_other_methods(bench: Bench, method: str) -> None:
    more = ("--set", "method.layers=[1]", "method.relation_offset=2") if method == "top" else ()
    status, report = bench("edit", "--method", method, "--cases", "1", *more)
    assert status == 0
    check_comparison(report)
    assert report["method"] == method


def test_generate_and_without_counting_there_is_no_share(bench: Bench) -> None:
    status, report = bench("generate", "--cases", "2", "--new-tokens", "3", "--no-flops")
    assert status == 0 and report["per"] == "answer"
    assert report["agreement"]["findings"][0]["compared"] == report["questions"] >= 2
    assert report["matmul_flops_per_s"] is None
    assert {report["sides"][name]["flops"] for name in SIDES} == {None}


def test_covariance(bench: Bench) -> None:
    status, report = bench("covariance", "--layers", "1", "3", quick=False)
    assert status == 0 and report["layers"] == [1, 3]
    assert list(report["sides"]) == ["textbook", "engine, 2 layers", "engine, 1 layer"]
    flops = [side["flops"] for side in report["sides"].values()]
    assert flops[0] > flops[1] > flops[2] > 0, "a pass for each layer costs more than one for both"
    assert list(report["ratios"]) == ["textbook / engine", "engine, 2 layers / 1 layer"]
    matrices, tokens = report["agreement"]["findings"]
    assert (matrices["compared"], tokens["worst"]) == (2, 0.0)


def test_profile(bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = tmp_path / "profile.md"
    status, report = bench("profile", "--cases", "2", "--markdown", str(tables))
    assert status == 0
    check_comparison(report)
    text = tables.read_text(encoding="utf-8")
    assert text in capsys.readouterr().out
    assert text.count("| Phase |") == text.count("| Operators |") == 1
    for name in SIDES:
        profile, side = report["profile"][name], report["sides"][name]
        for part in ("phases", "operators"):
            counted = sum(line["flops"] for line in profile[part]) * side["amount"]
            assert counted == pytest.approx(side["flops"]), "both ways of counting find the same"
        by_phase = {line["name"]: line for line in profile["phases"]}
        for phase in ("value steps", "scoring, unedited", "scoring, edited"):
            assert by_phase[phase]["seconds"] > 0 and by_phase[phase]["flops"] > 0
        head = next(line for line in profile["operators"] if line["name"] == "matrix products of the head")
        assert head["flops"] > 0
    names = [line["name"] for line in report["profile"]["engine"]["phases"]]
    assert names[:2] == ["prefix pass", "value steps"]
    assert "prefix pass" not in [line["name"] for line in report["profile"]["textbook"]["phases"]]


@pytest.mark.slow
def test_scale(script: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "scale.json"
    assert script.main(["scale", "--sizes", "2", "4", "--device", "cpu", "--flat", "1e9", "--json", str(file)]) in (
        0,
        1,
    )
    report = json.loads(file.read_text(encoding="utf-8"))
    assert [size["cases"] for size in report["sizes"]] == [1, 2, 4]
    assert [step["cases"] for step in report["growth"]] == [1, 2]
    logs = [size["bytes_on_disk"] for size in report["sizes"]]
    assert logs == sorted(logs) and logs[0] > 0
    assert all(size["wall_s"] > 0 and size["peak_bytes"] > 1 << 26 for size in report["sizes"])


def test_summarize(script: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "summarize.json"
    size = ["--runs", "3", "--cases", "5", "--answers", "9"]
    assert script.main(["summarize", *size, "--repeats", "1", "--json", str(file)]) == 0
    report = json.loads(file.read_text(encoding="utf-8"))
    assert len(report["table_first_s"]) == len(report["table_again_s"]) == 1 and "page_first_s" not in report
    assert report["table_first_s"][0] > 0 and report["table_again_s"][0] > 0
    assert report["peak_bytes"] > 1 << 24
    assert report["bytes"] == 15 * report["bytes_per_line"] and report["bytes_per_line"] > 1000
    assert script.main(["summarize", *size, "--repeats", "1", "--limit", "1e-6"]) == 1


def test_other_numbers_are_noticed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmark.textbook import Textbook

    honest = Textbook.edit

    def other(self: Any, unit: Any) -> Edit:
        edit = honest(self, unit)
        updates = {name: LowRank(pair.left * 1.01, pair.right) for name, pair in edit.updates.items()}  # type: ignore[union-attr]
        return Edit(updates, edit.info)

    monkeypatch.setattr(Textbook, "edit", other)
    status, report = bench("edit", "--cases", "1")
    assert status == 1 and report["agreement"]["agrees"] is False
    (finding,) = report["agreement"]["findings"]
    assert finding["worst"] == pytest.approx(0.01 / 1.01, rel=1e-3) and "c_proj" in finding["where"]
    said = capsys.readouterr().out
    assert "edits: DIFFER" in said and f"edits differ by {finding['worst']:.3g} at " in said


def test_other_answers_are_noticed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmark.textbook import Textbook

    honest = Textbook.answers
    monkeypatch.setattr(Textbook, "answers", lambda self, queries, edit: honest(self, queries, Edit({})))
    from benchmark import sides

    monkeypatch.setattr(sides, "merged", lambda model, edit: torch.no_grad())
    status, report = bench("evaluate", "--cases", "1")
    assert status == 1, "the textbook has asked the unedited model"
    answers = report["agreement"]["findings"][0]
    assert answers["what"] == "answers" and not answers["agrees"] and ", after, " in answers["where"]


REFUSED = [
    (("edit", "--model", "gpt3"), "there is no model 'gpt3'"),
    (("edit", "--model", "atlas", "--cases", "100000"), "the data set has only"),
    (("edit", "--model", "atlas", "--cases", "3", "--unit-size", "2"), "3 cases do not fill units of 2"),
    (("edit", "--model", "atlas", "--unit-size", "2", "--same-subject"), "a batch of so many facts, or all facts"),
    (("edit", "--model", "atlas", "--dataset", "no.json"), "there is no file 'no.json'"),
    (("edit", "--model", "atlas", "--method", "rmoe"), "rome"),
    (("edit", "--model", "atlas", "--metrics", "efficacious"), "efficacious"),
    (("edit", "--model", "atlas", "--set", "method.stesp=1"), "steps"),
    (("edit", "--model", "atlas", "--tokenizer", "anywhere"), "has a tokenizer of its own"),
    (("edit", "--model", "atlas", "--method", "ft", "--device", "cpu"), "no textbook loop for FineTune"),
    (("edit", "--model", "gpt2-small", "--tokenizer", "no-such-folder"), "there is no folder 'no-such-folder'"),
    (("covariance", "--model", "atlas", "--layers", "99", "--device", "cpu"), "the model has no layer 99"),
    (("scale", "--model", "gpt2-small"), "is a shape, and runs need a model with files"),
]


@pytest.mark.parametrize(
    ("arguments", "said"), REFUSED, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_what_is_impossible_is_refused_in_words(
    script: ModuleType, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    assert script.main(list(arguments)) == 2
    assert said in capsys.readouterr().err


def test_a_tokenizer_with_too_many_ids_is_refused(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmark import shapes

    small = shapes.SHAPES["gpt2-small"]
    sizes = {**small.sizes, "vocab_size": 1000}
    tiny = shapes.Shape(small.entry, small.kind, small.parameters, sizes, small.layers)
    monkeypatch.setitem(shapes.SHAPES, "gpt2-small", tiny)  # type: ignore[arg-type]
    assert script.main(["edit", "--model", "gpt2-small", "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert "the tokenizer has 2048 ids and the model gpt2-small only 1000" in said and "--tokenizer" in said


@pytest.mark.parametrize(
    "arguments", [["edit", "--cases", "0"], ["edit", "--repeats", "x"], ["edti"], [], ["edit", "--warmup", "-1"]]
)
def test_what_makes_no_sense_is_refused(
    script: ModuleType, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        script.main(arguments)
    assert stopped.value.code == 2 and "usage:" in capsys.readouterr().err


def test_help_has_examples_and_every_command(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        script.main(["--help"])
    said = capsys.readouterr().out
    commands = ("edit", "evaluate", "end_to_end", "covariance", "generate", "summarize", "scale", "profile")
    assert stopped.value.code == 0 and "examples:" in said
    assert all(f"\n    {command}" in said for command in commands)
