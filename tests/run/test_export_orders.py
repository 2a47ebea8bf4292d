"""Orders to ``ke-export`` that cannot be carried out, and what is told about the edits of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from run.commands import Command, Export, arguments, lines_of, only_run, record_of
from run.test_export import units_of


class TestOrders:
    """What cannot be done is told in one message, and nothing is left behind."""

    @pytest.fixture
    def run(self, source: Path) -> Path:
        return source

    def refused(self, ke_export: Export, *args: str | Path, code: int = 1) -> str:
        before = sorted(Path().rglob("*"))
        found, text = ke_export(*args)
        assert found == code, text
        assert sorted(Path().rglob("*")) == before
        return text

    def test_what_is_missing(self, run: Path, ke_export: Export) -> None:
        assert "--to is missing" in self.refused(ke_export, run, "--as", "peft", code=2)
        assert "--as is missing" in self.refused(ke_export, run, "--to", "x", code=2)
        text = self.refused(ke_export, run, "--to", "x", "--as", "peft")
        assert "this run has 3 units with an edit" in text and f"--units {units_of(run)[0]}" in text
        assert "--dtype is that of a checkpoint" in self.refused(
            ke_export, run, "--all", "--to", "x", "--as", "peft", "--dtype", "float32", code=2
        )

    def test_unknown_units(self, run: Path, ke_export: Export) -> None:
        unit = units_of(run)[0]
        text = self.refused(ke_export, run, "--units", unit[:-1] + "?", "--to", "x", "--as", "peft")
        assert "this run has no unit" in text and ("did you mean" in text or "--list" in text)

    def test_a_checkpoint_of_packed_weights(self, run: Path, ke_export: Export) -> None:
        """As the record of a run with model.quantization=4bit tells; bitsandbytes need not be there to refuse it."""
        record = json.loads((run / "run.json").read_text(encoding="utf-8"))
        record["config"]["model"]["quantization"] = "4bit"
        (run / "run.json").write_text(json.dumps(record), encoding="utf-8")
        text = self.refused(ke_export, run, "--all", "--to", "x", "--as", "checkpoint")
        assert "an edit cannot be written into those" in text and "--as peft" in text

    def test_a_folder_that_is_taken(self, run: Path, ke_export: Export) -> None:
        Path("taken").mkdir()
        Path("taken/file").write_text("mine")
        text = self.refused(ke_export, run, "--all", "--to", "taken", "--as", "peft")
        assert "the folder to write exists and is not empty" in text
        assert "the folder to write exists" in self.refused(
            ke_export, run, "--all", "--to", "taken/file", "--as", "peft"
        )

    def test_a_damaged_edit(self, run: Path, ke_export: Export) -> None:
        path = next((run / "edits").iterdir())
        path.write_bytes(path.read_bytes()[:-1])
        assert "a saved edit was changed or damaged" in self.refused(
            ke_export, run, "--all", "--to", "x", "--as", "peft"
        )

    def test_a_disk_that_refuses(self, run: Path, ke_export: Export, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: Any, **__: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("ke_cli.exporting.artifacts.os.rename", full)
        text = self.refused(ke_export, run, "--all", "--to", "x", "--as", "peft")
        assert "the export cannot be written: No space left on device" in text

    def test_no_run(self, ke_export: Export) -> None:
        assert "there is no run" in self.refused(ke_export, "nowhere", "--list")

    def test_nothing_to_export(self, ke_run: Command, tiny_gpt2_dir: Path, ke_export: Export) -> None:
        assert ke_run(*arguments(tiny_gpt2_dir, "none", "save_edits=true", "output_dir=none")).code == 0
        text = self.refused(ke_export, only_run(Path("none")), "--all", "--to", "x", "--as", "peft")
        assert "the method none changes nothing" in text

    def test_the_units_are_listed(self, run: Path, ke_export: Export) -> None:
        code, text = ke_export(run, "--list")
        assert code == 0
        for line in lines_of(run):
            prompt = line["prompt"].replace("{}", line["subject"])
            assert " ".join(f"{line['unit']} {prompt} -> {line['target_new']}".split()) in text

    def test_a_case_stands_for_its_unit(self, ke_run: Command, tiny_gpt2_dir: Path, ke_export: Export) -> None:
        grouped = ("protocol=same_subject", "dataset.limit=2", "protocol.max_facts=2", "output_dir=grouped")
        assert ke_run(*arguments(tiny_gpt2_dir, "rome", "save_edits=true", *grouped)).code == 0
        run = only_run(Path("grouped"))
        case = lines_of(run)[3]
        assert ke_export(run, "--units", case["case_id"], case["unit"], "--to", "x", "--as", "peft")[0] == 0
        told = json.loads(Path("x/ke-run.json").read_text())
        assert [fact["target_new"] for fact in told["facts"]] == [line["target_new"] for line in lines_of(run)[2:]]
        assert (told["run_id"], told["method"]) == (record_of(run)["run_id"], "rome")
        assert told["edits"] == [case["edit"]["saved"]]

    def test_a_record_cannot_have_code_run(self, run: Path, ke_export: Export) -> None:
        path = run / "run.json"
        record = json.loads(path.read_text())
        record["config"]["model"] |= {"trust_remote_code": True}
        path.write_text(json.dumps(record))
        trusted: list[bool] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ke_cli.exporting.artifacts.load", lambda source: trusted.append(source.trust_remote_code))
            patch.setattr("ke_cli.exporting.artifacts.refuse_another_model", lambda *_: 1 / 0)
            for more in ((), ("--trust-remote-code",)):
                with pytest.raises(ZeroDivisionError):
                    ke_export(run, "--all", "--to", "x", "--as", "checkpoint", *more)
        assert trusted == [False, True]

    @pytest.mark.parametrize("size", ["5", "big", "0GB", "-1GB"])
    def test_a_size_that_is_none(self, run: Path, ke_export: Export, size: str) -> None:
        code, text = ke_export(run, "--all", "--to", "x", "--as", "checkpoint", f"--shard-size={size}")
        assert (code, "expected a size like 5GB" in text) == (2, True)
