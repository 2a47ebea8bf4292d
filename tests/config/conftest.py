"""Composition with pluggable parts that need no model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dummies import CHOICES, write_conf
from ke_cli.config import RunConfig, compose_run

Compose = Callable[..., RunConfig]


@pytest.fixture
def dummy_conf(tmp_path: Path) -> Path:
    return write_conf(tmp_path / "my conf")


@pytest.fixture
def compose(dummy_conf: Path) -> Compose:
    def composed(*overrides: str) -> RunConfig:
        return compose_run([*CHOICES, *overrides], dummy_conf)

    return composed
