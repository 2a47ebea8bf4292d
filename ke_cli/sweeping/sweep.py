"""The jobs of a sweep: each gets its chance, and says in a file how it stands and how it ended.

Files, because the launchers of Hydra may run the jobs in other processes or on other machines. What the process that
started the sweep does is `ke_cli.sweeping.conduct`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig

from ke_cli.config.files import changed, edited, fingerprint, folders_of
from ke_cli.config.identity import run_dir
from ke_cli.errors import UserError
from ke_cli.paths import SWEEP_FOLDER
from ke_cli.provenance import now
from ke_cli.report.sweeps import in_common, own_part
from ke_cli.results.files import explained
from ke_cli.results.reader import read_run
from ke_cli.results.sweep_log import JobFile, note
from ke_cli.results.sweeps import (
    COMPLETE,
    DIED,
    ENDED,
    FAILED,
    INTERRUPTED,
    NOT_BEGUN,
    PLANNED,
    Cases,
    Job,
    read_list,
    read_sweep,
)
from ke_cli.sweeping.lines import Numbered

if TYPE_CHECKING:
    from ke_cli.config import RunConfig

FINGERPRINT = "KE_SWEEP_CONFIGURATION"
"""The environment variable through which the jobs of a sweep learn what its configuration files were."""

FOLDER = SWEEP_FOLDER
"""The one through which they learn where to say how they ended, whatever their own output folder is."""

Begun = Callable[["RunConfig"], str]
"""Is told the configuration of a run before anything is computed, and says what the sweep calls the run."""


def announce(hydra: Any) -> Path:
    """Tell the jobs, through the environment, where the sweep is and what its configuration files were.

    Args:
        hydra: The ``hydra`` section of the configuration.

    Returns:
        The folder of the sweep.
    """
    os.environ[FOLDER] = os.path.abspath(hydra.sweep.dir)
    os.environ[FINGERPRINT] = fingerprint(folders_of(hydra))  # Hydra reads the files anew for each job
    return Path(os.environ[FOLDER])


def run_job(work: Callable[[Begun], Path], report_error: Callable[[Exception], str]) -> None:
    """Do one job of a sweep; an error is printed and noted, and does not keep the next job from starting.

    Args:
        work: Does the run and returns its folder; calls what it is given as soon as it knows the configuration.
        report_error: Turns an error into its message.

    Raises:
        UserError: The folder of the sweep cannot be written.
        KeyboardInterrupt: After Ctrl-C or SIGTERM, which is noted.
    """
    hydra = HydraConfig.get()
    folder = Path(os.environ.get(FOLDER) or hydra.sweep.dir)
    with explained(folder):
        file = JobFile(folder, int(hydra.job.num), list(hydra.overrides.task), now())
    with closing(file):
        try:
            refuse_changed_files(folder, hydra)
            planned = _dry(work, file, _name(folder, file.job))
        except Exception as error:
            _end(file, FAILED, report_error(error))
            print(f"error in {file.job}", file=sys.stderr, flush=True)
        except BaseException:
            _end(file, INTERRUPTED)
            raise
        else:
            _end(file, PLANNED if planned else COMPLETE)


def _name(folder: Path, job: Job) -> str:
    """Return number and own overrides of a job, for example ``[3] seed=1``; the number only once in a line."""
    own = own_part(job, in_common(read_list(folder).jobs))
    return own if isinstance(sys.stdout, Numbered) else f"[{job.number}] {own}".rstrip()


def _dry(work: Callable[[Begun], Path], file: JobFile, name: str) -> bool:
    """Do the run of a job, noting its folder as soon as that is known; return whether it was a dry run."""
    found: list[bool] = []

    def begun(config: RunConfig) -> str:
        found.append(config.dry_run)
        file.know(run_dir(config))
        return name

    work(begun)
    return any(found)


def _end(file: JobFile, status: str, error: str = "") -> None:
    directory = file.job.directory
    try:
        file.end(status, cases=cases_of(Path(directory)) if directory else None, error=error)
    except OSError as problem:  # the run itself has ended, and its results say how
        print(f"how {file.job} ended cannot be written down: {problem}", file=sys.stderr, flush=True)


def note_lost(number: int, overrides: Sequence[str], reason: str) -> None:
    """Note a job that ended without saying how; what a job said itself about its end stays.

    Args:
        number: Of the job.
        overrides: What was typed for it.
        reason: What is known about its end.
    """
    folder = Path(os.environ[FOLDER])
    before = next((job for job in read_sweep(folder).jobs if job.number == number and job.status != NOT_BEGUN), None)
    if before and before.status in ENDED:
        return
    if before is None and (names := edited(read_list(folder).files)):  # it could not even be composed
        reason = f"{_changed_files(names)}\n  because: {reason}"
    job = before or Job(number, tuple(overrides))
    job = replace(job, status=DIED if before else FAILED, error=reason)
    with explained(folder):
        note(folder, job, now())
    print(f"error in {job}", file=sys.stderr, flush=True)


def cases_of(directory: Path) -> Cases | None:
    """Return how far a run has come; None where there is no record of it."""
    run = read_run(directory)
    return Cases(len(run.done), len(run.failed), run.record.total) if run.readable else None


def refuse_changed_files(folder: Path, hydra: Any) -> None:
    """Refuse to go on with configuration files that are not what they were when the sweep began.

    Args:
        folder: Of the sweep.
        hydra: The ``hydra`` section of a configuration.

    Raises:
        UserError: It names them.
    """
    began, folders, names = read_list(folder).files, folders_of(hydra), list[str]()
    if began:
        names = changed(began, folders)
    elif os.environ.get(FINGERPRINT, "") not in ("", fingerprint(folders)):
        names = [str(path) for path in folders]
    if names:
        raise _changed_files(names)


def _changed_files(names: Sequence[str]) -> UserError:
    return UserError(
        "the configuration files changed since the sweep began, so its runs would not be comparable",
        where=", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else ""),
        hint="start the same sweep again: what is complete, and means the same as before, is skipped",
    )
