"""The items that wait in a queue: what was read ahead or has just been pushed in memory, the rest on disk."""

from __future__ import annotations

from bisect import insort
from collections import deque
from operator import itemgetter

from dq.config import MIB
from dq.core.ranges import RangeSet
from dq.embedded.consumed import Consumed, Runs
from dq.log.item_log import ItemLog
from dq.log.item_reader import ItemReader

READY_BYTES_MAX = 16 * MIB
READY_COUNT_MAX = 131_072
_AT_ONCE = 1_000  # items that are read at once from batches of one or a few
"""Beyond either, what is pushed is read from the disk when its turn comes: memory stays flat, however much waits."""


class Waiting:
    """Whoever holds the queue's lock may use it.

    ::

        gone, in hand │ ready, in memory │ on disk alone: where the reader stands │
                      next               ready_end                                log.next

    Args:
        log: the items.
        consumed: what of them is gone, fitted to the log.

    Attributes:
        next, ready_end, ready: where they are in the drawing, and the items between the two.
        ready_bytes: their size.
        reader: of those beyond; None while there are none, and what is pushed is put into `ready`.
        returned: items that were taken and given back, as (offset, items), lowest first: their turn comes first.
        payload: bytes of all the items that wait.
    """

    def __init__(self, log: ItemLog, consumed: Consumed) -> None:
        self._log = log
        self.ready: deque[bytes] = deque()
        self.ready_bytes = 0
        self._skip = RangeSet.of(consumed.beyond)  # gone before the last start, and still ahead of next
        self.returned: list[tuple[int, list[bytes]]] = []
        self.next = self.ready_end = consumed.floor
        self.reader: ItemReader | None = None
        self.payload = 0
        if consumed.floor < log.next:
            self.reader = ItemReader(log, consumed.floor)
            everything = sum(info.payload for info in log.infos.values())
            self.payload = everything - _payload(log, [(log.first, consumed.floor), *consumed.beyond])

    def spill(self, place: tuple[int, int]) -> None:
        """What was pushed last, and all that follows it, is read from the disk when its turn comes.

        Args:
            place: segment and position at which the log ended before.
        """
        segment, position = self._log.segment, place[1]
        self.reader = ItemReader.at(self._log, segment, position if segment == place[0] else 0, self.ready_end)

    def take(self, count: int) -> tuple[list[bytes], Runs]:
        """The next `count` items, and which they are. There must be as many.

        Raises:
            Damaged, LogError: as far as can be read nothing was taken.
        """
        ready = self.ready
        if self.returned or len(ready) < count:
            return self._gather(count)
        first = self.next
        self.next = stop = first + count
        pop = ready.popleft
        items = [pop() for _ in range(count)]
        size = sum(map(len, items))
        self.ready_bytes -= size
        self.payload -= size
        return items, [(first, stop)]

    def _gather(self, count: int) -> tuple[list[bytes], Runs]:
        items: list[bytes] = []
        runs: Runs = []
        try:
            while len(items) < count:
                first, part = self._part(count - len(items))
                items += part
                if runs and runs[-1][1] == first:
                    runs[-1] = (runs[-1][0], first + len(part))
                else:
                    runs.append((first, first + len(part)))
        except BaseException:
            self.give_back(items, runs)
            raise
        return items, runs

    def _part(self, count: int) -> tuple[int, list[bytes]]:
        """At most `count` items that follow each other, and the offset of the first."""
        if self.returned:
            first, items = self.returned.pop(0)
            part = items[:count]
            if len(items) > count:
                self.returned.insert(0, (first + count, items[count:]))
        else:
            if not self.ready:
                self._load()
            first, part = self.next, [self.ready.popleft() for _ in range(min(count, len(self.ready)))]
            self.next += len(part)
            self.ready_bytes -= sum(map(len, part))
        self.payload -= sum(map(len, part))
        return first, part

    def _load(self) -> None:
        """Reads the next batches into memory, or what of them is before something to be skipped."""
        reader = self.reader
        if reader is None:
            raise AssertionError("a queue was asked for more items than it has")
        while not self.ready:
            gap = self._skip.first()
            if gap is not None and gap[0] <= self.next:
                self.next = self.ready_end = max(self.next, gap[1])
                self._skip.discard(*gap)
                continue
            batch = reader.peek()
            if batch is None:
                raise AssertionError("a log ends before its last item")
            first, stop = batch[0], batch[0] + batch[1]
            if first == self.next and gap is None:
                self.ready.extend(reader.several(_AT_ONCE))
                self.ready_end = first + len(self.ready)
                continue
            if stop > self.next:
                until = stop if gap is None else min(stop, gap[0])
                self.ready.extend(reader.items()[self.next - first : until - first])
                self.ready_end = until
            if self.ready_end >= stop or stop <= self.next:
                reader.step()
        self.ready_bytes = sum(map(len, self.ready))
        if self.ready_end == self._log.next:
            self.reader = None

    def give_back(self, items: list[bytes], runs: Runs) -> None:
        """What was taken waits again, before all that follows it."""
        begin = 0
        for first, stop in runs:
            insort(self.returned, (first, items[begin : begin + stop - first]), key=itemgetter(0))
            begin += stop - first
        self.payload += sum(map(len, items))


def _payload(log: ItemLog, ranges: Runs) -> int:
    """Bytes of the items in some ranges."""
    total = 0
    for begin, end in ranges:
        reader = ItemReader(log, begin)
        while begin < end and (batch := reader.peek()) is not None:
            first, stop = batch[0], batch[0] + batch[1]
            if begin <= first and stop <= end:
                total += reader.payload()
            else:
                total += sum(map(len, reader.items()[max(begin - first, 0) : end - first]))
            begin = stop
            reader.step()
    return total
