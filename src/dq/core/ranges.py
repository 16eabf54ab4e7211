"""Sets of offsets as sorted half-open ranges, so that a thousand neighbours cost as much as one.

The edges of all ranges stand in one sorted list, starts at even and stops at odd places::

    {2, 3, 4, 8, 9}   is   [2, 5, 8, 10]        place  0  1  2  3
                                                       2--5  8--10

The place where bisect would put an offset says all: odd is inside of a range, even is outside. To add or to discard
a range is therefore to replace the edges within it by at most two new ones.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

Range = tuple[int, int]
"""Offsets from the first up to, and without, the second."""


class RangeSet:
    """Disjoint, sorted, half-open ranges of offsets. Search is O(log n); the usual set has one or two ranges.

    Args:
        first, stop: the one range to begin with; empty by default.

    Attributes:
        count: how many offsets are in it.
    """

    __slots__ = ("_edges", "count")

    def __init__(self, first: int = 0, stop: int = 0) -> None:
        self._edges: list[int] = [first, stop] if first < stop else []
        self.count = stop - first if first < stop else 0

    @classmethod
    def of(cls, ranges: Iterable[Iterable[int]]) -> RangeSet:
        """The set of all offsets in `ranges`, in whatever order, overlapping or not."""
        made = cls()
        for first, stop in ranges:
            made.add(first, stop)
        return made

    def add(self, first: int, stop: int) -> int:
        """Adds a range; it merges with what it overlaps or touches. Returns how many offsets were new."""
        if first >= stop:
            return 0
        edges = self._edges
        low, high = bisect_left(edges, first), bisect_right(edges, stop)
        new = (stop - first) - self._count_between(first, stop, low, high)
        edges[low:high] = ([] if low & 1 else [first]) + ([] if high & 1 else [stop])
        self.count += new
        return new

    def discard(self, first: int, stop: int) -> int:
        """Takes a range out. Returns how many offsets of it were there."""
        if first >= stop or not self._edges:
            return 0
        edges = self._edges
        low, high = bisect_left(edges, first), bisect_right(edges, stop)
        gone = self._count_between(first, stop, low, high)
        edges[low:high] = ([first] if low & 1 else []) + ([stop] if high & 1 else [])
        self.count -= gone
        return gone

    def cut(self, first: int, stop: int) -> list[Range]:
        """Takes a range out and returns what of it was there."""
        edges = self._edges
        if len(edges) == 2 and first <= edges[0] and stop >= edges[1]:
            # The usual case, one range that goes as a whole: a third of the time of the general one.
            there = [(edges[0], edges[1])]
            edges.clear()
            self.count = 0
            return there
        there = self.within(first, stop)
        self.discard(first, stop)
        return there

    def within(self, first: int, stop: int) -> list[Range]:
        """What of a range is there, as sorted ranges."""
        if first >= stop:
            return []
        edges = self._edges
        low, high = bisect_right(edges, first), bisect_left(edges, stop)
        inner = ([first] if low & 1 else []) + edges[low:high] + ([stop] if high & 1 else [])
        return list(zip(inner[::2], inner[1::2], strict=True))

    def covers(self, first: int, stop: int) -> bool:
        """Whether all of a range that is not empty is there."""
        place = bisect_right(self._edges, first)
        return place & 1 == 1 and stop <= self._edges[place]

    def first(self) -> Range | None:
        """The lowest range, None where there is none."""
        return (self._edges[0], self._edges[1]) if self._edges else None

    def first_from(self, offset: int) -> Range | None:
        """The lowest range at `offset` or beyond, without what of it lies below."""
        edges = self._edges
        place = bisect_right(edges, offset)
        if place & 1:
            return offset, edges[place]
        return (edges[place], edges[place + 1]) if place < len(edges) else None

    def pop_first(self, count: int) -> Range | None:
        """Takes out the lowest range, or its first `count` offsets where it is longer."""
        if not self._edges or count < 1:
            return None
        first = self._edges[0]
        stop = min(self._edges[1], first + count)
        self.discard(first, stop)
        return first, stop

    def __contains__(self, offset: int) -> bool:
        return bisect_right(self._edges, offset) & 1 == 1

    def __iter__(self) -> Iterator[Range]:
        """The ranges, lowest first. The set may be changed meanwhile."""
        return iter(list(zip(self._edges[::2], self._edges[1::2], strict=True)))

    def __bool__(self) -> bool:
        return bool(self._edges)

    def __len__(self) -> int:
        """How many offsets are in it (`count`)."""
        return self.count

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RangeSet) and self._edges == other._edges

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return f"RangeSet({list(self)})"

    def _count_between(self, first: int, stop: int, low: int, high: int) -> int:
        """Offsets of [first, stop) that are there; `low` and `high` are its places among the edges."""
        if low == high:
            return stop - first if low & 1 else 0
        inner = self._edges[low:high]
        if low & 1:
            inner.insert(0, first)
        if high & 1:
            inner.append(stop)
        return sum(inner[1::2]) - sum(inner[::2])
