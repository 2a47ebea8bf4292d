"""General ability: EleutherAI's lm-evaluation-harness on a model with an edit attached (extra ``ability``).

Its tasks are used as they are. Packages that some tasks need besides (``lm-eval[math]`` and others) are not part of
the extra; ``lm-eval[math]`` cannot stand beside Hydra, which needs another version of ANTLR's runtime.
"""

from __future__ import annotations

import copy
import importlib.util
import logging
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ke_cli.engine.edits import Edit, attached
from ke_cli.errors import UserError, did_you_mean
from ke_cli.models.editable import EditableModel

NAMED = re.compile(r"""^task:\s*['"]?([^\s'"#]+)""", re.MULTILINE)
"""Where the YAML file of a task says its name; the file may hold tags that only the harness understands."""


def measure_ability(
    model: EditableModel,
    edit: Edit,
    tasks: Sequence[str],
    limit: int | None,
    *,
    manager: Any = None,
    batch_size: int = 8,
) -> dict[str, float]:
    """Run tasks of the harness on the model with an edit attached; the weights are not touched.

    Args:
        model: The model.
        edit: The edit; one without updates measures the unedited model.
        tasks: Names of tasks or groups of the harness, or YAML files of tasks.
        limit: Documents of each task, its first ones; None for all.
        manager: What `check_tasks` returned for these tasks, if it was asked before.
        batch_size: Rows of a forward pass.

    Returns:
        ``<task>/<metric>`` to its value, as the harness reports it, standard errors left out. A metric behind a filter
        other than ``none`` is named ``<task>/<metric>,<filter>``. Groups come beside the tasks in them.

    Raises:
        UserError: The harness is not installed, has no such task, or cannot get its data.
    """
    manager = manager or check_tasks(tasks)
    import lm_eval

    with attached(model, [edit], [0]), _own_randomness(), _quiet():
        try:
            found = lm_eval.simple_evaluate(
                model=_language_model(model, batch_size),
                tasks=[_name(task) for task in tasks],
                task_manager=manager,
                limit=limit,
                bootstrap_iters=0,
                log_samples=False,
            )
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise _failed(tasks, error) from error
    return _values(found["results"])


def check_tasks(tasks: Sequence[str]) -> Any:
    """Find tasks without loading their data, which takes seconds: the harness reads the files of all it has.

    Returns:
        The harness's task manager that knows them, for any number of `measure_ability`.

    Raises:
        UserError: The harness is not installed, or has no such task.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError(
            "general ability is measured with lm-evaluation-harness, which is not installed",
            where=", ".join(tasks),
            hint="pip install 'ke-run[ability]'",
        )
    from lm_eval.tasks import TaskManager

    names = [_name(task) for task in tasks]
    folders = sorted({str(Path(task).expanduser().parent) for task in tasks if _is_file(task)})
    manager = TaskManager(include_path=folders or None, include_defaults=not all(map(_is_file, tasks)))
    for name in names:
        _check(name, manager.all_tasks)
    return manager


def _check(name: str, known: Sequence[str]) -> None:
    if name not in known:
        near = did_you_mean(name, known)
        raise UserError(
            f"lm-evaluation-harness has no task {name!r}" + (f"; {near}" if near else ""),
            where="tasks",
            allowed=f"one of its {len(known)} tasks and groups (lm-eval ls tasks), or a YAML file of a task",
        )


def _is_file(task: str) -> bool:
    return task.endswith((".yaml", ".yml"))


def _name(task: str) -> str:
    """The name of a task, which a file says in its key ``task``."""
    if not _is_file(task):
        return task
    try:
        told = NAMED.search(Path(task).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"the file of a task cannot be read ({type(error).__name__})", where=task) from error
    if told is None:
        raise UserError("the file does not say which task it is", where=task, allowed="a line 'task: NAME'")
    return told[1]


def _language_model(model: EditableModel, batch_size: int) -> Any:
    """The model as the harness knows models; it gets a tokenizer of its own, whose settings it changes."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(
        pretrained=model.hf,
        tokenizer=copy.deepcopy(model.tokenizer),
        backend="causal",
        batch_size=batch_size,
        device=str(model.device),
    )


@contextmanager
def _own_randomness() -> Iterator[None]:
    """Give the random numbers of others back as they were: the harness seeds all of them."""
    kept = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])


@contextmanager
def _quiet() -> Iterator[None]:
    """Let the harness report errors only; what a user should know stands in the results."""
    logger = logging.getLogger("lm_eval")
    kept = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(kept)


def _values(results: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Flatten the harness's table."""
    found: dict[str, float] = {}
    for task, metrics in results.items():
        for key, value in metrics.items():
            metric, _, kind = key.partition(",")
            if kind and not metric.endswith("_stderr") and isinstance(value, int | float):
                found[f"{task}/{metric}" if kind == "none" else f"{task}/{key}"] = float(value)
    return found


def _failed(tasks: Sequence[str], error: Exception) -> UserError:
    reason = str(error).strip().partition("\n")[0][:300]
    return UserError(
        f"lm-evaluation-harness failed: {type(error).__name__}: {reason}",
        where=f"tasks {', '.join(tasks)}",
        hint="run it once with access to the hub, where the data of a task is not in the cache",
    )
