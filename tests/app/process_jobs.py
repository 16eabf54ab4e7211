"""Apps whose handlers run in processes of their own: workers import this module as the tests do."""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

from dq import App, Task
from dq.app import AppConfig, Drop, Retry

CONFIG = AppConfig(handler_max_attempts=2)
MIB = 1 << 20
BROKEN = os.environ.get("DQ_TEST_BROKEN", "")
if BROKEN and Path(BROKEN).exists():
    os._exit(7)

hard = App(sink="hard", config=CONFIG)
verbs = App(sink="verbs", config=CONFIG)
mixed = App(sink="mixed", config=CONFIG)
slow = App(sink="slow", config=CONFIG)


def note(file: str, *words: object) -> None:
    """A line in a file, whole: several processes write it."""
    with open(file, "ab", buffering=0) as out:
        out.write(" ".join(map(str, words)).encode() + b"\n")


@hard.handler("hard", processes=2, timeout=0.3)
def work(job: dict, task: Task) -> None:
    note(job["file"], job.get("n", job.get("how")), task.attempt, os.getpid())
    match job.get("how"):
        case "exit":
            os._exit(3)
        case "segfault":
            ctypes.string_at(0)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "sleep":
            subprocess.Popen(["sleep", "61.25"])  # what it has started ends with it
            time.sleep(60)
        case "memory":
            resource.setrlimit(resource.RLIMIT_AS, (512 * MIB, resource.RLIM_INFINITY))
            bytearray(1024 * MIB)
        case "raise":
            raise ValueError("\udc80 not to be written")
        case "sys.exit":
            sys.exit(1)


@verbs.handler("verbs", processes=1)
async def choose(job: dict | bytes, task: Task) -> object:
    await asyncio.sleep(0)
    if isinstance(job, bytes):
        note(job.decode(), "bytes", task.id, task.topic, task.headers.get("a"), task.offset, type(task.created_at).__name__)
        return None
    note(job["file"], job["how"], task.attempt, task.last_error)
    match job["how"]:
        case "drop":
            return Drop()
        case "retry":
            return Retry(0, error="later") if task.attempt == 1 else None
        case "verb":
            task.extend(5, "half")
            task.dead_letter("by its verb")
            task.extend(1)
        case "nonsense":
            return 42
    return None


@slow.handler("slow", processes=1)
def wait(job: dict) -> None:
    note(job["file"], os.getpid())
    time.sleep(job["seconds"])
    note(job["file"], "done")


@mixed.handler("mixed", processes=2)
def mix(job: dict) -> None:
    time.sleep(job["seconds"])
    note(job["file"], job["n"])
