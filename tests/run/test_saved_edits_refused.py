"""Saved edits of anything else are refused, in one message each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from run.commands import Command, arguments, only_run, record_of
from run.test_saved_edits import RECORDS, SAVE, check_files
from tiny import tiny_gpt2


class TestRefused:
    """Every reason is one message, and nothing is written."""

    def refused(self, ke_run: Command, *given: str) -> str:
        result = ke_run(*given, "output_dir=refused")
        assert result.code == 1, result.out
        folders = [path for path in Path("refused").glob("*") if not path.name.startswith(".")]
        assert all(not (folder / "cases.jsonl").read_bytes() for folder in folders)
        return result.text

    def test_another_model(self, ke_run: Command, source: Path, tmp_path: Path) -> None:
        other = tiny_gpt2(tmp_path / "other", seed=99)
        text = self.refused(ke_run, f"edits_from={source}", f"model.path={other}")
        assert "these edits were made for another model" in text and "(fingerprint " in text

    def test_another_data_type(self, ke_run: Command, source: Path) -> None:
        text = self.refused(ke_run, f"edits_from={source}", "model.dtype=float64")
        assert "these edits were made for another model" in text

    def test_cases_without_an_edit(self, ke_run: Command, source: Path, loads: list[str]) -> None:
        before = len(loads)
        text = self.refused(ke_run, f"edits_from={source}", "dataset.limit=5")
        assert "2 of 5 units have no saved edit: " in text and "the 3 units with an edit in that run" in text
        assert len(loads) == before

    def test_another_protocol(self, ke_run: Command, source: Path) -> None:
        text = self.refused(ke_run, f"edits_from={source}", "protocol=same_subject", "dataset.limit=2")
        assert "2 of 2 units have no saved edit: " in text

    def test_other_facts(self, ke_run: Command, outputs: Path, tmp_path: Path, tiny_gpt2_dir: Path) -> None:
        path = tmp_path / "data.json"
        path.write_text(json.dumps(RECORDS), encoding="utf-8")
        given = arguments(tiny_gpt2_dir, "rome", "dataset=counterfact", f"dataset.path='{path}'", SAVE)
        assert ke_run(*given).code == 0
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace("Antarctica", "Europe"), encoding="utf-8")
        again = (f"edits_from={only_run(outputs)}", "metrics=efficacy")
        refused = self.refused(ke_run, *again)
        assert "the unit '0' is not about the facts that were written when its edit was made" in refused
        path.write_text(text.replace("Ghana is in", "Togo is in"), encoding="utf-8")
        result = ke_run(*again, "output_dir=again")
        assert result.code == 0
        assert "warning: the data are not those of" in result.text

    @pytest.mark.parametrize("how", ["missing", "changed", "cut"])
    def test_a_file_that_is_not_what_it_was(self, ke_run: Command, source: Path, how: str) -> None:
        path = source / "edits" / check_files(source)[1]
        content = path.read_bytes()
        match how:
            case "missing":
                path.unlink()
            case "changed":
                path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            case "cut":
                path.write_bytes(content[:-1])
        text = self.refused(ke_run, f"edits_from={source}")
        assert "a saved edit " in text and path.name in text
        assert "restore the file, or compute the edits anew" in text

    def test_a_run_that_saved_none(self, ke_run: Command, outputs: Path, tiny_gpt2_dir: Path) -> None:
        assert ke_run(*arguments(tiny_gpt2_dir, "rome")).code == 0
        assert "this run has no saved edits" in self.refused(ke_run, f"edits_from={only_run(outputs)}")

    def test_another_method(self, ke_run: Command, source: Path) -> None:
        text = self.refused(ke_run, f"edits_from={source}", "method=memit")
        assert "these edits were made by rome (" in text and "not by memit (" in text

    def test_edits_of_another_shape(self, ke_run: Command, source: Path, tmp_path: Path) -> None:
        """Were the fingerprint forged, the shapes would still not fit."""
        other = tiny_gpt2(tmp_path / "other", n_embd=32, n_head=2)
        assert ke_run(*arguments(other, "none", "output_dir=forged")).code == 0
        print_ = record_of(only_run(Path("forged")))["model"]["fingerprint"]
        path = source / "run.json"
        path.write_text(path.read_text().replace(record_of(source)["model"]["fingerprint"], print_))
        text = self.refused(ke_run, f"edits_from={source}", f"model.path={other}")
        assert "a saved edit cannot be used: the change of transformer.h." in text
