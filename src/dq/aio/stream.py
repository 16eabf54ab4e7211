"""`dq.aio.Stream` and `Topic`: a stream as a thing that one holds in the hand."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from dq.aio.threads import in_thread
from dq.client.stream import Stream as SyncStream
from dq.client.stream import StreamStats
from dq.client.stream import Topic as SyncTopic
from dq.model.settings import StreamSettings


class Stream:
    """A stream of one broker; what `await broker.stream(...)` returns. See `dq.Stream`."""

    def __init__(self, made: SyncStream) -> None:
        self._it = made

    @property
    def name(self) -> str:
        """Of the stream."""
        return self._it.name

    @property
    def settings(self) -> StreamSettings:
        """Those it has."""
        return self._it.settings

    @property
    def buckets(self) -> int:
        """As `dq.Stream.buckets`."""
        return self._it.buckets

    async def add(
        self,
        name: str,
        payload: Any,
        topic: str | None = None,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        delay: float | timedelta | datetime | None = None,
        once: str | None = None,
        priority: int = 0,
        expires: float | timedelta | datetime | None = None,
        only_if_exists: bool = False,
        timeout: float | None = None,
    ) -> str | None:
        """Adds one record and returns its id once it is committed; see `dq.Stream.add`."""
        options: dict[str, Any] = {
            "key": key, "headers": headers, "delay": delay, "once": once, "priority": priority, "expires": expires,
            "only_if_exists": only_if_exists, "timeout": timeout,
        }  # fmt: skip
        return await in_thread(partial(self._it.add, name, payload, topic, **options))

    def topic(self, topic: str) -> Topic:
        """The same stream, for records of one topic. Raises InvalidName."""
        return Topic(self, self._it.topic(topic))

    async def trim(self, before: str | datetime | timedelta | None = None, *, max_records: int | None = None) -> int:
        """Gives up the oldest records, for good; returns how many. See `dq.Stream.trim`."""
        return await in_thread(partial(self._it.trim, before, max_records=max_records))

    async def remove(self, *ids: str) -> int:
        """Takes single records out, for good; returns how many were there. See `dq.Stream.remove`."""
        return await in_thread(partial(self._it.remove, *ids))

    async def sync(self) -> None:
        """Returns once all that is stored is flushed. See `dq.Stream.sync`."""
        await in_thread(self._it.sync)

    async def destroy(self) -> None:
        """Deletes the stream and all its records, for good. See `dq.Stream.destroy`."""
        await in_thread(self._it.destroy)

    async def stats(self) -> StreamStats:
        """What there is of it now. Raises UnknownStream: it is gone."""
        return await in_thread(self._it.stats)

    def __repr__(self) -> str:
        return f"<aio {self._it!r}>"


class Topic:
    """A stream, for records of one topic; what `stream.topic(...)` returns.

    Attributes:
        stream: the stream.
    """

    def __init__(self, stream: Stream, made: SyncTopic) -> None:
        self.stream, self._it = stream, made

    @property
    def name(self) -> str:
        """The topic."""
        return self._it.name

    async def add(
        self,
        name: str,
        payload: Any,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        delay: float | timedelta | datetime | None = None,
        once: str | None = None,
        priority: int = 0,
        expires: float | timedelta | datetime | None = None,
        only_if_exists: bool = False,
        timeout: float | None = None,
    ) -> str | None:
        """As `Stream.add`, with this topic."""
        options: dict[str, Any] = {
            "key": key, "headers": headers, "delay": delay, "once": once, "priority": priority, "expires": expires,
            "only_if_exists": only_if_exists, "timeout": timeout,
        }  # fmt: skip
        return await self.stream.add(name, payload, self.name, **options)

    def __repr__(self) -> str:
        return f"<aio {self._it!r}>"
