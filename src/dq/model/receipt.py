"""Receipts: what a publisher gets back once its records are committed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload


@dataclass(frozen=True, slots=True)
class Receipt:
    """One record is committed.

    Attributes:
        id: `stream/bucket/offset`.
        durability: what "committed" means for its stream; "sync" is on disk.
    """

    id: str
    durability: str = "sync"


@dataclass(frozen=True, slots=True)
class StoredRange:
    """`count` records of one bucket, from offset `first`."""

    stream: str
    bucket: int
    first: int
    count: int


class Receipts(Sequence[Receipt]):
    """The receipts of many records, kept as ranges of ids: a million of them are a few kilobytes.

    They stand in the order in which the batches were committed to their buckets. With one bucket, or one key, that is the
    order in which the records were published.
    """

    __slots__ = ("_length", "durability", "ranges")

    def __init__(self, ranges: Sequence[StoredRange] = (), durability: str = "sync") -> None:
        self.ranges: list[StoredRange] = []
        self.durability = durability
        self._length = 0
        for part in ranges:
            self.add(part)

    def add(self, part: StoredRange) -> None:
        """Adds a range; it is joined to the last one where it follows it."""
        self._length += part.count
        if self.ranges:
            last = self.ranges[-1]
            if (last.stream, last.bucket, last.first + last.count) == (part.stream, part.bucket, part.first):
                self.ranges[-1] = StoredRange(last.stream, last.bucket, last.first, last.count + part.count)
                return
        self.ranges.append(part)

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, place: int) -> Receipt: ...
    @overload
    def __getitem__(self, place: slice) -> list[Receipt]: ...
    def __getitem__(self, place: int | slice) -> Receipt | list[Receipt]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(self._length))]
        if place < 0:
            place += self._length
        if place >= 0:
            for part in self.ranges:
                if place < part.count:
                    return Receipt(f"{part.stream}/{part.bucket}/{part.first + place}", self.durability)
                place -= part.count
        raise IndexError("no receipt at that place")

    def __iter__(self) -> Iterator[Receipt]:
        for part in self.ranges:
            for offset in range(part.first, part.first + part.count):
                yield Receipt(f"{part.stream}/{part.bucket}/{offset}", self.durability)

    def __repr__(self) -> str:
        return f"<Receipts {self._length} in {len(self.ranges)} ranges>"
