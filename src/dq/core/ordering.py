"""What an ordered sink does differently: each shard strictly by offset, by one consumer at a time.

- While records of a shard are in a hand, only that consumer, its *owner*, is offered more of it; when none are, anybody is.
- A record that is delayed or a suspect holds back all behind it in its shard. So does one that came back and waits: what lies
  beyond it in a hand is given back, unstarted, no attempt burned. So all that is in hand lies before all that is not.
- A record that is dying holds nothing back: its dead letter is on its way, and it is not tried again.

A shard that has nothing to offer for one of these reasons is not asked again until that reason may be over: it leaves the
queue, and is woken by what happens to its records, or to its owner where that one is only not idle.
"""

from __future__ import annotations

from dq.core.leases import Hand, Lease, Shard
from dq.core.ledger import Ledger
from dq.core.offers import Offer, Offers, Ready, make_offer
from dq.core.ranges import Range
from dq.core.waiting import WaitingQueue


def owner_of(ledger: Ledger) -> Hand | None:
    """The consumer that has records of a shard in hand."""
    return next((lease.hand for lease in ledger.leases.values()), None)


def ready_in_order(ledger: Ledger) -> Range | None:
    """What of a shard is to be leased next, together: nothing from the first that is delayed or a suspect on."""
    ready = ledger.ready()
    if ready is None:
        return None
    first, stop = ready
    suspect = ledger.suspects.first()
    if suspect is not None:
        stop = min(stop, suspect[0])
    stop = min([stop, *ledger.delayed])
    return (first, stop) if first < stop else None


def suspect_in_order(ledger: Ledger) -> int | None:
    """The suspect that is to be leased next, if all before it is settled."""
    offset = ledger.suspect()
    if offset is None or ledger.leases or min(ledger.delayed, default=offset) < offset:
        return None
    waiting = ledger.returned.first()
    return offset if waiting is None or waiting[0] > offset else None


def may_lease(ledger: Ledger, hand: Hand, first: int, stop: int, *, alone: bool) -> bool:
    """Whether a range is what is to be leased next of its shard, and by this consumer."""
    if owner_of(ledger) not in (None, hand):
        return False
    if alone:
        return suspect_in_order(ledger) == first
    ready = ready_in_order(ledger)
    return ready is not None and ready[0] == first and stop <= ready[1]


def out_of_order(ledger: Ledger) -> list[tuple[Lease, list[Range]]]:
    """What is in a hand beyond a record that is not."""
    firsts = [ranges[0] for place in (ledger.returned, ledger.suspects) if (ranges := place.first()) is not None]
    front = min([*firsts, *ledger.delayed], default=None)
    if front is None:
        return []
    found = [(lease, lease.open.within(front, lease.stop)) for lease in ledger.leases.values() if lease.stop > front]
    return [(lease, ranges) for lease, ranges in found if ranges]


class OrderedOffers(Offers):
    """Matches waiting consumers with waiting records, in order.

    Args:
        waiting: the idle consumers.
    """

    __slots__ = ("_parked",)

    def __init__(self, waiting: WaitingQueue) -> None:
        super().__init__(waiting)
        self._parked: dict[str, dict[Shard, Ledger]] = {}  # by the owner that was not idle

    def welcome(self, hand: Hand) -> None:
        """A consumer may be idle: its shards are asked again."""
        super().welcome(hand)
        for ledger in self._parked.pop(hand.name, {}).values():
            self.wake(ledger)

    def wake(self, ledger: Ledger) -> None:
        """Something may be to be leased from this shard."""
        if ledger.shard not in self._ready_like(ledger) and ready_in_order(ledger) is not None:
            self._enter(ledger)
        if ledger.shard not in self._suspected and suspect_in_order(ledger) is not None:
            self._suspected[ledger.shard] = ledger

    def forget(self, shard: Shard) -> None:
        """A shard begins anew: its old ledger is void."""
        super().forget(shard)
        for parked in self._parked.values():
            parked.pop(shard, None)

    def _next_of(self, waiting: Ready) -> Offer | None:
        while waiting:
            shard, ledger = next(iter(waiting.items()))
            ready = ready_in_order(ledger)
            if ready is None:
                del waiting[shard]
                continue
            hand = owner_of(ledger)
            if hand is None:
                hand = self.waiting.next(self.isolator)
                if hand is None:
                    return None  # and no owner is idle either
            elif hand is self.isolator or not self.waiting.idle(hand):
                del waiting[shard]
                self._parked.setdefault(hand.name, {})[shard] = ledger
                continue
            else:
                self.waiting.serve(hand)
            waiting.move_to_end(shard)
            first, stop = ready
            return make_offer(hand, ledger, first, stop - first, alone=False)
        return None

    def _suspect_of(self, ledger: Ledger) -> int | None:
        return suspect_in_order(ledger)

    def _choose_isolator(self, hand: Hand | None) -> None:
        before = self.isolator
        super()._choose_isolator(hand)
        if before is not None and before is not hand:
            self.welcome(before)
