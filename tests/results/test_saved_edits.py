"""Files of edits beside a case log: nothing is named before it is durable, and nothing is believed unseen."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ke_cli.errors import UserError
from ke_cli.results.edits import EDITS_FOLDER, EditFolder, SavedEdit, stored_units
from ke_cli.results.files import open_plain
from ke_cli.results.source import read_source
from ke_cli.results.store import RunStore
from results.runs import case, record, unit

MODEL = {"name": "gpt2", "fingerprint": "ab" * 32}


def saved(folder: EditFolder, unit: str, content: bytes = b"an edit") -> dict[str, Any]:
    """What the lines of a unit say about its edit, whose file is written."""
    return {"edit": {"norm": 1.0, "saved": folder.write(unit, content).as_dict()}}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of three units: one case, two cases, and one that failed without an edit."""
    path = tmp_path / "run"
    with RunStore.open(path, resume=True) as store:
        folder = EditFolder(path)
        store.append([case("a", "a", **saved(folder, "a")), *unit("b", 2, **saved(folder, "b", b"another"))])
        store.append([case("c", "c", status="failed", error="it diverged", metrics={}, edit={})])
        store.write_record(record(model=MODEL, run_id="0123456789"))
    return path


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/a/b", "", ".", "..", "a\0b", "é" * 300, "x" * 300, "con", "a\nb"]
)
def test_whatever_a_unit_is_called_its_file_stays_in_the_folder(tmp_path: Path, name: str) -> None:
    folder = EditFolder(tmp_path)
    found = folder.write(name, b"content")
    assert [path.name for path in (tmp_path / EDITS_FOLDER).iterdir()] == [found.file]
    assert SavedEdit.parse(json.loads(json.dumps(found.as_dict()))) == found
    assert len(os.fsencode(found.file)) < 128


def test_a_file_is_durable_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []
    folder = EditFolder(tmp_path)
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        happened.append("sync folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "sync file")
        fsync(descriptor)

    def replaced(*paths: Any) -> None:
        happened.append("name")
        replace(*paths)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    folder.write("a", b"1")
    folder.write("b", b"2")
    folder.sync()
    assert happened == ["sync file", "name", "sync file", "name", "sync folder"]


def test_a_file_is_never_replaced_by_another(tmp_path: Path) -> None:
    folder = EditFolder(tmp_path)
    first, second = folder.write("a", b"1"), folder.write("a", b"2")
    assert first.file != second.file
    assert folder.write("a", b"1") == first
    assert {path.name: path.read_bytes() for path in folder.path.iterdir()} == {first.file: b"1", second.file: b"2"}


@pytest.mark.parametrize("place", ["fsync", "replace"])
def test_a_full_disk_is_explained_and_leaves_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    folder = EditFolder(tmp_path)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, place, full)
    with pytest.raises(UserError, match="the results cannot be written: No space left on device") as error:
        folder.write("a", b"1")
    assert "free some space" in str(error.value)
    assert list(folder.path.iterdir()) == []


def test_what_a_killed_writer_left_is_cleared(tmp_path: Path) -> None:
    kept = EditFolder(tmp_path).write("a", b"1")
    (tmp_path / EDITS_FOLDER / ".a-0123456789abcdef.safetensors.tmp").write_bytes(b"half")
    folder = EditFolder(tmp_path)
    assert [path.name for path in folder.path.iterdir()] == [kept.file]


BAD: dict[str, object] = {
    "nothing": None,
    "a list": [],
    "no file": {"sha256": "0" * 64, "size_bytes": 1},
    "another folder": {"file": "../x.safetensors", "sha256": "0" * 64, "size_bytes": 1},
    "an absolute path": {"file": "/x.safetensors", "sha256": "0" * 64, "size_bytes": 1},
    "a hidden file": {"file": ".x.safetensors", "sha256": "0" * 64, "size_bytes": 1},
    "another kind": {"file": "x.pickle", "sha256": "0" * 64, "size_bytes": 1},
    "a line break": {"file": "x.safetensors\n", "sha256": "0" * 64, "size_bytes": 1},
    "a zero byte": {"file": "x\0.safetensors", "sha256": "0" * 64, "size_bytes": 1},
    "half a hash": {"file": "x.safetensors", "sha256": "0" * 32, "size_bytes": 1},
    "a size that is a word": {"file": "x.safetensors", "sha256": "0" * 64, "size_bytes": "1"},
    "a size that is true": {"file": "x.safetensors", "sha256": "0" * 64, "size_bytes": True},
    "a negative size": {"file": "x.safetensors", "sha256": "0" * 64, "size_bytes": -1},
}


@pytest.mark.parametrize("raw", BAD.values(), ids=BAD)
def test_a_line_that_names_something_else_is_not_believed(raw: object) -> None:
    with pytest.raises(ValueError, match=r"is not|is no"):
        SavedEdit.parse(raw)


def test_the_units_of_a_run_are_found_with_what_they_wrote(run: Path) -> None:
    units = stored_units(run)
    fact = ("{} lies in", "Zürich", "Peru", "Switzerland", "P17")
    assert {name: found.facts for name, found in units.items()} == {
        "a": {"a": fact},
        "b": {"b.0": fact, "b.1": fact},
        "c": {"c": fact},
    }
    assert [found.error for found in units.values()] == ["", "", "it diverged"]
    assert (units["a"].content(), units["b"].content(), units["c"].saved) == (b"an edit", b"another", None)


def test_of_several_attempts_the_one_without_a_failure_counts(run: Path) -> None:
    with RunStore.open(run, resume=True) as store:
        store.append([case("c", "c", **saved(EditFolder(run), "c", b"at last"))])
    found = stored_units(run)["c"]
    assert (found.error, found.content()) == ("", b"at last")


