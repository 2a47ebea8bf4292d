"""The launchers of ``ke-run``: sweeps on worker processes of this machine (joblib), submitit, Slurm and Ray.

They differ from Hydra's own plug-ins in what happens when something goes wrong: a job whose process is killed is noted,
and all others are done.
"""

# Hydra runs plugin modules before it registers them, so that dataclasses cannot look up annotations that are text.
import os
import signal
import sys
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from ke_cli.errors import UserError
from ke_cli.interrupts import terminable
from ke_cli.sweeping import machine
from ke_cli.sweeping.conduct import how_it_ended, is_quiet
from ke_cli.sweeping.jobs import GPUS, Job, QueuedJob, Surroundings, call
from ke_cli.sweeping.pool import Pool, begin_worker
from ke_cli.sweeping.settings import JoblibSettings, LocalSettings, RaySettings, SlurmSettings, checked

S = TypeVar("S")

POLL_S = 0.5
"""Between two looks at jobs that run elsewhere."""

RAY_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # it reports to its makers otherwise
    "RAY_COLOR_PREFIX": "0",  # it colours lines that go into a file, too
    "RAY_DEDUP_LOGS": "0",  # it leaves out lines that several jobs print
}
"""Environment variables that Ray reads when it is imported; what is set already stays."""

LAST_LINES_S = 1.0
"""How long lines that jobs of Ray printed may be on their way here; it has no call that waits for them."""

OmegaConf.register_new_resolver("ke_workers", machine.workers, replace=True)
OmegaConf.register_new_resolver("ke_threads", machine.threads, replace=True)
OmegaConf.register_new_resolver("ke_gpu_share", machine.gpu_share, replace=True)


class SweepLauncher(Launcher, Generic[S]):
    """What the launchers have in common: jobs are made here, and `run` brings them to their places."""

    kind: ClassVar[type]
    job: ClassVar[type[Job]] = Job
    travelling: ClassVar[tuple[str, ...]] = ()
    numbered: ClassVar[bool] = False

    def __init__(self, **given: Any) -> None:
        """Keep the settings; they are checked when they are used, so that an error is one message."""
        self.given = given

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what jobs are made of."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Do some jobs; how each ended stands in its file."""
        setup_globals()
        settings: S = checked(self.kind, self.given)
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        jobs = list(self._jobs(job_overrides, initial_job_idx))
        with terminable():
            self.run(jobs, settings)
        return [JobReturn(overrides=list(job.overrides), status=JobStatus.COMPLETED) for job in jobs]

    def _jobs(self, job_overrides: Sequence[Sequence[str]], first: int) -> Iterator[Job]:
        surroundings, state = Surroundings.here(*self.travelling), Singleton.get_state()
        for number, overrides in enumerate(job_overrides, start=first):
            context, task = self.hydra_context, self.task_function
            yield self.job(number, tuple(overrides), self.config, context, task, state, surroundings, self.numbered)

    @abstractmethod
    def run(self, jobs: Sequence[Job], settings: S) -> None:
        """Do all jobs and return when the last has ended."""

    def say(self, text: str) -> None:
        """Tell how the sweep goes, unless it is to be quiet."""
        if not is_quiet(self.config):
            say(text)

    def ended(self, job: Job, handle: Any) -> None:
        """Note the end of a job of submitit, whose own lines go into a log, and tell of it in a line."""
        note_end(job, handle)
        self.say(how_it_ended(job.number))


class LokyWorker:
    """One process of joblib's own executor.

    Args:
        executor: With one process.
    """

    def __init__(self, executor: Any) -> None:
        """Start nothing yet."""
        self._executor = executor

    def submit(self, function: Callable[[Job], None], job: Job, /) -> Future[Any]:
        """Hand it a job."""
        future: Future[Any] = self._executor.submit(function, job)
        return future

    def shutdown(self, *, wait: bool = True, kill_workers: bool = False) -> None:
        """End its process, at once or after its job."""
        self._executor.shutdown(wait=wait, kill_workers=kill_workers)

    def pids(self) -> list[int]:
        """Its process, if it has begun."""
        return list(self._executor._processes or ())


