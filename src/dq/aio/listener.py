"""`dq.aio.Listener`: hears what is broadcast to channels while it is there."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from types import TracebackType

from dq.aio.face import Face
from dq.aio.threads import in_thread
from dq.client.listener import Listener as SyncListener
from dq.client.place import Place, root_of
from dq.model.signal import Signal


class Listener(Face[SyncListener]):
    """Listens to channels. Used by `async with`, in one coroutine at a time; its arguments are those of `dq.Listener`.

    A signal is *taken* when the loop asks for the next one, or the `async with` ends; it has *failed* when `fail` was
    called, or an exception left the `async with`.
    """

    def __init__(
        self,
        broker: Place,
        *channels: str,
        topic: str | None = None,
        pattern: str | re.Pattern[str] | None = None,
        reconnect_timeout: float | timedelta | None = None,
    ) -> None:
        make = partial(SyncListener, root_of(broker), *channels, topic=topic, pattern=pattern)
        super().__init__(partial(make, reconnect_timeout=reconnect_timeout))
        self.channels = channels
        self._heard: deque[Signal] = deque()  # by a coroutine that was cancelled

    async def __aiter__(self) -> AsyncIterator[Signal]:
        """The signals, as they come, until `stop()`. Raises ListenerDropped, BrokerLost."""
        while (signal := await self._next(partial(self._it.hear, None))) is not None:
            yield signal

    async def get(self, timeout: float | timedelta = 0.0) -> Signal | None:
        """The next signal, which counts as taken; None when none came within `timeout` seconds. Raises as the iteration."""
        return await self._next(partial(self._it.get, timeout))

    async def _next(self, hear: partial[Signal | None]) -> Signal | None:
        if self._heard:
            return self._heard.popleft()
        return await in_thread(hear, wake=self._wake, late=self._keep)

    def _keep(self, signal: Signal | None) -> None:
        if signal is not None:
            self._heard.append(signal)

    async def fail(self, reason: str) -> None:
        """The signal at hand could not be dealt with: its teller learns so. Three in a row, and this listener is dropped."""
        await in_thread(partial(self._it.fail, reason))

    def stop(self) -> None:
        """Ends the iteration after the signal at hand; safe from other threads and from signal handlers."""
        self._it.stop()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await in_thread(partial(self._it.__exit__, kind, error, traceback))
