"""The queue in which idle consumers wait for work."""

from __future__ import annotations

from collections import OrderedDict

from dq.core.leases import Hand


class WaitingQueue:
    """Hands of consumers that may take records, in turn: who was served goes to the back, so all get their share.

    Who stops being idle is met when its turn comes and leaves then; so a lease costs the queue nothing.

    Args:
        bytes_max: a consumer with so many bytes in hand is not idle.
    """

    __slots__ = ("_bytes_max", "_hands")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        # Not a dict: its first entry is found in O(n) after many were moved from the front to the back.
        self._hands: OrderedDict[str, Hand] = OrderedDict()

    def add(self, hand: Hand) -> None:
        """Puts a hand at the back if it is idle and does not wait already."""
        if hand.name not in self._hands and self.idle(hand):
            self._hands[hand.name] = hand

    def remove(self, hand: Hand) -> None:
        """Takes a hand out, in the queue or not."""
        self._hands.pop(hand.name, None)

    def idle(self, hand: Hand) -> bool:
        """Whether a consumer may take records: it has credit and room, is heard of, and is not with a suspect."""
        return hand.credit > 0 and not hand.alone and not hand.silent and hand.size < self._bytes_max

    def next(self, without: Hand | None = None) -> Hand | None:
        """The idle hand whose turn it is; it goes to the back. `without` is passed over."""
        hands = self._hands
        for _ in range(len(hands)):
            name = next(iter(hands))
            hand = hands[name]
            if not self.idle(hand):
                del hands[name]
                continue
            hands.move_to_end(name)
            if hand is not without:
                return hand
        return None

    def serve(self, hand: Hand) -> None:
        """Sends a hand to the back, as `next` does: it was served out of turn."""
        if hand.name in self._hands:
            self._hands.move_to_end(hand.name)

    def least(self) -> Hand | None:
        """The idle hand that has the fewest records; of equals, the one that waits longest. O(n), for suspects only."""
        idle = [hand for hand in self._hands.values() if self.idle(hand)]
        return min(idle, key=lambda hand: hand.records, default=None)