class JoblibLauncher(SweepLauncher[JoblibSettings]):
    """Worker processes of this machine; each keeps its GPU and its model from job to job."""

    kind = JoblibSettings
    numbered = True

    def run(self, jobs: Sequence[Job], settings: JoblibSettings) -> None:
        """Feed the workers."""
        loky = needed("joblib.externals.loky", "joblib", "joblib")

        def new_worker() -> LokyWorker:
            begin = {"initializer": begin_worker, "initargs": (os.getpid(), settings.grace_s)}
            return LokyWorker(loky.ProcessPoolExecutor(max_workers=1, env=thread_limits(settings.threads), **begin))

        size = min(settings.n_jobs, len(jobs))
        self.say(f"{counted(len(jobs), 'job')} in {counted(size, 'worker process', 'worker processes')}")
        Pool(size, new_worker, settings.grace_s).run(jobs)


class SubmititLocalLauncher(SweepLauncher[LocalSettings]):
    """A process of its own for each job, on this machine, with a log of its own."""

    kind, job = LocalSettings, QueuedJob
    travelling = (GPUS,)  # submitit hides all GPUs from its processes

    def run(self, jobs: Sequence[Job], settings: LocalSettings) -> None:
        """Keep as many processes going as are allowed at the same time."""
        submitit = needed("submitit", "submitit_local", "slurm")
        executor = submitit.LocalExecutor(settings.submitit_folder, max_num_timeout=settings.max_num_timeout)
        executor.update_parameters(
            timeout_min=settings.timeout_min,
            signal_delay_s=settings.signal_delay_s,
            stderr_to_stdout=settings.stderr_to_stdout,
        )
        limits = thread_limits(settings.threads)
        os.environ.update(limits)
        waiting = list(jobs)
        running: dict[int, tuple[Job, Any]] = {}
        try:
            while waiting or running:
                while waiting and len(running) < settings.array_parallelism:
                    job = waiting.pop(0)
                    with without_ctrl_c():
                        running[job.number] = (job, executor.submit(job))
                    self.say(f"job {job.number} began: {running[job.number][1].paths.stdout}")
                for number in [number for number, (_, handle) in running.items() if handle.done()]:
                    self.ended(*running.pop(number))
                time.sleep(POLL_S if running else 0)
        except KeyboardInterrupt:
            self._stop([handle for _, handle in running.values()], settings.grace_s)
            raise
        finally:
            for name in limits:
                os.environ.pop(name, None)

    def _stop(self, handles: Sequence[Any], grace_s: float) -> None:
        """Ask every run to store what it has finished, and wait for that; submitit itself would kill it in a second."""
        for handle in handles:
            if not handle.done():
                os.kill(int(handle.job_id), signal.SIGTERM)  # the process of that number passes it on to the job
        until = time.monotonic() + grace_s
        while time.monotonic() < until and not all(handle.done() for handle in handles):
            time.sleep(POLL_S)
        if late := [handle.job_id for handle in handles if not handle.done()]:
            say(f"these processes have been told to end, and have not ended yet: {', '.join(late)}")


class SubmititSlurmLauncher(SweepLauncher[SlurmSettings]):
    """One job array of Slurm."""

    kind, job = SlurmSettings, QueuedJob

    def run(self, jobs: Sequence[Job], settings: SlurmSettings) -> None:
        """Submit the array and wait; whoever stops waiting leaves the jobs in the queue."""
        handles = submitted(jobs, settings)
        self.say(f"{counted(len(jobs), 'job')} in the queue of Slurm: {handles[0].job_id.partition('_')[0]}")
        waiting = list(zip(jobs, handles, strict=True))
        try:
            while waiting:
                for job, handle in [pair for pair in waiting if pair[1].done()]:
                    self.ended(job, handle)
                    waiting.remove((job, handle))
                time.sleep(POLL_S if waiting else 0)
        except KeyboardInterrupt:
            say("the jobs go on without this command; to end them: scancel " + handles[0].job_id.partition("_")[0])
            raise


