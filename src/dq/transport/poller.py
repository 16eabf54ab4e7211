"""Waiting on many at once: one selector, and a wake-up for other threads."""

from __future__ import annotations

import contextlib
import selectors
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from dq.config import LIMITS
from dq.transport.pipe import Broken, Pipe

Handler = Callable[[], None]


class Poller:
    """Calls a handler for each thing that is ready.

    Attributes:
        scratch: the buffer that all pipes of this loop read into.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self.scratch = memoryview(bytearray(LIMITS.pipe_bytes))
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        self._calls: deque[Handler] = deque()
        self.add(self._woken, self._run_calls)

    def add(self, thing: Any, handler: Handler) -> None:
        """Calls `handler` whenever `thing` (a socket, a pipe, a file descriptor) can be read."""
        self._selector.register(thing, selectors.EVENT_READ, (handler, None))

    def remove(self, thing: Any) -> None:
        """Forgets `thing`, which must not be closed yet; safe twice."""
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(thing)

    def watch_writes(self, pipe: Pipe, on_broken: Callable[[Pipe, Broken], None]) -> None:
        """Flushes `pipe` when it can be written, as long as something waits in it."""
        read, write = self._selector.get_key(pipe).data
        if write is not None or not pipe.waits_to_write:
            return

        def ready_to_write() -> None:
            try:
                pipe.flush()
            except Broken as broken:
                on_broken(pipe, broken)
                return
            if not pipe.waits_to_write:
                self._selector.modify(pipe, selectors.EVENT_READ, (read, None))

        self._selector.modify(pipe, selectors.EVENT_READ | selectors.EVENT_WRITE, (read, ready_to_write))

    def call(self, handler: Handler) -> None:
        """Has `handler` called in the loop's thread; safe from any thread and from signal handlers."""
        self._calls.append(handler)
        with contextlib.suppress(BlockingIOError, OSError):
            self._waker.send(b"\0")

    def _run_calls(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._woken.recv(4096)
        while self._calls:
            self._calls.popleft()()

    def run_once(self, timeout: float | None) -> int:
        """Waits up to `timeout` seconds (None: for ever) and calls the handlers of what is ready; returns how many."""
        ready = self._selector.select(timeout)
        for key, mask in ready:
            read, write = key.data
            if mask & selectors.EVENT_WRITE and write is not None:
                write()
            if mask & selectors.EVENT_READ:
                read()  # a pipe that was closed a moment ago gives nothing
        return len(ready)

    def close(self) -> None:
        """Closes what the poller opened itself."""
        self._selector.close()
        self._woken.close()
        self._waker.close()
