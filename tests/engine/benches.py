"""Facts, texts and workbenches that the tests of the engine and of the editors share."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ke_cli.data.text import TextSource
from ke_cli.data.types import Case, EditUnit, Request
from ke_cli.engine.edits import Edit
from ke_cli.engine.statistics import StatisticsSpec, StatisticsStore
from ke_cli.engine.workbench import Workbench
from ke_cli.models.editable import EditableModel
from ke_cli.models.loading import ModelSource, load
from textbook.tokens import Fact, Row
from tiny import TEXT

KINDS = ("gpt2", "llama", "llama3")
"""Kinds of tokenizer and weight layout; each has a fixture ``tiny_<kind>_dir``."""

DTYPES = ("float32", "float64")

LARGE, SMALL = 10**6, 64
"""Token budgets: everything in one batch, and batches of a few rows."""

REQUESTS = (
    Request("{} lives in", "Lena Vogel", "Toronto", "Berlin", "residence"),
    Request("The mother tongue of {} is", "Joao Pereira", "the Italian of Milan", "French", "language"),
    Request("The profession of {} is", "Lena Vogel", "teacher", "architect", "profession"),
    Request(
        "It is said that Tom Hollis, the brother of {}, a baker, met Tom Hollis in", "Tom Hollis", "Oslo", "Paris", ""
    ),
    Request("Ahmed Farouk and {} play in", "O'Brien {x}", "São Tomé", "Cairo", ""),
)
"""Subjects at position 0, in the middle and repeated; targets of one and of many tokens; two facts of one subject."""

TEMPLATES = ("{}", "Therefore the river rose. {}", "I think that the music in the old harbour town is good. {}")

PROMPTS = (
    "Oslo is",
    "Oslo is the capital",
    "Oslo is the capital of",
    "The profession of Lena Vogel is",
    "Marta Lindqvist plays the violin in the orchestra of",
    "I",
)
TARGETS = ("Norway", "the harbour town of Bergen", "a painter")


def load_tiny(folder: Path, dtype: str = "float32") -> EditableModel:
    """Load a checkpoint folder on the CPU."""
    return load(ModelSource(name=folder.name, path=str(folder), dtype=dtype, device="cpu"))


def documents(words: int, seed: int = 0) -> list[str]:
    """Texts of 5 to 30 shuffled words: enough different keys for a covariance that has an inverse."""
    draw = random.Random(seed)
    vocabulary = TEXT.split()
    texts: list[str] = []
    while words > 0:
        length = draw.randint(5, 30)
        texts.append(" ".join(draw.choices(vocabulary, k=length)))
        words -= length
    return texts


def write_text(path: Path, texts: Iterable[str]) -> TextSource:
    """Write one document per line."""
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return TextSource(str(path))


def reference_prompts(count: int = 215) -> tuple[str, ...]:
    """Different edit prompts of a benchmark, those of `REQUESTS` among them."""
    words = (" ".join(text.split()[:6]) for text in documents(count * 20, seed=1))
    own = [request.text for request in REQUESTS]
    return tuple(dict.fromkeys([*own[:2], *list(words)[:count], *own]))


def bench_of(
    model: EditableModel,
    folder: Path,
    *,
    budget: int = LARGE,
    prompts: Sequence[str] = (),
    tokens_per_width: float = 10,
) -> Workbench:
    """Build a workbench whose statistics come from shuffled words and are kept in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    text = write_text(folder / "text.txt", documents(4000))
    spec = StatisticsSpec(text, tokens_per_width=tokens_per_width, max_length=24)
    return Workbench(model, StatisticsStore(folder / "statistics", spec, budget), budget, tuple(prompts))


def unit_of(*requests: Request, name: str = "") -> EditUnit:
    """One unit of the given requests."""
    cases = tuple(Case(f"{name}{number}", request) for number, request in enumerate(requests))
    return EditUnit(name or requests[0].text, cases)


def fact_of(request: Request) -> Fact:
    """The request in the terms of the plain implementations."""
    return Fact(request.prompt, request.subject, request.target_new)


def deltas_of(edit: Edit) -> dict[str, Tensor]:
    """The weight changes of an edit as matrices ``[d_out, d_in]``."""
    return {name: update.delta() for name, update in edit.updates.items()}


def relative(got: Tensor, want: Tensor) -> float:
    """Relative difference in the 2-norm."""
    return float((got.double() - want.double()).norm() / want.double().norm())


def assert_same_deltas(got: Mapping[str, Tensor], want: Mapping[str, Tensor], tolerance: float) -> float:
    """Compare weight changes by module name, and return the largest relative difference."""
    assert set(got) == set(want)
    worst = 0.0
    for name, delta in want.items():
        assert got[name].shape == delta.shape
        if not delta.any():  # nothing to be relative to: what rounding leaves of "reached already" is not a change
            assert got[name].norm() < 1e-12
            continue
        difference = relative(got[name], delta)
        assert difference <= tolerance, f"{name}: relative difference {difference:.2e} over {tolerance:.0e}"
        worst = max(worst, difference)
    return worst


def state_hash(hf: torch.nn.Module) -> str:
    """SHA-256 over every bit of the weights and of all buffers, those that are not saved included."""
    digest = hashlib.sha256()
    tensors: list[tuple[str, Tensor]] = [*hf.named_parameters(), *hf.named_buffers()]
    for name, tensor in tensors:
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def traces(hf: torch.nn.Module) -> list[str]:
    """Hooks, replaced forwards, gradients and training flags that something left behind."""
    found = []
    for name, module in hf.named_modules():
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
        found += [f"{name}: hook" for kept in hooks if kept]
        found += [f"{name}: forward"] * ("forward" in module.__dict__) + [f"{name}: training"] * module.training
    found += [f"{name}: gradient" for name, p in hf.named_parameters() if p.requires_grad or p.grad is not None]
    return found


def assert_untouched(model: EditableModel, before: str) -> None:
    """Check that all bits are those of ``before`` and that nothing was left behind."""
    assert state_hash(model.hf) == before
    assert traces(model.hf) == []


def unrounded_logits(model: Any, rows: Sequence[Row]) -> Tensor:
    """`textbook.model_calls.logits_of` without its rounding to float32, for models in float64."""
    longest = max(len(row.ids) for row in rows)
    ids = torch.tensor([[*row.ids, *[0] * (longest - len(row.ids))] for row in rows])
    mask = torch.tensor([[1] * len(row.ids) + [0] * (longest - len(row.ids)) for row in rows])
    logits: Tensor = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return logits


def plain(model: EditableModel) -> tuple[Any, Any]:
    """Model and tokenizer as the plain implementations take them."""
    return model.hf, model.tokenizer
