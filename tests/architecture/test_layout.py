"""What a machine can check about the shape of the code, so that no reader has to."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dq
from dq import errors

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "dq"
FILES = sorted(SOURCE.rglob("*.py"))

_LOW = {"errors", "config", "model"}
_CLIENT = _LOW | {
    "clock", "private", "processes", "core", "log", "mend", "history", "operator_logs", "settings", "tracing", "transport",
    "client",
}  # fmt: skip
_ALL = _CLIENT | {"broker", "app", "embedded", "aio", "testing", "transfer", "bench", "cli", "demo", "main", ""}
# Design section 8: what each part may import, besides itself.
MAY_IMPORT = {
    "errors": set(),
    "clock": set(),
    "config": {"errors"},
    "private": {"errors"},
    "processes": set(),
    "model": {"errors"},
    "operator_logs": {"errors", "model", "settings"},
    "tracing": {"errors", "model"},
    "core": _LOW,
    "log": _LOW | {"private"},
    "transport": _LOW | {"private"},
    "settings": _LOW,
    "mend": _LOW | {"clock", "core", "log"},
    "history": _LOW | {"core", "log", "mend"},
    "broker": _LOW | {"clock", "core", "log", "operator_logs", "processes", "settings", "transport"},
    "client": _LOW | {"clock", "core", "log", "history", "operator_logs", "processes", "settings", "tracing", "transport"},
    "transfer": _CLIENT,
    "bench": _CLIENT,
    "app": _CLIENT,
    "embedded": _CLIENT,
    "aio": _CLIENT,
    "testing": _CLIENT | {"app"},
    "cli": _ALL,
    "demo": _ALL,
    "main": _ALL,
    "": _CLIENT | {"app"},
}
IMPURE = {"os", "time", "threading", "asyncio", "multiprocessing", "socket", "pathlib", "io", "subprocess", "signal"}
LOG_CALL = re.compile(r"log\.(debug|info|warning|error|exception|critical|log)")
NEVER_LOGGED = {"error", "exc", "broken", "payload", "key", "headers", "record", "reason", "message", "result"}
# Imports inside functions that are worth it, with the reason.
LATE_IMPORTS = {
    "application.py": "an app that was given another engine imports nothing of dq's own",
    "backend.py": "asyncio takes as long as the rest of a broker, and few streams are kept by a class that needs it",
    "broker.py": "the past is asked for now and then, and would make a tenth of what every client imports",
    "main.py": "every process that the manager spawns imports this module again",
    "operator_logs.py": "rich takes as long as the start of a broker, and only lines on a terminal need it",
    "tracing.py": "OpenTelemetry is an extra, and most processes trace nothing",
    "serve.py": "prometheus_client takes 60 ms, and few brokers are scraped",
    "toml_file.py": "tomllib takes 6 ms, and few directories have a file of settings",
    "output.py": "rich takes as long as all the rest of a command, and a pipe needs none of it",
}


def part_of(path: Path) -> str:
    """The first name below `dq`: a package or a module."""
    first = path.relative_to(SOURCE).parts[0]
    return first.removesuffix(".py").removeprefix("__init__")


@functools.cache
def tree_of(path: Path) -> ast.Module:
    """A file, parsed once."""
    return ast.parse(path.read_text())


@functools.cache
def imports(path: Path) -> list[tuple[str, ast.AST, bool]]:
    """(module, node, whether at the top) of all imports."""
    tree = tree_of(path)
    top = {id(node) for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))}
    for function in ast.walk(tree):
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            top -= {id(node) for node in ast.walk(function)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            names = [f"{node.module}.{alias.name}" if node.module == "dq" else str(node.module) for alias in node.names]
            found += [(name, node, id(node) in top) for name in names]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_module_imports_only_what_its_part_may(path: Path) -> None:
    part = part_of(path)
    for module, node, at_top in imports(path):
        place = f"{path}:{node.lineno}"
        if module.split(".")[0] == "dq":
            names = module.split(".")
            imported = (
                names[1] if len(names) > 1 and ((SOURCE / names[1]).is_dir() or (SOURCE / f"{names[1]}.py").exists()) else ""
            )
            assert imported == part or imported in MAY_IMPORT[part], f"{place}: {part or 'dq'} may not import {module}"
        if part == "core":
            assert module.split(".")[0] not in IMPURE, f"{place}: core is pure and may not import {module}"
        if not at_top:
            assert path.name in LATE_IMPORTS, f"{place}: an import hidden in a function"


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for path in FILES:
        name = ".".join(["dq", *path.relative_to(SOURCE).with_suffix("").parts]).removesuffix(".__init__")
        graph[name] = {
            module for module, node, _ in imports(path) if module.startswith("dq.") and not under_type_checking(path, node)
        }
    done: set[str] = set()

    def walk(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join([*above, name])
        if name in done:
            return
        for module in graph.get(name, ()):
            walk(module, (*above, name))
        done.add(name)

    for name in graph:
        walk(name, ())


def under_type_checking(path: Path, node: ast.AST) -> bool:
    """Whether an import is only for the type checker."""
    for parent in ast.walk(tree_of(path)):
        if isinstance(parent, ast.If) and "TYPE_CHECKING" in ast.unparse(parent.test):
            return any(getattr(child, "lineno", 0) == node.lineno for child in parent.body)
    return False


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_and_functions_keep_their_size(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 400, f"{path} is over 400 lines: it has more than one reason to be opened"
    for node in ast.walk(tree_of(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= 60, f"{path}:{node.lineno}: {node.name} has {lines} lines"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_every_module_says_first_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(tree_of(path)), f"{path} has no docstring"


def test_the_public_names_are_sorted_and_exist() -> None:
    assert list(dq.__all__) == sorted(dq.__all__, key=str.casefold) or list(dq.__all__) == sorted(dq.__all__)
    assert set(dq.__all__) == set(dq._HOME_OF), "the lists of names in dq/__init__.py differ"
    for name in dq.__all__:
        assert getattr(dq, name).__doc__, f"dq.{name} has no docstring"


def test_the_error_tree_is_drawn_as_it_is() -> None:
    drawn = set(re.findall(r"[├└]── (\w+)", errors.__doc__ or ""))
    there = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, dq.DqError) and value is not dq.DqError
    }
    assert drawn == there
    assert there <= set(dq.__all__)


def test_no_two_test_files_have_one_name() -> None:
    """The whole suite could not be collected: tests are no packages."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py"]
    assert [name for name in sorted(set(names)) if names.count(name) > 1] == []


