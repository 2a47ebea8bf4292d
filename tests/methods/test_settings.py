"""Settings of editors: layers as numbers and fractions, and numbers that mean nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from engine.benches import REQUESTS, TEMPLATES, unit_of
from ke_cli.engine.workbench import Workbench
from ke_cli.errors import UserError
from ke_cli.methods.base import Editor, resolve_layers

from .oracles import CONFIGURED, configured, editor_of, use_templates


@pytest.mark.parametrize(
    ("layers", "depth", "found"),
    [
        ((3, 1, 2), 5, [1, 2, 3]),
        ((0.0,), 5, [0]),
        ((0.17,), 48, [8]),
        ((0.99,), 5, [4]),
        ((0.5, 2, 0.41), 5, [2]),
        ((0.1, 0.5), 40, [4, 20]),
        ((0.13, 0.16, 0.19, 0.22, 0.25), 48, [8, 9, 10, 11, 12]),
        ((0,), 1, [0]),
    ],
)
def test_layers(layers: tuple[int | float, ...], depth: int, found: list[int]) -> None:
    assert resolve_layers(layers, depth) == found


def test_the_rule_of_thumb_of_memit_has_no_gaps() -> None:
    layers = configured("memit").layers  # type: ignore[attr-defined]
    for depth in range(8, 67):
        found = resolve_layers(layers, depth)
        assert found == list(range(found[0], depth // 4 + 1)) and len(found) <= len(layers), depth


@pytest.mark.parametrize("layers", [(5,), (-1,), (1, 7), (1.0,), (-0.1,), ()])
def test_layers_that_do_not_exist(layers: tuple[int | float, ...]) -> None:
    with pytest.raises(UserError, match=r"layer") as caught:
        resolve_layers(layers, 5)
    assert "0 to 4" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("rome", "steps", 0),
        ("rome", "lr", 0.0),
        ("rome", "clamp", -1.0),
        ("rome", "kl_factor", -0.1),
        ("rome", "weight_decay", -0.1),
        ("memit", "lambda_", 0.0),
        ("emmet", "lambda_", 0.0),
        ("emmet", "ridge", -0.1),
        ("emmet", "lambda_f", -0.1),
        ("encore", "lambda_f", -1.0),
        ("encore", "patience", 0),
        ("alphaedit", "l2", 0.0),
        ("pmet", "confident_factor", 0.0),
        ("pmet", "kl_stop", -1.0),
        ("rect", "keep", 0.0),
        ("rect", "keep", 1.5),
        ("prune", "lambda_", -2.0),
        ("blue", "lambda_", 0.0),
        ("top", "subject_steps", 0),
        ("top", "vec_loss_factor", 0.0),
        ("top", "relation_offset", -1),
        ("rose", "joint_steps", 0),
        ("rose", "pull", -1.0),
        ("rose", "lambda_", -1.0),
        ("rose", "relation_offset", -1),
        ("rose", "relation_clamp", 0.0),
        ("rose", "target_weight", 0.0),
        ("rose", "nullspace_share", 0.0),
        ("ft_l", "norm_constraint", 0.0),
        ("ft_l", "threshold", -1.0),
        ("ft_l", "lr", 0.0),
        ("ft", "steps", 0),
    ],
)
def test_numbers_that_mean_nothing(name: str, setting: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{setting}.*got {value}"):
        editor_of(name, **{setting: value})


def test_rets_needs_a_constraint() -> None:
    with pytest.raises(ValueError, match=r"origin_mom.*subject_const"):
        editor_of("rets", origin_mom=False, subject_const=False)


def test_blue_edits_the_first_and_the_last_layer() -> None:
    assert editor_of("blue", layers=(5, 3, 4, 7)).edited_layers(8) == [3, 7]
    assert editor_of("blue", layers=(3,)).edited_layers(8) == [3]


def test_thresholds_of_null_spaces_are_as_many_as_layers() -> None:
    with pytest.raises(ValueError, match=r"nullspace_threshold.*2 for 3 layers"):
        editor_of("alphaedit", layers=(1, 2, 3), nullspace_threshold=(0.1, 0.2))


@pytest.mark.parametrize(
    ("name", "settings", "where"),
    [
        ("alphaedit", {"nullspace_threshold": 1e-12}, "method.nullspace_threshold"),
        ("rose", {"constraint": "nullspace", "nullspace_share": 1e-12}, "method.nullspace_share"),
    ],
)
def test_nothing_may_be_written(
    name: str, settings: dict[str, Any], where: str, bench: Callable[..., Workbench]
) -> None:
    """An empty null space is an error that says which number to change, not an edit that does nothing."""
    here = bench("gpt2")
    editor = editor_of(name, layers=(1,), steps=1, **settings)
    use_templates(editor, here, TEMPLATES)
    with pytest.raises(UserError) as caught:
        editor.edit(here, [unit_of(REQUESTS[0])])
    assert where in str(caught.value)


def test_relation_targets_beyond_the_model(bench: Callable[..., Workbench]) -> None:
    here = bench("gpt2")
    far: dict[str, Any] = {"layers": (2,), "relation_offset": 3}
    editor = editor_of("rose", integration="relation_targets", **far)
    use_templates(editor, here, TEMPLATES)
    with pytest.raises(UserError, match="relation targets would be at layer 5"):
        editor.edit(here, [unit_of(REQUESTS[0])])
    assert editor_of("rose", integration="joint", **far).edited_layers(5) == [2]


def test_relation_feature_beyond_the_model(bench: Callable[..., Workbench]) -> None:
    here = bench("gpt2")
    editor = editor_of("top", layers=(2,), relation_offset=3)
    use_templates(editor, here, TEMPLATES)
    with pytest.raises(UserError, match="relation feature would be at layer 5"):
        editor.edit(here, [unit_of(REQUESTS[0])])


@pytest.mark.parametrize("name", CONFIGURED)
def test_covariances_are_asked_for_where_they_are_used(
    name: str, bench: Callable[..., Workbench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`covariance_layers` is what a run computes beforehand; an editor must ask for no other layer."""
    here = bench("gpt2")
    asked: set[int] = set()
    original = here.covariances

    def recording(layers: Any) -> Any:
        asked.update(layers)
        return original(layers)

    monkeypatch.setattr(here, "covariances", recording)
    editor: Editor = configured(name)
    if name != "none":
        own = {"top": {"relation_offset": 1}, "alphaedit": {"nullspace_threshold": 0.123}}
        settings: dict[str, Any] = {"layers": (1, 2), "steps": 2} | own.get(name, {})
        editor = editor_of(name, **settings)
    use_templates(editor, here, TEMPLATES)
    editor.edit(here, [unit_of(REQUESTS[0])])
    assert asked == set(editor.covariance_layers(here.model.n_layers))
