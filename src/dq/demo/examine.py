"""What is done for one task, and how results are added up: the same code for the consumers and for the direct count."""

from __future__ import annotations

import ast
import hashlib
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

FILE_FIGURES = ("lines", "functions", "classes")
LINE_FIGURES = ("words",)


def examine_source(path: str, content: bytes) -> dict[str, Any]:
    """Counts the lines, functions and classes of a Python source, and takes its SHA-256.

    What Python cannot parse has no functions and no classes, and a `problem` that says why.
    """
    found: dict[str, Any] = {"path": path, "lines": _lines_of(content), "functions": 0, "classes": 0}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the sources' own: an invalid escape, a deprecated literal
            tree = ast.parse(content)
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                found["functions"] += 1
            elif isinstance(node, ast.ClassDef):
                found["classes"] += 1
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        found.update(functions=0, classes=0, problem=f"{type(error).__name__}: {error}")
    found["sha256"] = hashlib.sha256(content).hexdigest()
    return found


def examine_unreadable(path: str, error: OSError) -> dict[str, Any]:
    """The result for a file that cannot be read: it counts as a file, with nothing in it."""
    problem = f"cannot be read: {error.strerror}"
    return {"path": path, "lines": 0, "functions": 0, "classes": 0, "sha256": "", "problem": problem}


def examine_line(number: int, text: str) -> dict[str, Any]:
    """Counts the words of one line, and takes its SHA-256."""
    return {"line": number, "words": len(text.split()), "sha256": hashlib.sha256(text.encode()).hexdigest()}


def examine(payload: Mapping[str, Any]) -> dict[str, Any]:
    """What a consumer does for a task."""
    if "line" in payload:
        return examine_line(payload["line"], payload["text"])
    path = payload["path"]
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        return examine_unreadable(path, error)
    return examine_source(path, content)


def name_of(fields: Mapping[str, Any]) -> str:
    """What a task or a result is about: a path, or the number of a line."""
    return f"line {fields['line']}" if "line" in fields else str(fields["path"])


def _lines_of(content: bytes) -> int:
    return content.count(b"\n") + (not content.endswith(b"\n") and bool(content))


@dataclass(frozen=True, slots=True)
class Totals:
    """All results added up.

    Attributes:
        tasks: how many.
        figures: sums by name: lines, functions and classes, or words.
        sha256: over all names and checksums, in order.
        problems: how many could not be read or parsed.
    """

    tasks: int
    figures: dict[str, int]
    sha256: str
    problems: int


def total(results: Iterable[Mapping[str, Any]], figures: tuple[str, ...]) -> Totals:
    """Adds up results, in whatever order they came."""
    digest = hashlib.sha256()
    sums = dict.fromkeys(figures, 0)
    tasks = problems = 0
    for result in sorted(results, key=lambda fields: (fields.get("line", 0), name_of(fields))):
        tasks += 1
        problems += "problem" in result
        for figure in figures:
            sums[figure] += result[figure]
        digest.update(f"{result['sha256']} {name_of(result)}\n".encode())
    return Totals(tasks, sums, digest.hexdigest(), problems)
