"""Waiting on many at once: one loop, handlers for what is ready, and a wake-up for other threads."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from dq.config import LIMITS
from dq.transport.pipe import Broken, Pipe

Handler = Callable[[], None]
_READ, _WRITE = select.POLLIN, select.POLLOUT
# The kernel counts milliseconds in 32 bits. Who waits longer wakes once an hour, and waits again.
_WAIT_SECONDS_MAX = 3600.0
# What other threads ask for is done for so long in a turn; who waits at a pipe is not kept waiting by a long list of it.
_CALLS_SECONDS = 0.005


class _Poll:
    """`select.poll` with the face of `select.epoll`, for systems without it."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self.register, self.modify, self.unregister = self._poll.register, self._poll.modify, self._poll.unregister

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        return self._poll.poll(None if timeout is None else timeout * 1000.0)

    def close(self) -> None:
        """Nothing is held open."""


class Poller:
    """Calls a handler for each thing that is ready.

    `selectors` does the same for 4 us more a turn, a tenth of what a broker does for a record that comes alone.

    Attributes:
        scratch: the buffer that all pipes of this loop read into.
    """

    def __init__(self) -> None:
        self._poll: Any = select.epoll() if hasattr(select, "epoll") else _Poll()
        self._handlers: dict[int, tuple[Handler, Handler | None]] = {}
        self.scratch = memoryview(bytearray(LIMITS.pipe_bytes))
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        self._calls: deque[Handler] = deque()
        self.add(self._woken, self._run_calls)

    def add(self, thing: Any, handler: Handler) -> None:
        """Calls `handler` whenever `thing` (a socket, a pipe, a file descriptor) can be read."""
        descriptor = _descriptor(thing)
        self._poll.register(descriptor, _READ)
        self._handlers[descriptor] = (handler, None)

    def remove(self, thing: Any) -> None:
        """Forgets `thing`, which must not be closed yet; safe twice."""
        descriptor = _descriptor(thing)
        if self._handlers.pop(descriptor, None) is not None:
            with contextlib.suppress(OSError, KeyError):
                self._poll.unregister(descriptor)

    def watch_writes(self, pipe: Pipe, on_broken: Callable[[Pipe, Broken], None]) -> None:
        """Flushes `pipe` when it can be written, as long as something waits in it."""
        descriptor = pipe.fileno()
        read, write = self._handlers[descriptor]
        if write is not None or not pipe.waits_to_write:
            return

        def ready_to_write() -> None:
            try:
                pipe.flush()
            except Broken as broken:
                on_broken(pipe, broken)
                return
            if not pipe.waits_to_write:
                self._poll.modify(descriptor, _READ)
                self._handlers[descriptor] = (read, None)

        self._poll.modify(descriptor, _READ | _WRITE)
        self._handlers[descriptor] = (read, ready_to_write)

    def call(self, handler: Handler) -> None:
        """Has `handler` called in the loop's thread; safe from any thread and from signal handlers."""
        self._calls.append(handler)
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):
            self._waker.send(b"\0")

    def _run_calls(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._woken.recv(4096)
        until = time.monotonic() + _CALLS_SECONDS
        while self._calls:
            self._calls.popleft()()
            if self._calls and time.monotonic() >= until:
                self._wake()
                return

    def run_once(self, timeout: float | None) -> int:
        """Waits up to `timeout` seconds (None: for ever) and calls the handlers of what is ready; returns how many."""
        ready: list[tuple[int, int]] = self._poll.poll(None if timeout is None else min(timeout, _WAIT_SECONDS_MAX))
        for descriptor, mask in ready:
            handlers = self._handlers.get(descriptor)
            if handlers is None:
                continue  # a handler before this one has removed it
            read, write = handlers
            if mask & _WRITE and write is not None:
                write()
            if mask & ~_WRITE:
                read()  # also for an end or an error; a pipe that was closed a moment ago gives nothing
        return len(ready)

    def close(self) -> None:
        """Closes what the poller opened itself."""
        self._poll.close()
        self._woken.close()
        self._waker.close()


def _descriptor(thing: Any) -> int:
    return thing if isinstance(thing, int) else int(thing.fileno())
