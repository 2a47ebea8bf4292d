"""Composition with pluggable parts that need no model."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from dummies import CHOICES, write_conf
from ke_cli.config import RunConfig, compose_run

Compose = Callable[..., RunConfig]


@pytest.fixture
def dummy_conf(tmp_path: Path) -> Path:
    return write_conf(tmp_path / "my conf")


@pytest.fixture(scope="session")
def composed_before(tmp_path_factory: pytest.TempPathFactory) -> Compose:
    """The configuration of some overrides, composed at the first call."""
    folder = write_conf(tmp_path_factory.mktemp("dummies"))
    return cache(lambda *overrides: compose_run([*CHOICES, *overrides], folder))


@pytest.fixture
def compose(request: pytest.FixtureRequest, composed_before: Compose) -> Compose:
    """Compose with the dummies; anew in a test that asks for their folder, which it may have changed."""
    if "dummy_conf" not in request.fixturenames:
        return composed_before
    folder: Path = request.getfixturevalue("dummy_conf")
    return lambda *overrides: compose_run([*CHOICES, *overrides], folder)