@pytest.mark.parametrize(
    "spoil",
    [b'{"schema":1,"case_id":"a"', b"\xff\xfe\n", b"\n", b'{"schema":1,"case_id":"z","unit":"z","unit_size":2}\n'],
    ids=["torn", "not UTF-8", "empty", "not whole"],
)
def test_lines_that_cannot_be_read_hide_no_other(run: Path, spoil: bytes) -> None:
    log = run / "cases.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(lines[0] + spoil.rstrip(b"\n") + b"\n" + b"".join(lines[1:]))
    assert list(stored_units(run)) == ["a", "b", "c"]


def test_a_unit_whose_line_names_another_folder_is_left_out(run: Path) -> None:
    log = run / "cases.jsonl"
    log.write_bytes(log.read_bytes().replace(b'"file":"a-', b'"file":"../a-'))
    assert list(stored_units(run)) == ["b", "c"]


def spoiled(path: Path, how: str) -> None:
    content = path.read_bytes()
    path.unlink()
    match how:
        case "changed":
            path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        case "cut":
            path.write_bytes(content[:-1])
        case "longer":
            path.write_bytes(content + b"\0")
        case "folder":
            path.mkdir()
        case "link":
            path.with_name("elsewhere").write_bytes(content)
            path.symlink_to("elsewhere")
        case "pipe":
            os.mkfifo(path)


REASONS: Mapping[str, str] = {
    "missing": "cannot be read: No such file",
    "changed": "was changed or damaged: its SHA-256",
    "cut": "was changed or damaged",
    "longer": "was changed or damaged",
    "folder": "cannot be read: not a plain file",
    "link": "cannot be read: Too many levels of symbolic links",
    "pipe": "cannot be read: not a plain file",
}


@pytest.mark.parametrize("how", REASONS)
def test_a_file_that_is_not_what_it_was_is_refused(run: Path, how: str) -> None:
    found = stored_units(run)["a"]
    assert found.saved
    path = run / EDITS_FOLDER / found.saved.file
    spoiled(path, how)
    with pytest.raises(UserError, match=f"a saved edit {REASONS[how]}") as error:
        found.content()
    assert str(path) in str(error.value) and "save_edits=true resume=false" in str(error.value)
    if how == "changed":
        found.check()  # sees no more than name and size
    else:
        with pytest.raises(UserError, match=r"a saved edit (cannot be found|was changed or damaged)"):
            found.check()


def test_a_run_is_read_as_a_source(run: Path) -> None:
    source = read_source(run)
    assert (source.run_id, source.method, source.model) == ("0123456789", "rose", MODEL["fingerprint"])
    assert list(source.units) == ["a", "b", "c"]


def test_the_fingerprint_is_that_of_the_edits(run: Path) -> None:
    before = read_source(run).fingerprint
    log = run / "cases.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([lines[1], lines[2], lines[0], lines[3]]))
    assert read_source(run).fingerprint == before, "the order of the units does not matter"
    with RunStore.open(run, resume=True) as store:
        store.append([case("c", "c", **saved(EditFolder(run), "c"))])
    assert read_source(run).fingerprint != before


def test_the_parts_of_a_split_run_are_one_source(tmp_path: Path) -> None:
    for number, name in enumerate("ab"):
        path = tmp_path / f"x[1]_shard-{number}-of-2"
        with RunStore.open(path, resume=True) as store:
            store.append([case(name, name, **saved(EditFolder(path), name, name.encode()))])
            store.write_record(record(model=MODEL, run_id="0123456789"))
    source = read_source(tmp_path / "x[1]")
    assert {unit: found.content() for unit, found in source.units.items()} == {"a": b"a", "b": b"b"}
    with RunStore.open(path, resume=True) as store:
        store.write_record(record(model=MODEL, run_id="9876543210"))
    with pytest.raises(UserError, match="the parts of this run do not belong together"):
        read_source(tmp_path / "x[1]")


def test_what_is_no_run_is_no_source(tmp_path: Path) -> None:
    for path, what in ((tmp_path / "nowhere", "there is no run"), (tmp_path, "this is not the folder of a run")):
        with pytest.raises(UserError, match=what) as error:
            read_source(path)
        assert "save_edits=true" in str(error.value)


def test_a_run_without_saved_edits_is_no_source(tmp_path: Path) -> None:
    with RunStore.open(tmp_path / "run", resume=True) as store:
        store.append([case("a")])
        store.write_record(record(model=MODEL, run_id="0123456789"))
    with pytest.raises(UserError, match="this run has no saved edits") as error:
        read_source(tmp_path / "run")
    assert "save_edits=true resume=false" in str(error.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "cannot be used"),
        (b"[]", "a JSON object was expected"),
        (b'{"schema": 2}', "written by another version"),
        (b'{"schema": 1}', "run_id is missing"),
        (b'{"schema": 1, "run_id": "0", "config": []}', "config.method.name is missing"),
        (b'{"schema": 1, "run_id": "0", "config": {"method": {"name": "rome"}}}', "model.fingerprint is missing"),
        (b"[" * 100_000, "cannot be used"),
    ],
)
def test_a_record_that_lacks_something_is_refused(run: Path, text: bytes, reason: str) -> None:
    (run / "run.json").write_bytes(text)
    with pytest.raises(UserError, match=reason):
        read_source(run)


def test_only_plain_files_are_opened(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"content")
    (tmp_path / "link").symlink_to("plain")
    os.mkfifo(tmp_path / "pipe")
    with open_plain(tmp_path / "plain") as stream:
        assert stream.read() == b"content"
    for name, error in (("link", OSError), ("pipe", ValueError), (".", ValueError), ("nothing", OSError)):
        with pytest.raises(error):
            open_plain(tmp_path / name)
