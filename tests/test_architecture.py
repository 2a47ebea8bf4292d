"""The rules of the house that a reader relies on: who may import whom, what starts fast, what is never done."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ke_cli"
FILES = sorted(PACKAGE.rglob("*.py"))

LAYERS: dict[str, str] = {
    "ke_cli": "base",
    "ke_cli.checks": "base",
    "ke_cli.errors": "base",
    "ke_cli.paths": "base",
    "ke_cli.interrupts": "base",
    "ke_cli.provenance": "base",
    "ke_cli.data": "data",
    "ke_cli.engine.queries": "queries",
    "ke_cli.models": "models",
    "ke_cli.engine": "engine",
    "ke_cli.methods": "methods",
    "ke_cli.metrics": "metrics",
    "ke_cli.protocols": "protocols",
    "ke_cli.results": "results",
    "ke_cli.report": "report",
    "ke_cli.config": "config",
    "ke_cli.running": "running",
    "ke_cli.exporting": "exporting",
    "ke_cli.sweeping": "commands",
    "ke_cli.command_line": "shell",
    "ke_cli.run": "commands",
    "ke_cli.export": "commands",
    "ke_cli.summarize": "summarize",
}
"""The layer of a module is that of its longest prefix here; a new module at the top of the package needs a line."""

MAY_IMPORT: dict[str, set[str]] = {
    "base": set(),
    "data": {"base"},
    "queries": {"base", "data"},
    "models": {"base", "data", "queries"},
    "engine": {"base", "data", "queries", "models"},
    "methods": {"base", "data", "queries", "models", "engine"},
    "metrics": {"base", "data", "queries"},
    "protocols": {"base", "data"},
    "results": {"base"},
    "report": {"base", "results"},
    "config": {"base", "results"},
    "shell": {"base"},
    "summarize": {"base", "shell", "results", "report"},
    "running": {"base", "data", "queries", "models", "engine", "methods", "metrics", "protocols", "results", "report"}
    | {"config"},
    "exporting": {"base", "models", "engine", "results", "config", "running"},
    "commands": {"base", "shell", "config", "results", "report", "running", "exporting"},
}
"""Besides itself, what a layer may import. Types of a contract may come from further on (`TYPES_FROM`)."""

TYPES_FROM: dict[str, set[str]] = {"config": {"data", "methods", "metrics", "protocols"}}
"""What a layer may import under ``TYPE_CHECKING`` only, because a pluggable part is named by its contract."""

STARTS_FAST = {
    "base",
    "data",
    "queries",
    "metrics",
    "protocols",
    "results",
    "report",
    "config",
    "shell",
    "commands",
    "summarize",
}
HEAVY = {"torch", "transformers", "datasets", "pandas", "accelerate", "safetensors"}
NEVER = {"report", "results"}
"""Layers that import nothing heavy at all, not even inside a function (pandas is report's own)."""


class Import(NamedTuple):
    """One imported name: at the top of a module or in a function, for types only or not."""

    name: str
    line: int
    at_top: bool
    for_types: bool


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer(module: str) -> str:
    prefix = module
    while prefix not in LAYERS:
        prefix = prefix.rpartition(".")[0]
    assert prefix != "ke_cli" or module == "ke_cli", f"{module} needs a place in the order of imports"
    return LAYERS[prefix]


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(path: Path) -> tuple[Import, ...]:
    return tuple(_imports(parsed(path).body, at_top=True, for_types=False))


def _imports(nodes: list[ast.stmt], *, at_top: bool, for_types: bool) -> Iterator[Import]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, at_top, for_types) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            for alias in node.names:
                yield Import(f"{node.module}.{alias.name}", node.lineno, at_top, for_types)
        else:
            typed = for_types or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
            inside = at_top and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            for block in ("body", "orelse", "finalbody"):
                yield from _imports(getattr(node, block, []), at_top=inside, for_types=typed)
            for part in [*getattr(node, "handlers", []), *getattr(node, "cases", [])]:
                yield from _imports(part.body, at_top=inside, for_types=typed)


def of_the_package(path: Path) -> Iterator[tuple[Import, str]]:
    """Yield the imports of our own modules with their layers."""
    modules = {module_name(file) for file in FILES}
    for found in imports(path):
        if found.name.partition(".")[0] == "ke_cli":
            module = found.name if found.name in modules else found.name.rpartition(".")[0]
            assert module in modules, f"{path.name} imports {found.name}, which does not exist"
            yield found, layer(module)


def offenders(rule: Callable[[Path], Iterator[str]], *layers: str) -> list[str]:
    """What breaks a rule, in the files of some layers or in all: the file, then what the rule says about it."""
    files = [path for path in FILES if not layers or layer(module_name(path)) in layers]
    assert files
    return [f"{path.relative_to(ROOT)}: {found}" for path in files for found in rule(path)]