def test_no_log_call_quotes_an_error_or_a_part_of_a_record() -> None:
    """Errors go through `words_of` and its like: see `dq.model.told`. (`log.exception` shows none of their texts either.)"""
    bad = []
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call) and LOG_CALL.fullmatch(ast.unparse(node.func)):
                names = [part.id if isinstance(part, ast.Name) else getattr(part, "attr", "") for part in node.args[1:]]
                built = [part for part in node.args if isinstance(part, (ast.JoinedStr, ast.Subscript))]
                if built or NEVER_LOGGED & set(names):
                    bad.append(f"{path}:{node.lineno}: {ast.unparse(node)}")
    assert bad == []


def test_importing_dq_is_light() -> None:
    # When a fresh interpreter imports dq
    code = "import sys, dq; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    # Then nothing heavy came along that only the demonstration or the brokers need
    assert not {"rich", "aiofiles", "pytest", "dq.broker.manager", "dq.client.publisher"} & set(loaded)


@pytest.mark.parametrize(
    "command",
    [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]],
    ids=["ruff check", "ruff format", "mypy --strict"],
)
def test_the_linters_are_content(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_top_level_holds_only_what_belongs_there() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    allowed = {
        "pyproject.toml", "src", "tests", "queue_data", "main.py", "README.md", "LICENSE", "CHANGELOG.md", "docs", "examples",
        "benchmarks",
    }  # fmt: skip
    top = {line.split("/")[0] for line in listed}
    assert {name for name in top if not name.startswith(".")} <= allowed
    assert "uv.lock" not in top
