"""The command ``ke-run``: read the command line, run, and say in one message what went wrong.

Exit codes: 0 for success, 1 for an error, 2 for a command line that cannot be read, 130 after Ctrl-C.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ke_cli import __version__
from ke_cli.command_line.arguments import option, split
from ke_cli.command_line.streams import outlast_streams, show_what_can_be_shown, tell, warnings_shown
from ke_cli.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from ke_cli.sweeping.sweep import Begun

PYTHON: Final = ((3, 11), (3, 14))
TRANSFORMERS_MAJOR: Final = 5
TORCH: Final = (2, 6)
INTERRUPTED: Final = "interrupted: finished cases are kept, and the same command goes on from there"


def main() -> None:
    """Run the command line of this process and exit.

    Threads of torch that wait for each other sleep, unless the environment says otherwise; the jobs of a sweep inherit
    that. Where they spin, they take the cores from whatever else computes there, even from those they wait for.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read once, when torch is loaded (OpenMP 5.0, 6.7)
    show_what_can_be_shown()
    outlast_streams()
    sys.exit(run(sys.argv[1:]))


def run(args: Sequence[str]) -> int:
    """Run one command line.

    Args:
        args: The arguments without the program's name.

    Returns:
        The exit code.
    """
    flags, overrides = split(args)
    config_dir = option(args, "--config-dir", "-cd")
    if "--help" in flags or "-h" in flags:
        from ke_cli.command_line.help import help_text

        print(help_text(config_dir))
        return 0
    if "--version" in flags:
        print(f"ke-run {__version__}")
        return 0
    if quiet := {"-q", "--quiet"}.intersection(flags):
        flags, overrides = [flag for flag in flags if flag not in quiet], [*overrides, "progress=none"]
    if "--hydra-help" in flags:  # a page about Hydra, which knows no other keys
        overrides = [override for override in overrides if override.startswith("hydra")]
    try:
        _start_hydra([*flags, *overrides])
    except KeyboardInterrupt:
        print(f"\n{INTERRUPTED}", file=sys.stderr)
        return 130
    except Exception as error:
        return _failed(error, overrides, config_dir)
    return 0


def job(composed: DictConfig) -> None:
    """Do one run, or one job of a sweep; Hydra calls this with the composed configuration.

    Raises:
        SystemExit: After an error in a single run, whose message is printed. Not the error itself, because
            Hydra would print lines of its own about it.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    with warnings_shown():
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            from ke_cli.sweeping.sweep import run_job

            run_job(lambda begun: _execute(composed, begun), lambda error: str(_explained(error)))
            return
        try:
            _execute(composed)
        except Exception as error:
            raise SystemExit(_failed(error)) from None


def check_versions() -> None:
    """Refuse versions of Python, torch and transformers that this program was not written for.

    None of them is imported for this.

    Raises:
        UserError: In one line.
    """
    python = sys.version_info[:2]
    if not PYTHON[0] <= python < PYTHON[1]:
        raise UserError(f"this is Python {python[0]}.{python[1]}; ke-run needs Python 3.11 to 3.13")
    torch, numbers = _version("torch")
    if numbers < TORCH:
        raise UserError(f"torch {torch} is installed; ke-run needs 2.6 or newer: pip install -U torch")
    transformers, numbers = _version("transformers")
    if numbers[0] != TRANSFORMERS_MAJOR:
        needed = "pip install 'transformers>=5,<6'"
        raise UserError(f"transformers {transformers} is installed; ke-run needs version 5: {needed}")


def _version(package: str) -> tuple[str, tuple[int, int]]:
    """Return the installed version of a package, as it is written and as (major, minor)."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        text = version(package)
    except PackageNotFoundError:
        raise UserError(f"{package} is not installed: pip install {package}") from None
    major, minor = re.findall(r"\d+", f"{text}.0")[:2]
    return text, (int(major), int(minor))


def check_output_dir(folder: Path) -> None:
    """Make the folder of the run directories, before anything expensive begins.

    Raises:
        UserError: If it cannot be made or written to.
    """
    hint = "output_dir=FOLDER, a folder you can write to"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the output folder: {error.strerror}", where=str(folder), hint=hint) from error
    except ValueError as error:  # a NUL in the name
        raise UserError(f"this is no name of a folder: {error}", where=repr(str(folder)), hint=hint) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError("cannot write to the output folder", where=str(folder), hint=hint)


def _start_hydra(args: Sequence[str]) -> None:
    """Hand the command line to Hydra, which composes the configuration and calls `job`."""
    import hydra

    from ke_cli.paths import conf_dir

    sys.argv[1:] = args  # where Hydra reads it
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach us instead of being printed and turned into an exit
    hydra.main(config_path=str(conf_dir()), config_name="config", version_base="1.3")(job)()


def _execute(composed: DictConfig, begun: Begun | None = None) -> Path:
    """Validate the configuration and run it; return the run's folder. A sweep prints the table, and is told the run."""
    from hydra.core.hydra_config import HydraConfig

    from ke_cli.config import run_config

    check_versions()
    config = run_config(composed, list(HydraConfig.get().overrides.task))
    check_output_dir(config.output_dir)
    job = begun(config) if begun else ""
    from ke_cli.running.execute import execute

    return execute(config, show_table=begun is None, job=job)


def _failed(error: Exception, overrides: Sequence[str] = (), config_dir: str | None = None) -> int:
    """Print the message of an error and return the exit code."""
    from ke_cli.config.explain import CommandLineError

    explained = _explained(error, overrides, config_dir)
    tell(explained)
    return 2 if isinstance(explained, CommandLineError) else 1


def _explained(error: Exception, overrides: Sequence[str] = (), config_dir: str | None = None) -> UserError:
    """Return what a user should read about an error; print the traceback if the environment asks for it."""
    from ke_cli.config.explain import explain

    if os.environ.get("KE_TRACEBACK") == "1":
        traceback.print_exception(error)
    return explain(error, overrides, config_dir) or _unexpected(error)


def _unexpected(error: Exception) -> UserError:
    """Describe an error that is a mistake of the program, with the place in our own code."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(__file__).parent in Path(frame.filename).parents] or frames
    return UserError(
        f"{type(error).__name__}: {error}",
        where=f"{ours[-1].filename}, line {ours[-1].lineno}" if ours else None,
        hint="KE_TRACEBACK=1 ke-run ... shows the traceback; the command itself could be read",
    )


if __name__ == "__main__":
    main()
