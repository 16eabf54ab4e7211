"""The keys of `publish(once=)` of one stream: which were seen within the window, and where their records stand.

A million must fit into little memory. So a key is 15 bytes of its digest (two keys of one digest do not occur), a place is
one number, and times are kept for runs of keys: 122 bytes a key with all. Moments are monotonic seconds, so that no jump of
the wall clock makes a key be forgotten.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from hashlib import blake2b
from itertools import islice

_DIGEST_BYTES = 15  # the largest that takes no more than 48 bytes as an object
_OFFSET_BITS = 50
_OFFSET_MASK = (1 << _OFFSET_BITS) - 1
_MARKS = 100  # of a window: a key is kept for so much of it too long, and never more than a second


def digest_of(key: str) -> bytes:
    """By what a key is known."""
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).digest()


def place_of(bucket: int, offset: int) -> int:
    """A place as one number."""
    return bucket << _OFFSET_BITS | offset


def bucket_and_offset(place: int) -> tuple[int, int]:
    """What `place_of` was made of."""
    return place >> _OFFSET_BITS, place & _OFFSET_MASK


class Mark:
    """A run of keys, in the order in which they came: how many they are, and when the first and the last one came."""

    __slots__ = ("count", "first", "last")

    def __init__(self, now: float) -> None:
        self.count, self.first, self.last = 0, now, now


class OnceKeys:
    """The keys of one stream.

    Args:
        window: seconds for which a key is known after it was added; a hundredth of that more, at most a second.
        limit: how many keys are known at most.
    """

    __slots__ = ("_grain", "_keys", "_limit", "_marks", "_window")

    def __init__(self, window: float, limit: int) -> None:
        self._window, self._limit, self._grain = window, limit, min(1.0, window / _MARKS)
        self._keys: dict[bytes, int] = {}  # in the order of their marks
        self._marks: deque[Mark] = deque()

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def full(self) -> bool:
        """Whether one more is too many."""
        return len(self._keys) >= self._limit

    def find(self, digest: bytes, now: float) -> int | None:
        """The place of a key that was seen within its window."""
        marks = self._marks
        if marks and now - marks[0].last >= self._window:
            self.expire(now)
        return self._keys.get(digest)

    def add(self, digest: bytes, place: int, now: float) -> Mark:
        """Remembers a key that is not known; `now` never falls."""
        marks = self._marks
        if not marks or now - marks[-1].first >= self._grain:
            marks.append(Mark(now))
        mark = marks[-1]
        mark.count, mark.last = mark.count + 1, now
        self._keys[digest] = place
        return mark

    def forget(self, digest: bytes, mark: Mark) -> None:
        """A key whose record was not stored, and what `add` gave for it."""
        if self._keys.pop(digest, None) is not None:
            mark.count -= 1

    def expire(self, now: float) -> None:
        """Forgets the keys whose window is over."""
        marks, gone = self._marks, 0
        while marks and now - marks[0].last >= self._window:
            gone += marks.popleft().count
        if gone == len(self._keys):
            self._keys = {}  # a dict that is emptied key by key keeps its memory
            return
        for digest in list(islice(self._keys, gone)):
            del self._keys[digest]

    def load(self, found: Iterable[tuple[float, bytes, int]]) -> None:
        """Begins with keys of a log: (moment, digest, place), in the order of their moments; of one key the last counts.

        More than the limit were never alive at a time: where a clock was set back it looks so, and the newest count.
        """
        newest: dict[bytes, tuple[float, int]] = {}
        for moment, digest, place in found:
            newest.pop(digest, None)
            newest[digest] = moment, place
        for digest, (moment, place) in islice(newest.items(), max(len(newest) - self._limit, 0), None):
            self.add(digest, place, moment)
