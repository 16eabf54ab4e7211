"""Runs the program as people do, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = (sys.executable, "-m", "dq.main")
ROOT = Path(__file__).parents[2]
FEW = ("--publishers", "3", "--consumers", "2")
PLAIN = {**os.environ, "NO_COLOR": "1", "COLUMNS": "80"}


def run(*arguments: object, stdin: str = "", seconds: float = 90) -> subprocess.CompletedProcess[str]:
    """Runs it to its end."""
    command = [*PROGRAM, *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, cwd=ROOT, env=PLAIN, timeout=seconds)


def start(*arguments: object) -> subprocess.Popen[str]:
    """Starts it, in a process group of its own."""
    command = [*PROGRAM, *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=PLAIN, start_new_session=True
    )
