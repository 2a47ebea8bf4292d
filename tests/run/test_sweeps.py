"""Sweeps of real runs: one table at the end, one bad job, and the same sweep again."""

from __future__ import annotations

from pathlib import Path

from run.commands import SMALL, VALUE, Command, measured, record_of, run_folders


def methods_of(outputs: Path) -> dict[str, Path]:
    return {record_of(folder)["config"]["method"]["name"]: folder for folder in run_folders(outputs)}


def test_a_sweep_ends_with_one_table_and_is_not_done_twice(
    ke_run: Command, outputs: Path, tiny_gpt2_dir: Path, loads: list[str]
) -> None:
    given = ["-m", "model=local", f"model.path={tiny_gpt2_dir}", "method=none,rome", *SMALL]
    result = ke_run(*given)
    assert (result.code, len(loads)) == (0, 2)
    found = methods_of(outputs)
    assert sorted(found) == ["none", "rome"]
    assert all(record_of(folder)["status"] == "complete" for folder in found.values())
    table = result.out[result.out.index("gpt2 · atlas · single") :]
    assert result.out.count("gpt2 · atlas · single") == 1
    first = table[: table.index("\n\nMethod", table.index("Method") + 1)]
    assert [line.split()[0] for line in first.splitlines() if line[:4] in ("none", "rome")] == ["none", "rome"]
    assert "On the 3 cases common to all 2 rows, of 3." in result.text
    assert sorted(path.name for path in Path().iterdir()) == ["outputs"]

    stored = {name: (folder / "cases.jsonl").read_bytes() for name, folder in found.items()}
    again = ke_run(*given)
    assert (again.code, len(loads)) == (0, 2)
    assert again.out.count("this run is complete") == 2
    assert again.out[again.out.index("gpt2 · atlas · single") :] == table
    assert {name: (folder / "cases.jsonl").read_bytes() for name, folder in found.items()} == stored


def test_one_bad_job_costs_no_other_its_run(ke_run: Command, outputs: Path, tiny_gpt2_dir: Path) -> None:
    common = ["model=local", f"model.path={tiny_gpt2_dir}", "method=rome", *SMALL, *VALUE]
    result = ke_run("-m", *common, "method.layers=[9],[1]")
    assert result.code == 1
    (folder,) = run_folders(outputs)
    assert record_of(folder)["config"]["method"]["layers"] == [1]
    assert (record_of(folder)["status"], len(measured(folder))) == ("complete", 3)
    at_once, _, in_the_end = result.err.partition("1 of 2 jobs failed:\n")
    for text in (at_once, in_the_end):
        assert "the model has no layer 9" in text and "allowed: 0 to 4" in text
    assert "method.layers=[9]" in in_the_end
    assert result.out.count("gpt2 · atlas · single") == 1
