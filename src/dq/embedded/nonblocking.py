"""The same queues for callers that do not wait: every operation returns at once, with a future for its outcome."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from datetime import timedelta
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from dq.embedded.items import BytesLike, checked_count
from dq.embedded.mpmc import MpmcQueue, StartPosition
from dq.embedded.persistent import PersistentQueue
from dq.errors import Closed
from dq.model.told import about, words_of

log = logging.getLogger("dq")
T = TypeVar("T")
INFLIGHT_OPS = 1_000
"""Operations that may be under way by default; the next one waits for one of them."""


class Response(Future[T]):
    """What an operation will give; a `concurrent.futures.Future` that cannot be cancelled.

    A failure that nobody asks for is logged as an error.
    """

    _asked = False

    def is_ready(self) -> bool:
        """Whether it has ended."""
        return self.done()

    def try_get(self) -> T | None:
        """Its outcome, or None while there is none. Raises what the operation raised."""
        return self.result() if self.done() else None

    def get(self, timeout: float | None = None) -> T:
        """Waits for its outcome. Raises what the operation raised; TimeoutError after `timeout` seconds."""
        return self.result(timeout)

    def result(self, timeout: float | None = None) -> T:
        """As `get`."""
        self._asked = True
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What the operation raised, or None."""
        self._asked = True
        return super().exception(timeout)

    def cancel(self) -> bool:
        """False: it is under way."""
        return False

    def __del__(self) -> None:
        if not self._asked and self.done() and (error := super().exception()) is not None:
            log.error(
                "an operation of a queue failed, and nobody asked for its outcome: %s", words_of(error), extra=about(error)
            )


Q = TypeVar("Q", PersistentQueue, MpmcQueue)
_Work = tuple[Response[Any], Callable[[], Any]]


class NonBlocking(Generic[Q]):
    """A queue and one thread, which carries the operations out in the order in which they came.

    Args:
        made: the queue.
        max_inflight_ops: how many may be under way.
    """

    def __init__(self, made: Q, max_inflight_ops: int) -> None:
        self._queue: Q = made
        self._room = threading.Semaphore(max_inflight_ops)
        self._inflight = 0
        self._counting = threading.Lock()
        self._work: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="dq-queue", daemon=True)
        self._thread.start()

    def _submit(self, act: Callable[[], T]) -> Response[T]:
        """Has `act` done. Waits only while as many operations as may be are under way. Raises Closed."""
        self._room.acquire()
        with self._counting:
            ended = self._queue._store.ended
            if self._closed or ended is not None:
                self._room.release()
                raise self._queue._store.refusal() if ended is not None else Closed(f"{self!r} was closed: open it again")
            self._inflight += 1
            response: Response[T] = Response()
            self._work.put((response, act))
        return response

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            response, act = work
            try:
                outcome = act()
            except BaseException as error:
                self._ended()
                response.set_exception(error)
            else:
                self._ended()
                response.set_result(outcome)
            del response, act, work  # the last reference, where nobody kept the future

    def _ended(self) -> None:
        with self._counting:
            self._inflight -= 1
        self._room.release()

    @property
    def inflight_ops(self) -> int:
        """How many operations are under way."""
        return self._inflight

    @property
    def is_empty(self) -> Response[bool]:
        """Whether no item is in it."""
        return self._submit(lambda: self._queue.is_empty)

    @property
    def len(self) -> Response[int]:
        """How many items are in it."""
        return self._submit(lambda: self._queue.len)

    @property
    def payload_size(self) -> Response[int]:
        """Bytes of the items in it."""
        return self._submit(lambda: self._queue.payload_size)

    @property
    def disk_size(self) -> Response[int]:
        """Bytes of all its files."""
        return self._submit(lambda: self._queue.disk_size)

    def close(self) -> None:
        """Waits for what is under way, then closes the queue; safe twice."""
        with self._counting:
            first, self._closed = not self._closed, True
            if first:
                self._work.put(None)
        if self._thread.is_alive():
            self._thread.join()
        self._queue.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._queue.path}>"


class NonBlockingPersistentQueue(NonBlocking[PersistentQueue]):
    """A `PersistentQueue` whose every operation returns a `Response` at once.

    Args:
        path, max_elements, durability: as of `PersistentQueue`, whose errors it raises.
        max_inflight_ops: operations that may be under way; the next one waits for one of them.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        max_elements: int = 1_000_000_000,
        max_inflight_ops: int = INFLIGHT_OPS,
        durability: str = "os",
    ) -> None:
        checked_count("max_inflight_ops", max_inflight_ops, 1)
        super().__init__(PersistentQueue(path, max_elements, durability), max_inflight_ops)

    def push(self, items: Iterable[BytesLike]) -> Response[None]:
        """As `PersistentQueue.push`; its errors, a full queue too, come by the response."""
        kept = list(items) if not isinstance(items, (str, bytes, bytearray, memoryview)) else items
        return self._submit(lambda: self._queue.push(kept))

    def pop(self, max_elements: int = 1) -> Response[list[bytes]]:
        """As `PersistentQueue.pop`."""
        return self._submit(lambda: self._queue.pop(max_elements))


class NonBlockingMpmcQueue(NonBlocking[MpmcQueue]):
    """An `MpmcQueue` whose every operation returns a `Response` at once.

    Args:
        path, ttl, durability: as of `MpmcQueue`, whose errors it raises.
        max_inflight_ops: operations that may be under way; the next one waits for one of them.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        ttl: float | timedelta,
        max_inflight_ops: int = INFLIGHT_OPS,
        durability: str = "os",
    ) -> None:
        checked_count("max_inflight_ops", max_inflight_ops, 1)
        super().__init__(MpmcQueue(path, ttl, durability), max_inflight_ops)

    def add(self, items: Iterable[BytesLike]) -> Response[None]:
        """As `MpmcQueue.add`."""
        kept = list(items) if not isinstance(items, (str, bytes, bytearray, memoryview)) else items
        return self._submit(lambda: self._queue.add(kept))

    def next(
        self, label: str, start_position: StartPosition = StartPosition.OLDEST, max_elements: int = 1
    ) -> Response[tuple[list[bytes], bool]]:
        """As `MpmcQueue.next`."""
        return self._submit(lambda: self._queue.next(label, start_position, max_elements))

    @property
    def labels(self) -> Response[list[str]]:
        """As `MpmcQueue.labels`."""
        return self._submit(lambda: self._queue.labels)

    def remove_label(self, label: str) -> Response[bool]:
        """As `MpmcQueue.remove_label`."""
        return self._submit(lambda: self._queue.remove_label(label))
