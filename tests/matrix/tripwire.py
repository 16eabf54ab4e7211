"""Kills a running process at a chosen system call, or makes the call slow: strace is attached to it from outside."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stage import alive, until

WRITES, FLUSHES, SENDS, UNLINKS = "pwritev,pwritev2,pwrite64", "fdatasync", "sendmsg", "unlink,unlinkat"
SPAWNS = "vfork,fork"


def need_strace() -> str:
    """The path of strace. Without it the test is skipped, but never under CI=true."""
    found = shutil.which("strace")
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("strace is not installed")
        pytest.skip("strace is not installed: it kills a broker at a chosen system call")
    return found


def inject(calls: str, *what: str) -> list[str]:
    """Options of strace: at these system calls do that, as "signal=KILL", "when=2"."""
    return ["-e", f"trace={calls}", "-e", f"inject={calls}:{':'.join(what)}"]


def _is_traced(pid: int) -> bool:
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if "TracerPid:\t0\n" in Path(f"/proc/{pid}/task/{task}/status").read_text():
                return False
    return True


@contextlib.contextmanager
def attached(pid: int, *options: str) -> Iterator[None]:
    """strace is attached to all threads of a process; it lets go at the end, if the process is still there."""
    command = [need_strace(), "-f", "-qq", "-o", os.devnull, *options, "-p", str(pid)]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        until(lambda: tracer.poll() is not None or _is_traced(pid), what="strace is attached")
        assert tracer.poll() is None, tracer.stderr.read().decode()
        yield
    finally:
        if alive(pid):
            tracer.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            tracer.wait(1)
        tracer.kill()  # who it traces is let go by that too
        tracer.wait()
        tracer.stderr.close()


@contextlib.contextmanager
def killed_at(pid: int, calls: str, when: int = 1) -> Iterator[None]:
    """The process is killed with -9 as it enters the Nth of these calls, which is not carried out. Fails if it survives."""
    with attached(pid, *inject(calls, "signal=KILL", f"when={when}")):
        yield
        until(lambda: not alive(pid), what=f"it is killed at call {when} of {calls}")


@contextlib.contextmanager
def slowed(pid: int, calls: str, seconds: float) -> Iterator[None]:
    """Each of these calls begins so much later."""
    with attached(pid, *inject(calls, f"delay_enter={int(seconds * 1e6)}")):
        yield
