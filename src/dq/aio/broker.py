"""`dq.aio.Broker`, `BrokerManager` and `connect`: the handles on a broker."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dq.aio.dead_letters import DeadLetters
from dq.aio.face import Face
from dq.aio.listener import Listener
from dq.aio.reader import Reader
from dq.aio.sink import Sink
from dq.aio.stream import Stream
from dq.aio.threads import in_thread
from dq.client.attach import connect as sync_connect
from dq.client.broker import Broker as SyncBroker
from dq.client.holdings import Holdings
from dq.client.manager import BrokerManager as SyncBrokerManager
from dq.client.metrics import Snapshot
from dq.client.place import root_of
from dq.config import LIMITS
from dq.model.receipt import Receipt
from dq.model.signal import BroadcastResult

if TYPE_CHECKING:
    from dq.history import History, StreamThen


class Broker(Face[SyncBroker]):
    """A handle on a running broker; what `connect` returns. Used by `async with`.

    Attributes:
        root: the data directory.
    """

    root: Path

    @property
    def sync(self) -> SyncBroker:
        """The handle of `dq` that it is made of."""
        return self._it

    async def publish(
        self,
        stream: str,
        payload: Any,
        *,
        key: str | None = None,
        topic: str | None = None,
        name: str = "",
        headers: Mapping[str, str] | None = None,
        delay: float | timedelta | datetime | None = None,
        once: str | None = None,
        priority: int = 0,
        expires: float | timedelta | datetime | None = None,
        timeout: float | None = None,
    ) -> Receipt:
        """Publishes one record to a stream and returns once it is committed. For many a `Publisher` is faster."""
        options: dict[str, Any] = {
            "key": key, "topic": topic, "name": name, "headers": headers, "delay": delay, "once": once, "priority": priority,
            "expires": expires, "timeout": timeout,
        }  # fmt: skip
        return await in_thread(partial(self._it.publish, stream, payload, **options))

    async def stream(self, name: str, **settings: Any) -> Stream:
        """Makes a stream, or finds it; see `dq.Broker.stream`."""
        return Stream(await in_thread(partial(self._it.stream, name, **settings)))

    async def streams(self) -> list[str]:
        """The names of all streams, sorted."""
        return await in_thread(self._it.streams)

    async def sink(self, name: str, *streams: str, **settings: Any) -> Sink:
        """Makes a sink over streams, or finds it; see `dq.Broker.sink`."""
        return Sink(self, await in_thread(partial(self._it.sink, name, *streams, **settings)))

    def dlq(self, stream: str) -> DeadLetters:
        """The dead letters of a stream: to be looked at, replayed or discarded. Raises InvalidName."""
        return DeadLetters(self._it.dlq(stream))

    async def explain(self, record: str, *, sink: str | None = None) -> History:
        """The biography of a record, from the logs; see `dq.Broker.explain`."""
        return await in_thread(partial(self._it.explain, record, sink=sink))

    async def at(self, stream: str, when: datetime | timedelta | int | str, *, sink: str | None = None) -> StreamThen:
        """What a stream and its sinks looked like at a moment, from the logs; see `dq.Broker.at`."""
        return await in_thread(partial(self._it.at, stream, when, sink=sink))

    async def sinks(self) -> list[str]:
        """The names of all sinks, sorted."""
        return await in_thread(self._it.sinks)

    async def broadcast(
        self,
        channel: str,
        payload: Any,
        *,
        mode: Literal["forget", "all", "any", "best"] = "all",
        topic: str | None = None,
        timeout: float | timedelta = LIMITS.broadcast_timeout_seconds,
    ) -> BroadcastResult:
        """Tells something to whoever listens to a channel now; see `dq.Broker.broadcast`."""
        return await in_thread(partial(self._it.broadcast, channel, payload, mode=mode, topic=topic, timeout=timeout))

    def listen(self, *channels: str, topic: str | None = None, pattern: str | re.Pattern[str] | None = None) -> Listener:
        """A `Listener` to these channels: `async with broker.listen("news") as listener`."""
        return Listener(self, *channels, topic=topic, pattern=pattern)

    def reader(self, *streams: str, **options: Any) -> Reader:
        """A `Reader` of these streams: `async with broker.reader("orders") as reader`."""
        return Reader(self, *streams, **options)

    async def who(
        self, sink: str = "", *, stream: str | None = None, consumer: str | None = None, limit: int | None = None
    ) -> Holdings:
        """Who holds what; see `dq.Broker.who`."""
        return await in_thread(partial(self._it.who, sink, stream=stream, consumer=consumer, limit=limit))

    async def stats(self) -> dict[str, Any]:
        """Figures of the manager, both brokers, all streams and sinks, as one dict."""
        return await in_thread(self._it.stats)

    async def metrics(self) -> Snapshot:
        """As `Broker.metrics`."""
        return await in_thread(self._it.metrics)


class BrokerManager(Broker):
    """The broker of a data directory, started by this process, stopped at the end of `async with`; see `dq.BrokerManager`."""

    def __init__(self, path: str | os.PathLike[str] | None = None, *, log_level: int | None = None) -> None:
        self.root = root_of(path)
        super().__init__(partial(SyncBrokerManager, self.root, log_level=log_level))

    async def stop(self, timeout: float = LIMITS.stop_seconds) -> None:
        """Stops it in order; safe twice. Nothing that was confirmed is lost by what is left after `timeout` seconds."""
        manager = self._it
        if isinstance(manager, SyncBrokerManager):
            await in_thread(partial(manager.stop, timeout))


class _Attached(Broker):
    def __init__(self, path: str | os.PathLike[str] | None, start: bool, log_level: int | None) -> None:
        self.root = root_of(path)
        super().__init__(partial(sync_connect, self.root, start=start, log_level=log_level))


def connect(path: str | os.PathLike[str] | None = None, *, start: bool = False, log_level: int | None = None) -> Broker:
    """Attaches to the broker that serves a data directory: `async with connect("queue_data") as broker`; see `dq.connect`."""
    return _Attached(path, start, log_level)
