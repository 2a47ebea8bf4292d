"""Every configured editor against its plain implementation, on every kind of tokenizer and weight layout.

The plain implementations run whole models on one fact at a time and write into the weights; the editors run partial
forwards on all units together and write nothing. In float64 only the order of sums tells them apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.benches import (
    KINDS,
    REQUESTS,
    TEMPLATES,
    assert_untouched,
    bench_of,
    deltas_of,
    reference_prompts,
    state_hash,
    unit_of,
)
from engine.zoo import HALF_EXACT, zoo_model
from ke_cli.data.types import EditUnit, Request
from ke_cli.engine.edits import Dense, LowRank
from ke_cli.engine.workbench import Workbench
from ke_cli.methods.base import Editor, ValueEditor
from marks import each_once, rest_slow

from .oracles import (
    CONFIGURED,
    ORACLES,
    assert_agrees,
    configured,
    editor_of,
    use_templates,
)

TOLERANCES = {"float32": 1e-4, "float64": 1e-10}
ALONE = tuple(unit_of(request) for request in REQUESTS[:2])
TOGETHER = (unit_of(*REQUESTS[:3], name="three"), unit_of(*REQUESTS[3:], name="two"))
"""Two facts of one subject in the first unit; units of different sizes."""

SHORT = (unit_of(REQUESTS[0], REQUESTS[2], name="short"),)
"""Targets of fewer tokens than "{subject} is a"."""

OPEN = tuple(
    unit_of(Request(f"In the harbour town they {verb} {{}}", subject, target, "no one", ""))
    for verb, subject, target in (("know", "Lena Vogel", "is"), ("like", "Joao Pereira", "and"))
)
"""The subject ends the prompt and the target is one word, so that even a random model comes to say it."""

SPREAD = {"layers": (1, 2, 3), "lambda_": 15.0}
NEVER = {"steps": 4, "threshold": 0.0}
FREE = {"steps": 20, "clamp": 20.0, "kl_factor": 0.01, "lr": 0.2}
"""Enough to make a random model say a word."""


@dataclass(frozen=True)
class Variant:
    """A method with settings, the units it writes, and whether it runs in both data types."""

    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    units: tuple[EditUnit, ...] = ALONE
    common: bool = False

    def __str__(self) -> str:
        said = [f"{key}={value}" for key, value in self.settings.items() if key not in ("steps", "threshold")]
        return "-".join([self.method, *(text.replace(" ", "") for text in said)])


VARIANTS = (
    Variant("none", common=True),
    Variant("rome", {"layers": (2,)}, common=True),
    Variant("rome", {"layers": (0,)}),
    Variant("rome", {"layers": (2,), "covariance": False}, TOGETHER),
    Variant("r_rome", {"layers": (2,)}, TOGETHER, common=True),
    Variant("r_rome", {"layers": (1,), "covariance": False}),
    Variant("rets", {"layers": (3,)}, common=True),
    Variant("rets", {"layers": (3,), "essence_at": "subject"}),
    Variant("rets", {"layers": (3,), "own_prompts": True}),
    Variant("rets", {"layers": (3,), "origin_mom": False}, TOGETHER),
    Variant("rets", {"layers": (3,), "origin_mom": False, "own_prompts": True}),
    Variant("rets", {"layers": (3,), "subject_const": False, "essence_read": "last"}),
    Variant("top", {"layers": (1,), "relation_offset": 2, "subject_steps": 5, "subject_threshold": 0.0}, common=True),
    Variant("top", {"layers": (2,), "relation_offset": 1, "essence_at": "target_offset"}, SHORT),
    Variant("top", {"layers": (1, 2), "relation_offset": 1, "covariance": False}),
    Variant("memit", SPREAD, TOGETHER, common=True),
    Variant("memit", {"layers": (3,), "lambda_": 1000.0}),
    Variant("memit_merge", SPREAD, TOGETHER, common=True),
    Variant("memit_merge", SPREAD | {"balance": False}, TOGETHER),
    Variant("emmet", {"layers": (2,), "lambda_": 100.0}, TOGETHER, common=True),
    Variant("emmet", {"layers": (2,), "lambda_": 1000.0, "ridge": 0.02}),
    Variant("emmet", {"layers": (1,), "ridge": 0.0}, TOGETHER),
    Variant("emmet", {"layers": (1, 3), "lambda_": 100.0, "lambda_f": 20.0, "ridge_for_one": True}),
    Variant("emmet", {"layers": (2,), "lambda_": 100.0, "ridge_for_one": False}),
    Variant("encore", SPREAD | {"lambda_f": 5.0}, TOGETHER, common=True),
    Variant("encore", SPREAD | FREE | {"patience": 1}, OPEN),
    Variant("encore", SPREAD | FREE | {"patience": 3, "lambda_f": 0.0}, OPEN),
    Variant("alphaedit", {"layers": (1, 2, 3), "l2": 1.0, "nullspace_threshold": 0.1}, TOGETHER, common=True),
    Variant("alphaedit", {"layers": (1, 3), "l2": 0.2, "nullspace_threshold": (0.2, 1.0)}),
    Variant("pmet", SPREAD, TOGETHER, common=True),
    Variant("pmet", SPREAD | {"clamp": 0.1}),
    Variant("pmet", SPREAD | FREE | {"kl_stop": 0.0, "confident_factor": 0.3}, OPEN),
    Variant("pmet", SPREAD | FREE | {"kl_stop": 1e6}, OPEN),
    Variant("rect", SPREAD, TOGETHER, common=True),
    Variant("rect", {"layers": (2,), "lambda_": 15.0, "keep": 0.05}),
    Variant("prune", SPREAD, TOGETHER, common=True),
    Variant("prune", {"layers": (1, 2), "lambda_": 0.5, "clamp": 4.0, "steps": 20, "lr": 2.0}, TOGETHER),
    Variant("blue", SPREAD, TOGETHER, common=True),
    Variant("blue", {"layers": (2,), "lambda_": 15.0}),
    Variant("rose", {"layers": (1, 2, 3), "lambda_": 0.01, "joint_steps": 4}, TOGETHER, common=True),
    Variant("rose", {"layers": (1, 2), "lambda_": 1.0, "pull": 0.3, "joint_steps": 4}, TOGETHER),
    Variant("rose", {"layers": (1, 2), "lambda_": 0.01, "integration": "joint"}, TOGETHER),
    Variant("rose", {"layers": (2,), "lambda_": 1.0, "integration": "joint"}, TOGETHER),
    Variant("ft_l", {"layers": (3,), "norm_constraint": 2e-3}, TOGETHER, common=True),
    Variant("ft_l", {"layers": (0,), "norm_constraint": 1.0}),
    Variant("ft", {"layers": (3,)}, TOGETHER, common=True),
)
FULL_RANK = ("ft", "ft_l", "rect")


NUMBERS = ({"clamp": 0.1}, {"weight_decay": 500.0, "kl_factor": 3.0}, {"lr": 0.05}, {"steps": 2}, {"steps": 20})


def build(variant: Variant, bench: Workbench) -> Editor:
    """The configured editor with the variant's settings and steps that no threshold ends."""
    base = configured(variant.method)
    known = {item.name for item in fields(base)}
    never = {key: value for key, value in NEVER.items() if key in known}
    editor = editor_of(variant.method, **(never | variant.settings))
    use_templates(editor, bench, TEMPLATES)
    return editor


