"""`dq.aio.Sink`: a handle on a durable, shared cursor."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from typing import Any

from dq.aio.consumer import Consumer
from dq.aio.threads import in_thread
from dq.client.holdings import Holdings
from dq.client.place import Place
from dq.client.sink import Sink as SyncSink
from dq.client.stats import SinkStats

Start = str | datetime | timedelta


class Sink:
    """One sink; what `await broker.sink(...)` returns. See `dq.Sink`."""

    def __init__(self, broker: Place, made: SyncSink) -> None:
        self._broker, self._it = broker, made

    @property
    def name(self) -> str:
        """Of the sink."""
        return self._it.name

    async def stats(self) -> SinkStats:
        """Its figures and settings, as they are now. Raises UnknownSink: it was destroyed."""
        return await in_thread(self._it.stats)

    async def leases(self, *, stream: str | None = None, consumer: str | None = None, limit: int | None = None) -> Holdings:
        """Who holds what of it. See `dq.Sink.leases`."""
        return await in_thread(partial(self._it.leases, stream=stream, consumer=consumer, limit=limit))

    async def release(self, *ids: str, consumer: str | None = None) -> int:
        """Takes records back from who has them in hand. See `dq.Sink.release`."""
        return await in_thread(partial(self._it.release, *ids, consumer=consumer))

    def consumer(self, **options: Any) -> Consumer:
        """A consumer of it, over the streams that it has: `async with sink.consumer() as consumer`."""
        return Consumer(self._broker, sink=self.name, **options)

    async def seek(self, start: Start) -> None:
        """Moves it: it goes on from there. See `dq.Sink.seek`."""
        await in_thread(partial(self._it.seek, start))

    async def pause(self) -> None:
        """Hands out nothing more until `resume()`. See `dq.Sink.pause`."""
        await in_thread(self._it.pause)

    async def resume(self) -> None:
        """Hands out again. Safe twice."""
        await in_thread(self._it.resume)

    async def add_stream(self, name: str, *, start: Start | None = None, create: bool = True) -> None:
        """Puts it over one more stream. See `dq.Sink.add_stream`."""
        await in_thread(partial(self._it.add_stream, name, start=start, create=create))

    async def remove_stream(self, name: str, *, destroy: bool = False) -> None:
        """Takes it off a stream. See `dq.Sink.remove_stream`."""
        await in_thread(partial(self._it.remove_stream, name, destroy=destroy))

    async def destroy(self) -> None:
        """Deletes it, with all it knows. See `dq.Sink.destroy`."""
        await in_thread(self._it.destroy)

    def __repr__(self) -> str:
        return f"<aio {self._it!r}>"
