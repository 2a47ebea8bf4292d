"""Configuration files that change while a sweep is under way: refused, and explained."""

from __future__ import annotations

from pathlib import Path

import pytest

from ke_cli.config import RunConfig
from ke_cli.config.files import changed, digests, fingerprint
from ke_cli.results.sweeps import read_sweep


class TestChangedFiles:
    @pytest.mark.parametrize(
        "text",
        ["# An editor\nname: dummy\ntarget: 'dummies:DummyEditor'\nlayers: [1]\n", "name: [\n", None],
        ids=["valid", "broken", "removed"],
    )
    def test_a_change_on_the_way_is_refused_and_explained(
        self, ke_run, executed, at_each_run, dummy_conf: Path, text: str | None
    ) -> None:
        path = dummy_conf / "method" / "dummy.yaml"
        at_each_run(lambda config: path.unlink() if text is None else path.write_text(text, encoding="utf-8"))
        result = ke_run("-m", "seed=1,2,3")
        assert (result.code, [config.seed for config in executed]) == (1, [1])
        assert "the configuration files changed since the sweep began, so its runs would not be com" in result.err
        assert f"  where:   {path}\n" in result.err
        assert "start the same sweep again" in result.err
        assert "Traceback" not in result.err
        (sweep,) = Path("outputs/.sweeps").iterdir()
        first, *others = (job.status for job in read_sweep(sweep).jobs)
        assert first == "complete" and set(others) <= {"failed", "not begun"}

    def test_a_new_file_changes_nothing(self, ke_run, executed, at_each_run, dummy_conf: Path) -> None:
        (dummy_conf / "method" / "notes.txt").write_text("not a configuration", encoding="utf-8")

        def add(config: RunConfig) -> None:
            (dummy_conf / "method" / "mine.yaml").write_text("# Mine\nname: mine\n", encoding="utf-8")
            (dummy_conf / "method" / "notes.txt").write_text("still not", encoding="utf-8")
            if not (link := dummy_conf / "method" / ".#dummy.yaml").is_symlink():
                link.symlink_to("me@host:123")  # what an editor leaves beside a file that is open

        at_each_run(add)
        assert ke_run("-m", "seed=1,2").code == 0
        assert len(executed) == 2

    def test_a_new_file_that_hides_another_is_refused(self, ke_run, executed, at_each_run, dummy_conf: Path) -> None:
        hiding = dummy_conf / "protocol" / "single.yaml"
        at_each_run(lambda config: hiding.write_text("# Mine\nname: single\n", encoding="utf-8"))
        result = ke_run("-m", "seed=1,2")
        assert (result.code, len(executed)) == (1, 1)
        assert f"  where:   {hiding}\n" in result.err

    def test_another_sweeper_refuses_too(self, ke_run, executed, at_each_run, dummy_conf: Path) -> None:
        path = dummy_conf / "method" / "dummy.yaml"
        at_each_run(lambda config: path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8"))
        result = ke_run("-m", "seed=1,2", "hydra/sweeper=basic")
        assert (result.code, len(executed)) == (1, 1)
        assert "the configuration files changed since the sweep began" in result.err

    def test_files_are_compared_by_name_and_content(self, tmp_path: Path) -> None:
        for name in ("a/x.yaml", "a/y.yaml", "b/z.yaml"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("k: 1", encoding="utf-8")
        folders = [tmp_path / "a", tmp_path / "b"]
        before = digests(folders)
        assert changed(before, folders) == []
        (tmp_path / "a" / "x.yaml").write_text("k: 2", encoding="utf-8")
        (tmp_path / "a" / "y.yaml").unlink()
        (tmp_path / "a" / "new.yaml").write_text("k: 3", encoding="utf-8")
        (tmp_path / "a" / "z.yaml").write_text("k: 4", encoding="utf-8")
        assert changed(before, folders) == [str(tmp_path / "a" / name) for name in ("x.yaml", "y.yaml", "z.yaml")]


def test_the_fingerprint_sees_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: 1", encoding="utf-8")
    first = fingerprint([tmp_path])
    (tmp_path / "notes.txt").write_text("not a configuration", encoding="utf-8")
    assert fingerprint([tmp_path]) == first
    (tmp_path / "a.yaml").write_text("a: 2", encoding="utf-8")
    second = fingerprint([tmp_path])
    (tmp_path / "a.yaml").rename(tmp_path / "b.yaml")
    assert len({first, second, fingerprint([tmp_path])}) == 3
