"""Batches on the client's side, and the futures of their records.

A future of its own for every record costs 2 to 4 us with `concurrent.futures.Future`, most of it for its lock. Here a batch
has one outcome and one lock, made when somebody waits, and the future of a record is a place in its batch: 0.2 us.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, cast

from dq.errors import DqError
from dq.model.receipt import Receipt, StoredRange
from dq.model.told import about, frames_of, place_of

log = logging.getLogger("dq")
_PENDING, _FINISHED = "PENDING", "FINISHED"
_MAKING = threading.Lock()


class Draft:
    """A batch from its first record to its answer.

    Attributes:
        bucket: where it goes.
        lines: its record lines.
        count: how many.
        topics: the labels in it, and `labelled` the number of records that have one.
        sequence: its number, once it was sent.
        again: whether it was sent a second time.
        urgent: whether it leaves as soon as the one before it was answered, without lingering.
        doomed: the error of a batch before it, for which it will be refused too.
        nudge: called when somebody begins to wait for its outcome: another thread may have to read it.
        opened: when it was begun, monotonic seconds; kept only where a publisher lingers.
        outcome: what became of it: a StoredRange, an error, or None as long as that is open.
        once: the key under which its one record is stored no second time; None for most.
        expiring: records of it that expire: the first of them at `expires`, the last at `expired`, wall times.
        turn: how many batches were sent before it, in all buckets.
        sink: the one that it is for; None, for most: it is for all.
    """

    __slots__ = (
        "_condition", "_watched", "again", "bucket", "callbacks", "count", "doomed", "durability", "expired", "expires",
        "expiring", "labelled", "lines", "nudge", "once", "opened", "outcome", "sequence", "sink", "topics",
        "turn", "urgent",
    )  # fmt: skip

    def __init__(self, bucket: int, durability: str, opened: float = 0.0) -> None:
        self.bucket, self.durability, self.opened = bucket, durability, opened
        self.lines = bytearray()
        self.count = 0
        self.topics: set[str] = set()
        self.sequence = -1
        self.labelled = self.expiring = self.turn = 0
        self.expires = self.expired = 0.0
        self.once: str | None = None
        self.sink: str | None = None
        self.nudge: Callable[[], None] | None = None
        self.again = self.urgent = False
        self.doomed: DqError | None = None
        self.outcome: StoredRange | DqError | None = None
        self._condition: threading.Condition | None = None
        self._watched: list[DraftFuture] | None = None
        self.callbacks: list[tuple[DraftFuture, Callable[[Future[Receipt]], object]]] | None = None

    @property
    def done(self) -> bool:
        """Whether its outcome is known."""
        return self.outcome is not None

    def note_expiry(self, expires: float) -> None:
        """One of its records expires at that wall time."""
        self.expires = min(self.expires, expires) if self.expiring else expires
        self.expired = max(self.expired, expires)
        self.expiring += 1

    def about(self) -> dict[str, str | float] | None:
        """What its header is to say of its records; None for most."""
        if self.once is None and not self.expiring and self.sink is None:
            return None
        said: dict[str, str | float] = {} if self.sink is None else {"for": self.sink}
        if self.once is not None:
            said["once"] = self.once
        if self.expiring:
            said["expires"] = self.expires
            if self.expiring == self.count:
                said["expired"] = self.expired
        return said

    @property
    def condition(self) -> threading.Condition:
        """The lock of all its futures, made at first use. Who makes it must look at the outcome afterwards."""
        if self._condition is None:
            with _MAKING:
                if self._condition is None:
                    self._condition = threading.Condition()
            if self.nudge is not None:
                self.nudge()
        return self._condition

    @property
    def watched(self) -> bool:
        """Whether somebody waits, or has waited, for the outcome without reading it."""
        return self._condition is not None

    def follow(self, timeout: float | None) -> None:
        """Waits for the outcome, which another thread brings."""
        with self.condition:
            if self.outcome is None:
                self.condition.wait(timeout)

    def settle(self, outcome: StoredRange | DqError) -> None:
        """Its outcome is known: wakes who waits."""
        self.outcome = outcome
        # Read after the outcome is set: who makes the condition later sees the outcome before it waits.
        condition = self._condition
        if condition is None:
            return
        with condition:
            condition.notify_all()
            watched, self._watched = self._watched or [], None
            callbacks, self.callbacks = self.callbacks or [], None
        for future in watched:
            future.tell_waiters()
        for future, callback in callbacks:
            future.run_callback(callback)

    def watch(self, future: DraftFuture) -> None:
        """`concurrent.futures.wait` put a waiter on one of its futures."""
        if self._watched is None:
            self._watched = []
        self._watched.append(future)


class DraftFuture(Future[Receipt]):
    """The future of one record: a place in a draft. Works with `concurrent.futures.wait`, `as_completed` and asyncio.

    It cannot be cancelled: the record may be on its way already.
    """

    def __init__(self, draft: Draft, place: int) -> None:
        # The constructor of Future is not called: it would make a lock, a list and a list for every record.
        self._draft, self._place = draft, place

    # What concurrent.futures looks at in the futures it waits for, kept by the draft.
    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]
        return self._draft.condition

    @property
    def _state(self) -> str:  # type: ignore[override]
        return _FINISHED if self._draft.done else _PENDING

    @property
    def _waiters(self) -> list[Any]:  # type: ignore[override]
        waiters = self.__dict__.get("waiters")
        if waiters is None:
            waiters = self.__dict__["waiters"] = []
            self._draft.watch(self)
        return cast("list[Any]", waiters)

    @property
    def _exception(self) -> BaseException | None:  # type: ignore[override]
        outcome = self._draft.outcome
        return outcome if isinstance(outcome, DqError) else None

    def tell_waiters(self) -> None:
        """For `concurrent.futures.wait` and `as_completed`."""
        failed = self._exception is not None
        for waiter in self._waiters:
            (waiter.add_exception if failed else waiter.add_result)(self)

    def run_callback(self, callback: Callable[[Future[Receipt]], object]) -> None:
        """Runs a callback; its error is logged, as concurrent.futures does it."""
        try:
            callback(self)
        except Exception as error:
            log.error("the callback of a receipt failed: %s", place_of(error), extra=about(error))
            log.debug("the callback's error", extra=about(error, frames=frames_of(error)))

    # --- what users call -------------------------------------------------------------------------------------------

    def cancel(self) -> bool:
        """Always False."""
        return False

    def cancelled(self) -> bool:
        """Always False."""
        return False

    def running(self) -> bool:
        """Whether the outcome is still open."""
        return not self._draft.done

    def done(self) -> bool:
        """Whether the outcome is known."""
        return self._draft.done

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The error, or None when the record is committed; waits for it.

        Raises:
            TimeoutError: it is not known after `timeout` seconds.
        """
        self._wait(timeout)
        return self._exception

    def result(self, timeout: float | None = None) -> Receipt:
        """The receipt; waits for it.

        Raises:
            TimeoutError: there is none after `timeout` seconds.
            PublishError, BrokerLost: the record was not committed, or it is not known.
        """
        self._wait(timeout)
        outcome = self._draft.outcome
        if isinstance(outcome, StoredRange):
            receipt_id = f"{outcome.stream}/{outcome.bucket}/{outcome.first + self._place}"
            return Receipt(receipt_id, self._draft.durability)
        raise cast("DqError", outcome)

    def _wait(self, timeout: float | None) -> None:
        draft = self._draft
        if draft.outcome is None:
            with draft.condition:
                if not draft.condition.wait_for(lambda: draft.outcome is not None, timeout):
                    raise TimeoutError("no answer yet: the record's outcome is not known")

    def add_done_callback(self, fn: Callable[[Future[Receipt]], object]) -> None:
        """Calls `fn` with this future when the outcome is known; at once if it is."""
        draft = self._draft
        with draft.condition:
            if draft.outcome is None:
                if draft.callbacks is None:
                    draft.callbacks = []
                draft.callbacks.append((self, fn))
                return
        self.run_callback(fn)

    def __repr__(self) -> str:
        return f"<DraftFuture {self._state.lower()}>"
