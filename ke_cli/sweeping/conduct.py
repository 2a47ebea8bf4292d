"""What the process that starts a sweep does: list its jobs, have them launched, and say in the end how each stands."""

from __future__ import annotations

import os
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from ke_cli.config.files import digests, fingerprint, folders_of
from ke_cli.errors import visible
from ke_cli.interrupts import terminable
from ke_cli.provenance import now
from ke_cli.results.files import explained
from ke_cli.results.sweep_log import held_sweep
from ke_cli.results.sweeps import COMPLETE, DIED, FAILED, INTERRUPTED, PLANNED, Job, read_list, read_sweep
from ke_cli.sweeping.sweep import FOLDER, announce, cases_of, refuse_changed_files

Overrides = tuple[str, ...]

GOES_ON: Final = "the same command skips what is complete, goes on with what is not, and tries again what failed"
LEAVES_FAILED: Final = (
    "the same command skips what is complete and goes on with what is not; "
    "retry_failed=true also tries cases again that failed"
)


@contextmanager
def conducted(config: DictConfig, jobs: Sequence[Overrides]) -> Iterator[Path]:
    """Write down the jobs of a sweep before the body launches them; however that ends, print how they stand.

    Args:
        config: The configuration that the sweep was started with.
        jobs: The overrides of each.

    Yields:
        The folder of the sweep.

    Raises:
        SystemExit: With code 1 if a job is not complete.
        UserError: The folder cannot be written, or jobs could not be composed because configuration files changed.
        KeyboardInterrupt: After Ctrl-C or SIGTERM.
    """
    folder, folders = announce(config.hydra), folders_of(config.hydra)
    about = {"started_at": now(), "dry_run": bool(config.get("dry_run")), "fingerprint": fingerprint(folders)}
    with terminable(), ExitStack() as stack:
        with explained(folder):
            stack.enter_context(
                held_sweep(folder, list(map(_listed, jobs)), command=sys.argv, files=digests(folders), **about)
            )
        if len(jobs) > 1 and not (is_quiet(config) or about["dry_run"]):
            print(f"a sweep of {len(jobs)} jobs; to follow it: {_watching(folder)}", flush=True)
        try:
            yield folder
        except Exception:
            conclude(folder, config)
            refuse_changed_files(folder, config.hydra)  # what cannot be read any more was edited on the way
            raise
        except KeyboardInterrupt:
            conclude(folder, config, interrupted=True)
            raise
        if not conclude(folder, config):
            raise SystemExit(1)


def _listed(job: Overrides) -> Overrides:
    """Return the overrides as the job itself will see them: without those of Hydra."""
    return tuple(override for override in job if not override.lstrip("+~").startswith(("hydra.", "hydra/")))


def is_quiet(config: DictConfig) -> bool:
    """Whether a sweep shows nothing but errors and, in the end, the folders of its complete runs."""
    return bool(config.get("progress") == "none" and not config.get("dry_run"))


def _watching(folder: Path) -> str:
    output = Path(os.path.relpath(folder.parent.parent))
    return shlex.join(("ke-summarize", str(output), "--watch"))


def conclude(folder: Path, config: DictConfig, *, interrupted: bool = False) -> bool:
    """Print how the jobs of a sweep stand, one table of all complete runs, and what went wrong.

    Args:
        folder: Of the sweep.
        config: The configuration that the sweep was started with; a quiet one gets folders in place of tables.
        interrupted: Whether the sweep was ended from outside, with its processes.

    Returns:
        Whether all jobs are complete.
    """
    quiet = is_quiet(config)
    jobs = [_seen(job, interrupted) for job in read_sweep(folder).jobs]
    if any(job.status != PLANNED for job in jobs) and not quiet:
        _print_jobs(jobs)
    complete = dict.fromkeys(Path(job.directory) for job in jobs if job.status == COMPLETE)
    if recorded := [directory for directory in complete if (directory / "run.json").is_file()]:
        _print_results(recorded, quiet)
    sys.stdout.flush()
    for line in _complaints(jobs, retried=bool(config.get("retry_failed", True))):
        print(line, file=sys.stderr)
    return all(job.status in (COMPLETE, PLANNED) for job in jobs)


def how_it_ended(number: int) -> str:
    """Return a line about a job of the sweep of this process that has ended."""
    from ke_cli.report.sweeps import ended_line

    jobs = read_sweep(Path(os.environ[FOLDER])).jobs
    return next((ended_line(_seen(job, False), jobs) for job in jobs if job.number == number), f"job {number}: lost")


def _seen(job: Job, interrupted: bool) -> Job:
    """Add what a job that did not end could not say itself."""
    if interrupted and job.status == DIED and not job.error:
        job = replace(job, status=INTERRUPTED)
    return replace(job, cases=cases_of(Path(job.directory))) if job.directory and not job.cases else job


def _complaints(jobs: Sequence[Job], *, retried: bool) -> Iterator[str]:
    if failed := [job for job in jobs if job.status == FAILED]:
        yield f"{len(failed)} of {len(jobs)} jobs failed:"
        for error in dict.fromkeys(job.error for job in failed):
            yield f"- {_told_once(error, [job for job in failed if job.error == error])}"
    others = Counter(job.status for job in jobs if job.status not in (COMPLETE, PLANNED, FAILED))
    if others:
        counts = ", ".join(f"{count} {status}" for status, count in others.items())
        yield f"{others.total()} of {len(jobs)} jobs did not end ({counts})"
    if failed or others:
        yield GOES_ON if retried else LEAVES_FAILED


def _told_once(error: str, jobs: Sequence[Job]) -> str:
    """Return the error that some jobs have in common; the table of jobs says what was typed for each."""
    return str(jobs[0]) if len(jobs) == 1 else f"jobs {', '.join(str(job.number) for job in jobs)}: {error}"


def _print_jobs(jobs: Sequence[Job]) -> None:
    from rich.console import Console

    from ke_cli.report.sweeps import print_jobs

    print_jobs(jobs, Console())


def _print_results(directories: Sequence[Path], quiet: bool) -> None:
    """Print the table of some runs and in which folders they are, or only their own folders."""
    if quiet:
        print(*(visible(str(directory)) for directory in directories), sep="\n")
        return
    _print_table(directories)
    folders = dict.fromkeys(str(directory.parent) for directory in directories)
    print(f"results: {visible(', '.join(folders))}")


def _print_table(directories: Sequence[Path]) -> None:
    from rich.console import Console

    from ke_cli.report.summary import print_run_table

    print_run_table(directories, Console())


class SweepCallback(Callback):
    """Watches a sweep from the process that started it; named in the hydra section of the configuration."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Tell the jobs where the sweep is."""
        announce(config.hydra)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print how the jobs ended, where another sweeper than our own has not done so.

        Raises:
            SystemExit: With code 1 if a job failed.
        """
        folder = Path(os.environ[FOLDER])
        if not read_list(folder).started_at and not conclude(folder, config):
            raise SystemExit(1)
