"""When which of very many offsets is due: 16 bytes for each, however far away its time is.

A wheel of wheels. What is due within the next seconds lies in slots of a sixteenth of a second; what is further away in slots
64 times as long, and so on. Before its time begins, a slot is spilled into those below it, a chunk at a time, so that no turn
takes long. Only a slot whose time has come is brought into order.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from math import inf

_TICKS = 16.0
"""Slots a second at the bottom."""
_SHIFT = 6
_SLOTS = 1 << _SHIFT
"""Slots of one level that fit into one of the next."""
_LEVELS = 6
"""The slots of the last are two years long, and as many as there are."""
_CHUNK = 4_096
"""Offsets that are spilled, or brought into order, at once: some 2 ms."""


class _Slot:
    """Deadlines and offsets as they came, in chunks; of the first chunk `at` are taken already."""

    __slots__ = ("at", "chunks", "earliest", "ordered")

    def __init__(self) -> None:
        self.chunks: list[tuple[array[float], array[int]]] = []
        self.at = 0
        self.ordered = True  # of the first chunk
        self.earliest = inf  # of all that were put into it

    def put(self, deadline: float, offset: int) -> None:
        if not self.chunks or len(self.chunks[-1][0]) >= _CHUNK:
            self.chunks.append((array("d"), array("Q")))
        deadlines, offsets = self.chunks[-1]
        if self.ordered and len(self.chunks) == 1 and deadlines and deadline < deadlines[-1]:
            self.ordered = False
        self.earliest = min(self.earliest, deadline)
        deadlines.append(deadline)
        offsets.append(offset)

    def first(self) -> float:
        """The earliest deadline of the first chunk, which is in order then."""
        deadlines, offsets = self.chunks[0]
        if not self.ordered:
            places = sorted(range(self.at, len(deadlines)), key=deadlines.__getitem__)
            self.chunks[0] = array("d", map(deadlines.__getitem__, places)), array("Q", map(offsets.__getitem__, places))
            self.at, self.ordered = 0, True
        return self.chunks[0][0][self.at]

    def take(self) -> int:
        """The offset with the earliest deadline of the first chunk, after `first`."""
        offset = self.chunks[0][1][self.at]
        self.at += 1
        if self.at == len(self.chunks[0][0]):
            self.take_chunk()
        return offset

    def take_chunk(self) -> tuple[array[float], array[int]]:
        self.at, self.ordered = 0, len(self.chunks) == 1  # the next one is looked at when its turn comes
        return self.chunks.pop(0)


class Schedule:
    """Deadlines are monotonic seconds. Those of one sixteenth of a second come in their order, unless they are thousands."""

    def __init__(self) -> None:
        self._levels: list[dict[int, _Slot]] = [{} for _ in range(_LEVELS)]
        self._wake = inf
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, deadline: float, offset: int, now: float) -> None:
        """Makes an offset due at `deadline`. It must not be there already."""
        self._count += 1
        self._wake = min(self._wake, self._put(deadline, offset, int(now * _TICKS)))

    def _put(self, deadline: float, offset: int, tick_now: int, below: int = _LEVELS) -> float:
        """Puts an offset into the lowest level that reaches so far; returns when it is to be looked at."""
        tick = max(int(deadline * _TICKS), tick_now)
        level = 0
        while level < below - 1 and (tick >> (_SHIFT * level)) - (tick_now >> (_SHIFT * level)) >= _SLOTS:
            level += 1
        number = tick >> (_SHIFT * level)
        slot = self._levels[level].get(number)
        if slot is None:
            slot = self._levels[level][number] = _Slot()
        slot.put(deadline, offset)
        return deadline if level == 0 else _moment(level, number)

    def due(self) -> float | None:
        """When `tend` and `take` are to be called next; None where nothing is waited for."""
        return None if self._wake == inf else self._wake

    def first(self) -> float | None:
        """The earliest deadline; a little too early while its slot is being spilled. None where there is none."""
        firsts = [slots[min(slots)].earliest for slots in self._levels[1:] if slots]
        if self._levels[0]:
            firsts.append(self._levels[0][min(self._levels[0])].first())
        return min(firsts, default=None)

    def take(self, now: float, most: int) -> list[int]:
        """Takes out up to `most` offsets that are due, and spills one chunk of what comes next. It is to be called again at
        `due()`, which may be at once."""
        tick_now, taken = int(now * _TICKS), list[int]()
        self._spill(tick_now)
        slots = self._levels[0]
        for number in sorted(number for number in slots if number <= tick_now):
            slot = slots[number]
            while len(taken) < most and slot.chunks and slot.first() <= now:
                taken.append(slot.take())
            if not slot.chunks:
                del slots[number]
        self._count -= len(taken)
        self._wake = self._next_look()
        return taken

    def _spill(self, tick_now: int) -> None:
        for level in range(1, _LEVELS):
            slots = self._levels[level]
            number = min(slots, default=None)
            if number is None or (tick_now >> (_SHIFT * level)) < number - 1:
                continue
            slot = slots[number]
            deadlines, offsets = slot.take_chunk()
            if not slot.chunks:
                del slots[number]
            for deadline, offset in zip(deadlines, offsets, strict=True):
                self._put(deadline, offset, tick_now, level)
            return

    def _next_look(self) -> float:
        looks = [_moment(level, min(slots)) for level, slots in enumerate(self._levels) if level and slots]
        if self._levels[0]:
            first = min(self._levels[0])
            looks.append(self._levels[0][first].first())
        return min(looks, default=inf)

    def __iter__(self) -> Iterator[int]:
        """All offsets, in no order."""
        for slots in self._levels:
            for slot in slots.values():
                for place, (_, offsets) in enumerate(slot.chunks):
                    yield from offsets[0 if place else slot.at :]


def _moment(level: int, number: int) -> float:
    """When a slot is to be spilled: the length of one before it begins."""
    return ((number - 1) << (_SHIFT * level)) / _TICKS
