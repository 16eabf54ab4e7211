"""An app for `dq work`: what its handlers do is told by the payload, and noted in a file."""

from __future__ import annotations

import os
import resource
import time

from dq import App, AppConfig, Task

STREAMS = os.environ.get("DQ_TEST_STREAMS", "")  # what the names of the streams begin with
app = App(config=AppConfig(drain_seconds=5, handler_max_attempts=int(os.environ.get("DQ_TEST_ATTEMPTS", "5"))))
nothing_in_it = App()
not_an_app = 1
MIB = 1 << 20


def note(word: str, job: dict, task: Task) -> None:
    with open(job["file"], "ab", buffering=0) as out:
        out.write(f"{word} {job['how']} {job['n']} {task.attempt} {os.getpid()}\n".encode())


def act(job: dict, task: Task) -> None:
    note("begun", job, task)
    match job["how"]:
        case "exit":
            os._exit(9)
        case "memory":
            resource.setrlimit(resource.RLIMIT_AS, (768 * MIB, resource.RLIM_INFINITY))
            bytearray(2048 * MIB)
        case "raise":
            raise ValueError("as asked for")
        case "sleep":
            time.sleep(job.get("seconds", 0.02))
    note("done", job, task)


@app.handler(f"{STREAMS}threads")
def in_threads(job: dict, task: Task) -> None:
    act(job, task)


@app.handler(f"{STREAMS}workers", processes=1, timeout=5)
def in_processes(job: dict, task: Task) -> None:
    act(job, task)
