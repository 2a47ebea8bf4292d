"""Pluggable parts that need no model, for tests of the configuration and of the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from ke_cli.data.types import Case, Dataset, EditUnit, Request


@dataclass(frozen=True, slots=True)
class Inner:
    depth: int = 1


@dataclass(frozen=True, slots=True)
class DummyEditor:
    layers: tuple[int | float, ...]
    steps: int = 20
    lr: float = 0.5
    mode: Literal["joint", "two_level"] = "joint"
    inner: Inner = Inner()
    chunk: int = field(default=8, metadata={"camp": "operational"})

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps: expected at least 1, got {self.steps}")

    def edit(self, bench: Any, units: Sequence[EditUnit]) -> list[Any]:
        return []


@dataclass(frozen=True, slots=True)
class DummyLoader:
    limit: int | None = None

    def load(self) -> Dataset:
        request = Request("{} lives in", "Ann", "Oslo", "Rome")
        return Dataset("dummy", (Case("0", request),)[: self.limit], "00", "nowhere")


@dataclass(frozen=True, slots=True)
class DummyProtocol:
    independent: ClassVar[bool] = True
    size: int = 1

    def units(self, cases: Sequence[Case]) -> list[EditUnit]:
        return [EditUnit(case.case_id, (case,)) for case in cases]


@dataclass(frozen=True, slots=True)
class DummyMetric:
    version: ClassVar[int] = 3
    columns: ClassVar[tuple[Any, ...]] = ()
    derived: ClassVar[tuple[Any, ...]] = ()
    k: int = 5

    def before(self, case: Case) -> Sequence[Any]:
        return ()

    def after(self, case: Case, before: Mapping[Any, Any]) -> Sequence[Any]:
        return ()

    def measure(self, case: Case, before: Mapping[Any, Any], after: Mapping[Any, Any]) -> dict[str, float]:
        return {}


class NotADataclass:
    pass


FILES: Mapping[str, str] = {
    "method/dummy.yaml": """\
# An editor that does nothing
name: dummy
target: "dummies:DummyEditor"
layers: ${oc.select:model.editing.dummy.layers,[0.25]}
steps: ${oc.select:model.editing.dummy.steps,20}
lr: 0.5
mode: joint
inner: {depth: 1}
chunk: 8
""",
    "dataset/dummy.yaml": '# One case\nname: dummy\ntarget: "dummies:DummyLoader"\nlimit: null\n',
    "protocol/dummy.yaml": '# One by one\nname: dummy\ntarget: "dummies:DummyProtocol"\nsize: 1\n',
    "metrics/dummy.yaml": '# Nothing\ndummy: {target: "dummies:DummyMetric", k: 5}\n',
    "metrics/dummy_two.yaml": '# Nothing again\ndummy_two: {target: "dummies:DummyMetric", k: 2}\n',
    "model/tuned.yaml": """\
# A model that a method was tuned on
name: tuned
path: bundled:tuned-folder
dtype: float32
statistics_text: atlas
tuned_for: {name: tuned, path: "bundled:tuned-folder"}
editing:
  dummy: {layers: [1, 2], steps: 7}
""",
}

CHOICES = ("model=tuned", "method=dummy", "dataset=dummy", "metrics=dummy", "protocol=dummy")
"""The overrides that choose the dummies."""


def write_conf(folder: Path) -> Path:
    """Write the configuration files of the dummies and return their folder."""
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder
