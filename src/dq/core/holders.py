"""The side of a sink that an operator sees: who has what in hand, and taking it back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from math import isfinite
from typing import NamedTuple

from dq.core.leases import Hand, Lease, Shard
from dq.core.ranges import Range, RangeSet
from dq.core.rules import Rules
from dq.errors import InUse


class Held(NamedTuple):
    """One lease, as it stands. Times are monotonic seconds.

    Attributes:
        lease: its number.
        shard: whose records.
        open: what is still in hand, as sorted ranges; never empty.
        consumer: who has it.
        pid: of its process, as it said; 0 where that is not known.
        since: when it was leased; None where that was before the broker was started.
        until: when the first of it is taken back unless it is renewed, or its consumer is back; None where that is not known.
        extended: that is a time that was asked for, or that was set since the record was left unsettled: it is not renewed.
        attempt: the highest attempt number of its records, from 1.
        awaited: its consumer has not come back since the broker was started.
        silent: its consumer was not heard of for so long that leases of it expired.
    """

    lease: int
    shard: Shard
    open: list[Range]
    consumer: str
    pid: int
    since: float | None
    until: float | None
    extended: bool
    attempt: int
    awaited: bool
    silent: bool


class Holders:
    """Who has what in hand.

    Args:
        rules: of the sink.
        ordered: whether its shards go strictly by offset.
    """

    def __init__(self, rules: Rules, *, ordered: bool) -> None:
        self._rules, self._book, self._ordered = rules, rules.book, ordered

    def count(self, stream: str | None = None, consumer: str | None = None) -> int:
        """How many leases there are; of a stream, of a consumer. It walks over none of them, unless both are given."""
        if consumer is not None:
            hand = self._book.hands.get(consumer)
            leases = hand.leases.values() if hand is not None else ()
            return len(leases) if stream is None else sum([lease.shard[0] == stream for lease in leases])
        if stream is None:
            return len(self._book.leases)
        return sum([len(ledger.leases) for shard, ledger in self._book.ledgers.items() if shard[0] == stream])

    def listed(self, count: int, stream: str | None = None, consumer: str | None = None) -> list[Held]:
        """So many of them at most, the oldest of a hand or a shard first."""
        return [self._held(lease) for lease in islice(self._leases(stream, consumer), count)]

    def _leases(self, stream: str | None, consumer: str | None) -> Iterable[Lease]:
        book = self._book
        if consumer is not None:
            hand = book.hands.get(consumer)
            found = hand.leases.values() if hand is not None else ()
            return (lease for lease in found if stream in (None, lease.shard[0]))
        if stream is None:
            return book.leases.values()
        ledgers = [ledger for shard, ledger in sorted(book.ledgers.items()) if shard[0] == stream]
        return (lease for ledger in ledgers for lease in ledger.leases.values())

    def _held(self, lease: Lease) -> Held:
        hand, own = lease.hand, lease.own or {}
        dues = [(each.due, True) for each in own.values()]
        if len(own) < lease.open.count:
            dues.append((lease.deadline, False))
        until: float | None
        until, extended = min(dues)
        if hand.returning:
            until, extended = self._rules.deadlines.of(("back", hand.name)), False
        burned = self._book.ledgers[lease.shard].burned_within(lease.first, lease.stop)
        return Held(
            lease=lease.number,
            shard=lease.shard,
            open=list(lease.open),
            consumer=hand.name,
            pid=hand.pid,
            since=lease.since,
            until=until if until is not None and isfinite(until) else None,
            extended=extended,
            attempt=1 + max((each.attempts for offset, each in burned.items() if offset in lease.open), default=0),
            awaited=hand.returning,
            silent=hand.silent,
        )

    # --- taking it back ----------------------------------------------------------------------------------------------

    def take_back(self, records: Mapping[Shard, RangeSet]) -> int:
        """Takes records out of the hands that have them. They wait again, no attempt burned; a suspect waits to be leased
        alone. What their holders still say of them is late. Such a holder gets nothing more until it settles something, gives
        something back or asks for more: it would be the next one to get the same records, and it may hang.

        In an ordered sink, what lies behind in a hand comes back as well.

        Returns:
            How many came back. What is in no hand is passed over.

        Raises:
            InUse: the sink is ordered, and a record before them is in the same hand and is to stay there; nothing has changed.
        """
        found = [
            (lease, part)
            for shard, wanted in records.items()
            for lease in (self._book.ledgers[shard].leases.values() if shard in self._book.ledgers else ())
            if (part := _held_of(lease, wanted))
        ]
        if self._ordered:
            for shard, wanted in records.items():
                self._check_front(shard, wanted)
        return self._take_back(found)

    def take_all_back(self, consumer: str) -> int:
        """As `take_back`, of all that a consumer has in hand. Of one that is not known, or has nothing, that is none."""
        hand = self._book.hands.get(consumer)
        return self._take_back([(lease, list(lease.open)) for lease in hand.leases.values()]) if hand is not None else 0

    def _check_front(self, shard: Shard, wanted: RangeSet) -> None:
        leases = self._book.ledgers[shard].leases.values() if shard in self._book.ledgers else ()
        front = min([part[0] for lease in leases if (part := lease.open.first()) is not None], default=None)
        if front is not None and front not in wanted and any(_held_of(lease, wanted) for lease in leases):
            place = f"{shard[0]}/{shard[1]}"
            raise InUse(
                f"this sink is ordered, and {place}/{front} in the same hand comes first: nobody would get what is behind it. "
                f"Take {place}/{front} back, and all behind it comes too"
            )

    def _take_back(self, found: list[tuple[Lease, list[Range]]]) -> int:
        touched = {lease.shard for lease, _ in found}
        before = self._in_hand(touched)
        for lease, ranges in found:
            # An ordered sink may have given some of them back meanwhile, as they lay behind others.
            still = [part for each in ranges for part in lease.open.within(*each)]
            self._set_aside(lease.hand)
            self._rules.give_back(lease, still, "taken_back")
        return before - self._in_hand(touched)

    def _in_hand(self, shards: set[Shard]) -> int:
        ledgers = [self._book.ledgers[shard] for shard in shards]
        return sum([lease.open.count for ledger in ledgers for lease in ledger.leases.values()])

    @staticmethod
    def _set_aside(hand: Hand) -> None:
        hand.aside += hand.credit
        hand.credit = 0


def _held_of(lease: Lease, wanted: RangeSet) -> list[Range]:
    """What a lease has in hand of some records."""
    return [part for span in wanted.within(lease.first, lease.stop) for part in lease.open.within(*span)]