def test_every_method_has_an_oracle() -> None:
    assert len(CONFIGURED) == 17
    missing = sorted(set(CONFIGURED) - set(ORACLES))
    assert not missing, f"conf/method has {missing}, and tests/methods/oracles.py has no plain implementation of them"
    assert set(ORACLES) == set(CONFIGURED)
    covered = {variant.method for variant in VARIANTS if variant.common}
    assert covered == set(CONFIGURED), "every method needs a variant in VARIANTS that runs in both data types"


@pytest.mark.parametrize("name", CONFIGURED)
def test_configured_layers_exist_at_any_depth(name: str) -> None:
    """The rules of thumb are fractions of the depth, and TOP's offset stays inside real models."""
    for depth in (12, 28, 32, 48):
        layers = configured(name).edited_layers(depth)
        assert layers == sorted(set(layers)) and all(0 <= layer < depth for layer in layers)
        assert set(configured(name).covariance_layers(depth)) <= set(layers)


@pytest.mark.parametrize(
    ("kind", "variant"),
    rest_slow(
        [(kind, variant) for kind in KINDS for variant in VARIANTS if variant.common or kind != "llama3"],
        [(KINDS[place % 2], variant) for place, variant in enumerate(VARIANTS)],
    ),
    ids=str,
)
def test_float64(kind: str, variant: Variant, bench: Callable[..., Workbench]) -> None:
    check(bench(kind, "float64"), variant)


@pytest.mark.parametrize(
    ("kind", "variant"), each_once(KINDS, [variant for variant in VARIANTS if variant.common]), ids=str
)
def test_float32(kind: str, variant: Variant, bench: Callable[..., Workbench]) -> None:
    check(bench(kind, "float32"), variant)


def check(bench: Workbench, variant: Variant) -> None:
    """Compare weight changes, and see that the editor left the model as it was."""
    editor, before = build(variant, bench), state_hash(bench.model.hf)
    tolerance = TOLERANCES[str(bench.model.dtype).removeprefix("torch.")]
    worst = assert_agrees(editor, variant.method, bench, variant.units, tolerance)
    print(f"{bench.model.name} {bench.model.dtype} {variant}: {worst:.1e}")
    assert_untouched(bench.model, before)


