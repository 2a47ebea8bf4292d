from __future__ import annotations

from pathlib import Path

import pytest

from ke_cli.errors import UserError
from ke_cli.report.tables import View
from report.looking import at, labels, table_of, tables_of, values
from results.runs import case, efficacies, write_run


class TestRows:
    def test_a_table_per_model_dataset_and_protocol(self, tmp_path: Path) -> None:
        write_run(tmp_path / "a", [case("1")], started_at=at(2))
        write_run(tmp_path / "b", [case("1")], **{"model.name": "llama"}, started_at=at(1))
        write_run(tmp_path / "c", [case("1")], **{"protocol.name": "batch"}, started_at=at(3))
        write_run(tmp_path / "d", [case("1")], **{"dataset.name": "zsre"}, started_at=at(4))
        assert [table.title for table in tables_of(tmp_path)] == [
            "llama · counterfact · single",
            "gpt2 · counterfact · single",
            "gpt2 · counterfact · batch",
            "gpt2 · zsre · single",
        ]

    def test_unedited_first_then_as_started(self, tmp_path: Path) -> None:
        for minute, method in enumerate(["rose", "memit", "none", "ft"]):
            write_run(tmp_path / method, [case("1")], method, started_at=at(minute))
        assert labels(table_of(tmp_path)) == ["none", "rose", "memit", "ft"]

    def test_rows_are_named_by_what_differs_and_sorted_as_numbers(self, tmp_path: Path) -> None:
        for value in (10, 0.5, 2):
            write_run(tmp_path / f"{value}", [case("1")], **{"method.lambda_": value, "method.steps": 20})
        write_run(tmp_path / "rome", [case("1")], "rome", **{"method.steps": 5}, started_at=at(1))
        assert labels(table_of(tmp_path)) == ["rose (lambda_=0.5)", "rose (lambda_=2)", "rose (lambda_=10)", "rome"]

    def test_seeds_flags_and_nothing_have_names_too(self, tmp_path: Path) -> None:
        for number, flag in enumerate([True, None, 1]):
            write_run(tmp_path / f"{number}", [case("1")], seed=number % 2, **{"method.flag": flag})
        assert sorted(labels(table_of(tmp_path))) == [
            "rose (flag=1, seed=0)",
            "rose (flag=null, seed=1)",
            "rose (flag=true, seed=0)",
        ]

    def test_how_a_run_was_computed_makes_no_name(self, tmp_path: Path) -> None:
        write_run(tmp_path / "a", [case("1")], run_id="aa", device="cpu")
        write_run(tmp_path / "b", [case("1")], run_id="bb", device="cuda")
        assert labels(table_of(tmp_path)) == ["rose (run=aa)", "rose (run=bb)"]

    def test_only_the_identity_makes_names_when_the_record_tells_it(self, tmp_path: Path) -> None:
        for steps in (1, 2):
            identity = {"method": {"name": "rose", "steps": steps}, "metric_versions": {"success": steps}}
            write_run(
                tmp_path / f"{steps}", [case("1")], identity=identity, **{"method.steps": steps, "method.p": steps}
            )
        assert labels(table_of(tmp_path)) == ["rose (steps=1)", "rose (steps=2)"]
        assert labels(table_of(tmp_path, View(by=("method.p",)))) == ["rose (p=1)", "rose (p=2)"]

    def test_copies_are_told_apart_by_their_folders(self, tmp_path: Path) -> None:
        for name in ("x/run", "y/run"):
            write_run(tmp_path / name, [case("1")])
        assert labels(table_of(tmp_path)) == [f"rose (run={tmp_path / name})" for name in ("x/run", "y/run")]

    def test_other_weights_under_the_same_name_show(self, tmp_path: Path) -> None:
        for method, fingerprint in (("none", "aa"), ("rose", "bb")):
            write_run(tmp_path / method, [case("1")], method, model={"fingerprint": fingerprint})
        write_run(tmp_path / "killed", [case("1")], "rome", model={})
        assert table_of(tmp_path).footnotes == ("The rows differ in more than the method: model.fingerprint.",)


class TestBy:
    @pytest.fixture
    def seeds(self, tmp_path: Path) -> Path:
        for method, seed, share in [("rose", 0, 1.0), ("rose", 1, 0.0), ("rome", 0, 0.5), ("rome", 1, 0.5)]:
            lines = efficacies([share] * 4)
            write_run(tmp_path / f"{method}{seed}", lines, method, seed=seed, **{"method.lambda_": 3 + seed})
        return tmp_path

    def test_pools_what_agrees(self, seeds: Path) -> None:
        table = table_of(seeds, View(by=("method.name",)))
        assert labels(table) == ["rome", "rose"]
        assert values(table, "efficacy") == [0.5, 0.5]
        what = "2 runs that differ in method.lambda_, seed"
        assert table.footnotes == (f"Pooled: rome ({what}), rose ({what}).",)

    def test_makes_rows_of_the_keys(self, seeds: Path) -> None:
        table = table_of(seeds, View(by=("method.lambda_", "seed")))
        assert labels(table) == [f"{m} (lambda_={3 + s}, seed={s})" for m in ("rome", "rose") for s in (0, 1)]
        assert values(table, "efficacy") == [0.5, 0.5, 1.0, 0.0]

    def test_short_names(self, seeds: Path) -> None:
        expected = labels(table_of(seeds, View(by=("method.lambda_", "seed"))))
        for key in ("method.lambda", "lambda", "lambda_"):
            assert labels(table_of(seeds, View(by=(key, "seed")))) == expected
        assert labels(table_of(seeds, View(by=("method",)))) == ["rome", "rose"]

    def test_refuses_an_unknown_key(self, seeds: Path) -> None:
        with pytest.raises(UserError, match=r"did you mean 'method\.lambda_'"):
            table_of(seeds, View(by=("method.lamda",)))
