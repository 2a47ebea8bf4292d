"""One job of a sweep as it travels to another process, perhaps on another machine."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from types import FrameType
from typing import Any, Final

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from ke_cli.config.explain import explain
from ke_cli.errors import UserError
from ke_cli.interrupts import terminable
from ke_cli.sweeping.lines import Numbered
from ke_cli.sweeping.sweep import note_lost

TRAVELLING: Final = ("KE_", "HF_", "TOKENIZERS_", "OMP_WAIT_POLICY")
"""Beginnings of the names of environment variables that a worker must have as the sweep has them."""

GPUS: Final = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Surroundings:
    """What a job finds around it: of the process that started the sweep, wherever the job runs.

    Args:
        directory: The working directory, from which relative paths are read.
        arguments: The command line, which goes into the record of a run.
        environment: Variables by name; None for one that is not set.
    """

    directory: str
    arguments: tuple[str, ...]
    environment: dict[str, str | None]

    @classmethod
    def here(cls, *more: str) -> Surroundings:
        """Those of this process.

        Args:
            more: Names of variables that travel too, set or not.
        """
        named = {name: value for name, value in os.environ.items() if name.startswith(TRAVELLING)}
        return cls(os.getcwd(), tuple(sys.argv), {**named, **{name: os.environ.get(name) for name in more}})

    def take(self) -> None:
        """Make them those of this process.

        Raises:
            UserError: If the working directory is not there.
        """
        for name, value in self.environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        sys.argv[:] = self.arguments
        try:
            os.chdir(self.directory)
        except OSError as error:
            raise UserError(
                f"a worker cannot enter the folder that the sweep was started in: {error.strerror}",
                where=f"{self.directory} on {os.uname().nodename}",
                hint="start the sweep in a folder that all machines share",
            ) from error


@dataclass(frozen=True)
class Job:
    """One job of a sweep; calling it does the run.

    How it ended stands in the job's file in the folder of the sweep: nothing comes back, so nothing is lost on the way.

    Args:
        number: Of the job, from 0.
        overrides: What distinguishes it.
        config: The configuration of the sweep.
        hydra_context: Composes the job's own configuration.
        task_function: Does the run.
        singletons: Hydra's global state.
        surroundings: Of the process that started the sweep.
        numbered: Whether printed lines begin with the job's number.
    """

    number: int
    overrides: tuple[str, ...]
    config: DictConfig
    hydra_context: HydraContext
    task_function: TaskFunction
    singletons: Any
    surroundings: Surroundings
    numbered: bool = False

    def __call__(self) -> None:
        """Do the run; an error is noted in the job's file, and an interruption has been noted by the run itself."""
        with Numbered.stdout(self.number) if self.numbered else nullcontext():
            try:
                self.surroundings.take()
                self._run()
            except KeyboardInterrupt:
                return
            except Exception as error:  # the configuration could not be composed: the run has its own handling
                self.lost(str(explain(error, self.overrides) or f"{type(error).__name__}: {error}"))

    def _run(self) -> None:
        Singleton.set_state(self.singletons)
        setup_globals()
        loader = self.hydra_context.config_loader
        config = loader.load_sweep_config(self.config, list(self.overrides))
        with open_dict(config):
            config.hydra.job.id = str(self.number)
            config.hydra.job.num = self.number
        HydraConfig.instance().set_config(config)
        ended = run_job(
            hydra_context=self.hydra_context,
            task_function=self.task_function,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        _ = ended.return_value  # raises what the task raised

    def lost(self, reason: str) -> None:
        """Note that the job ended without saying how."""
        note_lost(self.number, self.overrides, reason)


class QueuedJob(Job):
    """A job in the queue of submitit, which sends a signal when its time is nearly up, and queues it again."""

    def __call__(self) -> None:
        """Do the run, and let the signal end it as Ctrl-C would."""
        before = signal.getsignal(signal.SIGUSR2)
        if callable(before):
            signal.signal(signal.SIGUSR2, partial(_interrupting, before))
        with terminable():  # from the first: submitit ignores SIGTERM
            super().__call__()

    def checkpoint(self) -> Any:
        """What is queued again: the same job, whose run goes on where it was."""
        return import_module("submitit.helpers").DelayedSubmission(self)


def _interrupting(handler: Callable[[int, FrameType | None], Any], number: int, frame: FrameType | None) -> None:
    """Call a signal handler; where it raises an error, in the middle of whatever is computed, interrupt that instead.

    An error would be taken for one of the unit that is being edited.
    """
    try:
        handler(number, frame)
    except Exception as error:
        raise KeyboardInterrupt(str(error)) from error


def call(job: Job) -> None:
    """Do a job; a function, because some launchers take no other callable."""
    job()
