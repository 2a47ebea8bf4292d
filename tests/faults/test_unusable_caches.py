"""A cache folder that cannot be used: told as what it is, and done without where that is possible."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.benches import load_tiny
from faults.test_caches import store_at
from ke_cli.engine import statistics
from ke_cli.errors import UserError
from run.commands import Command, arguments, lines_of, only_run


class TestUnusable:
    """``KE_CACHE`` leads to what is no folder: the message is about the cache, not about the results."""

    @pytest.mark.parametrize("place", ["a file", "below a file", "statistics is a file"])
    def test_statistics_cannot_be_kept(
        self, ke_run: Command, tmp_path: Path, tiny_gpt2_dir: Path, monkeypatch: pytest.MonkeyPatch, place: str
    ) -> None:
        folder = tmp_path / "cache of its own"
        in_the_way = folder / "statistics" if place.startswith("statistics") else folder
        in_the_way.parent.mkdir(exist_ok=True)
        in_the_way.write_text("a file")
        monkeypatch.setenv("KE_CACHE", str(folder / "deeper" if place.startswith("below") else folder))
        result = ke_run(*arguments(tiny_gpt2_dir, "rome"))
        assert result.code == 1
        assert result.err.startswith("error: the covariance statistics could not be stored: ")
        assert "KE_CACHE" in result.err and str(folder) in result.err and "output_dir" not in result.err
        assert in_the_way.read_text() == "a file"

    def test_what_needs_no_statistics_goes_on_without_a_cache(
        self, ke_run: Command, outputs: Path, tmp_path: Path, tiny_gpt2_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "no folder").write_text("a file")
        monkeypatch.setenv("KE_CACHE", str(tmp_path / "no folder"))
        result = ke_run(*arguments(tiny_gpt2_dir, "ft_l"))
        assert (result.code, len(lines_of(only_run(outputs)))) == (0, 3)
        assert "answers of the unedited model" in result.text

    def test_a_lock_that_the_file_system_does_not_know(
        self, tmp_path: Path, tiny_gpt2_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def acquire(*_: Any, **__: Any) -> None:
            raise NotImplementedError("FileSystem does not appear to support flock")

        monkeypatch.setattr(statistics.FileLock, "acquire", acquire)
        with pytest.raises(UserError, match="does not appear to support flock") as caught:
            store_at(tmp_path).covariances(load_tiny(tiny_gpt2_dir), [1])
        assert "KE_CACHE" in str(caught.value)

    def test_an_identity_is_plain_json(self, tmp_path: Path, tiny_gpt2_dir: Path) -> None:
        store, model = store_at(tmp_path), load_tiny(tiny_gpt2_dir)
        identity = store._identity(model, 1)
        assert json.loads(json.dumps(identity)) == identity and identity["format"] == 2
