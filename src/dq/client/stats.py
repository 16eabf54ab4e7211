"""The figures of a sink, as one frozen value for whoever asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from dq.core.stats import ConsumerStats, ShardStats
from dq.model.settings import SinkSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkStats:
    """One sink, as it stood a moment ago. Counts are in records, since the sink was made.

    Attributes:
        name, settings: what it was made with.
        paused: whether it hands out nothing.
        buckets: of each bucket, by `stream/bucket`, how far it is.
        consumers: those that are there, by id.
        detached: streams that it was taken off and whose places it keeps.
        waiting: to be handed out, now.
        in_hand: in the hands of consumers, now.
        delayed: waiting for their time, now.
        settled: acked, dropped, or dead-lettered and stored.
        dropped: those of the settled that were dropped.
        filtered: settled unseen, since they did not match the sink's topic or pattern.
        expired: settled without being handed to the user's code, since their time was over.
        removed: taken out of the stream before they were settled.
        missed: trimmed before they were settled.
        redelivered: handed out once more.
        retried: failed in a handler.
        lost: in hand alone when their consumer was lost.
        dead_lettered: stored as dead letters.
        cut_back: given out, and lost by their stream since, as its durability allows.
        late_acks: acked when they were settled already.
        ignored: words about records that the consumer did not have.
    """

    name: str
    settings: SinkSettings
    paused: bool
    buckets: Mapping[str, ShardStats]
    consumers: Mapping[str, ConsumerStats]
    detached: tuple[str, ...]
    waiting: int
    in_hand: int
    delayed: int
    settled: int
    dropped: int
    filtered: int
    expired: int
    removed: int
    missed: int
    redelivered: int
    retried: int
    lost: int
    dead_lettered: int
    cut_back: int
    late_acks: int
    ignored: int

    @property
    def waiting_by_priority(self) -> dict[int, int]:
        """Records that are to be handed out now, by priority, of all streams together."""
        found: dict[int, int] = {}
        for bucket in self.buckets.values():
            found[bucket.priority] = found.get(bucket.priority, 0) + bucket.waiting
        return dict(sorted(found.items()))

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams that it is over."""
        over = {bucket.rpartition("/")[0] for bucket in self.buckets}
        return tuple(sorted(over.difference(self.detached)))

    @classmethod
    def of(cls, status: Mapping[str, Any]) -> Self:
        """From what the broker tells of it."""
        shards = {name: ShardStats(**shard) for name, shard in status["shards"].items()}
        made: dict[str, Any] = {
            "settings": SinkSettings.from_dict(status["settings"]),
            "buckets": shards,
            "consumers": {name: ConsumerStats(**consumer) for name, consumer in status["consumers"].items()},
            "detached": tuple(status["detached"]),
            "waiting": sum(shard.waiting for shard in shards.values()),
            "in_hand": sum(shard.in_hand for shard in shards.values()),
            "delayed": sum(shard.delayed for shard in shards.values()),
        }
        counted = {field.name: status[field.name] for field in fields(cls) if field.name not in made}
        return cls(**made, **counted)
