"""The sinks of a `MemoryEngine`, and a consumer's hold on one."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any

import orjson

from dq.app.engine import Delivery
from dq.app.outcomes import Ack, DeadLetter, Drop, Retry, Verdict
from dq.client.hand import Hand, Sleeper
from dq.client.held_lease import HeldLease
from dq.client.task import Task
from dq.config import LIMITS
from dq.core.matching import Matcher
from dq.core.offers import Offer
from dq.core.sink import SinkCore
from dq.model.event import Event, EventOwner, EventType
from dq.model.outcome import Outcome
from dq.model.settings import SinkSettings

if TYPE_CHECKING:
    from dq.testing.memory_engine import MemoryEngine, MemoryStream


_LIMITS = replace(LIMITS, later_seconds=1e12)
"""A retry waits in its sink, however long: there are no segments here that it could pin."""


class MemorySink:
    """One sink: dq's own core, over the streams of the engine.

    Attributes:
        streams: what it is over.
        expired: how many records were passed over since their time was over.
    """

    def __init__(self, engine: MemoryEngine, name: str, settings: SinkSettings, pattern: str | re.Pattern[str] | None) -> None:
        self.engine, self.name, self.settings = engine, name, settings
        self.core = SinkCore(name, settings, _LIMITS, Random(engine.seed))
        self.matcher = Matcher(settings.topic, pattern)
        self.streams: set[str] = set()
        self.expired = 0

    def follow(self, stream: MemoryStream) -> None:
        """Begins at the oldest record of a stream."""
        for lane, lines in enumerate(stream.lanes):
            self.core.add_shard((stream.name, lane), 0, stream.name, 1)
            self.core.committed((stream.name, lane), len(lines))

    def offer(self) -> Offer | None:
        """What is leased next: of a stream with priorities the highest that has anything."""
        waiting = [shard for shard, stats in self.core.stats().shards.items() if stats.waiting] if self._has_lanes() else []
        held_back = [shard for shard in waiting if any(s == shard[0] and lane > shard[1] for s, lane in waiting)]
        for shard in held_back:
            self.core.close_shard(shard)
        offer = self.core.offer()
        for shard in held_back:
            self.core.add_shard(shard, 0, shard[0], 1)
        return offer

    def _has_lanes(self) -> bool:
        return any(len(stream.lanes) > 1 for name, stream in self.engine.streams.items() if name in self.streams)

    def next_retry(self) -> float | None:
        """When, by the monotonic clock, the next record is tried again."""
        return min((when for *_, when in self.core.delays()), default=None)


class MemoryTask(Task):
    """A task of a `MemoryEngine`."""

    __slots__ = ()

    def ack(self, *, wait: bool = False) -> None:
        """It is done.

        Raises:
            AlreadySettled: it was settled before.
        """
        self._settle(Outcome.ACK)


class _Desk(Sleeper):
    """What the tasks of a consumer say goes here."""

    sleeping = False

    def __init__(self, sink: MemorySink, consumer: str) -> None:
        self._sink, self._engine, self.consumer_id = sink, sink.engine, consumer
        self.leases: set[int] = set()

    @property
    def sink(self) -> str:
        """Name of the sink."""
        return self._sink.name

    @property
    def max_attempts(self) -> int:
        """Deliveries of one record before it is dead-lettered."""
        return self._sink.settings.max_attempts

    def settle(self, task: Task, outcome: Outcome, *, after: float | None = None, reason: str = "", error: str = "") -> None:
        """What a verb of a task said."""
        core, offset = self._sink.core, task.offset
        consumer, lease, now = self.consumer_id, task.lease.number, self._engine.clock.monotonic()
        with self._engine.changed:
            self.leases.discard(lease)
            if outcome is Outcome.ACK:
                core.ack(consumer, lease, [(offset, offset + 1)], now)
            elif outcome is Outcome.DROP:
                core.drop(consumer, lease, [(offset, offset + 1)], now)
            elif outcome is Outcome.RETRY:
                core.retry(consumer, lease, offset, after, error, now)
            elif outcome is Outcome.DEAD_LETTER:
                core.dead_letter(consumer, lease, offset, reason, error, now)
            else:
                core.release(consumer, lease, [(offset, offset + 1)], now)
            core.take_notes()
            self._engine.dead_letter(self._sink)
            self._engine.changed.notify_all()

    def extend(self, task: Task, seconds: float, note: str | None) -> None:
        """More time for a task."""
        with self._engine.changed:
            now = self._engine.clock.monotonic()
            self._sink.core.extend(self.consumer_id, task.lease.number, task.offset, seconds, now)

    def confirm(self) -> None:
        """All is settled at once."""


class MemorySubscription:
    """One consumer of a sink. It gets one record a lease, so that a test sees one after the other."""

    settle_waits = False

    def __init__(self, sink: MemorySink, consumer: str) -> None:
        self._sink, self._engine, self._consumer = sink, sink.engine, consumer
        self._desk = _Desk(sink, consumer)
        self._stopped = self._closed = False
        with self._engine.changed:
            sink.core.join(consumer, self._engine.clock.monotonic())

    def renew(self, now: float) -> None:
        """A sign of life for what is in hand."""
        self._sink.core.renew(self._consumer, sorted(self._desk.leases), now)

    # --- the side of the app -----------------------------------------------------------------------------------------

    def fetch(self, limit: int, timeout: float) -> Sequence[Delivery]:
        """As `Subscription.fetch`. Under a clock that is moved by hand, seconds to wait are real ones all the same."""
        deadline = time.monotonic() + timeout
        with self._engine.changed:
            while not self._stopped:
                self._engine.move()
                tasks = self._take(limit)
                left = deadline - time.monotonic()
                if tasks or left <= 0:
                    return tasks
                due = self._engine.next_due()
                soon = left if due is None else max(due - self._engine.clock.wall(), 0.001)
                self._engine.changed.wait(min(left, soon))
        return []

    def _take(self, limit: int) -> list[Task]:
        core, clock = self._sink.core, self._engine.clock
        tasks: list[Task] = []
        core.grant(self._consumer, limit)
        while len(tasks) < limit and (offer := self._sink.offer()) is not None:
            line = self._engine.streams[offer.shard[0]].lanes[offer.shard[1]][offer.first]
            fields = orjson.loads(line)
            if not self._sink.matcher.takes(fields.get("topic")):
                core.skip(offer, 1)
            elif fields.get("expires", float("inf")) <= clock.wall():
                core.skip(offer, 1)
                self._sink.expired += 1
            else:
                number = core.lease(offer, 1, len(line), clock.monotonic())
                tasks.append(self._task(offer, number, line, fields))
        core.withdraw(self._consumer)
        return tasks

    def _task(self, offer: Offer, number: int, line: bytes, fields: dict[str, Any]) -> Task:
        about: dict[str, Any] = {
            "lease": number, "stream": offer.shard[0], "bucket": offer.shard[1], "first": offer.first, "count": 1,
            "publishers": [[1, "p-test"]], "attempts": offer.attempts or {}, "errors": offer.errors or {},
        }  # fmt: skip
        desk = self._desk
        desk.leases.add(number)
        event = Event(EventType.TASK, EventOwner.CONSUMER_BROKER, about, line)
        return MemoryTask(HeldLease(event, Hand(desk, desk, 1), desk, self._sink.settings.ack_grace), offer.first, fields)

    def settle(self, delivery: Delivery, verdict: Verdict) -> None:
        """As `Subscription.settle`."""
        if not isinstance(delivery, Task):
            raise TypeError(f"an engine settles its own tasks, not {delivery!r}")
        if isinstance(verdict, Ack):
            delivery.ack()
        elif isinstance(verdict, Retry):
            delivery.retry(verdict.after, verdict.error, verdict.traceback)
        elif isinstance(verdict, DeadLetter):
            delivery.dead_letter(verdict.reason, verdict.error, verdict.traceback)
        elif isinstance(verdict, Drop):
            delivery.drop()
        else:
            delivery.release()

    def backlog(self) -> int:
        """As `Subscription.backlog`."""
        with self._engine.changed:
            shards = self._sink.core.stats().shards.values()
            return sum(shard.waiting + shard.in_hand + shard.delayed + shard.dying for shard in shards)

    def stop(self) -> None:
        """Fetches no more."""
        with self._engine.changed:
            self._stopped = True
            self._engine.changed.notify_all()

    def flush(self, timeout: float) -> None:
        """All is settled at once."""

    def close(self) -> None:
        """Leaves; what is in hand goes back."""
        self.stop()
        with self._engine.changed:
            if not self._closed:
                self._closed = True
                self._engine.subscriptions.discard(self)
                self._sink.core.leave(self._consumer, self._engine.clock.monotonic())
                self._engine.changed.notify_all()
