from __future__ import annotations

from pathlib import Path

import pytest

from ke_cli.errors import UserError
from ke_cli.report.keys import full_name
from ke_cli.report.rows import select
from ke_cli.report.tables import View
from ke_cli.results.reader import find_runs, read_run
from report.looking import at, labels, table_of, tables_of, values
from results.runs import case, efficacies, record, write_run


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
        assert labels(table_of(tmp_path)) == ["rose (lambda=0.5)", "rose (lambda=2)", "rose (lambda=10)", "rome"]

    def test_flags_and_nothing_have_names_too(self, tmp_path: Path) -> None:
        for number, flag in enumerate([True, None, 1]):
            write_run(tmp_path / f"{number}", [case("1")], seed=number % 2, **{"method.flag": flag})
        assert sorted(labels(table_of(tmp_path))) == [
            "rose (flag=1)",
            "rose (flag=null)",
            "rose (flag=true)",
        ]
        assert table_of(tmp_path).footnotes == ("The rows differ in more than the method: seed.",)

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


class TestSeeds:
    """Rows that differ in nothing but the seed, and what follows it, are one row."""

    @staticmethod
    def write(folder: Path, *runs: tuple[str, int, int | None], **settings: object) -> Path:
        """Runs of a method with a seed and a context seed, each right in half of the cases."""
        for minute, (method, seed, context) in enumerate(runs):
            more = {**settings, **({} if context is None else {"method.context_seed": context})}
            name = f"{len([*folder.iterdir()])}"
            lines = efficacies([1.0, 0.0])
            write_run(folder / name, lines, method, seed=seed, run_id=name, started_at=at(minute), **more)
        return folder

    def test_are_pooled_unasked_and_counted_in_the_caption(self, tmp_path: Path) -> None:
        self.write(tmp_path, *((m, s, s if m == "rome" else None) for m in ("none", "rome") for s in range(3)))
        table = table_of(tmp_path)
        assert labels(table) == ["none", "rome"]
        assert "Each row is a mean over 3 seeds." in table.caption
        assert "±: standard deviation over the seeds of a row" in table.caption
        assert table.footnotes == ()

    def test_a_method_finds_its_row_to_compare_with(self, tmp_path: Path) -> None:
        self.write(tmp_path, *((m, s, s) for m in ("rome", "rose") for s in range(2)))
        table = table_of(tmp_path, View(against="rome"))
        assert [line.cells[0].is_difference for line in table.lines] == [False, True]

    def test_are_apart_when_asked_for(self, tmp_path: Path) -> None:
        table = table_of(self.write(tmp_path, ("rome", 0, 0), ("rome", 1, 1)), View(by=("seed",)))
        assert labels(table) == ["rome (seed=0)", "rome (seed=1)"]
        assert "seeds" not in table.caption

    def test_other_settings_still_make_rows(self, tmp_path: Path) -> None:
        for steps in (1, 2):
            self.write(tmp_path, *(("rome", seed, seed) for seed in range(steps)), **{"method.steps": steps})
        table = table_of(tmp_path)
        assert labels(table) == ["rome (steps=1)", "rome (steps=2)"]
        assert "rome (steps=2): mean over 2 seeds." in table.caption
        assert table.footnotes == ("The rows differ in more than the method: seed.",)

    def test_rows_of_several_numbers_of_seeds_are_told(self, tmp_path: Path) -> None:
        self.write(tmp_path, *((m, s, None) for m, n in (("a", 1), ("b", 2), ("c", 3), ("d", 3)) for s in range(n)))
        assert "Means over seeds: 3 (c, d), 2 (b)." in table_of(tmp_path).caption

    def test_a_seed_that_does_not_follow_is_a_setting(self, tmp_path: Path) -> None:
        self.write(tmp_path, *(("rome", seed, context) for seed in (0, 1) for context in (0, 1)))
        table = table_of(tmp_path)
        assert labels(table) == ["rome (context_seed=0)", "rome (context_seed=1)"]
        assert "Each row is a mean over 2 seeds." in table.caption

    def test_a_seed_that_was_computed_twice_is_not_counted_twice(self, tmp_path: Path) -> None:
        self.write(tmp_path, ("rome", 0, 0), ("rome", 1, 1), ("rome", 0, 0))
        table = table_of(tmp_path)
        assert labels(table) == ["rome (seed=0, run=0)", "rome (seed=0, run=2)", "rome (seed=1)"]

    def test_saved_edits_of_several_seeds_are_pooled_too(self, tmp_path: Path) -> None:
        for seed, saved in ((0, "aa"), (1, "bb")):
            identity = {"method": {"name": "rome"}, "seed": seed, "edits_from": {"fingerprint": saved}}
            section = {"edits_from": {"fingerprint": saved}}
            lines = efficacies([1.0, 0.0])
            config = record("rome", seed=seed)["config"] | section
            write_run(tmp_path / saved, lines, "rome", identity=identity, config=config)
        assert labels(table_of(tmp_path)) == ["rome"]
        write_run(tmp_path / "own", efficacies([1.0, 0.0]), "rome", identity={"method": {"name": "rome"}, "seed": 0})
        assert len(labels(table_of(tmp_path))) == 3

    def test_copies_pooled_when_asked_for_are_told(self, tmp_path: Path) -> None:
        self.write(tmp_path, ("rome", 0, 0), ("rome", 0, 0))
        assert table_of(tmp_path, View(by=("method",))).footnotes == ("Pooled: rome (2 runs).",)


