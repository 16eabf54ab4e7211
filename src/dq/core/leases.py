"""Who has what in hand: a lease is a consumer's numbered hold on a range of records."""

from __future__ import annotations

from typing import NamedTuple

from dq.core.ranges import Range, RangeSet
from dq.core.states import State

Shard = tuple[str, int]
"""(stream, bucket)"""
Past = tuple[int, int, int, str]
"""What records have burned before they came to a sink: first offset, records, attempts, last error."""


class Hand:
    """What one consumer has in hand, and what it asked for.

    Attributes:
        name: id of the consumer.
        pid: of its process, where it was told; 0: it was not. For people alone.
        leases: its leases by number; `records` and `size` (bytes, roughly) are the sums over them.
        alone: it holds a suspect and gets nothing else meanwhile.
        credit: records it asked for and has not got.
        aside: credit that does not count until it settles something, gives something back or asks for more.
        settled: records it settled since it joined.
        heard: when it last gave a sign of life.
        silent: its leases expired; it gets nothing until it is heard of again.
        returning: its leases were found in the log; it has not come back yet.
        watched: a look at its leases stands among the deadlines.
    """

    __slots__ = (
        "alone",
        "aside",
        "credit",
        "heard",
        "leases",
        "name",
        "pid",
        "records",
        "returning",
        "settled",
        "silent",
        "size",
        "watched",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.pid = 0
        self.leases: dict[int, Lease] = {}
        self.records = 0
        self.size = 0
        self.alone = False
        self.credit = 0
        self.aside = 0
        self.settled = 0
        self.heard = 0.0
        self.silent = False
        self.returning = False
        self.watched = False

    def come_back(self) -> None:
        """Its code goes on: what it asked for counts again."""
        self.credit += self.aside
        self.aside = 0


class Own(NamedTuple):
    """A deadline that one record of a lease has for itself.

    Attributes:
        due: when it is over; renewing the lease does not move it.
        left: the client left the record unsettled; False if it extended it.
    """

    due: float
    left: bool


class Lease:
    """One lease.

    Attributes:
        number: rises within a sink and is never used again.
        hand: whose it is.
        shard, first, stop: what was leased.
        open: what of it is still in hand.
        size: bytes of what is in hand, as if all its records were of one size.
        state: LEASED, or ISOLATED for a suspect that is leased alone.
        deadline: when it expires unless it is renewed.
        since: when it was leased, in monotonic seconds; None where an earlier broker did so.
        own: records with a deadline of their own, which `deadline` does not touch; None for none.
    """

    __slots__ = ("deadline", "first", "hand", "number", "open", "own", "shard", "since", "size", "state", "stop")

    def __init__(self, number: int, hand: Hand, shard: Shard, first: int, stop: int, size: int, state: State) -> None:
        self.number = number
        self.hand = hand
        self.shard = shard
        self.first = first
        self.stop = stop
        self.open = RangeSet(first, stop)
        self.size = size
        self.state = state
        self.deadline = 0.0
        self.since: float | None = None
        self.own: dict[int, Own] | None = None
        hand.leases[number] = self
        hand.records += stop - first
        hand.size += size
        hand.alone = hand.alone or state is State.ISOLATED

    def take(self, first: int, stop: int) -> list[Range]:
        """Takes a range out of the hand; returns what of it was there."""
        held = self.open.count
        parts = self.open.cut(first, stop)
        taken = held - self.open.count
        if taken:
            freed = self.size * taken // held  # all of the rest with its last record, so no byte is left over
            self.size -= freed
            self.hand.size -= freed
            self.hand.records -= taken
            if self.own:
                self.own = {offset: own for offset, own in self.own.items() if not first <= offset < stop}
        return parts

    def leave_out(self, ranges: list[Range]) -> None:
        """Parts of it do not go to the consumer after all; `size` was without them."""
        for first, stop in ranges:
            self.hand.records -= self.open.discard(first, stop)

    def end(self) -> None:
        """Takes it off the hand, once nothing of it is open."""
        self.hand.leases.pop(self.number, None)
        if self.state is State.ISOLATED:
            self.hand.alone = False

    def due(self) -> float:
        """When it is to be looked at next."""
        return min(self.deadline, *(own.due for own in self.own.values())) if self.own else self.deadline

    def overdue(self, now: float) -> list[int]:
        """The records whose own deadlines are over."""
        return sorted(offset for offset, own in (self.own or {}).items() if own.due <= now)

    def under_deadline(self) -> RangeSet:
        """What in hand lives by the deadline of the lease: all but the records with one of their own."""
        ranges = RangeSet.of(self.open)
        for offset in self.own or ():
            ranges.discard(offset, offset + 1)
        return ranges
