"""``ke-run`` in this process: exit codes, messages, and what reaches `execute`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ke_cli import __version__
from ke_cli.command_line.arguments import option, split
from ke_cli.run import INTERRUPTED, check_output_dir, check_versions


def test_one_run_reaches_execute_with_the_configuration(ke_run, executed) -> None:
    assert ke_run("seed=3", "method.steps=5").code == 0
    (config,) = executed
    assert (config.seed, config.method.name, config.method.settings["steps"]) == (3, "dummy", 5)
    assert config.output_dir == Path("outputs")


@pytest.mark.parametrize("given", [None, "ACTIVE"])
def test_threads_that_wait_sleep_unless_the_user_wants_otherwise(given: str | None) -> None:
    """Which torch must find in the environment when it is loaded."""
    shown = "print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    code = f"import os, sys, ke_cli.run as command; command.run = lambda args: {shown}; command.main()"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": given} if given else {}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert ended.stdout.split() == [given or "PASSIVE", "False"]


def test_hydra_leaves_nothing_in_the_folder_but_the_output_folder(ke_run) -> None:
    ke_run()
    ke_run("-m", "seed=1,2")
    assert [path.name for path in Path().iterdir()] == ["outputs"]
    assert [path.name for path in Path("outputs").iterdir()] == [".sweeps"]


def test_flags_may_stand_anywhere(ke_run, executed) -> None:
    assert ke_run("seed=1,2", "-m", "method.steps=5").code == 0
    assert [config.seed for config in executed] == [1, 2]


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["method=rsoe"], 1, "error: unknown method 'rsoe'"),
        (["methd=dummy"], 1, "error: unknown key 'methd'"),
        (["seed=abc"], 1, 'error: the configuration has a problem: seed: expected an integer, got "abc"'),
        (["+seeds=3"], 1, "seeds: unknown key; did you mean 'seed'?"),
        (["model=local"], 1, "error: the configuration lacks a value for model.path"),
        (["output_dir=${nope}"], 1, "Interpolation key 'nope' not found"),
        (["output_dir=/dev/null/x"], 1, "/dev/null/x"),
        (["--config-dir=/no/such/folder"], 1, "Additional config directory '/no/such/folder' not found"),
        (["--config-name=nope"], 1, "Cannot find primary config 'nope'"),
        (["-m", "method=dummy,rsoe"], 1, "error: unknown method 'rsoe'"),
        (["seed"], 2, "error: cannot read the argument 'seed'"),
        (["method.layers=[1,"], 2, "error: cannot read the value of 'method.layers=[1,'"),
        (["--no-such-flag"], 2, "unrecognized arguments: --no-such-flag"),
        (["--cfg=nonsense"], 2, "invalid choice: 'nonsense'"),
    ],
)
def test_a_mistake_is_one_message_without_a_traceback(ke_run, executed, args, code: int, message: str) -> None:
    result = ke_run(*args)
    assert (result.code, result.out) == (code, "")
    assert message in result.err
    assert "Traceback" not in result.err
    assert "HYDRA_FULL_ERROR" not in result.err
    assert executed == []


def test_an_error_during_the_run_is_one_message_with_its_place(ke_run) -> None:
    result = ke_run("seed=13")
    assert result.code == 1
    assert result.err.startswith("error: RuntimeError: the solve found a singular matrix\n  where: ")
    assert "Traceback" not in result.err
    assert "Error executing job" not in result.err


@pytest.mark.parametrize("args", [["seed=13"], ["method=rsoe"]])
def test_the_traceback_comes_on_request(ke_run, args, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KE_TRACEBACK", "1")
    result = ke_run(*args)
    assert "Traceback (most recent call last)" in result.err
    assert result.err.rstrip().splitlines()[-1].startswith("  try:")


@pytest.mark.parametrize("args", [["seed=14"], ["-m", "seed=1,14,2"]])
def test_ctrl_c_ends_everything_and_says_how_to_go_on(ke_run, executed, args) -> None:
    result = ke_run(*args)
    assert result.code == 130
    assert INTERRUPTED in result.err
    assert executed[-1].seed == 14


def test_the_configuration_can_be_looked_at(ke_run, executed) -> None:
    result = ke_run("--cfg", "job", "--resolve", "seed=5")
    assert result.code == 0
    assert "seed: 5" in result.out
    assert "steps: 7" in result.out
    assert ke_run("--cfg=job", "--package=dataset").out.startswith("# @package dataset\nname: dummy\n")
    assert executed == []


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--info", "searchpath"], "my conf"),
        (["--info", "seed=1"], "method/dummy"),
        (["--hydra-help"], "Hydra"),
        (["--version"], f"ke-run {__version__}"),
    ],
)
def test_hydra_keeps_its_own_pages(ke_run, executed, args, expected: str) -> None:
    result = ke_run(*args)
    assert result.code == 0
    assert expected in result.out + result.err
    assert executed == []


def test_further_folders_may_come_by_search_path_and_primary_config_by_name(ke_run, executed, dummy_conf: Path) -> None:
    text = "# Mine\ndefaults: [config, _self_]\nseed: 77\n"
    (dummy_conf / "mine.yaml").write_text(text, encoding="utf-8")
    assert ke_run("--config-name=mine").code == 0
    choices = [f"{group}=dummy" for group in ("method", "dataset", "metrics", "protocol")]
    search = f"hydra.searchpath=['file://{dummy_conf}']"
    assert ke_run(search, "model=tuned", *choices, dummies=False).code == 0
    assert [config.seed for config in executed] == [77, 0]


def test_the_output_folder_is_made_before_anything_expensive(tmp_path: Path) -> None:
    check_output_dir(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to_is_refused(tmp_path: Path, ke_run) -> None:
    tmp_path.chmod(0o555)
    assert "cannot" in ke_run(f"output_dir={tmp_path}").err


class TestVersions:
    @pytest.fixture
    def installed(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
        versions = {"torch": "2.13.0+cpu", "transformers": "5.23.0"}
        monkeypatch.setattr("importlib.metadata.version", versions.__getitem__)
        return versions

    @pytest.mark.parametrize("torch", ["2.6", "2.6.0rc1", "2.13.0+cpu", "3.0"])
    @pytest.mark.parametrize("transformers", ["5.0.0rc0", "5.23.0"])
    def test_fitting_ones_pass(self, installed, torch: str, transformers: str) -> None:
        installed |= {"torch": torch, "transformers": transformers}
        check_versions()

    @pytest.mark.parametrize(
        ("package", "version"),
        [("transformers", "4.57.1"), ("transformers", "6.0.0"), ("torch", "2.5.1"), ("torch", "1.13")],
    )
    def test_others_are_refused_in_one_line(self, installed, package: str, version: str) -> None:
        installed[package] = version
        with pytest.raises(Exception, match=f"^{package} {version} is installed; ke-run needs") as caught:
            check_versions()
        assert "\n" not in str(caught.value)

    def test_an_old_python_is_refused(self, installed, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "version_info", (3, 10, 1, "final", 0))
        with pytest.raises(Exception, match=r"this is Python 3\.10; ke-run needs Python 3\.11 to 3\.13"):
            check_versions()


@pytest.mark.parametrize(
    ("args", "flags", "overrides"),
    [
        (["a=1", "-m", "b=2"], ["-m"], ["a=1", "b=2"]),
        (["a=1", "--config-dir", "x=y", "b=2"], ["--config-dir", "x=y"], ["a=1", "b=2"]),
        (["--info", "a=1"], ["--info=all"], ["a=1"]),
        (["a=1", "-i", "plugins"], ["--info=plugins"], ["a=1"]),
        (["--cfg", "job", "~a"], ["--cfg", "job"], ["~a"]),
        (["--cfg"], ["--cfg"], []),
    ],
)
def test_flags_are_told_from_overrides(args: list[str], flags: list[str], overrides: list[str]) -> None:
    assert split(args) == (flags, overrides)


def test_the_value_of_a_flag_may_be_attached_or_follow() -> None:
    assert option(["a=1", "--config-dir", "x"], "--config-dir", "-cd") == "x"
    assert option(["-cd=x"], "--config-dir", "-cd") == "x"
    assert option(["a=1"], "--config-dir") is None
    assert option(["--config-dir"], "--config-dir") is None
