"""An example as its directory has it: the program, the program with the changed line, and what the page says of both."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
RUN_SECONDS = 60
OTHERS = {"DQ_DIR", "PYTHONUNBUFFERED"}  # unbuffered, a printed line is written in pieces, between those of others
Lines = list[str]


class Lesson:
    """One `examples/NN_pattern/`: `README.md`, `main.py`, `check.py`."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.name = directory, directory.name
        self.program = (directory / "main.py").read_text()
        self.page = (directory / "README.md").read_text()

    def __repr__(self) -> str:
        return self.name

    # --- the page --------------------------------------------------------------------------------------------------
    def section(self, title: str) -> str:
        """The text below a heading; "" is what stands before the first."""
        parts = re.split(r"^## (.*)\n", self.page, flags=re.M)
        return dict(zip(["", *parts[1::2]], parts[0::2], strict=True))[title]

    def shown(self, title: str) -> str | None:
        """The output that a section shows, where it is always the same."""
        found = re.search(r"```text\n(.*?)```", self.section(title), re.S)
        return found and found[1]

    @cached_property
    def change(self) -> tuple[str, str]:
        """The line that is changed, and what it becomes."""
        [diff] = re.findall(r"```diff\n(.*?)```", self.section("Break it"), re.S)
        old, new = diff.splitlines()
        assert (old[0], new[0]) == ("-", "+"), f"{self.name}: the change of one line is a line out and a line in"
        return old[1:], new[1:]

    # --- the programs ------------------------------------------------------------------------------------------------
    @property
    def code_lines(self) -> Lines:
        """The lines of the program, without its docstring and what is empty."""
        docstring = ast.parse(self.program).body[0].end_lineno
        return [line for line in self.program.splitlines()[docstring:] if line.strip()]

    @property
    def broken_program(self) -> str:
        old, new = self.change
        lines = self.program.split("\n")
        assert lines.count(old) == 1, f"{self.name}: the line to change is not once in main.py: {old}"
        return "\n".join(new if line == old else line for line in lines)

    @cached_property
    def check(self) -> Any:
        """The module `check.py`: `as_it_is(lines)`, `broken(lines)`, and `AFTERWARDS` if mended and run again."""
        spec = importlib.util.spec_from_file_location(f"check_{self.name}", self.directory / "check.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def play(self, place: Path) -> Played:
        """Runs the program, and the broken one, in `place`."""
        for act in ("as it is", "broken"):
            copied = place / act / "examples" / self.name
            shutil.copytree(self.directory, copied, ignore=shutil.ignore_patterns("__pycache__"))
            (place / act / "queue_data" / "examples").mkdir(parents=True)
        main = Path("examples") / self.name / "main.py"
        as_it_is = run(main, place / "as it is")
        (place / "broken" / main).write_text(self.broken_program)
        broken = [run(main, place / "broken")]
        if getattr(self.check, "AFTERWARDS", False):
            (place / "broken" / main).write_text(self.program)
            broken.append(run(main, place / "broken"))
        return Played(as_it_is, broken)


def seen(done: subprocess.CompletedProcess[str]) -> str:
    """What somebody sees who runs it: what it printed and, where it ended by an exception, what that said."""
    said = done.stderr.splitlines(keepends=True)[-1:] if done.returncode > 0 else []
    return "".join([done.stdout, *said])


class Played:
    """What came of a lesson: the run as it is, and those of the broken one."""

    def __init__(self, as_it_is: subprocess.CompletedProcess[str], broken: list[subprocess.CompletedProcess[str]]) -> None:
        self.as_it_is, self.broken = as_it_is, broken


def run(main: Path, place: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in OTHERS}
    return subprocess.run(
        [sys.executable, str(main)],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )


def fits(shown: str) -> Callable[[str], bool]:
    """Whether an output is the one that is shown, in which `…` stands for anything within its line."""
    return re.compile(r"[^\n]*".join(map(re.escape, shown.split("…")))).fullmatch


LESSONS = [Lesson(path.parent) for path in sorted(EXAMPLES.glob("*/main.py"))]