@pytest.mark.parametrize(
    ("kind", "name"), each_once(["gemma2", "olmo2", "gptj"], ["alphaedit", "pmet", "blue", "ft_l"])
)
def test_other_architectures(kind: str, name: str, tmp_path: Path) -> None:
    """A norm between the projection and the residual stream (Gemma 2, OLMo 2), and parallel residuals (GPT-J).

    The other editors: `test_every_architecture`.
    """
    here = bench_of(zoo_model(kind), tmp_path, prompts=reference_prompts(30))
    settings = next(variant.settings for variant in VARIANTS if variant.method == name)
    settings = settings | {"layers": (1,) if name == "ft_l" else (1, 2)}
    settings |= {"alphaedit": {"nullspace_threshold": 1.0}}.get(name, {})
    editor = build(Variant(name, settings), here)
    tolerance = 3e-3 if kind in HALF_EXACT else 1e-9
    assert_agrees(editor, name, here, ALONE, tolerance)


@pytest.mark.parametrize("name", ["encore", "pmet"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_said_ends(kind: str, name: str, bench: Callable[..., Workbench]) -> None:
    """The facts that test early stopping do end early, and not at once."""
    here = bench(kind, "float64")
    settings = {"encore": {"patience": 2}, "pmet": {"kl_stop": 1e6}}[name]
    edits = build(Variant(name, SPREAD | FREE | settings), here).edit(here, OPEN)
    assert all(2 < edit.info["steps"] < FREE["steps"] for edit in edits)


@pytest.mark.parametrize("kind", KINDS)
def test_prune_prunes(kind: str, bench: Callable[..., Workbench]) -> None:
    """The change that tests the bound exceeds it; the other one does not."""
    here = bench(kind, "float64")
    for variant in (variant for variant in VARIANTS if variant.method == "prune"):
        pruned = build(variant, here).edit(here, variant.units)
        whole = build(replace(variant, method="memit"), here).edit(here, variant.units)
        shorter = [mine.norm < 0.9 * theirs.norm for mine, theirs in zip(pruned, whole, strict=True)]
        assert any(shorter) == (not variant.common)


@pytest.mark.parametrize(("kind", "settings"), each_once(KINDS, NUMBERS), ids=str)
def test_numbers_of_the_optimisation(kind: str, settings: dict[str, Any], bench: Callable[..., Workbench]) -> None:
    """The clamp at work, other weights of the terms, one evaluation (no update at all), and the full number."""
    here = bench(kind, "float64")
    editor = editor_of("rome", **(NEVER | {"layers": (1,)} | settings))
    use_templates(editor, here, TEMPLATES)
    assert_agrees(editor, "rome", here, ALONE, 1e-10)


@pytest.mark.parametrize("variant", [variant for variant in VARIANTS if variant.common], ids=str)
def test_shape_and_type_of_updates(variant: Variant, bench: Callable[..., Workbench]) -> None:
    """Updates are ``[d, m]`` whichever way round the weight lies, low-rank but for fine-tuning, float32 or better."""
    here = bench("gpt2", "float32")
    editor = build(variant, here)
    (edit,) = editor.edit(here, ALONE[:1])
    layers = editor.edited_layers(here.model.n_layers)
    assert list(edit.updates) == [here.model.projection_name(layer) for layer in layers]
    assert edit.is_finite()
    for update in edit.updates.values():
        assert isinstance(update, Dense if variant.method in FULL_RANK else LowRank)
        assert update.delta().shape == (48, 192)
        assert update.delta().dtype in (torch.float32, torch.float64)
        assert update.norm() == pytest.approx(float(update.delta().norm()), rel=1e-5)
    assert edit.rank == {"none": 0}.get(variant.method, 48 if variant.method in FULL_RANK else 1)


@pytest.mark.parametrize("name", [name for name in CONFIGURED if name not in ("none", "ft", "ft_l")])
def test_essence_can_be_read_at_the_end(name: str, bench: Callable[..., Workbench]) -> None:
    """Where the papers read the distribution; it gives another edit unless the row ends at the lookup position."""
    assert isinstance(configured(name), ValueEditor)
    here = bench("llama", "float64")
    edits = []
    for read_at in ("lookup", "last"):
        own = {"top": {"layers": (1,), "relation_offset": 1}, "alphaedit": {"nullspace_threshold": 0.5}}.get(name, {})
        editor = editor_of(name, essence_read=read_at, kl_factor=2.0, **(NEVER | {"layers": (2,)} | own))
        use_templates(editor, here, TEMPLATES)
        edits.append(deltas_of(editor.edit(here, ALONE[:1])[0]))
    ((_, at_lookup),), ((_, at_end),) = (edit.items() for edit in edits)
    assert torch.equal(at_lookup, at_end) == (name == "top")
