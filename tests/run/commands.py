"""Small runs on tiny models: how they are asked for, and what they leave behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

SMALL = (
    "dataset=atlas",
    "dataset.limit=3",
    "statistics.text=atlas",
    "statistics.tokens_per_width=2",
    "device=cpu",
    "metrics.instruction.max_new_tokens=4",
    "progress=plain",
)
"""What all runs here share; a later argument wins."""

VALUE = ("method.steps=3", "method.context_prefixes=[[The,3,1]]")
QUICK: dict[str, tuple[str, ...]] = {
    "none": (),
    "ft": ("method.steps=3",),
    "ft_l": ("method.steps=3",),
    "rome": VALUE,
    "rets": VALUE,
    "top": (*VALUE, "method.relation_offset=2", "method.subject_steps=3"),
    **dict.fromkeys(("r_rome", "memit", "memit_merge", "encore", "pmet", "rect", "prune", "blue"), VALUE),
    "emmet": (*VALUE, "method.layers=[1]"),
    "alphaedit": (*VALUE, "method.nullspace_threshold=1"),
    "rose": (*VALUE, "method.joint_steps=2"),
}
"""Settings that keep each method of ``conf/method`` quick and fit for five layers."""

ONE_BY_ONE = "batch_tokens=256"
"""The token budget under which each unit of one case is computed and stored by itself."""


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """Both streams as one line."""
        return " ".join(f"{self.out} {self.err}".split())


Command = Callable[..., Result]
"""Runs ``ke-run`` with the given arguments."""

Export = Callable[..., tuple[int, str]]
"""Runs ``ke-export``; returns the exit code and everything it printed."""


def arguments(model: Path, method: str, *more: str) -> list[str]:
    """The arguments of a small run of ``method`` on the model in a folder."""
    merged: dict[str, str] = {}
    for override in (*SMALL, *QUICK[method], *more):
        merged[override.partition("=")[0]] = override
    return ["model=local", f"model.path={model}", f"method={method}", *merged.values()]


def run_folders(outputs: Path) -> list[Path]:
    """The run directories in an output folder."""
    return sorted(path for path in outputs.iterdir() if not path.name.startswith(".")) if outputs.is_dir() else []


def only_run(outputs: Path) -> Path:
    (folder,) = run_folders(outputs)
    return folder


def record_of(folder: Path) -> dict[str, Any]:
    return strict((folder / "run.json").read_text(encoding="utf-8"))


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """The case log, line by line, without the checksums (times enter them, so they differ from run to run)."""
    lines = [strict(line) for line in (folder / "cases.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key != "check"} for line in lines]


def strict(text: str) -> dict[str, Any]:
    """Decode JSON that holds no NaN and no infinity."""

    def refuse(word: str) -> float:
        raise AssertionError(f"{word} is not JSON")

    decoded = json.loads(text, parse_constant=refuse)
    assert isinstance(decoded, dict)
    return decoded


def measured(folder: Path) -> dict[str, dict[str, float | None]]:
    """The metrics of each finished case."""
    return {line["case_id"]: line["metrics"] for line in lines_of(folder) if line["status"] == "ok"}


def answers(folder: Path) -> dict[str, Any]:
    """All raw answers of each finished case."""
    return {line["case_id"]: (line["before"], line["after"]) for line in lines_of(folder) if line["status"] == "ok"}


def numbers(value: Any) -> Iterator[float]:
    """Every number in decoded JSON, in order."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)
