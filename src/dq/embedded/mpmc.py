"""`MpmcQueue`: everybody who reads under a label of his own sees every item, until it expires."""

from __future__ import annotations

import enum
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from datetime import timedelta

from dq.client.lifetime import watch
from dq.embedded.items import BytesLike, checked_count, checked_items
from dq.embedded.labels import Label, Labels
from dq.embedded.owned import Owned
from dq.embedded.store import FRESH_BYTES, Store
from dq.errors import DqError, InvalidName, InvalidSetting
from dq.log.item_reader import ItemReader
from dq.model.told import about, words_of

log = logging.getLogger("dq")
_NEVER = 1 << 62


class StartPosition(enum.Enum):
    """Where a new label begins: with the oldest item that is not expired, or with the last one there is."""

    OLDEST = "oldest"
    NEWEST = "newest"


class MpmcQueue(Owned):
    """A durable queue of bytes in the calling process, read under labels; items go when their time is over.

    Safe to share between threads; those that read under one label share its cursor. One process at a time owns a path.

    Args:
        path: a directory for this queue alone; made if it is missing.
        ttl: seconds (or a timedelta) that an item lives; exact on reading, its disk comes back by the segment.
        durability: "os" or "sync", as of `PersistentQueue`.
        wall: the clock, in seconds since 1970; for tests.

    Raises:
        As `PersistentQueue`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        ttl: float | timedelta,
        durability: str = "os",
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._ttl = _milliseconds(ttl)
        self._wall = wall
        self._store = store = Store(path, "mpmc", durability, wall)
        self._changed = threading.Condition(store.lock)
        self._waiters = 0
        try:
            self._labels = Labels.replayed(store.notes, store.layout.cursors)
            store.state = self._labels.snapshot
            store.open_items(self._labels.floor)
            self._items = store.items
            self._begin()
        except BaseException:
            store.abandon()
            raise
        watch(self)

    def _begin(self) -> None:
        labels, items = self._labels, self._items
        if labels.fit(items.next):
            self._store.snapshot(labels.snapshot())
        labels.floor = max(labels.floor, items.first)
        self._broom = ItemReader(items)  # stands before the oldest batch that lives
        self._passed = self._broom.seek(labels.floor)  # bytes of items before it in its segment
        kept = [info.payload for first, info in items.infos.items() if first >= self._broom.segment]
        self._payload = sum(kept) - self._passed
        self._dies = 0  # when that batch expires, or earlier; milliseconds since 1970
        with self._store.lock:
            self._sweep()

    # --- in and out --------------------------------------------------------------------------------------------------
    def add(self, items: Iterable[BytesLike]) -> None:
        """Appends items, all or none.

        Args:
            items: bytes-like objects; no item is no work.

        Raises:
            InvalidPayload: one is not bytes-like (a TypeError). DiskFull: the disk is full; none is stored.
            RecordTooLarge: more than 64 MiB at once. Closed: after `close`. SyncFailed, StreamReadOnly: the disk fails.
        """
        items = checked_items(items)
        if not items:
            return
        size = sum(map(len, items))
        with self._store.lock:
            if self._store.ended is not None:
                raise self._store.refusal()
            self._items.add(items, size)
            self._payload += size
            if self._dies == _NEVER:
                self._dies = self._items.at + self._ttl
            if self._waiters:
                self._changed.notify_all()

    def next(
        self,
        label: str,
        start_position: StartPosition = StartPosition.OLDEST,
        max_elements: int = 1,
        timeout: float | None = 0.0,
    ) -> tuple[list[bytes], bool]:
        """The next items for a label, and whether some that it had not read have expired since it read last.

        Args:
            label: any text; made by its first use.
            start_position: where a new label begins; of no meaning for one that exists.
            max_elements: how many at most.
            timeout: seconds to wait while there is nothing to say; None waits without an end. By default it does not wait.

        Returns:
            (items, expired). `expired` is True once for each time that something was missed, never for a new label.

        Raises:
            InvalidName, InvalidSetting: a wrong argument. Closed: after `close`. DiskFull: no room to note it, and nothing
            is taken. Damaged, LogError: they cannot be read.
        """
        checked_count("max_elements", max_elements)
        with self._store.lock:
            self._use()
            found = self._labels.by_name.get(label) or self._new(label, start_position)
            if timeout != 0.0 and max_elements and not self._has_news(found):
                self._wait(found, timeout)
            floor, cursor = self._labels.floor, found.next
            expired = cursor < floor
            if expired:
                found.jump(floor, self._broom.place)
            count = min(max_elements, self._items.next - found.next)
            try:
                items = found.read(self._items, count) if count > 0 else []
                if count > 0 or expired:
                    line = b'{"label":%b,"next":%d}\n' % (found.text, found.next + len(items))
                    self._store.note(line)
            except BaseException:
                found.jump(cursor)
                raise
            if count > 0:
                found.went(count)
                self._labels.used(found)
            return items, expired

    def _new(self, name: str, start: StartPosition) -> Label:
        if not isinstance(name, str) or not name.isprintable():
            raise InvalidName(f"a label is printable text, not {name!r}")
        if not isinstance(start, StartPosition):
            raise InvalidSetting(f"start_position is StartPosition.OLDEST or StartPosition.NEWEST, not {start!r}")
        floor, end = self._labels.floor, self._items.next
        newest = start is StartPosition.NEWEST
        made = Label(name, max(end - 1, floor) if newest else floor)
        if not newest:
            made.jump(floor, self._broom.place)
        self._store.note(b'{"label":%b,"next":%d}\n' % (made.text, made.next))
        self._labels.by_name[name] = made
        return made

    def _has_news(self, label: Label) -> bool:
        return label.next < max(self._items.next, self._labels.floor)

    def _wait(self, label: Label, timeout: float | None) -> None:
        self._waiters += 1
        try:
            self._changed.wait_for(lambda: self._store.ended is not None or self._has_news(label), timeout)
        finally:
            self._waiters -= 1
        self._use()

    # --- labels ------------------------------------------------------------------------------------------------------
    @property
    def labels(self) -> list[str]:
        """The names of its labels, sorted."""
        with self._store.lock:
            return sorted(self._labels.by_name)

    def remove_label(self, label: str) -> bool:
        """Forgets a label and its cursor; says whether there was one. Raises as `next`."""
        with self._store.lock:
            self._use()
            found = self._labels.by_name.get(label)
            if found is None:
                return False
            self._store.note(b'{"removed":%b}\n' % found.text)
            del self._labels.by_name[label]
            self._labels.forget(found)
            return True

    # --- expiry ------------------------------------------------------------------------------------------------------
    def _use(self) -> None:
        """At the beginning of each call that looks at items: what is over by now is gone."""
        if self._store.ended is not None:
            raise self._store.refusal()
        if self._wall() * 1000 >= self._dies:
            self._sweep()

    def _sweep(self) -> None:
        """Moves the floor to the oldest batch that lives."""
        now, items, broom, labels = int(self._wall() * 1000), self._items, self._broom, self._labels
        while True:
            segment = broom.segment
            info = items.infos.get(segment)
            if info is not None and segment != items.segment and info.at + self._ttl <= now:
                # All of it is over, and need not be read.
                self._payload -= info.payload - self._passed
                labels.floor = min(first for first in items.sizes if first > segment)
                self._passed = broom.seek(labels.floor)
                continue
            batch = broom.peek()
            if broom.segment != segment:
                self._passed = 0
            if batch is None:
                self._dies, labels.floor = _NEVER, items.next
                break
            dies = int(batch[7] * 1000 + 0.5) + self._ttl
            if dies > now:
                self._dies = dies
                break
            size = broom.payload()
            self._passed += size
            self._payload -= size
            labels.floor = batch[0] + batch[1]
            broom.step()
        self._trim()

    def _trim(self) -> None:
        """Gives disk back."""
        items, floor = self._items, self._labels.floor
        fresh = floor == items.next and items.position + items.beside >= FRESH_BYTES
        if floor < items.second and not fresh:
            return
        try:
            self._store.note(b'{"floor":%d}\n' % floor)
            self._store.trim(floor, empty=fresh)
        except DqError as error:
            log.warning("the queue %s keeps files that it does not need: %s", self.path, words_of(error), extra=about(error))

    # --- sizes -------------------------------------------------------------------------------------------------------
    @property
    def is_empty(self) -> bool:
        """Whether no item lives."""
        return self.len == 0

    @property
    def len(self) -> int:
        """How many items live."""
        with self._store.lock:
            self._use()
            return self._items.next - self._labels.floor

    def __len__(self) -> int:
        return self.len

    def __bool__(self) -> bool:
        return True  # also an empty queue is a queue

    @property
    def payload_size(self) -> int:
        """Bytes of the items that live."""
        with self._store.lock:
            self._use()
            return self._payload

    @property
    def disk_size(self) -> int:
        """Bytes of all its files."""
        with self._store.lock:
            self._use()
        return self._store.disk_size()


def _milliseconds(ttl: float | timedelta) -> int:
    seconds = ttl.total_seconds() if isinstance(ttl, timedelta) else ttl
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < 1e10:
        raise InvalidSetting(f"ttl is a number of seconds above 0, or a timedelta, not {ttl!r}")
    return max(int(seconds * 1000), 1)
