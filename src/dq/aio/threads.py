"""Waiting in a thread for what blocks, so that the loop does not.

asyncio's own pool has a handful of threads, and a program may wait for hundreds of things at once; and it is joined at the end
of the program, where a wait that nobody needs any more would hold it up. So these threads are daemons, as many as are needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

from dq import tracing
from dq.client.quitting import Request, heed

T = TypeVar("T")
Job = Callable[[], None]
_IDLE_SECONDS = 10.0


class _Pool:
    """Threads that do one job after the other, and leave when there is none for a while."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[queue.SimpleQueue[Job]] = []

    def start(self, job: Job) -> None:
        """Does a job in a thread."""
        with self._lock:
            inbox = self._idle.pop() if self._idle else None
        if inbox is None:
            inbox = queue.SimpleQueue()
            threading.Thread(target=self._work, args=(inbox,), daemon=True, name="dq-aio").start()
        inbox.put(job)

    def _work(self, inbox: queue.SimpleQueue[Job]) -> None:
        while True:
            try:
                job = inbox.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                with self._lock:
                    if inbox not in self._idle:
                        continue  # it was given a job at this very moment
                    self._idle.remove(inbox)
                return
            job()
            del job  # what it held is not to live until the next one comes
            with self._lock:
                self._idle.append(inbox)


_POOL = _Pool()


def _forget_threads() -> None:
    """In a forked child: the threads are the parent's."""
    _POOL.__init__()  # type: ignore[misc]


os.register_at_fork(after_in_child=_forget_threads)


class _Call:
    """One function in a thread, and the future that brings back what it returned."""

    def __init__(self, function: Callable[[], Any], late: Callable[[Any], object] | None) -> None:
        self._function, self._late = function, late
        self.quit = Request()
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._abandoned = False
        self.outcome: asyncio.Future[Any] = self._loop.create_future()

    def run(self) -> None:
        heed(self.quit)
        try:
            value = self._function()
        except BaseException as error:
            self._tell(None, error)
            return
        finally:
            heed(None)
        with self._lock:
            abandoned = self._abandoned
            if not abandoned:
                self._tell(value, None)
        if abandoned and self._late is not None:
            self._late(value)

    def _tell(self, value: Any, error: BaseException | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._settle, value, error)

    def _settle(self, value: Any, error: BaseException | None) -> None:
        if self.outcome.done():
            return
        if error is not None:
            self.outcome.set_exception(error)
            self.outcome.exception()  # whoever was cancelled does not ask for it
        else:
            self.outcome.set_result(value)

    def abandon(self) -> None:
        """Nobody waits for it: what it returns goes to `late`. What it has returned already does so now."""
        with self._lock:
            self._abandoned = True


async def in_thread(
    function: Callable[[], T],
    *,
    wake: Callable[[], object] | None = None,
    late: Callable[[T], object] | None = None,
) -> T:
    """Calls a function that may block in a thread, and waits for it.

    Args:
        wake: has it look at once whether it is asked to quit, see `dq.client.quitting`: called when the one who waits is
            cancelled, who then waits for its end. Without it nobody waits for the function, which looks when it comes to it.
        late: gets what it returned though the one who waits was cancelled, so that it can be put back or closed.
    """
    call = _Call(function, late)
    # Where spans are made, the current one goes along.
    _POOL.start(call.run if tracing.tracer is None else partial(copy_context().run, call.run))
    try:
        return await asyncio.shield(call.outcome)
    except asyncio.CancelledError:
        call.quit.made = True
        if wake is None:
            _abandon(call, late)
            raise
        wake()
        await _end_of(call.outcome)
        if late is not None and call.outcome.exception() is None:
            late(call.outcome.result())
        raise


def _abandon(call: _Call, late: Callable[[Any], object] | None) -> None:
    if late is not None:
        call.outcome.add_done_callback(  # it may have been told before it was abandoned
            lambda outcome: None if outcome.exception() else _POOL.start(lambda: _ignore(late(outcome.result())))
        )
    call.abandon()


def _ignore(_: object) -> None:
    """A job returns nothing."""


async def _end_of(outcome: asyncio.Future[Any]) -> None:
    """Waits for it however often the one who waits is cancelled: it is about to end."""
    while not outcome.done():
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await asyncio.shield(outcome)


def detached(function: Callable[[], object]) -> None:
    """Has a function called in a thread, and waits for nothing."""
    _POOL.start(lambda: _ignore(function()))
