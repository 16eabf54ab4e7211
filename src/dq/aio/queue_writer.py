"""`QueueWriter`: puts dicts into the buckets of a queue; and its blocking form, for threads."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Self

from dq.aio.face import Twin
from dq.aio.publisher import DIRECT_BYTES, until_answered
from dq.aio.queue_facts import Queue
from dq.aio.queue_records import checked, receipts_of, shares_of
from dq.aio.threads import in_thread
from dq.client.broker import Broker
from dq.client.drafts import Draft
from dq.client.publisher import Publisher
from dq.errors import UsageError
from dq.model.receipt import Receipts

Records = dict[str, Any] | list[dict[str, Any]]


def refuse_in_loop(what: str) -> None:
    """Raises UsageError in a thread that runs an event loop, which would stand still."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise UsageError(
        f"{what} blocks, and this thread runs an event loop: await the method of the same name, or call it in a thread"
    )


class SyncQueueWriter:
    """The blocking form of a `QueueWriter`, for threads; what its `sync()` returns.

    Attributes:
        queue: what it writes to.
    """

    def __init__(self, queue: Queue, publisher: Publisher, owned: Broker | None) -> None:
        self.queue, self.publisher, self._owned = queue, publisher, owned

    def begin(self, records: Records) -> list[Draft]:
        """Checks records and shares them out; nothing is sent."""
        column = self.queue.bucket_column or ""
        line_of = self.publisher.line_of
        return shares_of(
            checked(records, column),
            column,
            self.queue.num_buckets,
            self.queue.durability,
            lambda record, key: line_of(record, key, None, "", None),
        )

    def put(self, records: Records) -> Receipts:
        """As `QueueWriter.put`. Raises UsageError in a thread that runs an event loop."""
        refuse_in_loop("put() of a sync() writer")
        drafts = self.begin(records)
        self.publisher.begin_batches(drafts)
        for draft in drafts:
            self.publisher.wait_for(draft)
        return receipts_of(drafts)

    def flush(self) -> None:
        """As `QueueWriter.flush`. Raises UsageError in a thread that runs an event loop."""
        refuse_in_loop("flush() of a sync() writer")
        self.publisher.flush()
        self.queue.flush_now()

    def close(self) -> None:
        """Leaves; safe twice."""
        self.publisher.close()
        if self._owned is not None:
            self._owned.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.queue.topic!r}>"


class QueueWriter(Twin[SyncQueueWriter]):
    """Puts dicts into a queue; what `write_queue` returns. Closed with its broker's handle, by `close()`, or `async with`.

    Attributes:
        queue: what it writes to.
    """

    def __init__(self, blocking: SyncQueueWriter) -> None:
        super().__init__(blocking)
        self.queue = blocking.queue

    async def put(self, records: Records) -> Receipts:
        """Puts a dict, or a list of them. When it returns they are committed, and readers see them.

        All are checked before anything is sent. Those of one bucket are stored together or not at all.

        Raises:
            InvalidPayload: a TypeError: no dict, nor a list of dicts; or one that is not JSON. Nothing was put.
            MissingColumn: a ValueError: one lacks the column. Nothing was put.
            RecordTooLarge: one, or all of one bucket together. Nothing was put.
            DqError: of a bucket whose records could not be stored; it says which are, and has the `.receipts` of those.
        """
        publisher = self._blocking.publisher
        drafts = self._blocking.begin(records)
        begin = partial(publisher.begin_batches, drafts)
        if publisher.waiting_bytes + sum(len(draft.lines) for draft in drafts) > DIRECT_BYTES:
            await in_thread(begin)
        else:
            begin()
        await until_answered(drafts)
        return receipts_of(drafts)

    async def flush(self) -> None:
        """Returns once all that was put is as safe as the backend makes it. With durability "sync" it is when `put` returns.

        Raises:
            BackendFailed: a class of the user's own failed to flush. SyncFailed: the disk did not confirm it.
        """
        await in_thread(partial(self._blocking.publisher.flush))
        await in_thread(self.queue.flush_now)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.queue.topic!r}>"
