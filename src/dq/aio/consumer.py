"""`dq.aio.Consumer`: tasks in hand are given out without a thread; only to wait for the next lease takes one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from dq.aio.face import Face
from dq.aio.threads import in_thread
from dq.client.consumer import Consumer as SyncConsumer
from dq.client.place import Place, root_of
from dq.client.task import Task


class Consumer(Face[SyncConsumer]):
    """Consumes one sink. Used by `async with`; its arguments are those of `dq.Consumer`.

    Iterate over it by `async for`, and settle each task as in `dq`: `with task:` around what is awaited for it, or its verbs,
    none of which blocks. `await consumer.flush()` waits for the confirmations; `task.ack(wait=True)` would block the loop.

    Several coroutines may iterate over one consumer, and share its tasks. The tasks in hand, some 50 ms of work, are given out
    without a pause: work that awaits nothing should await `asyncio.sleep(0)` now and then.
    """

    def __init__(self, broker: Place, *streams: str, sink: str, **options: Any) -> None:
        super().__init__(partial(SyncConsumer, root_of(broker), *streams, sink=sink, **options))
        self.sink, self.streams = sink, streams

    @property
    def consumer_id(self) -> str:
        """Under which the broker knows it."""
        return self._it.consumer_id

    async def __aiter__(self) -> AsyncIterator[Task]:
        """The tasks, as they come. To leave the loop, also by being cancelled, gives back what was not started.

        Raises:
            BrokerLost: the broker did not come back within `reconnect_timeout`.
        """
        consumer = self._it
        consumer.begin()
        try:
            more = True
            while more:
                for task in consumer.in_hand():
                    yield task
                more = await in_thread(consumer.next_lease, wake=self._wake)
        finally:
            await in_thread(consumer.end)

    async def flush(self, timeout: float | None = None) -> None:
        """Sends what was decided and waits until the broker has confirmed it.

        Raises:
            BrokerLost: it did not within `timeout` seconds, or did not come back.
        """
        await in_thread(partial(self._it.flush, timeout), wake=self._wake)

    def stop(self) -> None:
        """Ends the iterations after the task at hand; safe from other threads and from signal handlers."""
        self._it.stop()
