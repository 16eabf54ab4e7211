"""Starting a manager's process, always as a fresh interpreter: a script that does so needs no `__main__` guard."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson

from dq.config import LIMITS
from dq.errors import BrokerError, by_name

_PROGRAM = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from dq.broker.entry import main; main(sys.argv[2])"


def start_attached(root: Path, log_level: int | None = None, log_format: str | None = None) -> subprocess.Popen[bytes]:
    """Starts a manager that leaves with this process. Its standard input is the lifeline: keep the Popen object.

    Raises:
        BrokerRunning: somebody serves the directory already.
        DqError: what else it says.
    """
    return _start(
        root,
        {"log_level": log_level, "log_format": log_format, "stays": True, "linger": None, "lifeline": True},
        subprocess.PIPE,
    )


def start_detached(root: Path, log_level: int | None = None, linger: float | None = None, log_format: str | None = None) -> int:
    """Starts a manager that leaves `linger` seconds (None: as the settings say) after its last client; returns its pid.

    Raises:
        BrokerRunning: somebody serves the directory already.
        DqError: what else it says.
    """
    wish = {"log_level": log_level, "log_format": log_format, "stays": False, "linger": linger, "lifeline": False}
    process = _start(root, wish, subprocess.DEVNULL)
    process.returncode = 0  # it is nobody's child in the sense of Popen: it is not waited for, and not warned about
    return process.pid


def _start(root: Path, wish: dict[str, Any], stdin: int) -> subprocess.Popen[bytes]:
    options = orjson.dumps({"root": str(root), **wish}).decode()
    path = json.dumps(sys.path)  # which may have a directory in it whose name is not UTF-8
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, path, options],
        stdin=stdin,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for the script: it decides when its broker stops
    )
    try:
        _await_ready(process, root)
    except BaseException:
        if process.stdin is not None:
            process.stdin.close()  # the lifeline: one that is still starting leaves too
        try:
            process.wait(LIMITS.stop_seconds)  # it ends by itself, once it has said why it cannot start
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        raise
    return process


def _await_ready(process: subprocess.Popen[bytes], root: Path) -> None:
    output = process.stdout
    if output is None:
        raise RuntimeError("the manager's output is not a pipe")
    poll = select.poll()
    poll.register(output, select.POLLIN | select.POLLHUP)
    if not poll.poll(LIMITS.start_seconds * 1000):
        raise BrokerError(f"the broker of {root} was not ready within {LIMITS.start_seconds:g} s: is its log very large?")
    line = output.readline()
    output.close()
    if not line:
        raise BrokerError(f"the broker of {root} ended before it was ready: see its messages above")
    said = orjson.loads(line)
    if "error" in said:
        raise by_name(said["error"], said["message"], otherwise=BrokerError)
