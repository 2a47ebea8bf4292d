"""A writer that is killed at, or refused, every call that changes a file; and the power that goes after any of them."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGKILL

import pytest

from faults.driver import CALLS, MANNERS, REAL, Fault, arm, disarm, notes, process
from ke_cli.errors import UserError
from ke_cli.results.reader import read_run
from ke_cli.results.store import RunStore
from results.runs import case, log_of, record, stored, unit

UNITS = [("a", 1), ("b", 3), ("c", 2), ("d", 1)]
FULL = (errno.ENOSPC, errno.EROFS, errno.EIO)


def work(directory: Path, fault: Fault) -> None:
    """Be a writer that goes on with a run, with a fault in it."""
    arm(fault)
    finish(directory)


def finish(directory: Path) -> None:
    """Store whatever is not stored yet, as a run does: the record before and after every package."""
    with RunStore.open(directory, resume=True) as store:
        left = [(name, size) for name, size in UNITS if name not in store.done_units]
        store.write_record(record(total=7, status="running"))
        for name, size in left:
            store.append(unit(name, size))
            store.write_record(record(total=7, status="running"))
        store.write_record(record(total=7))


def seeded(directory: Path) -> Path:
    """A run that an earlier writer left with a whole unit, a garbled one, and a torn end."""
    with RunStore.open(directory, resume=True) as store:
        store.write_record(record(total=7, status="running"))
        store.append(unit("a", 1))
        store.append(unit("b", 3))
    text = log_of(directory).read_bytes()
    lines = text.splitlines(keepends=True)
    log_of(directory).write_bytes(b"".join([lines[0], lines[1], b"?" * 40 + b"\n", lines[3], lines[3][:200]]))
    return directory


@pytest.fixture(scope="module", params=["new", "seeded"])
def calls(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    """What an undisturbed writer calls, in a new folder or in one that needs repair."""
    folder = tmp_path_factory.mktemp("undisturbed")
    directory = begun(request.param, folder)
    trace = folder / "trace"
    child = process(work, directory, Fault(trace=trace))
    child.join(60)
    assert child.exitcode == 0
    whole(directory)
    return request.param, notes(trace)


def begun(kind: str, folder: Path) -> Path:
    return seeded(folder / "run") if kind == "seeded" else folder / "run"


def whole(directory: Path) -> None:
    """Every case is there once and as it was stored, and nothing is left lying about."""
    run = read_run(directory)
    assert (len(run.done), run.failed, run.problems, run.finished) == (7, (), [], True)
    lines = [{key: value for key, value in line.items() if key != "check"} for line in stored(directory)]
    want = [line for name, size in UNITS for line in unit(name, size)]
    assert sorted(lines, key=str) == sorted(want, key=str)
    assert not [path.name for path in directory.iterdir() if path.name.endswith(".tmp")]


def check_after(directory: Path, told: list[str], before: set[str]) -> None:
    """What was said to be safe is, and a reader sees nothing odd in what a killed writer left."""
    if (directory / "run.json").exists():
        run = read_run(directory)
        assert {line.unit for line in run.done} >= set(told) | before
        assert len(run.done) == len({line.case_id for line in run.done})
        assert not run.problems or before, run.problems
    finish(directory)
    whole(directory)


@pytest.mark.parametrize("trials", [10, pytest.param(None, marks=pytest.mark.slow)], ids=["some", "all"])
def test_killed_at_every_call(calls: tuple[str, list[str]], tmp_path: Path, trials: int | None) -> None:
    kind, trace = calls
    before = {"a"} if kind == "seeded" else set()
    faults = [Fault(n, manner) for n in range(len(trace)) for manner in ("before", "after")]
    faults += [Fault(n, "torn") for n, call in enumerate(trace) if call.startswith("write")]
    assert len(trace) >= 20 and {call.split()[0] for call in trace} >= {"write", "fsync", "replace"}
    for number, fault in enumerate(faults if trials is None else random.Random(5).sample(faults, trials)):
        folder = tmp_path / str(number)
        folder.mkdir()
        directory = begun(kind, folder)
        armed = Fault(fault.call, fault.manner, stored=folder / "stored")
        child = process(work, directory, armed)
        child.join(60)
        assert child.exitcode == -SIGKILL, (str(fault), trace[fault.call])
        check_after(directory, notes(folder / "stored"), before)
        shutil.rmtree(folder)


@pytest.mark.parametrize("code", FULL, ids=os.strerror)
def test_refused_at_every_call(calls: tuple[str, list[str]], tmp_path: Path, code: int) -> None:
    """A full disk, one that went read-only, a broken one: the error says what to do, and nothing is lost."""
    kind, trace = calls
    refused = 0
    for number in range(len(trace)):
        directory = begun(kind, tmp_path / str(number))
        arm(Fault(number, "torn", code))
        try:
            finish(directory)
        except UserError as error:
            refused += 1
            assert "then start the same command again" in str(error), trace[number]
        finally:
            disarm()
        finish(directory)
        whole(directory)
    assert refused >= len(trace) // 2, "what cannot be refused is the syncing of folders"


def test_killed_again_and_again(tmp_path: Path) -> None:
    """One run, killed at random calls until it is through."""
    moments, kills, told = random.Random(0), 0, set()
    for _ in range(200):
        armed = Fault(moments.randrange(2, 15), moments.choice(MANNERS), stored=tmp_path / "stored")
        child = process(work, tmp_path / "run", armed)
        child.join(60)
        assert child.exitcode in (0, -SIGKILL)
        told |= set(notes(tmp_path / "stored"))
        with RunStore.open(tmp_path / "run", resume=True) as store:
            assert told <= store.done_units
            assert not any("bad line" in note for note in store.notes)
        if child.exitcode == 0:
            break
        kills += 1
    whole(tmp_path / "run")
    assert 3 <= kills < 200


class Power:
    """What is on the disk for certain: each file as of its last sync, the names as of the last sync of their folder."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.contents: dict[int, bytes] = {}
        self.names: dict[str, int] = {}

    def synced(self, descriptor: int) -> None:
        place = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if place.is_dir():
            if place == self.directory.resolve():
                self.names = {path.name: path.stat().st_ino for path in self.directory.iterdir()}
        else:
            self.contents[os.fstat(descriptor).st_ino] = place.read_bytes()

    def left(self, target: Path, names: dict[str, int]) -> Path:
        """The folder as the next start of the machine finds it, where names were written out up to some moment."""
        target.mkdir()
        for name, inode in names.items():
            (target / name).write_bytes(self.contents.get(inode, b""))
        return target


