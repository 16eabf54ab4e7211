"""One sink: takes what consumers and the clock say, decides, and notes each decision before anybody hears of it.

This is what the ConsumerBroker drives. What it tells of streams is in `sink_shards.py`, and what consumers say of their
records in `sink_words.py`. The lasting state and its moves are in `book.py`, the forms of the notes in `notes.py`, who gets
what next in `offers.py` and `ordering.py`, and what becomes of what went wrong in `rules.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from dq.config import LIMITS, Limits
from dq.core.book import LEASES_UNFLUSHED_MAX
from dq.core.holders import Holders
from dq.core.leases import Hand, Past, Shard
from dq.core.ledger import Ledger
from dq.core.offers import Offer
from dq.core.ordering import may_lease
from dq.core.ranges import Range, RangeSet
from dq.core.replay import replay, snapshot
from dq.core.rules import DIED, Rules, ShardStart
from dq.core.sink_words import SinkWords
from dq.core.states import IllegalStep, State, Step
from dq.core.stats import Pin, SinkStats, pins, sink_stats
from dq.errors import InUse
from dq.model.dead_letter import DeadLetter
from dq.model.settings import SinkSettings

PID_MAX = 1 << 32
"""A process that says it has a greater one is not believed."""
__all__ = ["DeadLetter", "IllegalStep", "Offer", "Range", "Shard", "ShardStart", "SinkCore", "SinkStats"]


class SinkCore(SinkWords):
    """The state of one sink over all its shards. `now` is monotonic seconds everywhere.

    What a consumer says of records that it does not have is counted and changes nothing: a confused client costs nobody
    else anything.

    Args:
        name: of the sink.
        settings: of the sink; `ack_grace`, `max_attempts`, `ordered` and `no_ack` count here.
        limits: `reconnect_seconds`, `prefetch_records_max` and `prefetch_bytes_max` count here.
        jitter: for the backoff of retries; one of its own by default.

    Attributes:
        holders: who has what in hand, and taking it back.
    """

    def __init__(self, name: str, settings: SinkSettings, limits: Limits = LIMITS, jitter: Random | None = None) -> None:
        self.name = name
        self._limits = limits
        rules = Rules(settings, limits, jitter or Random())
        super().__init__(rules, settings)
        self._deadlines = rules.deadlines
        self._when_due: dict[str, Callable[..., int]] = {
            "look": rules.look,
            "stale": rules.still_silent,
            "ready": rules.delay_over,
            "back": self._not_back,
        }
        self.holders = Holders(rules, ordered=settings.ordered)
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
            if self._ordered:  # a power cut may come between a retry and what it gives back
                self._rules.keep_order(ledger)

    def take_notes(self) -> list[bytes]:
        """What was noted since the last call, one JSON line each. To be written before anything is confirmed."""
        return self._book.notes.take()

    def snapshot(self) -> list[bytes]:
        """Lines that rebuild the whole state and make all earlier ones void."""
        return snapshot(self._book)

    # --- consumers ---------------------------------------------------------------------------------------------------

    def join(self, consumer: str, now: float, pid: int = 0) -> None:
        """A consumer comes, with nothing in hand. `pid`: see `rejoin`.

        Raises:
            InUse: its id is taken.
        """
        self.rejoin(consumer, (), now, pid)

    def rejoin(self, consumer: str, leases: Sequence[int], now: float, pid: int = 0) -> list[int]:
        """A consumer comes back after a restart of the broker. Returns those of `leases` that it keeps; what else it
        held comes back, no attempt burned.

        Args:
            pid: of its process, to be noted with what it leases; 0: it is not known.

        Raises:
            InUse: its id is taken.
        """
        known = self._book.hands.get(consumer)
        if known is not None and not known.returning:
            raise InUse(f"consumer id {consumer!r} is taken in sink {self.name!r}: give each consumer one of its own")
        hand = self._book.hand(consumer)
        hand.returning = False
        hand.pid = pid if type(pid) is int and 0 < pid <= PID_MAX else 0
        hand.heard = now
        self._deadlines.cancel(("back", consumer))
        for lease in [lease for number, lease in hand.leases.items() if number not in leases]:
            self._rules.give_back(lease, list(lease.open), "not_back")
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
            hand.come_back()
            hand.credit = min(hand.credit + credit, self._limits.prefetch_records_max)
            self._offers.welcome(hand)

    def withdraw(self, consumer: str) -> None:
        """A consumer takes back the credit that it has not used: it gets nothing more until it grants some."""
        hand = self._book.hands.get(consumer)
        if hand is not None:
            hand.credit = hand.aside = 0

    def leave(self, consumer: str, now: float, why: str = "left") -> None:
        """A consumer says goodbye: all it holds comes back, no attempt burned. `why`: as the note of it says."""
        hand = self._book.hands.get(consumer)
        if hand is not None:
            for lease in list(hand.leases.values()):
                self._rules.give_back(lease, list(lease.open), why)
            self._rules.forget(hand)

    def died(self, consumer: str, now: float) -> None:
        """The pipe of a consumer closed without a goodbye."""
        hand = self._book.hands.get(consumer)
        if hand is not None and not hand.returning:
            self._rules.lose(hand, [(lease, list(lease.open)) for lease in hand.leases.values()], DIED, now)
            self._rules.forget(hand)

    # --- dead letters ------------------------------------------------------------------------------------------------

    def dead_letters(self) -> list[DeadLetter]:
        """Intents whose dead letters are not stored yet, by lane and number."""
        return [letter for _, letter in sorted(self._book.intents.items())]

    def is_stray(self, letter: DeadLetter) -> bool:
        """Whether the record of an intent is gone: another one may stand at its place."""
        return self._book.is_stray(letter)

    def dead_letter_stored(self, lane: str, intent: int) -> None:
        """A dead letter is committed: its record is settled. Once more changes nothing."""
        self._book.stored(lane, intent)

    # --- time --------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When `expire` is to be called next; it may find that all was renewed."""
        return self._deadlines.first()

    def delays(self) -> list[tuple[Shard, int, float]]:
        """When each record that waits to be tried again is to be offered: (shard, offset, monotonic seconds)."""
        return [(key[1], key[2], when) for key, when in self._deadlines.items() if key[0] == "ready"]

    def expire(self, now: float) -> int:
        """Does what is due: leases and records that were not renewed, delays that are over, consumers that did not come
        back. Returns how many of these there were."""
        return sum(self._when_due[kind](now, *key) for kind, *key in self._deadlines.due(now))

    def take_silenced(self) -> list[str]:
        """Consumers that fell silent since the last call: they get nothing until they say anew what they want. One may have
        nothing to say, since it has nothing in hand as far as it knows; so they are to be asked."""
        silenced, self._rules.silenced = self._rules.silenced, []
        return silenced

    def take_stale(self) -> list[str]:
        """Consumers that stayed silent for another `ack_grace`, and have nothing in hand any more, since the last call: their
        pipes are to be closed. One that is only stopped finds its pipe closed, and comes anew."""
        stale, self._rules.stale = self._rules.stale, []
        return [consumer for consumer in stale if (hand := self._book.hands.get(consumer)) is not None and hand.silent]

    def _not_back(self, now: float, consumer: str) -> int:
        self.leave(consumer, now, "not_back")
        return 1

    # --- offers ------------------------------------------------------------------------------------------------------

    def offer(self) -> Offer | None:
        """What an idle consumer may lease next; None if no consumer is idle, no record waits, or the sink is paused."""
        return None if self._book.paused else self._offers.next()

    def lease(
        self,
        offer: Offer,
        count: int,
        size: int,
        now: float,
        without: Sequence[Range] = (),
        burned: Sequence[Past] = (),
    ) -> int:
        """Leases the first `count` records of an offer. Returns the number of the lease.

        Args:
            count: with those in `without`. By so many it may be more than `offer.count_max`, if the offer begins at a record
                that was never leased.
            size: bytes of what goes to the consumer.
            without: parts of it that do not match the sink's filter: settled in the same step, as by `skip`. One record at
                least is left.
            burned: what records have burned before they came to this sink. It counts once, however often they are leased.

        Raises:
            IllegalStep: the offer is out of date, or has not so many; nothing has changed.
        """
        hand, ledger = self._book.hands.get(offer.consumer), self._book.ledgers.get(offer.shard)
        first, stop = offer.first, offer.first + count
        out = RangeSet.of(without).within(first, stop) if without else []
        given = count - sum([end - start for start, end in out]) if out else count
        if hand is None or ledger is None or stop > ledger.end or not 1 <= given <= min(offer.count_max, hand.credit):
            raise IllegalStep(f"{count} records of {offer} cannot be leased: it is out of date; nothing was changed")
        if hand.alone or (offer.alone and hand.records):
            raise IllegalStep(f"{offer} cannot be leased: a suspect is leased alone; nothing was changed")
        if count > offer.count_max:
            self._check_new(ledger, first, stop)
        if self._ordered and not may_lease(ledger, hand, first, stop, alone=offer.alone):
            raise IllegalStep(f"{count} records of {offer} cannot be leased: others come before; nothing was changed")
        number = self._lease(hand, ledger, offer, stop, size, now, out, burned)
        hand.credit -= given
        if ledger.removed is not None:
            self._rules.sweep(ledger)
        return number

    def skip(self, offer: Offer, count: int, kind: str = "skip") -> None:
        """Settles the first `count` records of an offer without leasing them: nobody gets them. It may be more than
        `offer.count_max`, which is bounded by what the consumer asked for; what is not committed is left out, and what is in
        a hand stays there.

        Args:
            kind: "skip", they do not match the sink's filter; "expire", their time is over; "remove", they were taken out of
                the stream.

        Raises:
            IllegalStep: the offer is out of date; nothing has changed.
        """
        ledger, first = self._book.ledgers.get(offer.shard), offer.first
        source = State.SUSPECT if offer.alone else State.WAITING
        if ledger is None or count < 1 or first >= ledger.end or kind not in ("skip", "expire", "remove"):
            raise IllegalStep(f"{count} records of {offer} cannot {kind}: it is out of date; nothing was changed")
        ledger.leasable(source, first, first + 1, Step.SKIP)
        self._book.pass_over(kind, ledger, [(first, min(first + count, ledger.end))])
        if ledger.removed is not None:
            self._rules.sweep(ledger)
        self._offers.wake(ledger)

    def pause(self) -> None:
        """Offers nothing until `resume`; what is in hand can be settled. Once more changes nothing."""
        if not self._book.paused:
            self._book.pause(True)

    def resume(self) -> None:
        """Offers again. Where it is not paused that changes nothing."""
        if self._book.paused:
            self._book.pause(False)

    @property
    def paused(self) -> bool:
        """Whether it offers nothing, since somebody paused it."""
        return self._book.paused

    def pins(self) -> dict[Shard, Pin]:
        """The first record that is not settled, of each shard that has one."""
        return pins(self._book)

    def stats(self) -> SinkStats:
        """All that can be seen from outside, as one value."""
        return sink_stats(self.name, self._book, self._notes_unknown)

    # --- within ------------------------------------------------------------------------------------------------------

    def _lease(
        self,
        hand: Hand,
        ledger: Ledger,
        offer: Offer,
        stop: int,
        size: int,
        now: float,
        out: list[Range],
        burned: Sequence[Past],
    ) -> int:
        if self._no_ack:
            number = self._book.deliver(hand, ledger, offer.first, stop, out)
            hand.settled += stop - offer.first - sum([end - start for start, end in out])
            return number
        source = State.SUSPECT if offer.alone else State.WAITING
        lease = self._book.lease(hand, ledger, source, offer.first, stop, size, out, burned)
        lease.since, lease.deadline = now, now + self._grace
        if not hand.watched:
            self._rules.watch(hand)
        return lease.number

    def _check_new(self, ledger: Ledger, first: int, stop: int) -> None:
        """Of more records than were offered nothing is known: they may have burned attempts, unless they are new."""
        ready = ledger.ready()
        if first != ledger.next or ready is None or stop > ready[1]:
            raise IllegalStep(f"{ledger.shard} [{first}, {stop}) was not offered; nothing was changed")