class RayLauncher(SweepLauncher[RaySettings]):
    """Tasks of Ray, on this machine or an existing cluster; its workers keep their model from task to task."""

    kind = RaySettings
    numbered = True

    def run(self, jobs: Sequence[Job], settings: RaySettings) -> None:
        """Hand all jobs to Ray."""
        for name, value in RAY_SETTINGS.items():
            os.environ.setdefault(name, value)
        ray = needed("ray", "ray", "ray")
        ours = not ray.is_initialized()
        if ours:
            ray.init(**settings.init)
        try:
            refuse_infeasible(ray, settings)
            remote = ray.remote(**settings.remote)(call)
            with terminable():  # once more: Ray has taken SIGTERM for itself
                pending = {remote.remote(job): job for job in jobs}
                self.say(f"{counted(len(jobs), 'job')} as tasks of Ray")
                self._collect(ray, pending, settings.grace_s)
        finally:
            if ours:
                ray.shutdown()

    def _collect(self, ray: Any, pending: dict[Any, Job], grace_s: float) -> None:
        try:
            while pending:
                (done, *_), _ = ray.wait(list(pending), num_returns=1)
                job = pending.pop(done)
                try:
                    ray.get(done)
                except ray.exceptions.RayError as error:
                    job.lost(f"its worker process died: {first_line(error)}")
                self.say(how_it_ended(job.number))
            time.sleep(LAST_LINES_S)
        except KeyboardInterrupt:
            for task in pending:
                ray.cancel(task)
            ray.wait(list(pending), num_returns=len(pending), timeout=grace_s)
            raise


@contextmanager
def without_ctrl_c() -> Iterator[None]:
    """Have processes that the body starts never see Ctrl-C, which a terminal sends to all; ours comes afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def submitted(jobs: Sequence[Job], settings: SlurmSettings) -> list[Any]:
    """Submit jobs to Slurm as one array.

    Raises:
        UserError: There is no Slurm here, or it refuses.
    """
    submitit = needed("submitit", "submitit_slurm", "slurm")
    try:
        limit = settings.max_num_timeout
        executor = submitit.AutoExecutor(settings.submitit_folder, cluster="slurm", slurm_max_num_timeout=limit)
        executor.update_parameters(**settings.parameters())
        with executor.batch():
            return [executor.submit(job) for job in jobs]
    except RuntimeError as error:  # no srun
        where = "the machine that this command runs on"
        hint = "start it on a login node of the cluster, or hydra/launcher=submitit_local"
        raise UserError(f"Slurm cannot be used: {first_line(error)}", where=where, hint=hint) from error
    except submitit.core.utils.FailedJobError as error:
        raise UserError(f"Slurm refuses the jobs: {error}", where="hydra.launcher") from error


def note_end(job: Job, handle: Any) -> None:
    """Note a job of submitit that ended without a result."""
    if handle.exception() is not None:
        job.lost(f"its process ended early (log: {handle.paths.stderr}): {first_line(handle.exception())}")


def refuse_infeasible(ray: Any, settings: RaySettings) -> None:
    """Refuse tasks that would wait for ever, on a machine of our own; a cluster may yet grow.

    Raises:
        UserError: With what there is.
    """
    if settings.init.get("address"):
        return
    there = ray.cluster_resources()
    for option, resource in (("num_cpus", "CPU"), ("num_gpus", "GPU")):
        asked, found = settings.remote.get(option) or 0, there.get(resource, 0)
        if asked > found:
            where = f"hydra.launcher.remote.{option}={asked}"
            raise UserError(f"no task of Ray could start: there are {found:g} {resource}s here", where=where)


def needed(module: str, launcher: str, extra: str) -> Any:
    """Import what a launcher stands on.

    Raises:
        UserError: With what to install.
    """
    try:
        return import_module(module)
    except ImportError as error:
        hint = f"pip install 'ke-run[{extra}]' (in a checkout: pip install -e '.[{extra}]')"
        raise UserError(f"hydra/launcher={launcher} needs a package: {error}", hint=hint) from error


def thread_limits(threads: int) -> dict[str, str]:
    """Environment variables that hold the libraries of a process to some threads; what is set already stays."""
    if "OMP_NUM_THREADS" in os.environ:
        return {}
    return {f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "MKL", "OPENBLAS")}


def counted(number: int, one: str, many: str | None = None) -> str:
    """The number with its noun."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def first_line(error: object) -> str:
    """What an error says, without its traceback: the last line of one that was printed, else the first."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1] if any(line.startswith("Traceback") for line in lines) else lines[0]


def say(text: str) -> None:
    """Tell the user how the sweep goes."""
    print(text, file=sys.stderr, flush=True)