@contextmanager
def power(directory: Path, going: list[Power]) -> Iterator[Power]:
    """Follow what is synced."""
    watched = Power(directory)

    def fsync(descriptor: int) -> None:
        REAL["fsync"](descriptor)
        watched.synced(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        going.append(watched)
        yield watched


def test_what_was_stored_outlives_a_power_cut(tmp_path: Path) -> None:
    """After every unit, with the names of files as of the last sync of their folder, and as of now."""
    directory, acknowledged, cuts = tmp_path / "run", set(), 0
    with power(directory, []) as disk, RunStore.open(directory, resume=True) as store:
        store.write_record(record(total=7, status="running"))
        for name, size in UNITS:
            store.append(unit(name, size))
            acknowledged.add(name)
            now = {path.name: path.stat().st_ino for path in directory.iterdir()}
            for names in (disk.names, now):
                cuts += 1
                found = disk.left(tmp_path / f"cut{cuts}", names)
                with RunStore.open(found, resume=True) as after:
                    assert after.done_units == acknowledged
                    assert after.record is not None and after.notes == []
            store.write_record(record(total=7, status="running", updated_at=name))
    assert cuts == 2 * len(UNITS)


def test_a_new_run_directory_is_known_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name, and that of the output folder, which is new as well."""
    seen: list[Path] = []

    def fsync(descriptor: int) -> None:
        seen.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        REAL["fsync"](descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with RunStore.open(tmp_path / "outputs" / "run", resume=True):
        assert {tmp_path / "outputs" / "run", tmp_path / "outputs", tmp_path} <= set(seen)


class TestStrangers:
    """Somebody else meddles with the files of a run that is going."""

    def test_a_deleted_lock_does_not_let_a_second_writer_in(self, tmp_path: Path) -> None:
        with RunStore.open(tmp_path, resume=True) as store:
            store.append([case("1")])
            for resume in (True, False):
                (tmp_path / ".lock").unlink()
                with pytest.raises(UserError, match="another process is writing this run"):
                    RunStore.open(tmp_path, resume=resume)
            store.append([case("2")])
        assert [line["case_id"] for line in stored(tmp_path)] == ["1", "2"]
        RunStore.open(tmp_path, resume=True).close()

    def test_nothing_is_written_behind_what_another_wrote(self, tmp_path: Path) -> None:
        with RunStore.open(tmp_path, resume=True) as store:
            store.append([case("1")])
            with log_of(tmp_path).open("ab") as other:
                other.write(b'{"schema"')
            with pytest.raises(UserError, match="changed by another program"):
                store.append([case("2")])
            assert store.done_units == {"unit-1"}
        with RunStore.open(tmp_path, resume=True) as store:
            assert store.done_units == {"unit-1"}
            store.append([case("2")])

    @pytest.mark.parametrize("what", ["removed", "moved", "replaced"])
    def test_nothing_is_written_where_nobody_finds_it(self, tmp_path: Path, what: str) -> None:
        directory, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
        with RunStore.open(directory, resume=True) as store:
            store.append([case("1")])
            if what == "replaced":
                shutil.copy(log_of(directory), tmp_path / "copy")
                (tmp_path / "copy").replace(log_of(directory))
            else:
                directory.rename(elsewhere)
            if what == "removed":
                shutil.rmtree(elsewhere)
            with pytest.raises(UserError, match="removed, moved or replaced") as caught:
                store.append([case("2")])
        assert "what was stored is where the folder is now" in str(caught.value)
        assert "no finished case is lost" not in str(caught.value)
        if what == "moved":
            assert [line["case_id"] for line in stored(elsewhere)] == ["1"]

    def test_a_record_that_was_deleted_is_told_of(self, tmp_path: Path) -> None:
        with RunStore.open(tmp_path, resume=True) as store:
            store.append([case("1")])
            assert store.notes == []
        with RunStore.open(tmp_path, resume=True) as store:
            assert store.notes == [
                "run.json was gone: which model and data set the stored cases belong to is not known"
            ]

    @pytest.mark.parametrize(
        "wrong",
        [
            {"wall_s": "long"},
            {"wall_s": float("nan")},
            {"notes": "one"},
            {"notes": [1]},
            {"context_templates": [["{}"]]},
            {"model": "gpt2"},
            {"dataset": {"fingerprint": 3}},
            {"config": []},
            {"status": 1},
        ],
        ids=str,
    )
    def test_a_record_of_wrong_types_is_refused_in_one_message(self, tmp_path: Path, wrong: dict[str, object]) -> None:
        with RunStore.open(tmp_path, resume=True) as store:
            store.write_record(record())
        (tmp_path / "run.json").write_text(json.dumps(record() | wrong))
        with pytest.raises(UserError, match=f"is damaged: {next(iter(wrong))}.*\n.*\n.*resume=false"):
            RunStore.open(tmp_path, resume=True)


def test_the_calls_that_are_trapped_are_all_there_are() -> None:
    """What else would change a file is not used by the code that writes results."""
    package = Path(RunStore.__module__.replace(".", "/")).parent
    root = Path(__file__).resolve().parents[2]
    text = "".join(path.read_text(encoding="utf-8") for path in (root / package).glob("*.py"))
    for other in ("os.pwritev", "os.truncate", "os.link", "os.remove", "shutil", "os.sendfile", "os.symlink"):
        assert other not in text
    assert {"write", "fsync", "replace", "rename", "ftruncate", "unlink"} == set(CALLS)
