"""Going on in a run directory that somebody else had in hands: refused in one message, or put right."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given

from ke_cli.errors import UserError
from ke_cli.results.reader import read_run
from ke_cli.results.store import RunStore
from results.runs import case, record, unit
from run.commands import Command, arguments, lines_of, measured, only_run, record_of
from safety.hostile import CLEAR, files, is_calm, why_not_calm
from safety.test_results import LINES, RECORD, line, logs

STORED = {**RECORD, "notes": ["a note"], "wall_s": 1.5, "peak_memory_bytes": 7, "context_templates": ["{}"]} | {
    part: {"name": part, "fingerprint": "0" * 64} for part in ("model", "dataset", "references")
}


@given(record_text=files(STORED), log=logs(LINES))
@example(record_text=json.dumps({**STORED, "wall_s": 10**400}).encode(), log=b"")
@example(record_text=json.dumps({**STORED, "model": ["x"]}).encode(), log=b"")
@example(record_text=json.dumps(STORED).encode(), log=line(case(CLEAR, CLEAR)) * 2)
def test_a_writer_that_finds_anything(tmp_path: Path, record_text: bytes, log: bytes) -> None:
    for leftover in tmp_path.glob("run/cases*"):
        leftover.unlink()
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run" / "run.json").write_bytes(record_text)
    (tmp_path / "run" / "cases.jsonl").write_bytes(log)
    try:
        with RunStore.open(tmp_path / "run", resume=True) as store:
            assert not store.done_units & store.failed_units
            assert store.record is not None and isinstance(store.record["config"], dict)
            assert all(is_calm(note.replace("\x1b", "")) for note in map(ascii, store.notes))
            store.append([case("new", "a unit of its own")])
            kept = {*store.done_units, *store.failed_units}
    except UserError as error:
        assert is_calm(str(error)), why_not_calm(str(error))
        assert "resume=false keeps it under another name" in str(error)
        return
    lines = [json.loads(line) for line in (tmp_path / "run" / "cases.jsonl").read_bytes().split(b"\n")[:-1]]
    assert {line["unit"] for line in lines} == kept
    assert sorted(os.listdir(tmp_path)) == ["run", "work"]


ODD: dict[str, Callable[[Path, Path], object]] = {
    "a link": lambda path, outside: path.symlink_to(outside),
    "a pipe or device": lambda path, _: os.mkfifo(path),
    "a folder": lambda path, _: path.mkdir(),
}


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("name", ["run.json", "cases.jsonl", ".lock", "cases.rejected.jsonl"])
@pytest.mark.parametrize("kind", ODD)
def test_a_file_of_the_run_that_is_no_plain_file(tmp_path: Path, kind: str, name: str, resume: bool) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("not ours")
    with RunStore.open(tmp_path / "run", resume=True) as store:
        store.write_record(record())
        store.append(unit("a", 2))
    (tmp_path / "run" / name).unlink(missing_ok=True)
    ODD[kind](tmp_path / "run" / name, outside)
    with pytest.raises(UserError) as caught:
        RunStore.open(tmp_path / "run", resume=resume)
    assert str(caught.value).startswith(f"a file of the run is {kind}; only plain files are written to")
    assert str(tmp_path / "run" / name) in str(caught.value) and "output_dir=" in str(caught.value)
    assert outside.read_text() == "not ours" and sorted(os.listdir(tmp_path)) == ["outside.txt", "run", "work"]


DAMAGE: dict[str, Any] = {
    "config": [],
    "model": "x",
    "dataset": {"fingerprint": 3},
    "references": [1],
    "notes": "a note",
    "context_templates": [None],
    "wall_s": "long",
    "peak_memory_bytes": True,
    "started_at": 0,
}


def test_a_record_of_another_form_stops_the_run_with_a_way_on(
    ke_run: Command, outputs: Path, tiny_gpt2_dir: Path
) -> None:
    given = arguments(tiny_gpt2_dir, "none", "dataset.limit=2")
    assert ke_run(*given).code == 0
    folder = only_run(outputs)
    before, good = measured(folder), record_of(folder)
    for part, value in DAMAGE.items():
        (folder / "run.json").write_text(json.dumps({**good, part: value, "status": "running"}))
        result = ke_run(*given)
        assert result.code == 1 and part in result.err.splitlines()[0] and "resume=false" in result.err
        assert measured(folder) == before
    assert ke_run(*given, "resume=false").code == 0 and measured(folder) == before


HOSTILE_IDS = ("../../../outside", "/etc/passwd", "..", "=1+1", "[/bold]", "a/b", "CON", "-rf", "'; drop", "$(touch x)")


def test_ids_like_paths_stay_texts(ke_run: Command, outputs: Path, tmp_path: Path, tiny_gpt2_dir: Path) -> None:
    """Cases whose ids look like paths, formulas and markup run as any other, and write nothing anywhere else."""
    from counterfact_files import record as counterfact

    data = tmp_path / "[red]data.json"
    data.write_text(json.dumps([counterfact(case_id=name) for name in HOSTILE_IDS]), encoding="utf-8")
    before = {path for path in tmp_path.rglob("*") if "work" not in path.parts}
    given = arguments(tiny_gpt2_dir, "rome", "dataset=counterfact", f"dataset.path='{data}'", "dataset.limit=null")
    result = ke_run(*given)
    assert result.code == 0, result.err
    folder = only_run(outputs)
    assert sorted(line["case_id"] for line in lines_of(folder)) == sorted(HOSTILE_IDS)
    assert read_run(folder).problems == []
    assert {path for path in tmp_path.rglob("*") if "work" not in path.parts} == before
    assert {path.name for path in folder.iterdir()} == {"run.json", "cases.jsonl", ".lock"}
    assert ke_run(*given, "dry_run=true").code == 0


def test_strange_names_of_models_and_notes_are_printed_as_they_are(
    ke_run: Command, tmp_path: Path, tiny_gpt2_dir: Path
) -> None:
    """What looks like markup of the terminal library, in the id of a record that is left out and in a name."""
    data = tmp_path / "data.json"
    good = {"prompt": "Ada Byron was brought up by", "subject": "Ada Byron", "target_new": "Mary", "case_id": "a"}
    left_out = {**good, "subject": "Nobody", "case_id": "[/bold]"}
    data.write_text(json.dumps([good, left_out]), encoding="utf-8")
    given = arguments(tiny_gpt2_dir, "rome", "dataset=knowedit", f"dataset.path={data}")
    for more in ("dry_run=true", "progress=plain", "progress=rich"):
        result = ke_run(*given, "model.name='[/red] x'", more, "resume=false")
        assert result.code == 0, result.err
        assert "[/red]" in result.text and "MarkupError" not in result.text
    assert "(the first: record 1 (case_id '[/bold]'))" in result.text
