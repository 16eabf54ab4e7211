"""A sink at a desk: with a clock that tests move, a log that is kept, and short words for what is done all the time."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import NamedTuple

import orjson
import pytest

from dq.config import LIMITS
from dq.core.offers import Offer
from dq.core.sink import SinkCore
from dq.model.settings import SinkSettings

EMAILS = ("emails", 0)
RECORD_BYTES = 200


class Taken(NamedTuple):
    """One lease as a consumer sees it."""

    consumer: str
    lease: int
    first: int
    stop: int
    offer: Offer

    @property
    def range(self) -> tuple[int, int]:
        return self.first, self.stop

    @property
    def attempt(self) -> int:
        return (self.offer.attempts or {}).get(self.first, 0) + 1


class Desk:
    """A `SinkCore`, and what a broker would keep beside it."""

    def __init__(self, shards=(EMAILS,), limits=LIMITS, **settings) -> None:
        self.now = 1_000.0
        self.settings = SinkSettings(**settings)
        self.limits = limits
        self.ends = dict.fromkeys(shards, 0)
        self.log: list[bytes] = []
        self.core = SinkCore("mailers", self.settings, limits, Random(1))
        self.open_shards()

    def open_shards(self) -> None:
        for shard, end in self.ends.items():
            self.core.add_shard(shard, 0, "uuid-1", 1)
            self.core.committed(shard, end)

    def commit(self, count: int, shard=EMAILS) -> None:
        self.ends[shard] += count
        self.core.committed(shard, self.ends[shard])

    def join(self, *consumers: str, credit: int = 0) -> None:
        for consumer in consumers:
            self.core.join(consumer, self.now)
            self.core.grant(consumer, credit)

    def take(self, count_max: int = 1_000_000) -> Taken | None:
        """Leases the next offer, or nothing."""
        offer = self.core.offer()
        if offer is None:
            return None
        count = min(offer.count_max, count_max)
        lease = self.core.lease(offer, count, count * RECORD_BYTES, self.now)
        return Taken(offer.consumer, lease, offer.first, offer.first + count, offer)

    def take_all(self, count_max: int = 1_000_000) -> list[Taken]:
        """Leases until nothing is offered any more."""
        return list(iter(lambda: self.take(count_max), None))

    def ack(self, taken: Taken, *ranges: tuple[int, int]) -> int:
        return self.core.ack(taken.consumer, taken.lease, ranges or [taken.range], self.now)

    def retry(self, taken: Taken, offset: int | None = None, after: float | None = None, error: str = "boom") -> None:
        self.core.retry(taken.consumer, taken.lease, taken.first if offset is None else offset, after, error, self.now)

    def die(self, consumer: str) -> None:
        self.core.died(consumer, self.now)

    def advance(self, seconds: float) -> int:
        self.now += seconds
        return self.core.expire(self.now)

    def notes(self) -> list[dict]:
        """What was noted since the last look."""
        lines = self.core.take_notes()
        self.log += lines
        return [orjson.loads(line) for line in lines]

    def kinds(self) -> list[str]:
        return [next(iter(note)) for note in self.notes()]

    def restart(self, *, snapshot: bool = False) -> None:
        """The broker is killed, another one replays the log (or a snapshot made just before)."""
        self.notes()
        if snapshot:
            self.log = self.core.snapshot()
        self.core = SinkCore("mailers", self.settings, self.limits, Random(1))
        for line in self.log:
            self.core.replay(orjson.loads(line))
        self.core.recover(self.now)
        self.open_shards()

    def shard(self, shard=EMAILS):
        return self.core.stats().shards[shard]

    @property
    def floor(self) -> int:
        return self.core.floors()[EMAILS]


@pytest.fixture
def make_desk() -> Callable[..., Desk]:
    return Desk


@pytest.fixture
def desk() -> Desk:
    """A sink with its defaults over emails/0."""
    return Desk()
