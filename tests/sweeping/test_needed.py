"""A launcher whose package is not installed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hydra_plugins import ke_run_launchers as launchers
from ke_cli.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def test_what_to_install_is_said() -> None:
    with pytest.raises(UserError) as refused:
        launchers.needed("a_package_that_nobody_has", "joblib", "joblib")
    assert "hydra/launcher=joblib needs a package" in str(refused.value)
    assert "pip install 'ke-run[joblib]'" in str(refused.value)


def test_every_extra_that_is_named_exists() -> None:
    named = re.findall(r'needed\("[\w.]+", "\w+", "(\w+)"\)', Path(launchers.__file__).read_text(encoding="utf-8"))
    offered = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sorted(set(named)) == ["joblib", "ray", "slurm"]
    assert set(named) <= set(offered)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("one\ntwo"), "one"),
        (RuntimeError(""), "RuntimeError"),
        (
            RuntimeError("failed:\nTraceback (most recent call last):\n  File\nValueError: because\n"),
            "ValueError: because",
        ),
    ],
)
def test_an_error_becomes_one_line(error: Exception, expected: str) -> None:
    assert launchers.first_line(error) == expected


def test_threads_of_a_worker_are_few_unless_the_user_has_set_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    threads = {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    assert launchers.thread_limits(2) == threads
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert launchers.thread_limits(2) == {}
