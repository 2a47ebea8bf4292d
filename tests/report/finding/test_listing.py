from __future__ import annotations

import json
import socket
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from ke_cli.report.finding.listing import entries
from ke_cli.report.finding.overrides import common, labels, overrides
from ke_cli.results.reader import Run, find_runs, read_run
from ke_cli.results.shards import join_shards
from ke_cli.summarize import main
from results.runs import efficacies, shard, write_run

Captured = pytest.CaptureFixture[str]
NOW = datetime.fromisoformat("2025-01-01T02:30:00+00:00").timestamp()


def runs_of(folder: Path) -> list[Run]:
    return join_shards([read_run(path) for path in find_runs([folder])])


def test_a_line_for_each_run_the_oldest_first(outputs: Path) -> None:
    found = entries(runs_of(outputs), NOW)
    assert [(one.run, one.status, one.age_s, one.done, one.failed, one.total) for one in found] == [
        ("gpt2_none", "complete", 9000.0, 4, 0, 4),
        ("gpt2_rome", "complete", 5400.0, 3, 1, 4),
        ("gpt2_rose", "complete", 1800.0, 4, 0, 4),
    ]
    assert [one.overrides for one in found] == [("method=none",), ("method=rome",), ("method=rose",)]
    assert common(runs_of(outputs)) == ("model=gpt2", "dataset=counterfact", "protocol=single")


def test_what_tells_runs_apart_is_compared_among_runs_of_the_same_kind(outputs: Path) -> None:
    write_run(outputs / "more", efficacies([1]), "rose", seed=1, **{"method.lambda_": 0.5, "method.context_seed": 1})
    write_run(outputs / "other", efficacies([1]), "rose", **{"method.lambda_": 0.1, "method.context_seed": 0})
    found = dict(zip((run.record.name for run in runs_of(outputs)), overrides(runs_of(outputs)), strict=True))
    assert found["gpt2_rome"] == ("method=rome", "seed=0")
    assert found["gpt2_rose"] == ("method=rose", "method.lambda_=0.5", "seed=0")
    assert found["more"] == ("method=rose", "method.lambda_=0.5", "seed=1")
    assert found["other"] == ("method=rose", "method.lambda_=0.1", "seed=0")


def test_runs_that_nothing_tells_apart_are_called_by_their_names(outputs: Path) -> None:
    write_run(outputs / "copy", efficacies([1]), "rome", **{"method.steps": 20})
    assert labels(runs_of(outputs)) == ["rome (copy)", "none", "rome (gpt2_rome)", "rose"]


def test_a_run_alone_shows_what_was_typed(tmp_path: Path) -> None:
    command = ["/bin/ke-run", "method=rome", "dataset.limit=2", "-m", "hydra.mode=RUN"]
    write_run(tmp_path / "one", efficacies([1]), "rome", command=command)
    (found,) = entries(runs_of(tmp_path), NOW)
    assert found.overrides == ("method=rome", "dataset.limit=2")


def test_a_run_whose_process_is_gone_has_died(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "one", efficacies([1]), status="running", total=3)
    assert entries(runs_of(tmp_path), NOW)[0].status == "running"  # this process wrote it
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    (folder / ".lock").write_text(json.dumps({"pid": int(gone.stdout), "host": socket.gethostname()}))
    assert entries(runs_of(tmp_path), NOW)[0].status == "died"
    (folder / ".lock").write_text(json.dumps({"pid": int(gone.stdout), "host": "elsewhere"}))
    assert entries(runs_of(tmp_path), NOW)[0].status == "running"
    (folder / ".lock").write_text("[]")
    assert entries(runs_of(tmp_path), NOW)[0].status == "running"


def test_what_is_printed(outputs: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    for index in (0, 2):
        shard(outputs / "split", index, efficacies([1, 1], first=2 * index))
    (outputs / "bad").mkdir()
    (outputs / "bad" / "run.json").write_text("{")
    assert main([str(outputs), "--list"]) == 0
    out, err = capsys.readouterr()
    lines = [line.split() for line in out.splitlines() if line.strip()]
    assert lines[0] == ["5", "runs,", "all", "with", "model=gpt2", "dataset=counterfact", "protocol=single"]
    assert lines[1] == ["Run", "Status", "Age", "Cases", "What", "tells", "it", "apart"]
    assert [line[0] for line in lines[3:]] == ["gpt2_none", "gpt2_rose_abc", "2", "gpt2_rome", "1", "gpt2_rose", "bad"]
    assert lines[4][1:2] + lines[4][4:5] + lines[5] == ["incomplete", "4/6", "2", "of", "3", "shards"]
    assert lines[7] == ["1", "failed"]
    assert lines[9][1:4] == ["unreadable", "\N{EN DASH}", "0"]
    assert "bad: run.json: " in err


def test_a_run_in_shards_is_told_from_its_whole(tmp_path: Path, capsys: Captured) -> None:
    write_run(tmp_path / "whole", efficacies([1] * 6))
    for index in range(3):
        shard(tmp_path, index, efficacies([1, 1], first=2 * index))
    assert main([str(tmp_path), "--list"]) == 0
    assert capsys.readouterr().out.count("3 shards") == 1


def test_chosen_by_settings_and_as_data(outputs: Path, capsys: Captured) -> None:
    assert main([str(outputs), "--list", "--where", "method=rome,rose", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [run["run"] for run in found["runs"]] == ["gpt2_rome", "gpt2_rose"]
    assert found["runs"][0]["failed"] == 1


def test_nothing_to_list(tmp_path: Path, capsys: Captured) -> None:
    assert main([str(tmp_path), "--list"]) == 1
    assert "0 runs" in capsys.readouterr().out
