"""`PersistentQueue`: first in, first out, in a directory, owned by one process and shared by its threads."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType

from dq.client.lifetime import watch
from dq.embedded.consumed import Consumed, Runs
from dq.embedded.items import BytesLike, checked_count, checked_items
from dq.embedded.owned import Owned
from dq.embedded.store import FRESH_BYTES, Store
from dq.embedded.waiting import READY_BYTES_MAX, READY_COUNT_MAX, Waiting
from dq.errors import DqError, QueueFull
from dq.model.told import about, words_of

log = logging.getLogger("dq")


class PersistentQueue(Owned):
    """A durable queue of bytes in the calling process; an item is gone when `pop` returns it.

    Safe to share between threads. One process at a time owns a path.

    Args:
        path: a directory for this queue alone; made if it is missing.
        max_elements: how many items it holds at most.
        durability: "os": every call survives the death of the process, and a power cut as far as the system has flushed.
            "sync": each `push` and `pop` is on disk when it returns.
        wall: the clock that times are taken from, in seconds since 1970; for tests.

    Raises:
        InUse: the queue is open already; the message has the pid. SettingsMismatch: it is a queue of another kind.
        InvalidSetting: a wrong argument, or the path is a broker's or somebody else's directory.
        Damaged, NewerFormat, LogError: what is there cannot be used.
    """

    _KIND = "persistent"
    _HELD = 1  # whether an item in a `take` block keeps its room: it may come back

    def __init__(
        self,
        path: str | os.PathLike[str],
        max_elements: int = 1_000_000_000,
        durability: str = "os",
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._max = checked_count("max_elements", max_elements, 1)
        self._store = store = Store(path, self._KIND, durability, wall)
        self._count = self._in_hand = self._waiters = 0
        self._changed = threading.Condition(store.lock)
        try:
            self._consumed = consumed = Consumed.replayed(store.notes, store.layout.cursors)
            store.state = consumed.snapshot
            store.open_items(consumed.floor)
            self._items = store.items
            if consumed.fit(self._items.first, self._items.next):
                store.snapshot(consumed.snapshot())
            self._waiting = Waiting(self._items, consumed)
        except BaseException:
            store.abandon()
            raise
        self._count = self._items.next - consumed.floor - consumed.beyond.count
        self._trim()
        watch(self)

    # --- in and out --------------------------------------------------------------------------------------------------
    def push(self, items: Iterable[BytesLike]) -> None:
        """Appends items, all or none.

        Args:
            items: bytes-like objects, also empty ones; no item is no work.

        Raises:
            InvalidPayload: one is not bytes-like (a TypeError). QueueFull: there is no room for all of them.
            DiskFull: the disk is full; none is stored. RecordTooLarge: more than 64 MiB at once. Closed: after `close`.
            SyncFailed, StreamReadOnly: the disk fails.
        """
        if type(items) is not list or len(items) != 1 or type(items[0]) is not bytes:
            items = checked_items(items)
            if not items:
                return
        count, store = len(items), self._store
        size = len(items[0]) if count == 1 else sum(map(len, items))
        with store.lock:
            if store.ended is not None:
                raise store.refusal()
            if self._count + self._in_hand * self._HELD + count > self._max:
                there = self._count + self._in_hand * self._HELD
                raise QueueFull(
                    f"queue is full: it has {there:,} items, {count:,} more were handed in, {self._max:,} are the most"
                )
            log, waiting = self._items, self._waiting
            segment, position = log.segment, log.position
            if count == 1:
                log.add_one(items[0], size)
            else:
                log.add(items, size)
            self._count += count
            # Not a method of its own, nor are the lines below: a call costs a thirtieth of a push of one item.
            waiting.payload += size
            if waiting.reader is None:
                if waiting.ready_bytes < READY_BYTES_MAX and len(waiting.ready) < READY_COUNT_MAX:
                    waiting.ready.extend(items)
                    waiting.ready_bytes += size
                    waiting.ready_end += count
                else:
                    waiting.spill((segment, position))
            if self._waiters:
                self._changed.notify_all()

    def pop(self, max_elements: int = 1, timeout: float | None = 0.0) -> list[bytes]:
        """Takes the oldest items out. They are gone when it returns: a crash of the caller loses them (`take` does not).

        Args:
            max_elements: how many at most.
            timeout: seconds to wait while there is none; None waits without an end. By default it does not wait.

        Returns:
            The items; [] where there is none.

        Raises:
            Closed: after `close`, also of a queue that is waited on. InvalidSetting: a wrong argument.
            DiskFull: no room to note it, and nothing is taken. Damaged, LogError: they cannot be read.
        """
        if type(max_elements) is not int or max_elements < 0:
            checked_count("max_elements", max_elements)
        with self._store.lock:
            if self._store.ended is not None:
                raise self._store.refusal()
            if not self._count and timeout != 0.0 and max_elements:
                self._wait(timeout)
            count = min(max_elements, self._count)
            if not count:
                return []
            waiting, consumed = self._waiting, self._consumed
            if count == 1 and waiting.ready and not waiting.returned and not consumed.beyond:
                # What is below, for one item in order, in half the time.
                first = waiting.next
                store, stop, item = self._store, first + 1, waiting.ready[0]
                store.note(b'{"popped":[%d,%d]}\n' % (first, stop))
                items = [item]
                waiting.ready.popleft()
                size = len(item)
                waiting.next = stop
                waiting.ready_bytes -= size
                waiting.payload -= size
                if first == consumed.floor:
                    consumed.floor = stop
                else:
                    consumed.add(first, stop)
            else:
                items, runs = waiting.take(count)
                try:
                    self._settle(runs)
                except BaseException:
                    waiting.give_back(items, runs)
                    raise
            self._count -= count
            if not self._count or self._consumed.floor >= self._items.second:
                self._trim()
            if self._waiters:
                self._changed.notify_all()
            return items

    def _settle(self, runs: Runs) -> None:
        """Notes that items are gone."""
        consumed = self._consumed
        if len(runs) == 1:
            first, stop = runs[0]
            line = b'{"popped":[%d,%d]}\n' % (first, stop)
        else:
            line = b'{"popped":[%s]}\n' % b",".join([b"%d,%d" % run for run in runs])
        self._store.note(line)
        for first, stop in runs:
            consumed.add(first, stop)

    def _wait(self, timeout: float | None) -> None:
        """Until there is an item, with the lock given up meanwhile."""
        self._wait_for(lambda: self._count > 0, timeout)

    def _wait_for_room(self, timeout: float | None) -> bool:
        """Waits until one more item has room; says whether it has."""
        with self._store.lock:
            return self._wait_for(lambda: self._count + self._in_hand * self._HELD < self._max, timeout)

    def _wait_for(self, condition: Callable[[], bool], timeout: float | None) -> bool:
        self._waiters += 1
        try:
            met = self._changed.wait_for(lambda: condition() or self._store.ended is not None, timeout)
        finally:
            self._waiters -= 1
        if self._store.ended is not None:
            raise self._store.refusal()
        return met

    def _trim(self) -> None:
        """Gives disk back. What was popped stays popped, should that fail."""
        empty = not self._count and not self._in_hand
        items = self._items
        if not empty and self._consumed.floor < items.second:
            return
        if empty and items.second > items.next and items.position + items.beside < FRESH_BYTES:
            return
        try:
            self._store.trim(self._consumed.floor, empty=empty)
        except DqError as error:
            log.warning("the queue %s keeps files that it does not need: %s", self.path, words_of(error), extra=about(error))

    # --- in hand -----------------------------------------------------------------------------------------------------
    def take(self, max_elements: int = 1, timeout: float | None = 0.0) -> Taken:
        """As `pop`, for a block: `with queue.take(100) as items:`. The items are gone when the block ends well.

        When it ends by an exception they wait again, before all others; when the process dies, at the next opening.

        Args:
            max_elements, timeout: as of `pop`.
        """
        return Taken(self, checked_count("max_elements", max_elements), timeout)

    def _take(self, max_elements: int, timeout: float | None) -> tuple[list[bytes], Runs]:
        """Takes items into somebody's hand."""
        with self._store.lock:
            if self._store.ended is not None:
                raise self._store.refusal()
            if not self._count and timeout != 0.0 and max_elements:
                self._wait(timeout)
            count = min(max_elements, self._count)
            items, runs = self._waiting.take(count) if count else ([], [])
            self._count -= count
            self._in_hand += count
            return items, runs

    def _return(self, items: list[bytes], runs: Runs, *, settled: bool) -> None:
        """They are gone, or wait again. They do also where it cannot be noted that they are gone."""
        with self._store.lock:
            if self._store.ended is not None:
                if settled:
                    raise self._store.refusal()
                return  # the next opening has them
            count = sum(stop - first for first, stop in runs)
            self._in_hand -= count
            try:
                if settled:
                    self._settle(runs)
            except BaseException:
                settled = False
                raise
            finally:
                if not settled:
                    self._waiting.give_back(items, runs)
                    self._count += count
                if self._waiters:
                    self._changed.notify_all()
            self._trim()

    # --- sizes -------------------------------------------------------------------------------------------------------
    @property
    def is_empty(self) -> bool:
        """Whether no item waits."""
        return not self._count

    @property
    def len(self) -> int:
        """How many items wait; those in a `take` block do not."""
        return self._count

    def __len__(self) -> int:
        return self._count

    def __bool__(self) -> bool:
        return True  # also an empty queue is a queue

    @property
    def payload_size(self) -> int:
        """Bytes of the items that wait."""
        with self._store.lock:
            return self._waiting.payload

    @property
    def disk_size(self) -> int:
        """Bytes of all its files."""
        return self._store.disk_size()


class Taken:
    """Items in the hands of a block; see `PersistentQueue.take`."""

    def __init__(self, queue: PersistentQueue, max_elements: int, timeout: float | None) -> None:
        self._queue, self._max_elements, self._timeout = queue, max_elements, timeout
        self._items: list[bytes] = []
        self._runs: Runs = []

    def __enter__(self) -> list[bytes]:
        self._items, self._runs = self._queue._take(self._max_elements, self._timeout)
        return list(self._items)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        items, runs, self._items, self._runs = self._items, self._runs, [], []
        if runs:
            self._queue._return(items, runs, settled=kind is None)
