"""`dq.aio.Reader`: records in hand are given out without a thread; only to wait for more, and to read them, takes one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from dq.aio.face import Face
from dq.aio.threads import in_thread
from dq.client.bucket_cursor import Lines
from dq.client.place import Place, root_of
from dq.client.reader import Reader as SyncReader
from dq.model.record import Record

StartAt = str | datetime | timedelta


class Reader(Face[SyncReader]):
    """Reads one or more streams. Used by `async with`; its arguments are those of `dq.Reader`.

    What is cancelled has read nothing: the next `get`, or the next `async for`, begins where it began.
    """

    def __init__(self, broker: Place, *streams: str, **options: Any) -> None:
        super().__init__(partial(SyncReader, root_of(broker), *streams, **options))

    async def get(self, limit: int = 1000, timeout: float | timedelta | None = 0.0) -> list[Record]:
        """The next records, of all buckets in turn; see `dq.Reader.get`."""
        reader = self._it
        return await in_thread(partial(reader.get, limit, timeout), wake=reader.wake, late=reader.give_back)

    async def lines(self, limit: int = 1000, timeout: float | timedelta | None = 0.0) -> list[Lines]:
        """As `get`, as the lines of JSON that stand in the log, in runs; see `dq.Reader.lines`."""
        reader = self._it
        before = reader.position

        def late(_: list[Lines]) -> None:
            reader.seek(before)

        return await in_thread(partial(reader.lines, limit, timeout), wake=reader.wake, late=late)

    async def __aiter__(self) -> AsyncIterator[Record]:
        """The records, as they come; with `follow=False` up to the end there is when it gets there. Raises as `get`."""
        reader = self._it
        more = True
        while more:
            for record in reader.in_hand():
                yield record
            more = await in_thread(reader.read_ahead, wake=reader.wake)

    @property
    def position(self) -> str:
        """Where it stands, after what was handed out: a text that `start=` and `seek` take, also in another process."""
        return self._it.position

    @property
    def missed(self) -> int:
        """Records that were gone before it came to them."""
        return self._it.missed

    @property
    def lost(self) -> int:
        """Records that it had read, and that streams lost since, as their durability allows."""
        return self._it.lost

    @property
    def streams(self) -> tuple[str, ...]:
        """What it reads."""
        return self._it.streams

    async def seek(self, start: StartAt) -> None:
        """Goes on at another place; see `dq.Reader.seek`."""
        await in_thread(partial(self._it.seek, start))

    async def reset(self) -> None:
        """Goes back to the place where it began."""
        await in_thread(self._it.reset)

    async def add_stream(self, name: str, start: StartAt = "newest") -> None:
        """Reads one more stream from now on; see `dq.Reader.add_stream`."""
        await in_thread(partial(self._it.add_stream, name, start))

    async def remove_stream(self, name: str) -> None:
        """Reads a stream no more; one that it does not read is no error."""
        await in_thread(partial(self._it.remove_stream, name))

    def stop(self) -> None:
        """Ends iterations, and waits no more; safe from other threads and signal handlers."""
        self._it.stop()
