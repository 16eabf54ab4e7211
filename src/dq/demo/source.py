"""What the demonstration works on: the files of a directory, or the lines of a file or of standard input."""

from __future__ import annotations

import asyncio
import os
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiofiles

from dq.demo.examine import FILE_FIGURES, LINE_FIGURES, name_of
from dq.demo.failed import DemoFailed

LINES_MAX = 200_000
"""Each line waits for two receipts, so these take a minute or two already; and all results are held in memory."""
_BLOCK_BYTES = 1 << 20
_NOT_LIBRARY = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages"})


@dataclass(frozen=True, slots=True)
class Work:
    """All tasks of a run.

    Attributes:
        title: where they come from, for the page.
        unit: what one of them is, in the plural.
        payloads: what is published.
        figures: what is counted in each.
        base: the directory that paths are shown relative to.
        left_out: files whose names JSON cannot carry.
    """

    title: str
    unit: str
    payloads: list[dict[str, Any]] = field(repr=False)
    figures: tuple[str, ...]
    base: str = ""
    left_out: int = 0

    def short(self, name: str) -> str:
        """A name as the page shows it."""
        return os.path.relpath(name, self.base) if self.base and os.path.isabs(name) else name

    def names(self) -> list[str]:
        """The names of all tasks."""
        return [name_of(payload) for payload in self.payloads]


def find_work(source: str | None) -> Work:
    """Finds what there is to do.

    Args:
        source: a directory, a file, "-" for standard input, or None for the standard library of the running Python.

    Raises:
        DemoFailed: there is nothing in it, or too much.
        OSError: it cannot be read.
    """
    if source is None:
        base = sysconfig.get_path("stdlib")
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        return _files(base, f"Python {version}'s standard library", _NOT_LIBRARY)
    if source == "-":
        if sys.stdin is None:
            raise DemoFailed("standard input is closed: give a file or a directory with --input")
        # Read plainly: a thread that sits in a read from a terminal would keep Ctrl-C waiting for the next line.
        return _lines(sys.stdin.buffer.read(), "standard input")
    if os.path.isdir(source):
        return _files(os.path.abspath(source), source, frozenset())
    return _lines(asyncio.run(_content_of(source)), source)


def _files(base: str, title: str, left_out: frozenset[str]) -> Work:
    payloads: list[dict[str, Any]] = []
    unnameable = 0
    for path in _python_files(base, left_out):
        if path.isascii() or path.encode(errors="replace").decode() == path:
            payloads.append({"path": path, "size": os.path.getsize(path)})
        else:
            unnameable += 1
    if not payloads:
        raise DemoFailed(f"there are no .py files in {base}: give another directory, or a file of lines, with --input")
    return Work(title, "files", payloads, FILE_FIGURES, base, unnameable)


def _python_files(base: str, left_out: frozenset[str]) -> Iterator[str]:
    """The .py files below a directory, in order; hidden directories, as .git and .venv, are left out."""
    for directory, below, names in os.walk(base):
        below[:] = sorted(name for name in below if name not in left_out and not name.startswith("."))
        for name in sorted(names):
            path = os.path.join(directory, name)
            if name.endswith(".py") and os.path.isfile(path):
                yield path


def _lines(content: bytes, title: str) -> Work:
    lines = content.decode(errors="replace").split("\n")
    if not lines[-1]:
        lines.pop()
    if not lines:
        raise DemoFailed(f"{title} has no lines: there is nothing to do")
    if len(lines) > LINES_MAX:
        raise DemoFailed(f"{title} has {len(lines):,} lines: this demonstration takes {LINES_MAX:,}, try it with `head`")
    payloads: list[dict[str, Any]] = [{"line": number, "text": text} for number, text in enumerate(lines, 1)]
    return Work(title, "lines", payloads, LINE_FIGURES)


async def _content_of(path: str) -> bytes:
    content = bytearray()
    async with aiofiles.open(path, "rb") as file:
        while block := await file.read(_BLOCK_BYTES):
            content += block
    return bytes(content)


def default_data() -> Path:
    """Where a run keeps its log when it is not told: below the current directory."""
    return Path("queue_data") / "demo"
