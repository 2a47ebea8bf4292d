"""Errors of composing: what a user reads instead of a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from dummies import CHOICES
from ke_cli.config import compose_run
from ke_cli.config.explain import CommandLineError, explain, known_keys
from ke_cli.errors import UserError


def refused(dummy_conf: Path, *overrides: str) -> UserError:
    with pytest.raises(UserError) as caught:
        compose_run([*CHOICES, *overrides], dummy_conf)
    return caught.value


@pytest.mark.parametrize(
    ("group", "given", "allowed"),
    [
        ("method", "rsoe", "rose"),
        ("model", "gpt2xl", "gpt2-xl"),
        ("protocol", "dumy", "dummy"),
        ("dataset", "dumy", "dummy"),
        ("metrics", "dumy", "dummy"),
        ("hydra/launcher", "basik", "basic"),
    ],
)
def test_an_unknown_choice_is_answered_with_the_choices_and_the_nearest(
    dummy_conf: Path, group: str, given: str, allowed: str
) -> None:
    error = refused(dummy_conf, f"{group}={given}")
    assert error.what == f"unknown {group} {given!r}"
    assert error.allowed is not None
    assert allowed in error.allowed.split(", ")
    assert error.hint == f"did you mean {allowed!r}?"


def test_a_choice_that_a_file_asks_for_is_reported_with_the_file(dummy_conf: Path) -> None:
    (dummy_conf / "metrics" / "set.yaml").write_text("# A set\ndefaults: [dummy, dumy_two]\n", encoding="utf-8")
    error = refused(dummy_conf, "metrics=set")
    assert (error.what, error.where) == ("unknown metrics 'dumy_two'", "metrics/set.yaml")


@pytest.mark.parametrize(
    ("override", "what", "allowed", "hint"),
    [
        ("methd=dummy", "unknown key 'methd'", "method", "did you mean 'method'?"),
        ("sead=3", "unknown key 'sead'", "seed", "did you mean 'seed'?"),
        ("method.stpes=3", "unknown key 'method.stpes'", "method.steps", "did you mean 'method.steps'?"),
        ("~seedd", "unknown key 'seedd'", "seed", "did you mean 'seed'?"),
        ("steps=3", "unknown key 'steps'", "seed", "did you mean 'method.steps'?"),
        ("metrics.fluency.k=3", "unknown key 'metrics.fluency.k'", "metrics", None),
    ],
)
def test_an_unknown_key_is_answered_with_its_neighbours(
    dummy_conf: Path, override: str, what: str, allowed: str, hint: str | None
) -> None:
    error = refused(dummy_conf, override)
    assert error.what == what
    assert error.allowed is not None
    assert allowed in error.allowed.split(", ")
    if hint:
        assert error.hint == hint


def test_a_new_key_is_refused_by_the_schema_as_well(dummy_conf: Path) -> None:
    assert "method.stpes: unknown key; did you mean 'steps'?" in str(refused(dummy_conf, "+method.stpes=3"))
    assert "sead: unknown key; did you mean 'seed'?" in str(refused(dummy_conf, "++sead=3"))


def test_a_plus_before_a_key_that_exists_says_so(dummy_conf: Path) -> None:
    error = refused(dummy_conf, "+method.steps=3")
    assert error.what == "the key 'method.steps' exists; '+' is for new keys"
    assert error.hint == "method.steps=VALUE"


@pytest.mark.parametrize("override", ["method=dummy,none", "seed=1,2", "seed=range(3)"])
def test_several_values_without_a_sweep_show_how_to_sweep(dummy_conf: Path, override: str) -> None:
    error = refused(dummy_conf, override)
    assert error.what == f"several values for one run: {override}"
    assert error.hint is not None
    assert error.hint.startswith(f"ke-run -m {override}")


@pytest.mark.parametrize(
    "override", ["seed", "method.layers=[1,", "model.path=a=b", "seed='a b", "a b=3", "method=null"]
)
def test_what_cannot_be_read_is_an_error_of_the_command_line(dummy_conf: Path, override: str) -> None:
    error = refused(dummy_conf, override)
    assert isinstance(error, CommandLineError)
    assert error.hint


def test_a_broken_file_is_named(dummy_conf: Path) -> None:
    (dummy_conf / "method" / "broken.yaml").write_text("# Broken\nname: [\n", encoding="utf-8")
    error = refused(dummy_conf, "method=broken")
    assert error.what == "a configuration file is not valid YAML"
    assert error.where is not None
    assert "broken.yaml" in error.where


def test_known_keys_are_those_of_the_choices(dummy_conf: Path) -> None:
    keys = known_keys([*CHOICES, "nonsense=1"], str(dummy_conf))
    assert {"seed", "method", "method.inner.depth", "metrics.dummy.k", "statistics.text"} <= set(keys)
    assert known_keys(["method=rsoe"], None) == {}


def test_a_folder_that_cannot_be_made_points_to_the_setting() -> None:
    error = explain(PermissionError(13, "Permission denied", "/results"))
    assert error is not None
    assert (error.where, error.hint) == ("/results", "output_dir=FOLDER says where results are written")
    full = explain(OSError(28, "No space left on device"))
    assert full is not None
    assert "No space left" in full.what
    assert full.hint is None


def test_a_mistake_of_the_program_is_not_explained_away() -> None:
    assert explain(ZeroDivisionError("division by zero")) is None
    assert explain(ValueError("some other value")) is None
