"""Which items of a queue are gone: all below a floor, and ranges beyond it where some were settled before others."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from dq.core.ranges import RangeSet
from dq.errors import Damaged

Runs = list[tuple[int, int]]


class Consumed:
    """What the log of the cursors of a queue means: notes `{"popped":[5,8,10,11]}`, and `{"floor":5,"popped":[…]}` at first.

    Attributes:
        floor: everything below is gone.
        beyond: what else is.
    """

    __slots__ = ("beyond", "floor")

    def __init__(self) -> None:
        self.floor = 0
        self.beyond = RangeSet()

    @classmethod
    def replayed(cls, notes: Iterable[dict[str, Any]], place: Path) -> Consumed:
        """As the notes say. Raises Damaged where they make no sense."""
        made = cls()
        for note in notes:
            edges, floor = note.get("popped"), note.get("floor", made.floor)
            if type(floor) is not int or type(edges) is not list or not all(type(edge) is int and edge >= 0 for edge in edges):
                raise Damaged(f"{place} has a note that none of dq wrote: {note!r:.200}. Restore it from a backup")
            if "floor" in note:
                made.floor, made.beyond = floor, RangeSet()
            for first, stop in zip(edges[::2], edges[1::2], strict=False):
                made.add(first, stop)
        return made

    def add(self, first: int, stop: int) -> None:
        """These are gone."""
        if first <= self.floor and not self.beyond:
            self.floor = max(self.floor, stop)
            return
        self.beyond.add(first, stop)
        lowest = self.beyond.first()
        if lowest is not None and lowest[0] <= self.floor:
            self.floor = max(self.floor, lowest[1])
            self.beyond.discard(0, self.floor)

    def snapshot(self) -> bytes:
        """A note of all of it."""
        edges = [edge for run in self.beyond for edge in run]
        return orjson.dumps({"floor": self.floor, "popped": edges}, option=orjson.OPT_APPEND_NEWLINE)

    def fit(self, first: int, end: int) -> bool:
        """Brings it into what there is of the items, `first` to `end`; says whether anything had to change.

        After a power cut the items may end before what was popped of them, and the cursors may be older than what was deleted.
        """
        before = self.snapshot()
        self.floor = min(max(self.floor, first), end)
        self.beyond.discard(0, self.floor)
        self.beyond.discard(end, 1 << 62)
        lowest = self.beyond.first()
        if lowest is not None and lowest[0] <= self.floor:
            self.add(*lowest)
        return self.snapshot() != before
