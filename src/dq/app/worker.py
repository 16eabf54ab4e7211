"""The worker process of a handler: imports it, then runs one task after the other as they come through its pipe.

Handlers run in the main thread. Another one reads the pipe, so that the end of the app is seen while a handler runs: the worker
then ends at once, together with what it has started, since another process may have the task by now.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import orjson

from dq import operator_logs, tracing
from dq.app import application
from dq.app.handler import traced
from dq.app.importing import Origin, find, import_all
from dq.app.outcomes import TRACEBACK_CHARS_MAX, DeadLetter, verdict_of
from dq.app.worker_task import WorkerTask, sayable, verdict_fields
from dq.errors import NotImportable
from dq.model.told import frames_of, place_of

_PDEATHSIG = 1
_ORPHANED = 75


class _Link:
    """The pipe to the app."""

    def __init__(self, descriptor: int) -> None:
        self._connection = Connection(descriptor)
        self._saying = threading.Lock()
        self._frames: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True, name="dq-worker-pipe").start()

    def _read(self) -> None:
        while True:
            try:
                frame = self._connection.recv_bytes()
            except (EOFError, OSError):
                end_at_once()
            if frame == b"back":
                self._give_back()
            else:
                self._frames.put(None if frame == b"stop" else frame)

    def _give_back(self) -> None:
        """The task in hand takes long: those that were sent ahead are for others."""
        numbers = []
        with contextlib.suppress(queue.Empty):
            while (frame := self._frames.get_nowait()) is not None:
                numbers.append(orjson.loads(frame.partition(b"\n")[0])["n"])
            self._frames.put(None)
        self.say({"back": numbers})

    def next(self) -> bytes | None:
        """The next task; None: it is time to go."""
        return self._frames.get()

    def say(self, fields: dict[str, Any]) -> None:
        """Sends a line. From any thread."""
        line = orjson.dumps(fields)
        with self._saying:
            try:
                self._connection.send_bytes(line)
            except OSError:
                end_at_once()


def end_at_once() -> None:
    """The app is gone: this process and what it started go too."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(_ORPHANED)


def main(descriptor: int, options: str) -> None:
    """The life of a worker.

    Args:
        descriptor: its end of the pipe.
        options: JSON, as `worker_options` makes it.
    """
    # The app decides when a worker ends; a Ctrl-C, or a SIGTERM to all of a service's processes, is the app's to hear. With
    # functions, not SIG_IGN: what a handler starts would inherit that.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    _die_with_the_app()
    link = _Link(descriptor)
    wish = orjson.loads(options)
    sys.argv[:] = wish["argv"]
    application.WORKER_OF.append(wish["handler"])
    try:
        origin = Origin(tuple(wish["modules"]), wish["script"])
        import_all(origin)
        app, handler = find(list(application.MADE), wish["handler"], wish["sink"], wish["qualname"], origin)
        if wish["root"]:
            app.move(wish["root"])
    except NotImportable as error:
        link.say({"failed": sayable(str(error))})
        raise SystemExit(1) from error
    if wish["logs"] is not None:
        operator_logs.begin(f"handler {handler.name}", operator_logs.LogWish(*wish["logs"]))
    tracing.look()
    call = traced(handler)
    link.say({"ready": True})
    with asyncio.Runner() if handler.is_async else contextlib.nullcontext() as runner:
        while (frame := link.next()) is not None:
            task = WorkerTask(frame, link.say)
            link.say(_run(call, task, runner))


def _die_with_the_app() -> None:
    """The thread that reads the pipe cannot, while a handler holds the interpreter; the kernel can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PDEATHSIG, int(signal.SIGKILL))


def _run(call: Callable[[Any], Any], task: WorkerTask, runner: asyncio.Runner | None) -> dict[str, Any]:
    """What is said of a task once it was run."""
    try:
        result = call(task)
        if runner is not None and not isinstance(result, DeadLetter):
            result = runner.run(result)
    except BaseException as error:  # SystemExit too: a task does not end its worker
        lines = "".join(traceback.format_exception(error))
        said = f"{type(error).__name__}: {error}"
        for_log = {"place": place_of(error), "kind": sayable(type(error).__name__), "frames": sayable(frames_of(error))}
        lines = sayable(lines[-TRACEBACK_CHARS_MAX:])
        return {"n": task.number, "v": "failed", "error": sayable(said), "traceback": lines, **for_log}
    if task.outcome is not None:
        return {"n": task.number, "v": "Ack"}  # a verb has said it already
    return {"n": task.number, **verdict_fields(verdict_of(result))}
