"""`Queue`: the face of the standard `queue.Queue` over a durable queue, for any JSON payload."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from pathlib import Path
from queue import Empty, Full
from types import TracebackType
from typing import Any, Self

import orjson

from dq.embedded.consumed import Runs
from dq.embedded.persistent import PersistentQueue
from dq.errors import InvalidSetting, QueueFull
from dq.model.record import check_finite, refusal

_RAW = b"\0"
"""Before a payload of bytes: no JSON begins so."""
_NO_BOUND = 1 << 62


class _Items(PersistentQueue):
    _KIND = "standard"
    _HELD = 0  # as of queue.Queue: what was got has left its room


class Queue:
    """A durable `queue.Queue`: the same methods, errors and blocking, and what was put is there after a restart.

    Safe to share between threads; one process at a time owns a path.

    Args:
        path: a directory for this queue alone; made if it is missing.
        maxsize: items that wait at most; 0 is no bound.
        redeliver: what was got and is not `task_done()` comes back at the next opening. False: what was got is gone.
        durability: "os" or "sync", as of `PersistentQueue`.

    Raises:
        As `PersistentQueue`.
    """

    def __init__(self, path: str | os.PathLike[str], maxsize: int = 0, redeliver: bool = False, durability: str = "os") -> None:
        if type(maxsize) is not int:
            raise InvalidSetting(f"maxsize is a whole number, 0 for no bound, not {maxsize!r}")
        self.maxsize, self._redeliver = maxsize, redeliver
        self._items = _Items(path, maxsize if maxsize > 0 else _NO_BOUND, durability)
        self._finished = threading.Condition()
        self._unfinished = self._items.len
        self._got: deque[tuple[int, list[bytes], Runs]] = deque()  # what is not done, by thread, oldest first

    # --- in ----------------------------------------------------------------------------------------------------------
    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Puts a payload in; it is stored when this returns.

        Args:
            item: a JSON value or bytes.
            block, timeout: whether, and for how many seconds at most, to wait for room.

        Raises:
            Full: there is no room. InvalidPayload: JSON cannot carry it. DiskFull, Closed: as of `PersistentQueue.push`.
        """
        content = _encode(item)
        deadline = _deadline(block, timeout)
        with self._finished:
            self._unfinished += 1
        try:
            while True:
                try:
                    return self._items.push([content])
                except QueueFull:
                    if not self._items._wait_for_room(_left(deadline)):
                        raise Full from None
        except BaseException:
            self._finish(1)
            raise

    def put_nowait(self, item: Any) -> None:
        """As `put` without waiting."""
        self.put(item, block=False)

    # --- out ---------------------------------------------------------------------------------------------------------
    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Takes the oldest payload out.

        Args:
            block, timeout: whether, and for how many seconds at most, to wait for one.

        Raises:
            Empty: there is none. DiskFull, Closed: as of `PersistentQueue.pop`.
        """
        wait = _left(_deadline(block, timeout))
        if self._redeliver:
            items, runs = self._items._take(1, wait)
            if items:
                with self._finished:
                    self._got.append((threading.get_ident(), items, runs))
        else:
            items = self._items.pop(1, wait)
        if not items:
            raise Empty
        return _decode(items[0])

    def get_nowait(self) -> Any:
        """As `get` without waiting."""
        return self.get(block=False)

    def task_done(self) -> None:
        """Says that what was got is done: with `redeliver`, the oldest that this thread got, or else that any thread got.

        Raises:
            ValueError: called more often than there were items.
        """
        with self._finished:
            if self._unfinished <= 0:
                raise ValueError("task_done() called too many times")
            done = self._take_got()
        if done is not None:
            self._items._return(*done, settled=True)
        self._finish(1)

    def _take_got(self) -> tuple[list[bytes], Runs] | None:
        if not self._got:
            return None
        mine = threading.get_ident()
        place = next((place for place, got in enumerate(self._got) if got[0] == mine), 0)
        _, items, runs = self._got[place]
        del self._got[place]
        return items, runs

    def _finish(self, count: int) -> None:
        with self._finished:
            self._unfinished -= count
            if self._unfinished <= 0:
                self._finished.notify_all()

    def join(self) -> None:
        """Waits until `task_done()` was called for every item."""
        with self._finished:
            self._finished.wait_for(lambda: self._unfinished <= 0)

    # --- sizes -------------------------------------------------------------------------------------------------------
    @property
    def unfinished_tasks(self) -> int:
        """Items that were put in, now or before the last start, and are not done."""
        return self._unfinished

    def qsize(self) -> int:
        """How many wait."""
        return self._items.len

    def empty(self) -> bool:
        """Whether none waits."""
        return self._items.is_empty

    def full(self) -> bool:
        """Whether there is no room for one more."""
        return 0 < self.maxsize <= self._items.len

    @property
    def disk_size(self) -> int:
        """Bytes of all its files."""
        return self._items.disk_size

    @property
    def path(self) -> Path:
        """Its directory."""
        return self._items.path

    # --- the end -----------------------------------------------------------------------------------------------------
    def close(self) -> None:
        """Flushes and lets the next owner in; safe twice. Who waits in `put` or `get` gets `Closed`."""
        self._items.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Queue {self.path}>"


def _encode(payload: Any) -> bytes:
    if isinstance(payload, (bytes, bytearray, memoryview)):
        return _RAW + bytes(payload)
    try:
        content = orjson.dumps(payload)
    except TypeError as error:
        raise refusal(payload, error) from error
    if b"null" in content:
        check_finite(payload)
    return content


def _decode(content: bytes) -> Any:
    return content[1:] if content.startswith(_RAW) else orjson.loads(content)


def _deadline(block: bool, timeout: float | None) -> float | None:
    """Until when to wait, by the monotonic clock; None for ever."""
    if not block:
        return 0.0
    if timeout is not None and timeout < 0:
        raise ValueError("'timeout' must be a non-negative number")
    return None if timeout is None else time.monotonic() + timeout


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(deadline - time.monotonic(), 0.0) if deadline else 0.0
