"""Whole runs, as in the tests of runs; here something goes wrong on the way."""

from __future__ import annotations

from run.conftest import cache, ke_run, loads, one_thread, outputs, own_environment, tiny_dir

__all__ = ["cache", "ke_run", "loads", "one_thread", "outputs", "own_environment", "tiny_dir"]