class TestSelect:
    def test_numbers_are_what_they_are_however_they_are_typed(self, tmp_path: Path) -> None:
        for number in (1.0, 10.0):
            write_run(tmp_path / str(number), efficacies([1]), **{"method.lambda_": number, "method.fast": True})
        runs = [read_run(path) for path in find_runs([tmp_path])]
        for typed in ("1", "1.0", "1e0"):
            assert [run.path.name for run in select(runs, [("method.lambda_", (typed,))])] == ["1.0"]
        assert select(runs, [("method.fast", ("1",))]) == []
        with pytest.raises(UserError, match=r"allowed: method\.lambda_, method, seed, or any other setting"):
            select(runs, [("x", ("1",))])


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
        assert labels(table) == [f"{m} (lambda={3 + s}, seed={s})" for m in ("rome", "rose") for s in (0, 1)]
        assert values(table, "efficacy") == [0.5, 0.5, 1.0, 0.0]

    def test_short_names(self, seeds: Path) -> None:
        expected = labels(table_of(seeds, View(by=("method.lambda_", "seed"))))
        for key in ("method.lambda", "lambda", "lambda_"):
            assert labels(table_of(seeds, View(by=(key, "seed")))) == expected
        assert labels(table_of(seeds, View(by=("method",)))) == ["rome", "rose"]

    def test_refuses_an_unknown_key(self, seeds: Path) -> None:
        with pytest.raises(UserError, match=r"did you mean 'method\.lambda_'"):
            table_of(seeds, View(by=("method.lamda",)))


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("seed", "seed"),
        ("method", "method.name"),
        ("lambda", "method.lambda_"),
        ("memit.lambda_", "model.editing.memit.lambda_"),
        ("l2", "model.editing.alphaedit.l2"),
        ("target", "target"),
        ("editing.rome.layers", "editing.rome.layers"),
        ("ambda", "ambda"),
    ],
)
def test_a_short_name_means_the_setting_that_is_nested_least(key: str, meant: str) -> None:
    editing = {"model.editing.memit.lambda_", "model.editing.emmet.lambda_", "model.editing.alphaedit.l2"}
    known = {"seed", "method.name", "method.lambda_", "dataset.target", "method.target", *editing}
    assert full_name(key, known) == meant
