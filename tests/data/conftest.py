"""Load documents without a file of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from counterfact_files import OFFICIAL
from ke_cli.data.counterfact import CounterFact
from ke_cli.data.types import Dataset


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Dataset]:
    """Write a document (bytes as they are) and load it as CounterFact."""

    def loaded(document: Any, **settings: Any) -> Dataset:
        path = tmp_path / "mine.json"
        path.write_bytes(document if isinstance(document, bytes) else json.dumps(document).encode())
        return CounterFact(path=str(path), **OFFICIAL, **settings).load()

    return loaded
