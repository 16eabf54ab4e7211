"""One sink: takes what consumers and the clock say, decides, and notes each decision before anybody hears of it.

This is what the ConsumerBroker drives. The lasting state and its moves are in `book.py`, the forms of the notes in
`notes.py`, who gets what next in `offers.py`, and what becomes of what went wrong in `rules.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from random import Random
from typing import Any

from dq.config import LIMITS, Limits
from dq.core.book import LEASES_UNFLUSHED_MAX
from dq.core.leases import Lease, Shard
from dq.core.notes import clip
from dq.core.offers import Offer
from dq.core.ranges import Range, RangeSet
from dq.core.replay import replay, snapshot
from dq.core.rules import DIED, MAX_ATTEMPTS, Rules, ShardStart
from dq.core.states import IllegalStep, State, Step
from dq.core.stats import SinkStats, sink_stats
from dq.errors import InUse
from dq.model.dead_letter import DeadLetter
from dq.model.names import DEAD_LETTER_SUFFIX
from dq.model.settings import SinkSettings

__all__ = ["DeadLetter", "IllegalStep", "Offer", "Range", "Shard", "ShardStart", "SinkCore", "SinkStats"]


class SinkCore:
    """The state of one sink over all its shards. `now` is monotonic seconds everywhere.

    What a consumer says of records that it does not have is counted and changes nothing: a confused client costs nobody
    else anything.

    Args:
        name: of the sink.
        settings: of the sink.
        limits: `reconnect_seconds`, `prefetch_records_max` and `prefetch_bytes_max` count here.
        jitter: for the backoff of retries; one of its own by default.
    """

    def __init__(self, name: str, settings: SinkSettings, limits: Limits = LIMITS, jitter: Random | None = None) -> None:
        self.name = name
        self._grace = settings.ack_grace
        self._limits = limits
        self._rules = rules = Rules(settings, limits, jitter or Random())
        self._book = rules.book
        self._offers = rules.offers
        self._deadlines = rules.deadlines
        self._when_due: dict[str, Callable[..., int]] = {
            "look": rules.look,
            "ready": rules.delay_over,
            "back": self._not_back,
        }
        self._notes_unknown = 0

    # --- the log of the sink -----------------------------------------------------------------------------------------

    @property
    def wall(self) -> float:
        """Wall time that the notes taken next have as "at"; 0, the default, leaves it out. For people alone."""
        return self._book.notes.wall

    @wall.setter
    def wall(self, wall: float) -> None:
        self._book.notes.wall = wall

    def replay(self, note: dict[str, Any]) -> None:
        """Does again what a note of the log says. All of them, in order, before anything else.

        Raises:
            Damaged: the note cannot follow those before it.
        """
        if not replay(self._book, note):
            self._notes_unknown += 1

    def recover(self, now: float) -> None:
        """After the replay: leases that were found wait for their consumers, delays and intents begin anew.

        What it notes is to be on disk before the first lease.
        """
        book = self._book
        book.start(book.next_lease + LEASES_UNFLUSHED_MAX)
        for hand in list(book.hands.values()):
            if hand.leases:
                hand.returning = True
                self._deadlines.set(("back", hand.name), now + self._limits.reconnect_seconds)
            else:
                del book.hands[hand.name]
        for shard, ledger in book.ledgers.items():
            for offset, delay in ledger.delayed.items():
                self._deadlines.set(("ready", shard, offset), now + delay)
        book.new_intents = self.dead_letters()

    def take_notes(self) -> list[bytes]:
        """What was noted since the last call, one JSON line each. To be written before anything is confirmed."""
        return self._book.notes.take()

    def snapshot(self) -> list[bytes]:
        """Lines that rebuild the whole state and make all earlier ones void."""
        return snapshot(self._book)

    # --- shards ------------------------------------------------------------------------------------------------------

    def add_shard(self, shard: Shard, start: int, uuid: str, epoch: int, starts: Sequence[ShardStart] = ()) -> int:
        """Takes a shard in: at `start`, if it is new to this sink or of another making (`uuid`) than the one known.

        Args:
            starts: where the log ended when its last epochs began. A cursor beyond goes back to there, if that may be.

        Returns:
            How many records that were given out are gone.

        Raises:
            Damaged: the log ends before what this sink was given of it, which nothing allows; nothing has changed.
        """
        ledger = self._book.ledgers.get(shard)
        if ledger is None or ledger.uuid != uuid:
            self._offers.forget(shard)
            self._book.cursor(shard, start, uuid, epoch)
            self._rules.freed_many()
            return 0
        gone = self._rules.begin_epoch(ledger, epoch, starts) if epoch > ledger.epoch else 0
        if ledger.closed:
            ledger.closed = False
            self._offers.wake(ledger)
        return gone

    def close_shard(self, shard: Shard) -> None:
        """Offers nothing of a shard, since its log cannot be read, until `add_shard` says that it can be again."""
        ledger = self._book.ledgers.get(shard)
        if ledger is not None:
            ledger.closed = True

    def committed(self, shard: Shard, end: int) -> None:
        """All below `end` is committed. It is a hint: an older one, or of another shard, is passed over."""
        ledger = self._book.ledgers.get(shard)
        if ledger is not None and end > ledger.end:
            ledger.end = end
            self._offers.wake(ledger)

    def trimmed(self, shard: Shard, first: int) -> int:
        """The log of a shard begins at `first` now. Returns how many unsettled records were missed."""
        ledger = self._book.ledgers.get(shard)
        missed = self._book.trim(ledger, first) if ledger is not None else 0
        if missed:
            self._rules.freed_many()
        return missed

    def floors(self) -> dict[Shard, int]:
        """For each shard the offset below which all is settled."""
        return {shard: ledger.floor for shard, ledger in self._book.ledgers.items()}

    # --- consumers ---------------------------------------------------------------------------------------------------

    def join(self, consumer: str, now: float) -> None:
        """A consumer comes, with nothing in hand.

        Raises:
            InUse: its id is taken.
        """
        self.resume(consumer, (), now)

    def resume(self, consumer: str, leases: Sequence[int], now: float) -> list[int]:
        """A consumer comes back after a restart of the broker. Returns those of `leases` that it keeps; what else it
        held comes back, no attempt burned.

        Raises:
            InUse: its id is taken.
        """
        known = self._book.hands.get(consumer)
        if known is not None and not known.returning:
            raise InUse(f"consumer id {consumer!r} is taken in sink {self.name!r}: give each consumer one of its own")
        hand = self._book.hand(consumer)
        hand.returning = False
        hand.heard = now
        self._deadlines.cancel(("back", consumer))
        for lease in [lease for number, lease in hand.leases.items() if number not in leases]:
            self._rules.give_back(lease, list(lease.open))
        for lease in hand.leases.values():
            lease.deadline = now + self._grace
            for offset in lease.own or {}:
                self._rules.set_own(lease, offset, lease.deadline)
        self._rules.watch(hand)
        return sorted(hand.leases)

    def grant(self, consumer: str, credit: int) -> None:
        """A consumer asks for so many records more."""
        hand = self._book.hands.get(consumer)
        if hand is not None and credit > 0:
            hand.silent = False
            hand.credit = min(hand.credit + credit, self._limits.prefetch_records_max)
            self._offers.waiting.add(hand)

    def withdraw(self, consumer: str) -> None:
        """A consumer takes back the credit that it has not used: it gets nothing more until it grants some."""
        hand = self._book.hands.get(consumer)
        if hand is not None:
            hand.credit = 0

    def leave(self, consumer: str, now: float) -> None:
        """A consumer says goodbye: all it holds comes back, no attempt burned."""
        hand = self._book.hands.get(consumer)
        if hand is not None:
            for lease in list(hand.leases.values()):
                self._rules.give_back(lease, list(lease.open))
            self._rules.forget(hand)

    def died(self, consumer: str, now: float) -> None:
        """The pipe of a consumer closed without a goodbye."""
        hand = self._book.hands.get(consumer)
        if hand is not None and not hand.returning:
            self._rules.lose(hand, [(lease, list(lease.open)) for lease in hand.leases.values()], DIED, now)
            self._rules.forget(hand)

    # --- what consumers say of their records -------------------------------------------------------------------------

    def ack(self, consumer: str, lease: int, ranges: Sequence[Range], now: float) -> int:
        """Settles ranges of a lease as done. Returns how many records that settled newly.

        A late one, of a lease that was lost, settles what is not settled yet, wherever it waits or in whose hand it is.
        """
        return self._settle("ack", consumer, lease, ranges, now)

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
            self._heard(consumer, number, now)

    def extend(self, consumer: str, lease: int, offset: int, seconds: float, now: float) -> bool:
        """Gives one record a deadline of its own. Returns whether the consumer has it."""
        held = self._holding(consumer, lease, offset, now)
        if held is not None and isfinite(seconds):
            self._rules.set_own(held, offset, now + seconds)
        return held is not None

    def abandon(self, consumer: str, lease: int, offset: int, now: float) -> None:
        """A client left a record unsettled: from now on it is not renewed with its lease. More time it asked for is kept."""
        held = self._holding(consumer, lease, offset, now)
        if held is not None:
            asked = (held.own or {}).get(offset)
            self._book.abandon(held, offset)
            self._rules.set_own(held, offset, max(now + self._grace, asked.due if asked is not None else 0.0))

    # --- dead letters ------------------------------------------------------------------------------------------------

    def dead_letters(self) -> list[DeadLetter]:
        """Intents whose dead letters are not stored yet, by stream and number."""
        return [letter for _, letter in sorted(self._book.intents.items())]

    def is_stray(self, letter: DeadLetter) -> bool:
        """Whether the record of an intent is gone: another one may stand at its place."""
        return self._book.is_stray(letter)

    def take_new_intents(self) -> list[DeadLetter]:
        """Intents since the last call, to be published; after `recover` all that are not stored, once more."""
        letters, self._book.new_intents = self._book.new_intents, []
        return letters

    def dead_letter_stored(self, stream: str, intent: int) -> None:
        """A dead letter is committed: its record is settled. Once more changes nothing."""
        self._book.stored(stream, intent)

    # --- time --------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When `expire` is to be called next; it may find that all was renewed."""
        return self._deadlines.first()

    def expire(self, now: float) -> int:
        """Does what is due: leases and records that were not renewed, delays that are over, consumers that did not come
        back. Returns how many of these there were."""
        return sum(self._when_due[kind](now, *key) for kind, *key in self._deadlines.due(now))

    def take_silenced(self) -> list[str]:
        """Consumers that fell silent since the last call: they get nothing until they say anew what they want. One may have
        nothing to say, since it has nothing in hand as far as it knows; so they are to be asked."""
        silenced, self._rules.silenced = self._rules.silenced, []
        return silenced

    def _not_back(self, now: float, consumer: str) -> int:
        self.leave(consumer, now)
        return 1

    # --- offers ------------------------------------------------------------------------------------------------------

    def offer(self) -> Offer | None:
        """What an idle consumer may lease next; None if no consumer is idle or no record waits."""
        return self._offers.next()

    def lease(self, offer: Offer, count: int, size: int, now: float) -> int:
        """Leases the first `count` records of an offer, `size` bytes in all. Returns the number of the lease.

        Raises:
            IllegalStep: the offer is out of date, or has not so many; nothing has changed.
        """
        hand, ledger = self._book.hands.get(offer.consumer), self._book.ledgers.get(offer.shard)
        stop = offer.first + count
        if hand is None or ledger is None or stop > ledger.end or not 1 <= count <= min(offer.count_max, hand.credit):
            raise IllegalStep(f"{count} records of {offer} cannot be leased: it is out of date; nothing was changed")
        if hand.alone or (offer.alone and hand.records):
            raise IllegalStep(f"{offer} cannot be leased: a suspect is leased alone; nothing was changed")
        source = State.SUSPECT if offer.alone else State.WAITING
        lease = self._book.lease(hand, ledger, source, offer.first, stop, size)
        hand.credit -= count
        lease.deadline = now + self._grace
        if not hand.watched:
            self._rules.watch(hand)
        return lease.number

    def stats(self) -> SinkStats:
        """All that can be seen from outside, as one value."""
        return sink_stats(self.name, self._book, self._notes_unknown)

    # --- within ------------------------------------------------------------------------------------------------------

    def _heard(self, consumer: str, number: int, now: float) -> Lease | None:
        """A consumer spoke of a lease, a sign of life for both. Returns the lease if it is or was of that consumer."""
        hand = self._book.hands.get(consumer)
        if hand is not None:
            hand.heard = now
            if hand.silent:
                hand.silent = False
                self._offers.waiting.add(hand)
        lease = self._book.leases.get(number) or self._book.ended.get(number)
        if lease is None or lease.hand.name != consumer:
            return None
        lease.deadline = now + self._grace
        return lease

    def _holding(self, consumer: str, number: int, offset: int, now: float) -> Lease | None:
        """The lease by which a consumer has a record in hand; None, counted, if it has not."""
        lease = self._heard(consumer, number, now)
        if lease is not None and offset in lease.open:
            return lease
        self._book.counters.ignored += 1
        return None

    def _settle(self, kind: str, consumer: str, number: int, ranges: Sequence[Range], now: float) -> int:
        lease = self._heard(consumer, number, now)
        counters = self._book.counters
        if lease is None:
            # Forgotten: all of it was settled, or it ended long ago. Nothing is known of its records but their numbers.
            counters.late_acks += RangeSet.of(ranges).count
            return 0
        if len(ranges) != 1 or not lease.first <= ranges[0][0] < ranges[0][1] <= lease.stop:
            ranges = self._clipped(lease, ranges)
        asked = sum([stop - first for first, stop in ranges])
        held = lease.open.count
        count = self._book.settle(kind, number, self._book.ledgers[lease.shard], lease, ranges)
        hand = self._book.hands.get(consumer)  # of a late ack, not that of the lease: the consumer may have come anew
        if hand is not None:
            hand.settled += count
            self._offers.waiting.add(hand)
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
