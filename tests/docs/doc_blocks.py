"""The code blocks of the pages, and what runs them as a reader would."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

from dq.cli.commands import run

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]
_BLOCK = re.compile(r"^( *)```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^\1```$", re.M | re.S)
# A reader has `uv run`; the tests have the environment already.
_SHELL = """set -eu
uv() { shift; "$@"; }
"""


class Block(NamedTuple):
    """A code block: its language, its title or "", its text."""

    language: str
    title: str
    text: str


def blocks_of(page: Path) -> list[Block]:
    """All code blocks of a page, in order."""
    return [Block(language, title, dedent(text)) for _, language, title, text in _BLOCK.findall(page.read_text())]


def run_shell(script: str, directory: Path) -> str:
    """Runs lines of a shell in a directory; what they print. A failing line fails the test."""
    environment = {name: value for name, value in os.environ.items() if name != "DQ_DIR"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    # Into a file: a broker that stays for a while has the standard error of who started it, and a pipe would end with it only.
    with (directory / "shell.output").open("w+") as output:
        command = ["bash", "-c", _SHELL + script]
        done = subprocess.run(command, cwd=directory, stdout=output, stderr=output, timeout=60, env=environment, check=False)
        output.seek(0)
        said = output.read()
    assert done.returncode == 0, f"{script}\n{said}"
    return said


def run_line(line: str) -> tuple[int, str]:
    """Runs a line with `dq` in this process, the rest of its pipe by a shell: the exit code, and what is printed."""
    before, piped, line = (
        line.rpartition(" | dq ") if " | dq " in line else ("", "", line.removeprefix("uv run ").removeprefix("dq "))
    )
    command, _, after = line.partition(" | ")
    given, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO(run_shell(before, Path.cwd()).encode() if piped else b""))
    try:
        with contextlib.redirect_stdout(io.StringIO()) as said:
            code = run(shlex.split(command, comments=True), "dq")
    finally:
        sys.stdin = given
    Path("said").write_text(said.getvalue())
    return code, run_shell(f"{after} < said", Path.cwd()) if after else said.getvalue()
