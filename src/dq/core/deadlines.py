"""One heap of all deadlines of a sink."""

from __future__ import annotations

from collections.abc import Hashable
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

_STALE_MAX = 64
"""Stale entries that are borne before the heap is built anew: below that it is not worth the walk."""


class Deadlines(Generic[Key]):
    """For each key the time at which it is due, in one heap with lazy deletion.

    `_when` is the truth, the heap only says when to look at it: for every key the heap has an entry that is not later
    than its time. So a deadline that moves on (the usual case: a renewal) and one that is cancelled touch no heap;
    the old entry is met at its time and put right then. Times are monotonic seconds.
    """

    __slots__ = ("_heap", "_pushed", "_when")

    def __init__(self) -> None:
        self._when: dict[Key, float] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._pushed = 0

    def __len__(self) -> int:
        return len(self._when)

    def set(self, key: Key, when: float) -> None:
        """Makes `key` due at `when`, instead of any time it had."""
        old = self._when.get(key)
        self._when[key] = when
        if old is None or when < old:
            self._push(key, when)

    def hasten(self, key: Key, when: float) -> None:
        """Makes `key` due at `when` at the latest."""
        old = self._when.get(key)
        if old is None or when < old:
            self.set(key, when)

    def cancel(self, key: Key) -> None:
        """Forgets `key`; one that is unknown is none the worse for it."""
        self._when.pop(key, None)

    def of(self, key: Key) -> float | None:
        """When `key` is due; None where it is not waited for."""
        return self._when.get(key)

    def first(self) -> float | None:
        """When the next key is due; None where nothing is to be waited for."""
        while self._heap:
            when, _, key = self._heap[0]
            due = self._when.get(key)
            if due == when:
                return when
            heappop(self._heap)
            if due is not None and due > when:
                self._push(key, due)
        return None

    def items(self) -> list[tuple[Key, float]]:
        """All keys and when they are due, in no order."""
        return list(self._when.items())

    def due(self, now: float) -> list[Key]:
        """Takes out all that are due at `now`, in order of their times; of one time, in the order they were set."""
        over: list[Key] = []
        while (when := self.first()) is not None and when <= now:
            key = heappop(self._heap)[2]
            del self._when[key]
            over.append(key)
        return over

    def _push(self, key: Key, when: float) -> None:
        if len(self._heap) > 2 * len(self._when) + _STALE_MAX:
            # Mostly stale: built anew from the truth, which holds `key` already. The walk is paid for by its pushes.
            self._heap = [(due, place, each) for place, (each, due) in enumerate(self._when.items())]
            self._pushed = len(self._heap)
            heapify(self._heap)
            return
        self._pushed += 1  # breaks ties: keys of different kinds cannot be compared
        heappush(self._heap, (when, self._pushed, key))
