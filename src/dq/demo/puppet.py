"""A consumer in a process of its own that does one thing at a time, as it is told; so that it can be killed in between."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from dq.client.consumer import Consumer
from dq.client.task import Task
from dq.demo.failed import DemoFailed

STREAM, SINK = "orders", "kitchen"
_ANSWER_SECONDS = 30.0


class Puppet:
    """The consumer as the stage sees it.

    Args:
        root: the data directory.
    """

    def __init__(self, root: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_play, args=(os.fspath(root), theirs), daemon=True)
        self._process.start()
        theirs.close()

    def tell(self, order: str) -> None:
        """Has it do something, and returns once that is done.

        Raises:
            DemoFailed: it ended, or did not do it.
        """
        try:
            self._pipe.send(order)
            if not self._pipe.poll(_ANSWER_SECONDS):
                raise DemoFailed(f"the consumer did not {order} within {_ANSWER_SECONDS:g} s")
            answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise DemoFailed(f"the consumer ended before it could {order}") from error
        if answer:
            raise DemoFailed(f"the consumer could not {order}: {answer}")

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        self._process.join()

    def close(self) -> None:
        """Ends it, however it is; safe twice."""
        self.kill()
        self._pipe.close()


def _play(root: str, pipe: Connection) -> None:
    """The process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the stage: it ends this process
    scene = _Scene(root)
    orders: dict[str, Callable[[], object]] = {
        "join": scene.join,
        "take": scene.take,
        "ack": scene.ack,
        "retry": scene.retry,
        "dead-letter": scene.dead_letter,
    }
    with contextlib.suppress(EOFError, OSError):
        while True:
            act = orders[pipe.recv()]
            try:
                act()
            except Exception as error:
                pipe.send(f"{type(error).__name__}: {error}")
            else:
                pipe.send("")
    os._exit(0)


class _Scene:
    """What there is in that process."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._consumer: Consumer | None = None
        self._tasks: Iterator[Task] = iter(())
        self._task: Task | None = None

    def join(self) -> None:
        self._consumer = Consumer(self._root, STREAM, sink=SINK, prefetch=1)
        self._tasks = iter(self._consumer)

    def take(self) -> None:
        self._task = next(self._tasks)

    def ack(self) -> None:
        if self._task is not None:
            self._task.ack(wait=True)

    def retry(self) -> None:
        if self._task is not None:
            self._task.retry(after=0, error="out of milk")
            self._flush()

    def dead_letter(self) -> None:
        if self._task is not None:
            self._task.dead_letter("nobody can make this")
            self._flush()

    def _flush(self) -> None:
        if self._consumer is not None:
            self._consumer.flush()
