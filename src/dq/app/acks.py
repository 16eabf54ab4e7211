"""`AckRetrier`: settles that failed are tried again, so that work that was done is not done twice for a broken connection."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from random import Random

from dq.app.config import AppConfig
from dq.app.engine import Delivery, Subscription
from dq.app.outcomes import Verdict
from dq.core.retry import backoff
from dq.errors import UsageError
from dq.model.told import about, foreign

log = logging.getLogger("dq")


class AckRetrier:
    """Tries settles again, in a thread of its own that begins with the first one.

    Where all tries failed, or more than `ack_retry_queue` wait, the settle is given up with a message: the engine delivers that
    task again.

    Args:
        config: `ack_retry_attempts` and `ack_retry_queue` count.

    Attributes:
        given_up: settles that were.
    """

    def __init__(self, config: AppConfig) -> None:
        self._attempts, self._room = config.ack_retry_attempts, config.ack_retry_queue
        self._changed = threading.Condition()
        self._waiting: list[tuple[float, int, int, Subscription, Delivery, Verdict]] = []
        self._numbers = itertools.count()
        self._trying = 0
        self._ended = False
        self._thread: threading.Thread | None = None
        self._jitter = Random()
        self.given_up = 0

    @property
    def full(self) -> bool:
        """Whether no new work is to be begun until some of what waits is settled."""
        return len(self._waiting) >= self._room

    @property
    def waiting(self) -> int:
        """Settles that are to be tried again, the one that is being tried included."""
        return len(self._waiting) + self._trying

    def add(self, subscription: Subscription, delivery: Delivery, verdict: Verdict, error: Exception | None = None) -> None:
        """Takes a settle on: one that failed with `error`, or (None) one to be tried here for the first time. Never blocks."""
        attempts = 0 if error is None else 1
        after = 0.0 if error is None else backoff(1, self._jitter)
        with self._changed:
            if self.full or self._ended:
                self._give_up(delivery, verdict, error or UsageError("the queue of settles is full"))
                return
            entry = (time.monotonic() + after, next(self._numbers), attempts, subscription, delivery, verdict)
            heapq.heappush(self._waiting, entry)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True, name="dq-ack-retrier")
                self._thread.start()
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._ended and (not self._waiting or self._waiting[0][0] > time.monotonic()):
                    self._changed.wait(self._waiting[0][0] - time.monotonic() if self._waiting else None)
                if self._ended:
                    return
                _, _, attempts, subscription, delivery, verdict = heapq.heappop(self._waiting)
                self._trying = 1
            self._try(attempts, subscription, delivery, verdict)

    def _try(self, attempts: int, subscription: Subscription, delivery: Delivery, verdict: Verdict) -> None:
        failure: Exception | None = None
        try:
            subscription.settle(delivery, verdict)
        except Exception as error:
            failure = error
        with self._changed:
            self._trying = 0
            if failure is not None and attempts < self._attempts:
                due = time.monotonic() + backoff(attempts + 1, self._jitter)
                heapq.heappush(self._waiting, (due, next(self._numbers), attempts + 1, subscription, delivery, verdict))
            elif failure is not None:
                self._give_up(delivery, verdict, failure)
            self._changed.notify_all()

    def _give_up(self, delivery: Delivery, verdict: Verdict, error: Exception) -> None:
        self.given_up += 1
        log.error(
            "task %s could not be settled by %s and will come again: %s",
            delivery.id,
            type(verdict).__name__,
            foreign(error),
            extra=about(error, task=delivery.id, stream=delivery.stream, sink=delivery.sink),
        )

    def join(self, seconds: float) -> bool:
        """Waits until nothing waits any more; False when something does after `seconds`."""
        with self._changed:
            return self._changed.wait_for(lambda: not self.waiting, seconds)

    def close(self) -> None:
        """Ends the thread; what still waits is given up, with a message each."""
        with self._changed:
            self._ended = True
            for *_, delivery, verdict in self._waiting:
                self._give_up(delivery, verdict, UsageError("the app stopped"))
            self._waiting.clear()
            self._changed.notify_all()
