"""Sweeps through the real command line, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGINT, Signals
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-c", "from ke_cli.run import main; main()")

SMALL = (
    "model=local",
    "dataset=atlas",
    "dataset.limit=3",
    "statistics.text=atlas",
    "statistics.tokens_per_width=2",
    "metrics=quick",
    "batch_tokens=2048",
)
"""What all runs here share."""

ROME = ("method=rome", "method.steps=3", "method.context_prefixes=[[The,3,1]]")
SEEDS = (*ROME, "seed=0,1,2,3")


@dataclass
class Sweep:
    """A sweep in a folder.

    Args:
        folder: The working folder; the cache is in it, too.
        model: Folder of the model.
    """

    folder: Path
    model: Path
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "sweeping")])
        environment = {**os.environ, "PYTHONPATH": path, "KE_CACHE": str(self.folder / "cache"), **self.environment}
        for name in ("KE_SWEEP_FOLDER", "KE_SWEEP_CONFIGURATION"):
            environment.pop(name, None)
        given = ["-m", *SMALL, f"model.path={self.model}", *arguments]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command = [*COMMAND, *given]
        return subprocess.Popen(command, cwd=self.folder, env=environment, text=True, process_group=0, **pipes)

    def interrupt(self, how: Signals, *arguments: str) -> tuple[str, list[str]]:
        """Interrupt a sweep of runs that take their time, as soon as two of them have stored something.

        Args:
            how: SIGINT goes to all processes of the sweep's group, as a terminal sends it.
            arguments: Of the sweep, for example its launcher.

        Returns:
            What it printed, and the status of every run.
        """
        swept = ("method=slow", "seed=0,1,2", "batch_tokens=256", "dataset.limit=40")
        process = self.start(*arguments, *swept)
        wait_for(lambda: len([r for r in self.records().values() if r["counts"]["units_ok"]]) == 2, 300)
        processes = descendants(process.pid)
        (os.killpg if how == SIGINT else os.kill)(process.pid, how)
        code, out, err = ended(process, 120)
        assert code == 130, out + err
        wait_for(lambda: not any(alive(pid) for pid in processes), 30)
        return out + err, [record["status"] for record in self.records().values()]

    def run(self, *arguments: str, timeout_s: float = 300) -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        return ended(self.start(*arguments), timeout_s)

    def records(self, outputs: str = "outputs") -> dict[int, dict[str, Any]]:
        """The run record of each seed."""
        found = (json.loads(path.read_text(encoding="utf-8")) for path in self.folder.glob(f"{outputs}/*/run.json"))
        return {record["config"]["seed"]: record for record in found}

    def results(self, outputs: str = "outputs") -> dict[int, list[str]]:
        """The result lines of each seed, to the byte, without their times."""
        return {
            seed: [_timeless(line) for line in (self.folder / outputs / record["name"] / "cases.jsonl").open("rb")]
            for seed, record in self.records(outputs).items()
        }

    def jobs(self) -> list[dict[str, Any]]:
        """The job files of the latest sweep."""
        latest = max((self.folder / "outputs" / ".sweeps").iterdir())
        return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(latest.glob("job-*.json"))]


def _timeless(line: bytes) -> str:
    """Without the checksum, too, which the time enters."""
    return json.dumps({key: value for key, value in json.loads(line).items() if key not in ("time", "check")})


def ended(process: subprocess.Popen[str], timeout_s: float = 300) -> tuple[int, str, str]:
    """Wait for the end of a sweep."""
    try:
        out, err = process.communicate(timeout=timeout_s)
    finally:
        process.kill()
    assert "[HYDRA]" not in out + err
    return process.returncode, out, err


def wait_for(condition: Callable[[], Any], timeout_s: float = 120) -> None:
    """Look again and again until a condition holds."""
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)


def descendants(pid: int) -> list[int]:
    """The processes below a process."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    found = [pid]
    for known in found:
        found += [child for child, parent in parents.items() if parent == known]
    return found[1:]


def alive(pid: int) -> bool:
    """Whether a process computes; one whose end nobody has asked about does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