def test_every_module_is_found_and_has_a_layer() -> None:
    assert len(FILES) >= 60
    assert {layer(module_name(file)) for file in FILES} == set(MAY_IMPORT)
    folders = {f"ke_cli.{folder.name}" for folder in PACKAGE.iterdir() if (folder / "__init__.py").is_file()}
    assert folders <= set(LAYERS), "a new folder needs a place in the order of imports"


def test_the_order_of_imports_has_no_circle() -> None:
    done: set[str] = set()
    while ready := {name for name, allowed in MAY_IMPORT.items() if name not in done and allowed <= done}:
        done |= ready
    assert done == set(MAY_IMPORT)


def test_imports_run_one_way() -> None:
    def rule(path: Path) -> Iterator[str]:
        own = layer(module_name(path))
        for found, other in of_the_package(path):
            allowed = {own, *MAY_IMPORT[own], *(TYPES_FROM.get(own, set()) if found.for_types else set())}
            if other not in allowed:
                yield f"line {found.line}: {own} must not import {other} ({found.name})"

    assert offenders(rule) == []


def test_what_starts_fast_imports_nothing_heavy_at_the_top() -> None:
    def rule(path: Path) -> Iterator[str]:
        at_top = (found for found in imports(path) if found.at_top and not found.for_types)
        yield from named(at_top, HEAVY)

    assert offenders(rule, *STARTS_FAST) == []


def named(found: Iterable[Import], packages: set[str]) -> Iterator[str]:
    """Those imports that are of one of these packages."""
    for each in found:
        if each.name.partition(".")[0] in packages:
            yield f"line {each.line}: {each.name}"


def test_nor_through_a_module_that_is_slow_to_start() -> None:
    def rule(path: Path) -> Iterator[str]:
        for found, other in of_the_package(path):
            if found.at_top and not found.for_types and other not in STARTS_FAST:
                yield f"line {found.line}: {found.name}"

    assert offenders(rule, *STARTS_FAST) == []


def test_files_and_tables_need_no_torch_at_all() -> None:
    assert offenders(lambda path: named(imports(path), HEAVY - {"pandas"}), *NEVER) == []


def test_only_the_configuration_knows_hydra_and_omegaconf() -> None:
    others = set(MAY_IMPORT) - {"config", "commands"}
    assert offenders(lambda path: named(imports(path), {"hydra", "omegaconf"}), *others) == []


def test_nothing_is_unpickled_and_no_foreign_code_is_trusted() -> None:
    def rule(path: Path) -> Iterator[str]:
        yield from named(imports(path), {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve"})
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called in {"torch.load", "eval", "exec", "pandas.read_pickle"}:
                    yield f"line {node.lineno}: {called}"
                if any(one.arg == "trust_remote_code" and ast.unparse(one.value) == "True" for one in node.keywords):
                    yield f"line {node.lineno}: trust_remote_code=True"

    assert offenders(rule) == []


def test_files_are_short() -> None:
    def rule(path: Path) -> Iterator[str]:
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 300:
            yield f"{lines} lines"

    assert offenders(rule) == []


def test_functions_are_short() -> None:
    def rule(path: Path) -> Iterator[str]:
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                docstring = ast.get_docstring(node, clean=False) or ""
                lines = (node.end_lineno or 0) - node.lineno + 1 - len(docstring.splitlines())
                if lines > 40:
                    yield f"line {node.lineno}: {node.name} has {lines} lines besides its docstring"

    assert offenders(rule) == []


def test_what_is_public_is_documented() -> None:
    def rule(path: Path) -> Iterator[str]:
        if not ast.get_docstring(parsed(path)):
            yield "the module has no docstring"
        for node in _public(parsed(path)):
            if not ast.get_docstring(node):
                yield f"line {node.lineno}: {node.name} has no docstring"

    assert offenders(rule) == []


def _public(parent: ast.Module | ast.ClassDef) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    for node in parent.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from _public(node)


def test_no_module_keeps_a_state() -> None:
    """Constants may be tables; what is empty at first is there to be filled, and leaks from model to model."""
    empty = {"{}", "[]", "set()", "dict()", "list()", "defaultdict(list)"}

    def rule(path: Path) -> Iterator[str]:
        for node in parsed(path).body:
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value and ast.unparse(node.value) in empty:
                yield f"line {node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Global):
                yield f"line {node.lineno}: {ast.unparse(node)}"

    assert offenders(rule) == []


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("ke_cli", "base"),
        ("ke_cli.engine.queries", "queries"),
        ("ke_cli.engine.edits", "engine"),
        ("ke_cli.report.formats.latex", "report"),
        ("ke_cli.running.execute", "running"),
        ("ke_cli.sweeping.jobs", "commands"),
        ("ke_cli.command_line.streams", "shell"),
    ],
)
def test_the_layer_of_a_module_is_that_of_its_longest_prefix(module: str, expected: str) -> None:
    assert layer(module) == expected
