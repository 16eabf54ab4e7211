"""The side of a sink that its consumers see: what they say of the records they have, or believe to have."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from dq.core.leases import Lease
from dq.core.notes import clip, extend_note
from dq.core.ranges import Range, RangeSet
from dq.core.rules import MAX_ATTEMPTS, Rules
from dq.core.sink_shards import SinkShards
from dq.core.states import Step
from dq.model.histogram import Histogram
from dq.model.names import DEAD_LETTER_SUFFIX
from dq.model.settings import SinkSettings


class SinkWords(SinkShards):
    """What consumers say of their records.

    Args:
        rules, settings: of the sink.

    Attributes:
        hand_seconds: how long records were in a hand until they were settled, since this was made.
    """

    def __init__(self, rules: Rules, settings: SinkSettings) -> None:
        super().__init__(rules)
        self._grace = settings.ack_grace
        self._ordered = settings.ordered
        self._no_ack = settings.no_ack
        self.hand_seconds = Histogram()

    def ack(self, consumer: str, lease: int, ranges: Sequence[Range], now: float) -> int:
        """Settles ranges of a lease as done. Returns how many records that settled newly.

        A late one, of a lease that was lost, settles what is not settled yet, wherever it waits or in whose hand it is. Not
        in an ordered sink: there it settles what the lease has in hand. In a sink without acks it changes nothing.
        """
        return self._settle("ack", consumer, lease, ranges, now)

    def ack_expired(self, consumer: str, lease: int, ranges: Sequence[Range], now: float) -> int:
        """As `ack`, of records whose time was over before the user's code had them; they are counted apart."""
        return self._settle("expired", consumer, lease, ranges, now)

    def drop(self, consumer: str, lease: int, ranges: Sequence[Range], now: float) -> int:
        """As `ack`, of records that are not to be done."""
        return self._settle("drop", consumer, lease, ranges, now)

    def retry(self, consumer: str, lease: int, offset: int, after: float | None, error: str, now: float) -> None:
        """A handler failed: the record burns an attempt and comes back `after` seconds, or the backoff if that is None.
        Its last attempt makes it a dead letter."""
        held = self._holding(consumer, lease, offset, now)
        if held is not None:
            self._rules.burn(held, offset, Step.RETRY, MAX_ATTEMPTS, clip(error), now, after)

    def release(self, consumer: str, lease: int, ranges: Sequence[Range], now: float) -> None:
        """Ranges of a lease come back unstarted, no attempt burned."""
        held = self._heard(consumer, lease, now)
        asked = RangeSet.of(ranges)
        parts = [part for first, stop in asked for part in held.open.within(first, stop)] if held is not None else []
        self._book.counters.ignored += asked.count - sum(stop - first for first, stop in parts)
        if held is not None:
            self._rules.give_back(held, parts)

    def dead_letter(self, consumer: str, lease: int, offset: int, reason: str, error: str, now: float) -> None:
        """A handler gives a record up. (One of a stream of dead letters cannot be given up: it is retried.)"""
        held = self._holding(consumer, lease, offset, now)
        if held is None:
            return
        if held.shard[0].endswith(DEAD_LETTER_SUFFIX):
            self._rules.burn(held, offset, Step.RETRY, MAX_ATTEMPTS, clip(error or reason), now)
        else:
            self._rules.intend(held, offset, clip(reason), clip(error))

    def renew(self, consumer: str, leases: Sequence[int], now: float) -> None:
        """A sign of life for whole leases, without their records that have a deadline of their own."""
        for number in leases:
            self._heard(consumer, number, now, moves=False)

    def extend(self, consumer: str, lease: int, offset: int, seconds: float, now: float) -> bool:
        """Gives one record a deadline of its own. Returns whether the consumer has it."""
        held = self._holding(consumer, lease, offset, now, moves=False)
        if held is not None and isfinite(seconds):
            self._rules.set_own(held, offset, now + seconds)
            self._book.notes.add(extend_note(held, offset, seconds))
        return held is not None

    def abandon(self, consumer: str, lease: int, offset: int, now: float) -> None:
        """A client left a record unsettled: from now on it is not renewed with its lease. More time it asked for is kept."""
        held = self._holding(consumer, lease, offset, now)
        if held is not None:
            asked = (held.own or {}).get(offset)
            self._book.abandon(held, offset)
            self._rules.set_own(held, offset, max(now + self._grace, asked.due if asked is not None else 0.0))

    # --- within ------------------------------------------------------------------------------------------------------

    def _heard(self, consumer: str, number: int, now: float, *, moves: bool = True) -> Lease | None:
        """A consumer spoke of a lease, a sign of life for both. Returns the lease if it is or was of that consumer.

        Args:
            moves: its code is done with some record.
        """
        hand = self._book.hands.get(consumer)
        if hand is not None:
            hand.heard = now
            if hand.aside and moves:
                hand.come_back()
                self._offers.welcome(hand)
            if hand.silent:
                hand.silent = False
                self._offers.welcome(hand)
        lease = self._book.leases.get(number) or self._book.ended.get(number)
        if lease is None or lease.hand.name != consumer:
            return None
        lease.deadline = now + self._grace
        return lease

    def _holding(self, consumer: str, number: int, offset: int, now: float, *, moves: bool = True) -> Lease | None:
        """The lease by which a consumer has a record in hand; None, counted, if it has not."""
        lease = self._heard(consumer, number, now, moves=moves)
        if lease is not None and offset in lease.open:
            return lease
        self._book.counters.ignored += 1
        return None

    def _settle(self, kind: str, consumer: str, number: int, ranges: Sequence[Range], now: float) -> int:
        lease = self._heard(consumer, number, now)
        counters = self._book.counters
        if self._no_ack:
            return 0  # it was settled as it went
        if lease is None:
            # Forgotten: all of it was settled, or it ended long ago. Nothing is known of its records but their numbers.
            counters.late_acks += RangeSet.of(ranges).count
            return 0
        if len(ranges) != 1 or not lease.first <= ranges[0][0] < ranges[0][1] <= lease.stop:
            ranges = self._clipped(lease, ranges)
        asked = sum([stop - first for first, stop in ranges])
        if self._ordered:
            ranges = [part for first, stop in ranges for part in lease.open.within(first, stop)]
        held = lease.open.count
        ledger = self._book.ledgers[lease.shard]
        count = self._book.settle(kind, number, ledger, lease, ranges)
        if count and lease.since is not None:
            self.hand_seconds.add(now - lease.since, count)
        hand = self._book.hands.get(consumer)  # of a late ack, not that of the lease: the consumer may have come anew
        if hand is not None:
            hand.settled += count
            self._offers.welcome(hand)
        if self._ordered:
            self._offers.wake(ledger)  # what is behind may have waited for these
        if held - lease.open.count != asked:
            counters.late_acks += asked - count
            self._rules.freed_many()
        return count

    def _clipped(self, lease: Lease, ranges: Sequence[Range]) -> list[Range]:
        """What of `ranges` is of a lease, each record once: nobody can settle what he never had."""
        asked = RangeSet.of(ranges)
        leased = asked.within(lease.first, lease.stop)
        self._book.counters.ignored += asked.count - sum(stop - first for first, stop in leased)
        return leased
