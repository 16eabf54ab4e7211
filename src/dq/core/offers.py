"""Who gets what next: idle consumers and shards with work, each in turn; suspects first, each alone.

Of what is ready, the highest priority goes first. Every `priority_turn`th offer goes to the priority that has waited longest.
Shards of one priority, of all streams, take turns.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from dq.config import LIMITS
from dq.core.leases import Hand, Shard
from dq.core.ledger import Ledger
from dq.core.waiting import WaitingQueue


class Offer(NamedTuple):
    """A range that a consumer may lease now. (A named tuple: a frozen dataclass is made four times slower.)

    Attributes:
        consumer, shard, first: to whom, from where.
        count_max: how many records at most, 1 or more: no more than the consumer asked for.
        room: how many wait one after the other; a filter may look at all of these.
        alone: one suspect, to a consumer that has nothing else.
        attempts: burned attempts of those of [first, first + count_max) that have any; None for none. The attempt
            number of a task is one more.
        errors: the last errors of the same.
    """

    consumer: str
    shard: Shard
    first: int
    count_max: int
    room: int
    alone: bool
    attempts: dict[int, int] | None
    errors: dict[int, str] | None


Ready = OrderedDict[Shard, Ledger]


class Offers:
    """Matches waiting consumers with waiting records.

    Args:
        waiting: the idle consumers.

    Attributes:
        isolator: the one consumer that gets nothing normal, so that it drains and can take a suspect.
    """

    __slots__ = ("_higher", "_last", "_ready", "_suspected", "_turn", "isolator", "waiting")

    def __init__(self, waiting: WaitingQueue) -> None:
        self.waiting = waiting
        self.isolator: Hand | None = None
        # Not dicts: a first entry is found in O(n) after many were moved from the front to the back.
        self._ready: Ready = OrderedDict()
        self._higher: dict[int, Ready] = {}  # of priorities above 0; most sinks have none
        self._turn = 0
        self._last: dict[int, int] = {}  # by priority, the turn in which it was served, or came to wait
        self._suspected: OrderedDict[Shard, Ledger] = OrderedDict()

    def welcome(self, hand: Hand) -> None:
        """A consumer may be idle."""
        self.waiting.add(hand)

    def wake(self, ledger: Ledger) -> None:
        """Something may be to be leased from this shard. (That nothing is any more shows when its turn comes.)"""
        if ledger.shard not in self._ready_like(ledger) and ledger.ready() is not None:
            self._enter(ledger)
        if ledger.suspects and ledger.shard not in self._suspected:
            self._suspected[ledger.shard] = ledger

    def forget(self, shard: Shard) -> None:
        """A shard begins anew: its old ledger is void."""
        for ready in (self._ready, *self._higher.values()):
            ready.pop(shard, None)
        self._suspected.pop(shard, None)
        if not self._suspected:
            self._choose_isolator(None)

    def leave(self, hand: Hand) -> None:
        """A consumer is gone."""
        self.waiting.remove(hand)
        if self.isolator is hand:
            self.isolator = None

    def next(self) -> Offer | None:
        """What is to be leased next; nothing changes but whose turn it is, and who drains."""
        offer = self._next_alone() if self._suspected else None
        return offer or (self._next_by_priority() if self._higher else self._next_of(self._ready))

    def _ready_like(self, ledger: Ledger) -> Ready:
        """The shards that wait with this one's priority."""
        return self._higher.setdefault(ledger.lane, OrderedDict()) if ledger.lane else self._ready

    def _enter(self, ledger: Ledger) -> None:
        ready = self._ready_like(ledger)
        if not ready:
            self._last[ledger.lane] = self._turn
        ready[ledger.shard] = ledger

    def _next_by_priority(self) -> Offer | None:
        lanes = [*sorted(self._higher, reverse=True), 0]
        if (self._turn + 1) % LIMITS.priority_turn == 0:
            lanes.sort(key=lambda lane: self._last.get(lane, 0))
        for lane in lanes:
            offer = self._next_of(self._higher[lane] if lane else self._ready)
            if offer is not None:
                self._turn += 1
                self._last[lane] = self._turn
                return offer
        return None

    def _next_of(self, waiting: Ready) -> Offer | None:
        while waiting:
            shard, ledger = next(iter(waiting.items()))
            ready = ledger.ready()
            if ready is None:
                del waiting[shard]
                continue
            hand = self.waiting.next(self.isolator)
            if hand is None:
                return None
            waiting.move_to_end(shard)
            first, stop = ready
            return make_offer(hand, ledger, first, stop - first, alone=False)
        return None

    def _next_alone(self) -> Offer | None:
        """A suspect for a consumer with nothing in hand. Where there is none, the one with the least is chosen to
        drain; the others go on, so that a few suspects do not stop everybody."""
        while True:
            if not self._suspected:
                self._choose_isolator(None)
                return None
            shard, ledger = next(iter(self._suspected.items()))
            suspect = self._suspect_of(ledger)
            if suspect is not None:
                break
            del self._suspected[shard]
        hand = self.waiting.least()
        if hand is None:
            return None
        if hand.records == 0:
            self._suspected.move_to_end(shard)
            return make_offer(hand, ledger, suspect, 1, alone=True)
        if self.isolator is None or not self._drains(self.isolator):
            self._choose_isolator(hand)
        return None

    def _suspect_of(self, ledger: Ledger) -> int | None:
        return ledger.suspect()

    def _choose_isolator(self, hand: Hand | None) -> None:
        self.isolator = hand

    def _drains(self, isolator: Hand) -> bool:
        """Whether a consumer will still take a suspect; not if it fell silent or wants no more records."""
        return isolator.alone or (isolator.credit > 0 and not isolator.silent)


def make_offer(hand: Hand, ledger: Ledger, first: int, room: int, *, alone: bool) -> Offer:
    """The offer of a range of `room` records, with what those have burned that go to the consumer."""
    count = min(room, hand.credit)
    if not ledger.burned or first >= ledger.next:  # what is new has burned nothing
        return Offer(hand.name, ledger.shard, first, count, room, alone, None, None)
    burned = ledger.burned_within(first, first + count)
    attempts = {offset: each.attempts for offset, each in burned.items()}
    errors = {offset: each.error for offset, each in burned.items() if each.error}
    return Offer(hand.name, ledger.shard, first, count, room, alone, attempts or None, errors or None)
