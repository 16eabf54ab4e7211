"""Keys of `publish(once=)` in a simulated world: within its window a key is stored once, and answered so."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path

from sim_delays import Delays

WINDOW = 3.0  # seconds
KEYS = ("a", "b", "c", "d")
_NUMBER = re.compile(rb'"payload":\{"n":(\d+)')


class OnceKeys:
    """Which records have which keys, and when they were written.

    Args:
        delays: knows how the wall clock was set: where it leaps ahead, a key is older after a start.
        objection: what is raised when something cannot be.
    """

    def __init__(self, delays: Delays, counts: Counter[str], objection: Callable[[str], AssertionError]) -> None:
        self._delays, self._counts, self._objection = delays, counts, objection
        self._keys: dict[int, tuple[str, str]] = {}
        self._written: dict[int, float] = {}
        self._again: set[int] = set()
        self._expected: dict[tuple[str, int, int], str] = {}
        self._stored: set[int] = set()

    def __contains__(self, number: int) -> bool:
        return number in self._keys

    def asked(self, number: int, stream: str, key: str) -> None:
        """A record was handed in that has a key."""
        self._counts["once"] += 1
        self._keys[number] = stream, key

    def wrote(self, path: Path, content: bytes) -> None:
        """Lines went to the log of a stream."""
        if b'"once":"' in content:
            for found in _NUMBER.finditer(content):
                number, now = int(found[1]), self._delays.longest_since_begin()
                if number in self._keys:
                    if now - self._written.get(number, now) >= WINDOW - 1e-3:
                        self._again.add(number)
                    self._written[number] = now

    def receipt(self, number: int, place: tuple[str, int, int], known: int | None) -> None:
        """A publisher was told that its record, or another of its key, stands there; `known`: which one does."""
        if known is None:
            self._expected[place] = self._keys[number][1]
        else:
            self._check(place, self._keys[number][1], known)
            if known != number:
                self._counts["once: known"] += 1

    def saw(self, place: tuple[str, int, int], number: int) -> None:
        """Which record stands somewhere."""
        key = self._expected.pop(place, None)
        if key is not None:
            self._check(place, key, number)

    def is_forgotten(self, number: int) -> bool:
        """Whether a record was written, and its window is over."""
        written = self._written.get(number)
        return written is not None and self._delays.longest_since_begin() - written >= WINDOW - 1e-3

    def may_stand_twice(self, number: int) -> bool:
        """Whether a record was sent again when its window was over: it is one more then, as a new one with its key were."""
        return number in self._again

    def _check(self, place: tuple[str, int, int], key: str, number: int) -> None:
        if self._keys.get(number, ("", ""))[1] != key:
            raise self._objection(f"{place} was answered for the key {key!r}, and is record {number}: {self._keys.get(number)}")

    def gone(self, stream: str, bucket: int | None = None, end: int = 0) -> None:
        """What stood in a stream, or beyond the end of a bucket, is no more."""
        self._expected = {
            place: key
            for place, key in self._expected.items()
            if place[0] != stream or (bucket is not None and (place[1] != bucket or place[2] < end))
        }

    def check(self, stored: Iterable[int], counts_for: Callable[[str], bool]) -> None:
        """No two of these records have one key and came within its window, in the streams that `counts_for`."""
        by_key: dict[tuple[str, str], list[tuple[float, int]]] = defaultdict(list)
        for number in stored:
            if number in self._keys and number in self._written and counts_for(self._keys[number][0]):
                by_key[self._keys[number]].append((self._written[number], number))
        for key, found in by_key.items():
            found.sort()
            for (before, first), (after, second) in pairwise(found):
                if after - before < WINDOW - 1e-3:
                    raise self._objection(f"{first} and {second} of key {key} are stored, {after - before:.3f} s apart")
                if second not in self._stored:
                    self._stored.add(second)
                    self._counts["once: stored anew"] += 1
