"""`QueueReader`: reads the dicts of a queue by offset; and its blocking form, for threads."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any, Self

from dq.aio.face import Twin
from dq.aio.queue_facts import Queue
from dq.aio.queue_writer import refuse_in_loop
from dq.aio.threads import in_thread
from dq.client.broker import Broker
from dq.client.reader import Reader
from dq.errors import InvalidSetting
from dq.model.record import Record
from dq.model.start import parse_position, position_text

_EMPTY_WAIT = threading.Event()  # what a reader without buckets waits for; it never comes


class SyncQueueReader:
    """The blocking form of a `QueueReader`, for threads; what its `sync()` returns.

    Attributes:
        queue: what it reads.
        bucket_ids: the buckets that it reads.
    """

    def __init__(self, queue: Queue, reader: Reader | None, bucket_ids: list[int], owned: Broker | None) -> None:
        self.queue, self.reader, self.bucket_ids, self._owned = queue, reader, bucket_ids, owned

    def get(self, limit: int = 100, wait: bool = False, timeout: float | None = None) -> list[dict[str, Any]]:
        """As `QueueReader.get`. Raises UsageError in a thread that runs an event loop."""
        refuse_in_loop("get() of a sync() reader")
        return [record.payload for record in self.take(limit, wait=wait, timeout=timeout)]

    def take(self, limit: int, *, wait: bool, timeout: float | None) -> list[Record]:
        """The records of a `get`."""
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
            raise InvalidSetting(f"limit must be a whole number from 0, not {limit!r}")
        if not limit:
            return []
        if self.reader is None:
            if wait:
                _EMPTY_WAIT.wait(timeout)
            return []
        found = self.reader.get(limit, timeout if wait else 0.0)
        if not found or len(found) >= limit:
            return found
        try:  # it knew of these; what was put meanwhile is to be seen too
            self.reader.refresh()
            return found + self.reader.get(limit - len(found), 0.0)
        except BaseException:
            self.reader.give_back(found)
            raise

    @property
    def offsets(self) -> dict[int, int]:
        """By bucket, the offset of the record that comes next."""
        if self.reader is None:
            return {}
        all_offsets = parse_position(self.reader.position)[self.queue.topic]
        return {bucket: all_offsets[bucket] for bucket in self.bucket_ids}

    def reset(self) -> None:
        """As `QueueReader.reset`."""
        if self.reader is not None:
            self.reader.seek("oldest")

    def set_offset(self, offset: int, bucket_id: int | None = None) -> None:
        """As `QueueReader.set_offset`."""
        if isinstance(offset, bool) or not isinstance(offset, int) or offset < 0:
            raise InvalidSetting(f"offset must be a whole number from 0, not {offset!r}")
        if bucket_id is not None and bucket_id not in self.bucket_ids:
            raise InvalidSetting(f"this reader does not read bucket {bucket_id!r}, only {self.bucket_ids}")
        if self.reader is None:
            return
        offsets = [0] * self.queue.bucket_count
        for bucket, place in self.offsets.items():
            offsets[bucket] = offset if bucket_id in (None, bucket) else place
        self.reader.seek(position_text({self.queue.topic: offsets}))

    def close(self) -> None:
        """Leaves; safe twice."""
        if self.reader is not None:
            self.reader.close()
        if self._owned is not None:
            self._owned.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.queue.topic!r}, buckets {self.bucket_ids}>"


class QueueReader(Twin[SyncQueueReader]):
    """Reads a queue; what `read_queue` returns. Closed with its broker's handle, by `close()`, or `async with`.

    Its offsets are its own, one a bucket, and gone with it: to go on elsewhere, keep `offsets` and set them there.

    Attributes:
        queue: what it reads.
        bucket_ids: the buckets that it reads.
    """

    def __init__(self, blocking: SyncQueueReader) -> None:
        super().__init__(blocking)
        self.queue, self.bucket_ids = blocking.queue, blocking.bucket_ids

    async def get(self, limit: int = 100, wait: bool = False, timeout: float | None = None) -> list[dict[str, Any]]:
        """The next records, of all its buckets in turn, as they were put.

        Args:
            limit: at most so many.
            wait: whether to wait, where there is none, until there is one in any of its buckets.
            timeout: seconds to wait; 0 does not wait, None (default) waits for ever.

        Returns:
            At least one record; none at the end, or when none came in time.

        Raises:
            InvalidSetting: a ValueError: `limit` is negative.
            RecordsTrimmed: records were gone before they were read; it stands behind them now.
        """
        take = partial(self._blocking.take, limit, wait=wait, timeout=timeout)
        reader = self._blocking.reader
        if reader is None:
            records: list[Record] = await in_thread(take)
        else:
            records = await in_thread(take, wake=reader.wake, late=reader.give_back)
        return [record.payload for record in records]

    @property
    def offsets(self) -> dict[int, int]:
        """By bucket, the offset of the record that comes next."""
        return self._blocking.offsets

    def reset(self) -> None:
        """Goes back to the first record that is kept, in all its buckets."""
        self._blocking.reset()

    def set_offset(self, offset: int, bucket_id: int | None = None) -> None:
        """Goes to an offset, in all its buckets or in one; past the end there is nothing until the records are there.

        Raises:
            InvalidSetting: a ValueError: a negative offset, or a bucket that it does not read.
        """
        self._blocking.set_offset(offset, bucket_id)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.queue.topic!r}, buckets {self.bucket_ids}>"
