"""The labels of an MPMC queue: a cursor each, and for those that read a place in the log with what was read ahead."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from dq.errors import Damaged
from dq.log.item_log import ItemLog
from dq.log.item_reader import ItemReader

_READERS_MAX = 64  # that keep what they read ahead: 300 KiB each


class Label:
    """One cursor.

    Attributes:
        next: offset of its next item.
        text: its name as JSON.
    """

    __slots__ = ("_index", "_items", "_offset", "_place", "next", "reader", "text")

    def __init__(self, name: str, offset: int) -> None:
        self.next, self.text = offset, orjson.dumps(name)
        self.reader: ItemReader | None = None
        self._place: tuple[int, int, int] | None = None  # of the reader that it had
        self._items: list[bytes] = []  # a batch that is handed out in parts: its item at `_index` has offset `_offset`
        self._index = self._offset = 0

    def read(self, log: ItemLog, count: int) -> list[bytes]:
        """The next `count` items; there must be as many. The cursor stays until `went`. Raises Damaged, LogError."""
        if self._offset == self.next and len(self._items) - self._index >= count:
            return self._items[self._index : self._index + count]
        items = self._items[self._index :] if self._offset == self.next else []
        reader, wanted = self._reader(log), self.next + len(items)
        while len(items) < count:
            batch = reader.peek()
            if batch is None:
                raise AssertionError("a log ends before its last item")
            first, stop = batch[0], batch[0] + batch[1]
            if stop > wanted:
                found = reader.items()
                items += found[wanted - first :] if first < wanted else found
                wanted = stop
            reader.step()
        self._items, self._index, self._offset = items, 0, self.next
        return items[:count]

    def _reader(self, log: ItemLog) -> ItemReader:
        if self.reader is None:
            if self._place is not None and self._place[0] in log.sizes and self._place[2] <= self.next + len(self._items):
                self.reader = ItemReader.at(log, *self._place)
            else:
                self._items = []
                self.reader = ItemReader(log, self.next)
        return self.reader

    def went(self, count: int) -> None:
        """The last `count` that were read are behind it."""
        self.next += count
        self._index, self._offset = self._index + count, self.next
        if self._index >= len(self._items):
            self._items, self._index = [], 0

    def jump(self, offset: int, place: tuple[int, int, int] | None = None) -> None:
        """Goes on at `offset`; `place` is one at or before it, where it is known."""
        self.next, self.reader, self._place = offset, None, place
        self._items, self._index, self._offset = [], 0, offset

    def rest(self) -> None:
        """Keeps its place, as far as it is known, and forgets what was read ahead."""
        place = self.reader.place if self.reader is not None and not self._items else None
        self.jump(self.next, place)


class Labels:
    """All cursors by name, as the log of the cursors has them.

    ::

        {"label":"a","next":5}   {"removed":"a"}   {"floor":3}   and at first {"floor":3,"labels":{"a":5}}

    Attributes:
        floor: items below are expired.
        by_name: the labels.
    """

    def __init__(self) -> None:
        self.floor = 0
        self.by_name: dict[str, Label] = {}
        self._reading: dict[Label, None] = {}  # those that have a reader, the one longest unused first

    @classmethod
    def replayed(cls, notes: Iterable[dict[str, Any]], place: Path) -> Labels:
        """As the notes say. Raises Damaged where they make no sense."""
        made = cls()
        for note in notes:
            try:
                made._apply(note)
            except (KeyError, TypeError, ValueError, AttributeError):
                raise Damaged(f"{place} has a note that none of dq wrote: {note!r:.200}. Restore it from a backup") from None
        return made

    def _apply(self, note: dict[str, Any]) -> None:
        if "labels" in note:
            self.by_name = {name: Label(name, _offset(offset)) for name, offset in note["labels"].items()}
        elif "label" in note:
            self.by_name[note["label"]] = Label(note["label"], _offset(note["next"]))
        elif "removed" in note:
            self.by_name.pop(note["removed"], None)
        if "floor" in note:
            self.floor = _offset(note["floor"])

    def fit(self, end: int) -> bool:
        """After a power cut the items may end before a cursor; says whether one had to go back."""
        ahead = [label for label in self.by_name.values() if label.next > end]
        for label in ahead:
            label.next = end
        changed = bool(ahead) or self.floor > end
        self.floor = min(self.floor, end)
        return changed

    def snapshot(self) -> bytes:
        """A note of all of them."""
        labels = {name: label.next for name, label in self.by_name.items()}
        return orjson.dumps({"floor": self.floor, "labels": labels}, option=orjson.OPT_APPEND_NEWLINE)

    def used(self, label: Label) -> None:
        """It has just read: another one may have to give up what it read ahead."""
        self._reading.pop(label, None)
        self._reading[label] = None
        if len(self._reading) > _READERS_MAX:
            oldest = next(iter(self._reading))
            del self._reading[oldest]
            oldest.rest()

    def forget(self, label: Label) -> None:
        """It is gone."""
        self._reading.pop(label, None)


def _offset(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError
    return value
