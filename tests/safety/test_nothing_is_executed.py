"""What is read from disk is safetensors, JSON and YAML: nothing that could run code, anywhere in the source."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

from ke_cli.config import compose_run
from ke_cli.config.schema import ModelConfig
from ke_cli.models.loading import ModelSource

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("ke_cli", "hydra_plugins", "scripts")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))

MODULES = {
    "pickle",
    "_pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "dbm",
    "copyreg",
    "h5py",
}
"""Modules that make objects, and so run code, out of bytes."""

CALLS = {
    *("eval", "exec", "compile", "__import__", "breakpoint", "input"),
    *("os.system", "os.popen", "os.execv", "os.execvp", "os.spawnv", "pty.spawn"),
    *(
        "torch.load",
        "torch.save",
        "torch.hub.load",
        "torch.jit.load",
        "torch.package.PackageImporter",
        "torch.export.load",
    ),
    *("pandas.read_pickle", "pd.read_pickle", "pandas.read_hdf", "pd.read_hdf"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "tarfile.open", "zipfile.ZipFile"),
    *("shutil.unpack_archive", "ssl._create_unverified_context", "tempfile.mktemp"),
}
"""Functions that run code, or unpack what may lead out of a folder."""

IMPORTS = {"importlib.import_module": {"ke_cli/config/plugins.py"}}
"""Functions with one place where they may be called: a target that the configuration names."""


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def offenders(rule: Callable[[Path], Iterator[str]]) -> list[str]:
    """What breaks a rule in any file: the file, then what the rule says about it."""
    return [f"{name(path)}: {found}" for path in FILES for found in rule(path)]


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


@cache
def calls(path: Path) -> tuple[tuple[str, ast.Call], ...]:
    return tuple((ast.unparse(node.func), node) for node in nodes(path) if isinstance(node, ast.Call))


def modules(path: Path) -> Iterator[str]:
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module).partition(".")[0]


def test_the_files_are_found() -> None:
    assert len(FILES) > 150 and ROOT / "ke_cli" / "models" / "loading.py" in FILES


def test_no_module_that_unpickles() -> None:
    assert offenders(lambda path: (module for module in modules(path) if module in MODULES)) == []


def test_no_function_that_runs_what_it_reads() -> None:
    def rule(path: Path) -> Iterator[str]:
        for called, node in calls(path):
            elsewhere = name(path).startswith("ke_cli/") and name(path) not in IMPORTS.get(called, {name(path)})
            if called in CALLS or elsewhere:
                yield f"line {node.lineno}: {called}"

    assert offenders(rule) == []


def test_no_argument_that_lifts_a_protection() -> None:
    wrong = {
        "allow_pickle": "True",
        "trust_remote_code": "True",
        "shell": "True",
        "weights_only": "False",
        "verify": "False",
    }

    def rule(path: Path) -> Iterator[str]:
        for called, node in calls(path):
            for keyword in node.keywords:
                if wrong.get(str(keyword.arg)) == ast.unparse(keyword.value):
                    yield f"line {node.lineno}: {called}({ast.unparse(keyword)})"

    assert offenders(rule) == []


def test_weights_are_read_from_safetensors_only() -> None:
    def rule(path: Path) -> Iterator[str]:
        for called, node in calls(path):
            if called.endswith(".from_pretrained") and "Model" in called and "peft" not in called.lower():
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                if given.get("use_safetensors") != "True":
                    yield f"line {node.lineno}: {called} may read pickled weights"

    assert offenders(rule) == []


def test_foreign_code_is_trusted_only_where_the_user_says_so() -> None:
    assert ModelConfig(name="x", path="x").trust_remote_code is False
    assert ModelSource(name="x", path="x").trust_remote_code is False
    assert compose_run([]).model.trust_remote_code is False
    for path in (ROOT / "conf").rglob("*.yaml"):
        raw = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        assert raw.get("trust_remote_code", False) is False, path


def test_a_model_with_code_or_pickled_weights_is_refused(tmp_path: Path, tiny_gpt2_dir: Path) -> None:
    """Neither a module named by ``config.json`` nor weights in a pickle are ever run."""
    import json
    import shutil

    from ke_cli.errors import UserError
    from ke_cli.models.loading import load

    model = Path(shutil.copytree(tiny_gpt2_dir, tmp_path / "model"))
    trap = tmp_path / "sprung"
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    kinds = {"AutoConfig": "trap.Config", "AutoModelForCausalLM": "trap.Model", "AutoTokenizer": ["trap.T", "trap.T"]}
    (model / "config.json").write_text(json.dumps({**config, "model_type": "unheard_of", "auto_map": kinds}))
    (model / "trap.py").write_text(f"open({str(trap)!r}, 'w').close()\n")
    with pytest.raises(UserError, match="cannot be loaded"):
        load(ModelSource(name="x", path=str(model), device="cpu"))
    assert not trap.exists()
    pickled = Path(shutil.copytree(tiny_gpt2_dir, tmp_path / "pickled"))
    (pickled / "model.safetensors").rename(pickled / "other.safetensors")
    pickle = b"cbuiltins\nopen\n(V" + str(trap).encode() + b"\nVw\ntR."
    (pickled / "pytorch_model.bin").write_bytes(pickle)
    with pytest.raises(UserError, match="cannot be loaded"):
        load(ModelSource(name="x", path=str(pickled), device="cpu"))
    assert not trap.exists()
