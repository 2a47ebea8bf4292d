"""A sweep: every job gets its chance, says how it ended in a file, and one table closes the whole.

Files, because the launchers of Hydra may run the jobs in other processes or on other machines.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from ke_cli.errors import UserError

FINGERPRINT = "KE_SWEEP_CONFIGURATION"
"""The environment variable through which the jobs of a sweep learn what its configuration files were."""

FOLDER = "KE_SWEEP_FOLDER"
"""The one through which they learn where to say how they ended, whatever their own output folder is."""


@dataclass(frozen=True)
class Outcome:
    """How one job of a sweep ended.

    Args:
        number: Of the job, from 0.
        overrides: What distinguishes it, as typed.
        directory: The run's folder; None after an error.
        error: The message; None after success.
    """

    number: int
    overrides: list[str]
    directory: str | None
    error: str | None

    def __str__(self) -> str:
        """Return the job's number and overrides, with the error if there is one."""
        return f"job {self.number} ({' '.join(self.overrides)})" + (f": {self.error}" if self.error else "")


def run_job(work: Callable[[], Path], report_error: Callable[[Exception], str]) -> None:
    """Do one job of a sweep; an error is printed and noted, and does not keep the next job from starting.

    Args:
        work: Does the run and returns its folder.
        report_error: Turns an error into its message.
    """
    hydra = HydraConfig.get()
    number, overrides = int(hydra.job.num), list(hydra.overrides.task)
    try:
        _refuse_changed_files(hydra)
        outcome = Outcome(number, overrides, str(work()), None)
    except Exception as error:
        outcome = Outcome(number, overrides, None, report_error(error))
        print(f"error in {outcome}", file=sys.stderr, flush=True)
    text = json.dumps(asdict(outcome), indent=1)
    folder = Path(os.environ.get(FOLDER) or hydra.sweep.dir)
    (folder / f"job-{number:04d}.json").write_text(text + "\n", encoding="utf-8")


def read_outcomes(sweep_dir: Path) -> list[Outcome]:
    """Return how the jobs of a sweep ended, in their order."""
    paths = sorted(sweep_dir.glob("job-*.json"))
    found = (Outcome(**json.loads(path.read_text(encoding="utf-8"))) for path in paths)
    return sorted(found, key=lambda outcome: outcome.number)


class SweepCallback(Callback):
    """Watches a sweep from the process that started it; named in the hydra section of the configuration."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Tell the jobs where the sweep is, and what its files are, because Hydra reads them for each job."""
        os.environ[FOLDER] = os.path.abspath(config.hydra.sweep.dir)
        os.environ[FINGERPRINT] = fingerprint(_folders(config.hydra))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print one table of all runs, then the jobs that failed.

        Raises:
            SystemExit: With code 1 if a job failed.
        """
        outcomes = read_outcomes(Path(os.environ[FOLDER]))
        finished = dict.fromkeys(Path(outcome.directory) for outcome in outcomes if outcome.directory)
        recorded = [directory for directory in finished if (directory / "run.json").is_file()]  # not a dry run
        if recorded:
            _print_table(recorded)
        failed = [outcome for outcome in outcomes if outcome.error]
        if failed:
            print(f"{len(failed)} of {len(outcomes)} jobs failed:", file=sys.stderr)
            for outcome in failed:
                print(f"- {outcome}", file=sys.stderr)
            raise SystemExit(1)


def fingerprint(folders: Iterable[Path]) -> str:
    """Return the SHA-256 of all YAML files under some folders, names and contents."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*.yaml")):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.relative_to(folder)}\0{content}\n".encode())
    return digest.hexdigest()


def _folders(hydra: Any) -> list[Path]:
    """Return the folders on Hydra's search path."""
    return [Path(unquote(source.path)) for source in hydra.runtime.config_sources if source.schema == "file"]


def _refuse_changed_files(hydra: Any) -> None:
    began = os.environ.get(FINGERPRINT)
    if began and began != fingerprint(_folders(hydra)):
        raise UserError(
            "the configuration files changed since the sweep began, so its runs would not be comparable",
            hint="start the same sweep again: what is complete is skipped",
        )


def _print_table(directories: list[Path]) -> None:
    from rich.console import Console

    from ke_cli.report.summary import print_run_table

    print_run_table(directories, Console())
