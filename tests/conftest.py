"""Fixtures shared by all tests."""

from __future__ import annotations

import functools
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # as many test processes as cores, one thread each
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # where a test asks for more, they must not spin
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("KE_CACHE", tempfile.mkdtemp(prefix="ke-cache-"))

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]


FUZZ = os.environ.get("KE_FUZZ")
"""A number: so many examples of every property, other ones in every run. Without it few, and always the same."""

settings.register_profile(
    "ke-run",
    max_examples=int(FUZZ or 15),
    derandomize=FUZZ is None,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("ke-run")


@pytest.fixture(scope="session", autouse=True)
def usual_signals() -> None:
    """Signals as a terminal leaves them; ``nohup`` and shells without job control have children ignore some."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def composed_once() -> Iterator[None]:
    """Hydra's work done once where it does it twice: half of what a run on a tiny model takes.

    The same few interpolations are parsed in every composition. And Hydra composes the configuration of every command
    line to look for ``hydra.mode`` before it composes it for use; only an experiment or ``hydra.`` can have set it.
    """
    import omegaconf._utils
    import omegaconf.base
    from hydra._internal.hydra import Hydra
    from omegaconf.grammar_parser import parse

    real, parsed = Hydra.get_mode, functools.cache(parse)

    def get_mode(self: Hydra, config_name: str | None, overrides: list[str]) -> object:
        if any("experiment" in override or "hydra" in override for override in overrides):
            return real(self, config_name, overrides)
        return None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Hydra, "get_mode", get_mode)
        for module in (omegaconf.base, omegaconf._utils):
            patch.setattr(module, "parse", parsed)
        yield


@pytest.fixture(scope="session", autouse=True)
def facts_once() -> Iterator[None]:
    """The cases of the bundled facts, built once: a third of what a run on a tiny model takes."""
    from ke_cli.data.atlas import Atlas

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Atlas, "load", functools.cache(Atlas.load))
        yield


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of real benchmark data beside the checkout; tests that need it are skipped without it."""
    folder = ROOT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("no folder of benchmark data beside the checkout")
    return folder


@pytest.fixture(scope="session")
def tiny_gpt2_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random GPT-2 with byte-level tokens and no BOS."""
    from tiny import tiny_gpt2

    return tiny_gpt2(tmp_path_factory.mktemp("tiny") / "gpt2")


@pytest.fixture(scope="session")
def tiny_llama_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with SentencePiece-like tokens and BOS."""
    from tiny import tiny_llama

    return tiny_llama(tmp_path_factory.mktemp("tiny") / "llama")


@pytest.fixture(scope="session")
def tiny_llama3_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with byte-level tokens, BOS and a chat template."""
    from tiny import tiny_llama3

    return tiny_llama3(tmp_path_factory.mktemp("tiny") / "llama3")
