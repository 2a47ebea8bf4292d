"""What Hydra, OmegaConf and the file system say about a command line, in one message a user can act on."""

from __future__ import annotations

import errno
import re
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from hydra import compose, initialize_config_dir
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ke_cli.errors import UserError, did_you_mean, unknown_name
from ke_cli.paths import conf_dir

NO_FOLDER: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOENT})


class CommandLineError(UserError):
    """A command line that cannot even be read."""


def explain(error: Exception, overrides: Sequence[str] = (), config_dir: str | None = None) -> UserError | None:
    """Translate an error of composing or launching; None for one that is no fault of the user.

    Args:
        error: What was raised.
        overrides: The ``key=value`` arguments of the command.
        config_dir: The further folder of configuration files, if there is one.
    """
    match error:
        case UserError():
            return error
        case OverrideParseException():
            return _unreadable(error)
        case MissingConfigException():
            return _unknown_choice(error)
        case ConfigCompositionException():
            return _composition(error, known_keys(overrides, config_dir))
        case InstantiationException():
            return UserError(_first_line(error), where="the hydra section of the configuration")
        case OmegaConfBaseException():
            return UserError(_first_line(error), where=error.full_key)
        case HydraException():
            return UserError(_first_line(error))
        case OSError():
            return _file_system(error)
        case RecursionError() if _reads_yaml(error):
            return UserError("a configuration file, or a value, is nested too deeply", where=config_dir)
        case UnicodeDecodeError() if _reads_yaml(error):
            return UserError("a configuration file is not UTF-8 text", where=_undecodable(config_dir))
        case ValueError() if "Config group override" in str(error):
            return CommandLineError(_first_line(error), hint="method=NAME: a group takes the name of a choice")
    if type(error).__module__.startswith("yaml."):
        return UserError("a configuration file is not valid YAML", where=" ".join(str(error).split()))
    if _reads_yaml(error):
        return UserError(f"a configuration file cannot be used: {_first_line(error)}", where=config_dir)
    return None


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


def _file_system(error: OSError) -> UserError:
    where = str(error.filename) if error.filename else None
    hint = "output_dir=FOLDER says where results are written" if error.errno in NO_FOLDER else None
    return UserError(f"a file or folder cannot be used: {error.strerror or error}", where=where, hint=hint)


def _reads_yaml(error: Exception) -> bool:
    """Return whether an error arose where configuration files are read, not in a run."""
    frames = (frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__))
    packages = [name.partition(".")[0] for name in frames]
    foreign = [package for package in packages if package not in sys.stdlib_module_names]
    return bool(foreign) and foreign[-1] in ("yaml", "omegaconf", "hydra")


def _undecodable(config_dir: str | None) -> str | None:
    """Name the first file below the user's own folder that is not UTF-8."""
    for path in sorted(Path(config_dir).rglob("*.yaml")) if config_dir else ():
        try:
            path.read_bytes().decode("utf-8") if path.is_file() else None
        except UnicodeDecodeError as error:
            return f"{path}, byte {error.start}"
        except OSError:
            continue
    return config_dir


def _unreadable(error: OverrideParseException) -> CommandLineError:
    override = error.override
    key, equals, value = override.partition("=")
    if not equals:
        return CommandLineError(f"cannot read the argument {override!r}", allowed="key=value", hint=f"{key}=VALUE")
    return CommandLineError(
        f"cannot read the value of {override!r}",
        allowed="numbers, words, [lists], {key: value}; text with blanks or signs needs quotes of its own",
        hint=f"""'{key}="{value.strip(chr(34) + chr(39))}"'""",
    )


def _unknown_choice(error: MissingConfigException) -> UserError:
    """Name a choice that its group lacks; the group may be asked for by a file rather than by the user."""
    group, _, choice = (error.missing_cfg_file or "").rpartition("/")
    asked = re.match(r"In '(.+?)'", str(error))
    where = f"{asked[1]}.yaml" if asked and asked[1] != "config" else None
    if error.options is None and group:
        return UserError(f"unknown {group} {choice!r}", where=where)
    if error.options is None:
        return UserError(_first_line(error), hint="--config-name and --config-dir say what is read")
    return unknown_name(group, choice, error.options, where=where)


def _composition(error: ConfigCompositionException, known: Mapping[str, Any]) -> UserError:
    text = str(error)
    if match := re.search(r"Could not (?:override|delete from config\.) '([^']+)'", text):
        if match[1].startswith("hydra."):  # not a setting of a run
            chosen = "hydra/launcher=joblib " if match[1].startswith("hydra.launcher.") else ""
            return UserError(f"unknown key {match[1]!r}", hint=f"ke-run --cfg hydra {chosen}prints what there is")
        return unknown_key(match[1], known)
    if match := re.search(r"An item is already at '([^']+)'", text):
        return UserError(f"the key {match[1]!r} exists; '+' is for new keys", hint=f"{match[1]}=VALUE")
    if match := re.search(r"Ambiguous value for argument '(.+?)'\n|Sweep parameters '(.+?)' requires", text):
        override = match[1] or match[2]
        key, _, values = override.partition("=")
        return UserError(
            f"several values for one run: {override}",
            hint=f"ke-run -m {override} for one run each, or '{key}=[{values}]' for a list",
        )
    if isinstance(error.__cause__, OmegaConfBaseException):
        return UserError(_first_line(error.__cause__), where=_first_line(error) or None)
    return UserError(_first_line(error))


def unknown_key(key: str, known: Mapping[str, Any]) -> UserError:
    """Build the error for a key that the configuration does not have.

    Args:
        key: Dotted path, as typed.
        known: Every key of the composed configuration, by dotted path.
    """
    parent = key.rpartition(".")[0]
    siblings = [name for name in known if name.rpartition(".")[0] == parent] or [k for k in known if "." not in k]
    return UserError(
        f"unknown key {key!r}",
        allowed=", ".join(siblings) or None,
        hint=did_you_mean(key, siblings) or did_you_mean(key, known),
    )


def known_keys(overrides: Sequence[str], config_dir: str | None) -> dict[str, Any]:
    """Return every key, by dotted path, of what the choices of a command line compose to.

    Only choices are looked at, because the other overrides hold the mistake. Empty when even they are wrong.
    """
    folders = [conf_dir(), *([Path(config_dir).resolve()] if config_dir else [])]
    choices = list(_choices(overrides, folders))
    search = [f"hydra.searchpath=['file://{folder}']" for folder in folders[1:]]
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
            composed = OmegaConf.to_container(compose("config", overrides=[*choices, *search]), resolve=False)
    except Exception:  # whatever is wrong has been found already; this is only for the suggestion
        return {}
    assert isinstance(composed, dict)
    return dict(_flat(composed, ""))


def _choices(overrides: Sequence[str], folders: Sequence[Path]) -> Iterator[str]:
    """Yield the overrides that choose from a group; of a sweep over choices, the first."""
    for override in overrides:
        key, equals, value = override.partition("=")
        group = key.lstrip("+~").partition("@")[0]
        if equals and group and any((folder / group).is_dir() for folder in folders):
            yield f"{key}={value if value.startswith('[') else value.partition(',')[0]}"


def _flat(node: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        path = f"{prefix}{key}"
        yield path, value
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}.")
