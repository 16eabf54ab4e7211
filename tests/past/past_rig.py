"""A sink's core with a log in memory, driven at random; and how it stands, to be compared with what is rebuilt."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import orjson

from dq.core.book import Book
from dq.core.sink import SinkCore
from dq.history.rebuilt import Said
from dq.model.settings import SinkSettings

SHARDS = [("emails", 0), ("emails", 1)]
WALL = 1_700_000_000.0
GRACE = 20.0
_PIDS = {"a": 4711, "b": 0, "c": 12}


def picture(book: Book) -> dict[str, Any]:
    """Where every record stands, who has it, what it burned."""
    leases = {n: (lease.hand.name, lease.hand.pid, lease.state, list(lease.open)) for n, lease in book.leases.items()}
    shards = {
        shard: (
            ledger.floor, ledger.next, list(ledger.settled), list(ledger.returned), list(ledger.suspects),
            sorted(ledger.delayed), sorted(ledger.dying), sorted(ledger.burned.items()),
        )
        for shard, ledger in book.ledgers.items()
    }  # fmt: skip
    return {"leases": leases, "shards": shards, "paused": book.paused}


class Life:
    """A sink that lives through whatever can happen to it; `said` is its log, `pictures` how it stood after each step."""

    def __init__(self, seed: int, *, ordered: bool = False) -> None:
        self.random, self.now, self.ordered = Random(seed), 1_000.0, ordered
        self.said: list[Said] = []
        self.pictures: list[tuple[float, dict[str, Any]]] = []
        self.ends = dict.fromkeys(SHARDS, 0)
        self.consumers: set[str] = set()
        self.core = self._core()
        for shard in SHARDS:
            self.core.add_shard(shard, 0, "uuid", 1)
        self.note()

    def _core(self) -> SinkCore:
        settings = SinkSettings(ack_grace=GRACE, max_attempts=3, ordered=self.ordered)
        return SinkCore("mailers", settings, jitter=Random(1))

    @property
    def wall(self) -> float:
        return WALL + self.now

    def note(self) -> None:
        """Writes what was noted, and remembers how the sink stands."""
        self.core.expire(self.now)  # a delay of no time is over
        self.core.wall = self.wall
        self.said += [Said(self.wall, orjson.loads(line)) for line in self.core.take_notes()]
        self.pictures.append((self.wall, picture(self.core._book)))

    def live(self, steps: int) -> None:
        """So many steps, a while apart."""
        for _ in range(steps):
            self.now += self.random.choice((0.01, 0.5, 3.0, 15.0))
            self.core.expire(self.now)
            self.core.wall = self.wall
            self.random.choice(_ACTS)(self)
            self.note()

    # --- what can happen ---------------------------------------------------------------------------------------------

    def commit(self) -> None:
        shard = self.random.choice(SHARDS)
        self.ends[shard] += self.random.randint(1, 6)
        self.core.committed(shard, self.ends[shard])

    def join(self) -> None:
        name = self.random.choice("abc")
        if name not in self.consumers:
            self.core.join(name, self.now, pid=_PIDS[name])
            self.consumers.add(name)
        self.core.grant(name, self.random.randint(1, 8))

    def lease(self) -> None:
        offer = self.core.offer()
        if offer is not None:
            count = self.random.randint(1, offer.count_max)
            without = [(offer.first, offer.first + 1)] if count > 1 and not offer.alone and self.random.random() < 0.2 else []
            self.core.lease(offer, count, 100, self.now, without)

    def skip(self) -> None:
        offer = self.core.offer()
        if offer is not None:
            self.core.skip(offer, 1, self.random.choice(("skip", "expire")))

    def speak(self) -> None:
        """A consumer says something of what it has."""
        leases = [(n, lease) for n, lease in self.core._book.leases.items() if lease.hand.name in self.consumers]
        if not leases:
            return
        number, lease = self.random.choice(leases)
        first, stop = self.random.choice(list(lease.open))
        who, offset, now = lease.hand.name, self.random.randrange(first, stop), self.now
        words: list[Callable[[], Any]] = [
            lambda: self.core.ack(who, number, [(first, offset + 1)], now),
            lambda: self.core.ack_expired(who, number, [(offset, offset + 1)], now),
            lambda: self.core.drop(who, number, [(offset, offset + 1)], now),
            lambda: self.core.release(who, number, [(first, offset + 1)], now),
            lambda: self.core.retry(who, number, offset, self.random.choice((None, 0.0, 5.003, 500.0)), "ValueError: no", now),
            lambda: self.core.dead_letter(who, number, offset, "why", "", now),
            lambda: self.core.extend(who, number, offset, 60.0, now),
            lambda: self.core.abandon(who, number, offset, now),
            lambda: self.core.renew(who, [number], now),
        ]
        self.random.choice(words)()

    def go(self) -> None:
        if self.consumers:
            name = self.random.choice(sorted(self.consumers))
            self.consumers.discard(name)
            (self.core.died if self.random.random() < 0.6 else self.core.leave)(name, self.now)

    def store(self) -> None:
        for letter in self.core.dead_letters()[:1]:
            self.core.dead_letter_stored(letter.lane, letter.intent)

    def trim(self) -> None:
        shard = self.random.choice(SHARDS)
        self.core.trimmed(shard, self.random.randint(0, self.ends[shard]))

    def pause(self) -> None:
        (self.core.resume if self.core.paused else self.core.pause)()

    def restart(self) -> None:
        core = self._core()
        for said in self.said:
            core.replay(said.note)
        core.recover(self.now)
        core.wall = self.wall
        for shard in SHARDS:
            core.add_shard(shard, 0, "uuid", 1)
            core.committed(shard, self.ends[shard])
        self.core, self.consumers = core, set()

    def roll(self) -> None:
        """The log begins anew with a snapshot; what was before is gone. (How long a delay lasts still is not in it.)"""
        if not any(ledger.delayed for ledger in self.core._book.ledgers.values()):
            self.core.take_notes()  # they stand in the segment that goes
            self.said = [Said(self.wall, orjson.loads(line)) for line in self.core.snapshot()]
            self.pictures.clear()


_ACTS: list[Callable[[Life], None]] = [
    *[Life.commit] * 4, *[Life.join] * 6, *[Life.lease] * 10, *[Life.speak] * 16, *[Life.go] * 2, *[Life.store] * 2,
    Life.skip, Life.trim, Life.pause, Life.pause, Life.restart, Life.roll,
]  # fmt: skip
