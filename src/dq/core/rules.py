"""What becomes of records whose handler failed, whose consumer was lost, or whose time is over.

- *One record alone in hand* when its consumer died, or its lease expired: it is the culprit. It burns an attempt and
  is leased alone from then on. At `max_attempts` it is dead-lettered.
- *Several in hand*: nobody knows which it was, so none burns an attempt. They are a group of suspects, and suspects are
  leased one by one to consumers that have nothing else. The first with which a consumer dies is the culprit; the rest
  of its group is innocent and waits again as if nothing had been. So of one poison record at most `max_attempts` + 1
  consumers die, and the others lose nothing but time.
- *A deadline of its own passed* (a record that was extended, or abandoned by its client): that record burns an attempt,
  its neighbours are left alone: the consumer lives.
- *A handler failed*: the record burns an attempt and comes back after its delay. Where that is long, and its order does not
  count, it waits among the delayed records of its stream, so that it pins nothing: settled here, it comes as a new record for
  this sink alone.

A dead letter has no dead letters of its own: at `max_attempts` it is tried on, at the longest backoff.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from random import Random
from typing import Any, NamedTuple

from dq.config import Limits
from dq.core.book import Book
from dq.core.deadlines import Deadlines
from dq.core.leases import Hand, Lease, Own, Shard
from dq.core.ledger import Ledger
from dq.core.offers import Offers
from dq.core.ordering import OrderedOffers, out_of_order
from dq.core.ranges import Range, RangeSet
from dq.core.retry import backoff, longest_backoff
from dq.core.states import Step
from dq.core.waiting import WaitingQueue
from dq.errors import Damaged
from dq.model.dead_letter import RETRIED, DeadLetter
from dq.model.names import DEAD_LETTER_SUFFIX, base_stream
from dq.model.settings import SinkSettings

DIED, EXPIRED, MAX_ATTEMPTS = "consumer_died", "lease_expired", "max_attempts"
"""Reasons of dead letters. The first two, without their underscores, are also the errors noted with an attempt."""


class ShardStart(NamedTuple):
    """Where a shard ended when an epoch of it began; `lossy`: it was allowed to lose what lay beyond."""

    epoch: int
    end: int
    lossy: bool


class Rules:
    """The rules of one sink.

    Attributes:
        book: the lasting state.
        offers: who gets what next.
        deadlines: by ("look", consumer), ("stale", consumer), ("back", consumer) or ("ready", shard, offset).
        silenced: consumers that fell silent and have not been asked yet.
        stale: consumers that stayed silent and have not been told of yet.
    """

    def __init__(self, settings: SinkSettings, limits: Limits, jitter: Random) -> None:
        self._settings = settings
        self._jitter, self._later_seconds = jitter, limits.later_seconds
        self.book = Book()
        waiting = WaitingQueue(limits.prefetch_bytes_max)
        self.offers = OrderedOffers(waiting) if settings.ordered else Offers(waiting)
        self.deadlines: Deadlines[tuple[Any, ...]] = Deadlines()
        self.silenced: list[str] = []
        self.stale: list[str] = []

    # --- attempts ----------------------------------------------------------------------------------------------------

    def burn(
        self, lease: Lease, offset: int, step: Step, reason: str, error: str, now: float, delay: float | None = None
    ) -> None:
        """A record in hand burns an attempt by `step` (RETRY, LOSE, OVERDUE); its last one makes it a dead letter."""
        ledger = self.book.ledgers[lease.shard]
        attempts = ledger.attempts(offset) + 1
        last = attempts >= self._settings.max_attempts
        dead_letter = lease.shard[0].endswith(DEAD_LETTER_SUFFIX)
        if last and not dead_letter:
            self.intend(lease, offset, reason, error)
        elif last or step is Step.RETRY:
            delay = self._delay(attempts, delay, longest=last)
            if delay > self._later_seconds and not self._settings.ordered and base_stream(lease.shard[0]) is None:
                self.intend(lease, offset, RETRIED, error, due=self.book.notes.wall + delay)
                return
            self.book.retry(ledger, lease, offset, delay, error, deadly=step is Step.LOSE)
            self.deadlines.set(("ready", lease.shard, offset), now + delay)
        elif step is Step.LOSE:
            self.book.lose(ledger, lease, offset, error)
        else:
            self.book.overdue(ledger, lease, offset, error)
        self.freed(ledger, lease.hand)

    def intend(self, lease: Lease, offset: int, reason: str, error: str, due: float = 0.0) -> None:
        """Gives a record up: it is a dead letter from now on; or, with `due`, one that waits among the delayed records."""
        ledger = self.book.ledgers[lease.shard]
        stream, bucket = lease.shard
        letter = DeadLetter(
            intent=self.book.next_intents.get(f"{stream}@later" if due else stream, 0),
            stream=stream,
            bucket=bucket,
            offset=offset,
            attempts=ledger.attempts(offset) + 1,
            reason=reason,
            error=error,
            consumer=lease.hand.name,
            due=due,
        )
        self.book.intend(ledger, lease, letter)
        self.freed(ledger, lease.hand)

    def _delay(self, attempts: int, wish: float | None, *, longest: bool) -> float:
        if wish is not None and not isfinite(wish):
            wish = None
        if longest:
            return max(wish or 0.0, longest_backoff(self._jitter))
        return backoff(attempts, self._jitter) if wish is None else max(wish, 0.0)

    # --- lost consumers ----------------------------------------------------------------------------------------------

    def lose(self, hand: Hand, lost: list[tuple[Lease, list[Range]]], reason: str, now: float) -> None:
        """A consumer was lost with `lost` in hand, which may be a part of all that it holds."""
        if hand.records == 1 and lost:
            lease, [(offset, _)] = lost[0]
            group = self.book.group_of(lease.shard, offset)
            self.burn(lease, offset, Step.LOSE, reason, reason.replace("_", " "), now)
            if group in self.book.groups:
                self._clear(group)
        else:
            number = self.book.next_group
            for lease, ranges in lost:
                ledger = self.book.ledgers[lease.shard]
                self.book.suspect(number, ledger, lease, ranges, reason.replace("_", " "))
            for lease, _ in lost:
                self.freed(self.book.ledgers[lease.shard], hand)

    def _clear(self, group: int) -> None:
        ledgers = [self.book.ledgers[shard] for shard in self.book.groups[group]]
        self.book.clear(group)
        for ledger in ledgers:
            self.offers.wake(ledger)

    def give_back(self, lease: Lease, ranges: list[Range], why: str = "") -> None:
        """Ranges that a lease has in hand come back, no attempt burned. `why`: see `Book.release`."""
        if ranges:
            ledger = self.book.ledgers[lease.shard]
            self.book.release(ledger, lease, ranges, why)
            self.freed(ledger, lease.hand)

    def forget(self, hand: Hand) -> None:
        """A consumer is gone, and has nothing in hand any more."""
        del self.book.hands[hand.name]
        self.deadlines.cancel(("look", hand.name))
        self.deadlines.cancel(("stale", hand.name))
        self.offers.leave(hand)

    # --- shards ------------------------------------------------------------------------------------------------------

    def begin_epoch(self, ledger: Ledger, epoch: int, starts: Sequence[ShardStart]) -> int:
        """A stream was opened anew after an unclean stop. Returns how many records that were given out are gone.

        Raises:
            Damaged: it ends before what was given out, and was not allowed to.
        """
        stream, bucket = ledger.shard
        cursor = ledger.next
        for start in sorted(starts):
            if start.epoch > ledger.epoch and start.end < cursor:
                if not start.lossy:
                    raise Damaged(
                        f"stream {stream!r}, bucket {bucket} ended at offset {start.end} when it was opened, and records up to "
                        f"{cursor} had been given out: its log lost its end"
                    )
                cursor = start.end
        # What was told of the end before may not be true any more; what is there now is told anew.
        ends = [start.end for start in starts if start.epoch > ledger.epoch]
        ledger.end = min([ledger.end, *ends])
        if ledger.removed is not None and ends:
            ledger.removed = RangeSet.of(ledger.removed.within(0, min(ends)))
        gone = self.book.cut_back(ledger, cursor)
        if gone:
            self.changed(ledger)
        self.book.raise_epoch(ledger, epoch)
        return gone

    def changed(self, ledger: Ledger) -> None:
        """Anything may have happened to the records of a shard, and to the hands that held them."""
        self.sweep(ledger)
        self.freed_many()
        self.offers.wake(ledger)

    def trim(self, ledger: Ledger, first: int) -> int:
        """The log of a shard begins at `first` now. Returns how many records were missed."""
        before = ledger.floor
        missed = self.book.trim(ledger, first, ledger.removed_unsettled(before, first))
        if ledger.floor > before:
            self.changed(ledger)
        return missed

    def sweep(self, ledger: Ledger) -> int:
        """Settles what was taken out of the stream and is in no hand. Returns how many records that were."""
        waiting = ledger.removed_waiting()
        return self.book.pass_over("remove", ledger, waiting) if waiting else 0

    def keep_order(self, ledger: Ledger) -> None:
        """Gives back what is in a hand beyond a record that is not."""
        for lease, ranges in out_of_order(ledger):
            self.book.release(ledger, lease, ranges, "order")

    def removed(self, ledger: Ledger, ranges: Sequence[Range]) -> int:
        """Records are taken out of the stream. What of them is in a hand, or not committed yet, is settled when its time
        comes. Returns how many are settled at once."""
        known = ledger.removed if ledger.removed is not None else RangeSet()
        if not sum([known.add(first, stop) for first, stop in ranges]):
            return 0
        ledger.removed = known
        count = self.sweep(ledger)
        self.offers.wake(ledger)
        return count

    def seek(self, ledger: Ledger, offset: int) -> None:
        """A shard begins anew at `offset`: of what was known of its records, only those taken out of the stream count on."""
        self.forget_shard(ledger)
        fresh = self.book.cursor(ledger.shard, offset, ledger.uuid, ledger.epoch)
        fresh.end, fresh.closed, fresh.removed = ledger.end, ledger.closed, ledger.removed
        self.changed(fresh)

    def forget_shard(self, ledger: Ledger) -> None:
        """Nothing is offered of a ledger any more, and none of its delays is waited for."""
        self.offers.forget(ledger.shard)
        for offset in ledger.delayed:
            self.deadlines.cancel(("ready", ledger.shard, offset))

    # --- deadlines ---------------------------------------------------------------------------------------------------

    def watch(self, hand: Hand) -> None:
        """Has the leases of a consumer looked at when the first of them may be over.

        One entry a consumer, not one a lease, a renewal or an extension: leases are many, and nearly all end long
        before their time.
        """
        due = min((lease.due() for lease in hand.leases.values()), default=None)
        hand.watched = due is not None
        if due is not None:
            self.deadlines.set(("look", hand.name), due)

    def set_own(self, lease: Lease, offset: int, due: float) -> None:
        """Gives a record of a lease a deadline of its own."""
        own = lease.own or {}
        left = offset in own and own[offset].left
        lease.own = {**own, offset: Own(due, left)}
        self.deadlines.hasten(("look", lease.hand.name), due)

    def look(self, now: float, consumer: str) -> int:
        """Takes from a consumer the leases that were not renewed and the records past their own deadlines. Returns how
        many of both."""
        hand = self.book.hands.get(consumer)
        if hand is None:
            return 0
        leases = list(hand.leases.values())
        over = [lease for lease in leases if lease.deadline <= now]
        lost = [(lease, list(ranges)) for lease in over if (ranges := lease.under_deadline())]
        if lost:
            # Stopped, maybe: it would lose whatever it was given now.
            if now - hand.heard >= self._settings.ack_grace and not hand.silent:
                hand.silent = True
                self.silenced.append(consumer)
                self.deadlines.set(("stale", consumer), now + self._settings.ack_grace)
            self.lose(hand, lost, EXPIRED, now)
        for lease in over:
            lease.deadline = now + self._settings.ack_grace  # what is left of it lives by deadlines of its own
        late = [(lease, offset) for lease in leases for offset in lease.overdue(now)]
        for lease, offset in late:
            if offset in lease.open:  # else it was given back, to wait for one before it
                self.burn(lease, offset, Step.OVERDUE, EXPIRED, EXPIRED.replace("_", " "), now)
        self.watch(hand)
        return len(lost) + len(late)

    def still_silent(self, now: float, consumer: str) -> int:
        """A consumer that fell silent had another `ack_grace` to be heard of. One that asked for more time is given it."""
        hand = self.book.hands.get(consumer)
        if hand is None or not hand.silent:
            return 0
        if hand.records:
            self.deadlines.set(("stale", consumer), now + self._settings.ack_grace)
            return 0
        self.stale.append(consumer)
        return 1

    def delay_over(self, now: float, shard: Shard, offset: int) -> int:
        """The delay of a record is over, unless it was settled or leased meanwhile."""
        ledger = self.book.ledgers.get(shard)
        if ledger is None or offset not in ledger.delayed:
            return 0
        ledger.ready_now(offset)
        self.offers.wake(ledger)
        return 1

    def freed(self, ledger: Ledger, hand: Hand) -> None:
        """Records left a hand: it may be idle again, and they may wait again."""
        if self._settings.ordered:
            self.keep_order(ledger)
        if ledger.removed is not None:
            self.sweep(ledger)
        self.offers.welcome(hand)
        self.offers.wake(ledger)

    def freed_many(self) -> None:
        """Records left any hands."""
        for hand in self.book.hands.values():
            self.offers.welcome(hand)
