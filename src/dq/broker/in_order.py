"""How numbered intents go to the other broker: in order, few at a time, again until they are stored."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

from dq.config import LIMITS

IN_FLIGHT = LIMITS.dedupe_batches // 2
"""So many of one lane are under way: the other broker knows the last batches of a publisher, so that one that comes again must
be among them."""
Lane = TypeVar("Lane", bound=Hashable)


class InOrder(Generic[Lane]):
    """What of each lane was sent. Nothing of it outlives the process: what was sent before is sent again, and known."""

    def __init__(self) -> None:
        self._from: dict[Lane, int] = {}
        self._sent: dict[Lane, int] = {}

    def due(self, lane: Lane, numbers: Sequence[int]) -> range:
        """The numbers that are to be sent now, of those that are not stored yet, ascending and without gaps.

        The other broker knows no publisher of whom nothing is stored, so that the first one goes alone: a later one would be
        taken for the first.
        """
        first, last = numbers[0], numbers[-1]
        alone = self._from.setdefault(lane, first) == first
        begin = max(first, self._sent.get(lane, -1) + 1)
        stop = min(first + (1 if alone else IN_FLIGHT), last + 1)
        self._sent[lane] = max(self._sent.get(lane, -1), stop - 1)
        return range(begin, stop)

    def unsent(self, lane: Lane, number: int) -> None:
        """It could not be sent, nor those after it: they are due again."""
        self._sent[lane] = number - 1

    def again(self) -> None:
        """All are due again: the other broker is a new one, or did not take one of them."""
        self._sent.clear()

    def begin_lane(self, lane: Lane) -> None:
        """As `anew`, for one lane."""
        self._from.pop(lane, None)
        self._sent.pop(lane, None)

    def anew(self) -> None:
        """Their publisher has another name now, of whom nothing is stored."""
        self._from.clear()
        self._sent.clear()
