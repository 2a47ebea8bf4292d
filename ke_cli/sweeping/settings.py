"""The settings of the launchers (``hydra.launcher``), checked before the first job starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from omegaconf import OmegaConf

from ke_cli.checks import check_at_least
from ke_cli.config.validation import raise_problems, validate

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class JoblibSettings:
    """Worker processes on this machine.

    Args:
        n_jobs: How many; each keeps its GPU and its model from job to job.
        threads: Of each worker, where ``OMP_NUM_THREADS`` does not say it.
        grace_s: How long an interrupted run may take to store what it has finished.
    """

    n_jobs: int
    threads: int
    grace_s: float

    def __post_init__(self) -> None:
        """Refuse what leaves nobody to work."""
        check_at_least(self, 1, "n_jobs", "threads")
        check_at_least(self, 0, "grace_s")


@dataclass(frozen=True, kw_only=True)
class SubmititSettings:
    """What jobs of submitit have in common, on this machine and under Slurm.

    Args:
        submitit_folder: Where submitit keeps scripts, logs and the jobs themselves; ``%j`` is the number it gives.
        name: Of the jobs in the queue.
        timeout_min: Minutes after which a job is stopped.
        signal_delay_s: Seconds before that at which it is told.
        max_num_timeout: How often a job that was stopped is queued again, to go on where it was.
        array_parallelism: Jobs at the same time.
        stderr_to_stdout: Whether there is one log in place of two.
    """

    submitit_folder: str
    name: str
    timeout_min: int
    signal_delay_s: int
    max_num_timeout: int
    array_parallelism: int
    stderr_to_stdout: bool

    def __post_init__(self) -> None:
        """Refuse what no job could end under."""
        check_at_least(self, 1, "timeout_min", "signal_delay_s", "array_parallelism")
        check_at_least(self, 0, "max_num_timeout")
        if self.signal_delay_s >= 60 * self.timeout_min:
            raise ValueError(f"signal_delay_s: expected less than timeout_min, got {self.signal_delay_s}")


@dataclass(frozen=True, kw_only=True)
class LocalSettings(SubmititSettings):
    """Jobs in processes of their own on this machine.

    Args:
        threads: Of each job, where ``OMP_NUM_THREADS`` does not say it.
        grace_s: How long the sweep waits for interrupted runs to store what they have finished.
    """

    threads: int
    grace_s: float


@dataclass(frozen=True, kw_only=True)
class SlurmSettings(SubmititSettings):
    """What a job asks Slurm for, in the words of ``sbatch``; null leaves a matter to the cluster.

    Args:
        additional_parameters: Further options of ``sbatch``, name to value.
        setup: Lines of the script before the job.
    """

    nodes: int = 1
    tasks_per_node: int = 1
    cpus_per_task: int | None = None
    gpus_per_node: int | None = None
    gpus_per_task: int | None = None
    cpus_per_gpu: int | None = None
    mem_gb: float | None = None
    mem_per_gpu: str | None = None
    mem_per_cpu: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    gres: str | None = None
    comment: str | None = None
    additional_parameters: dict[str, Any] = field(default_factory=dict)
    setup: list[str] | None = None

    def __post_init__(self) -> None:
        """Refuse several processes for one run: they would write the same files."""
        super().__post_init__()
        if (self.nodes, self.tasks_per_node) != (1, 1):
            raise ValueError("nodes: expected one node and one task, a run is one process")

    def parameters(self) -> dict[str, Any]:
        """The arguments of submitit's executor, those that are null left out."""
        common = {"name", "timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node"}
        found = {key: value for key, value in asdict(self).items() if value not in (None, {})}
        for elsewhere in ("submitit_folder", "max_num_timeout"):
            found.pop(elsewhere)
        return {key if key in {*common, "stderr_to_stdout"} else f"slurm_{key}": found[key] for key in found}


@dataclass(frozen=True, kw_only=True)
class RaySettings:
    """Tasks of Ray.

    Args:
        init: Arguments of ``ray.init``; ``address`` says which cluster, null for one on this machine.
        remote: Arguments of ``ray.remote``: what a task takes (``num_cpus``, ``num_gpus``, ``resources``).
        grace_s: How long an interrupted run may take to store what it has finished.
    """

    init: dict[str, Any]
    remote: dict[str, Any]
    grace_s: float


def checked(kind: type[T], given: Mapping[str, Any]) -> T:
    """Build the settings of a launcher from what Hydra hands over.

    Raises:
        UserError: With all problems at once.
    """
    plain = OmegaConf.to_container(OmegaConf.create(dict(given)), resolve=True)
    assert isinstance(plain, dict)
    built, problems = validate(kind, {str(key): value for key, value in plain.items()}, "hydra.launcher")
    raise_problems(problems)
    assert isinstance(built, kind)
    return built
