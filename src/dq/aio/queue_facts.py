"""`Queue`: what writers and readers of one queue have in common, and what there is of it by bucket."""

from __future__ import annotations

from dataclasses import dataclass

from dq.aio.queue_records import bucket_id_of
from dq.aio.threads import in_thread
from dq.client.broker import Broker
from dq.model.settings import MEMORY, StreamSettings


@dataclass(frozen=True, slots=True)
class BucketStats:
    """What there is of one bucket.

    Attributes:
        bucket: its number.
        buffered: records that are visible, and not on disk yet.
        persisted: records that are as safe as the backend makes them; none in memory.
        total: both together: the offset of the next record.
        backend: what keeps it.
    """

    bucket: int
    buffered: int
    persisted: int
    total: int
    backend: str


class Queue:
    """What writers and readers of one queue have in common; `writer.queue` and `reader.queue`.

    Attributes:
        topic: the name of the stream that it is.
        num_buckets, backend, durability: as the stream has them.
        bucket_count: of all priorities together, where a stream with priorities is read as a queue.
        bucket_column: by which this writer shares out; None: of a reader.
    """

    def __init__(self, broker: Broker, topic: str, settings: StreamSettings, bucket_column: str | None) -> None:
        self._broker, self.topic, self.bucket_column = broker, topic, bucket_column
        self.num_buckets, self.backend, self.durability = settings.buckets, settings.backend, settings.durability
        self.bucket_count = settings.bucket_count

    def get_bucket_id(self, value: object) -> int:
        """The bucket of the records that have this value in the column."""
        return bucket_id_of(value, self.num_buckets)

    async def stats(self) -> list[BucketStats]:
        """What there is, by bucket. Raises UnknownStream: the stream was destroyed."""
        return await in_thread(self.stats_now)

    def stats_now(self) -> list[BucketStats]:
        """As `stats`, blocking."""
        told = self._broker.change("stream", self.topic, "stats")
        safe = told["synced"] if self.backend != MEMORY else [0] * self.bucket_count
        return [
            BucketStats(bucket, end - synced, synced, end, self.backend)
            for bucket, (synced, end) in enumerate(zip(safe, told["ends"], strict=True))
        ]

    def flush_now(self) -> None:
        """Has all that is stored flushed to where it is safe."""
        if self.durability not in ("sync", MEMORY):
            self._broker.change("stream", self.topic, "sync")

    def __repr__(self) -> str:
        return f"<Queue {self.topic!r} of {self.num_buckets} buckets, {self.backend}>"
