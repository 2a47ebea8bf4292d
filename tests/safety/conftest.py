"""Whole runs in this process, as in ``tests/run``."""

from run.conftest import cache, ke_run, loads, outputs, own_environment

__all__ = ["cache", "ke_run", "loads", "outputs", "own_environment"]
