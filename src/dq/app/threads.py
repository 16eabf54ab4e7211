"""`ThreadPool`: functions, each task in one of some threads.

One thread fetches, runs and settles without any hand-over, at full speed. Only when all threads have been busy for a while
(`grow_seconds`), one more begins, so that empty handlers run in one thread and slow ones in as many as they may have.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from dq.app.config import AppConfig
from dq.app.engine import Delivery
from dq.app.handler import Handler, traced
from dq.app.mailbox import Mailbox
from dq.app.outcomes import ACK, Verdict, failed, verdict_of
from dq.app.pools import InFlight
from dq.model.told import about

log = logging.getLogger("dq")
_IDLE_SECONDS = 10.0


class _Worker:
    """One thread, and the task it has in hand."""

    __slots__ = ("delivery", "done", "late", "seen", "since", "thread")

    def __init__(self) -> None:
        self.delivery: Delivery | None = None
        self.since = 0.0
        self.done = self.seen = 0
        self.late = -1  # of which of its tasks it was said that it runs too long
        self.thread: threading.Thread | None = None


class ThreadPool:
    """Runs the tasks of a function in threads.

    Args:
        mailbox: where they come from.
        config: `grow_seconds`, `give_back_seconds`, `fetch_seconds` and `max_in_flight` count.
        wake: is called when a task begins after a time without any, so that ticks come soon.

    Attributes:
        timeouts: tasks that ran longer than the handler's timeout.
    """

    def __init__(self, mailbox: Mailbox, config: AppConfig, wake: Callable[[], None]) -> None:
        self.handler: Handler = mailbox.handler
        self._call = traced(mailbox.handler)
        self.places = mailbox.handler.max_in_flight or config.max_in_flight
        self._mailbox, self._config, self._wake = mailbox, config, wake
        self._workers: dict[_Worker, None] = {}
        self._ending = threading.Lock()
        self._closed = False
        self.timeouts = 0
        self._free_at = 0.0

    def start(self) -> None:
        """The first thread."""
        self._free_at = time.monotonic()
        self._grow(1)

    def _grow(self, count: int) -> None:
        for _ in range(min(count, self.places - len(self._workers))):
            worker = _Worker()
            name = f"dq-{self.handler.name}-{len(self._workers)}"
            worker.thread = threading.Thread(target=self._work, args=(worker,), daemon=True, name=name)
            self._workers[worker] = None
            worker.thread.start()

    # --- in the threads ----------------------------------------------------------------------------------------------

    def _work(self, worker: _Worker) -> None:
        mailbox, idle_since = self._mailbox, time.monotonic()
        try:
            while not mailbox.stopped:
                if mailbox.waiting or mailbox.refill(self._config.fetch_seconds):
                    self._wake()
                    self._work_off(worker)
                    idle_since = time.monotonic()
                elif time.monotonic() - idle_since > _IDLE_SECONDS and self._superfluous(worker):
                    return
        finally:
            self._workers.pop(worker, None)
            self._wake()  # it may have ended by an error of the engine's

    def _superfluous(self, worker: _Worker) -> bool:
        """Whether this thread may end, since there are others."""
        with self._ending:
            return len(self._workers) > 1 and self._workers.pop(worker, 1) is None

    def _work_off(self, worker: _Worker) -> None:
        """Runs what waits, until nothing does."""
        mailbox, call, clock = self._mailbox, self._call, time.monotonic
        take, settle = mailbox.waiting.popleft, mailbox.settle
        while not mailbox.stopped:
            try:
                delivery = take()
            except IndexError:
                return
            if mailbox.expiring and mailbox.has_expired(delivery):
                continue
            worker.since, worker.delivery = clock(), delivery
            try:
                result = call(delivery)
            except BaseException as error:  # SystemExit too: a task does not end the app
                verdict: Verdict = failed(error, self.handler.name, delivery)
            else:
                verdict = ACK if result is None else verdict_of(result)
            if self._closed:
                return  # the task is another's by now
            settle(delivery, verdict)
            worker.delivery = None
            worker.done += 1

    # --- in the thread of the app --------------------------------------------------------------------------------------

    def tick(self, now: float) -> bool:
        """Starts more threads where all are busy; gives back what has waited for long."""
        mailbox, busy, free = self._mailbox, False, False
        for worker in list(self._workers):
            busy = busy or worker.delivery is not None
            free = free or worker.delivery is None or worker.done != worker.seen
            worker.seen = worker.done
            self._look_at_timeout(worker, now)
        if free:
            self._free_at = now
        elif not mailbox.stopped and now - self._free_at >= self._config.grow_seconds:
            self._grow(max(1, min(len(self._workers), len(mailbox.waiting))))
            if now - self._free_at > self._config.give_back_seconds:
                mailbox.give_back()
        return busy

    def _look_at_timeout(self, worker: _Worker, now: float) -> None:
        """Says once of a task that it runs too long: a thread cannot be stopped."""
        timeout, delivery, done = self.handler.timeout, worker.delivery, worker.done
        if timeout is None or delivery is None or worker.late == done or now - worker.since <= timeout:
            return
        worker.late = done
        self.timeouts += 1
        log.warning(
            "handler %s runs longer than its timeout of %g s with task %s, and goes on: a thread cannot be stopped; a handler "
            "with processes= can",
            self.handler.name,
            timeout,
            delivery.id,
            extra=about(handler=self.handler.name, task=delivery.id),
        )

    def in_flight(self) -> Sequence[InFlight]:
        """What the threads work on."""
        found = [(worker.delivery, worker.since) for worker in list(self._workers)]
        return [InFlight(delivery, since) for delivery, since in found if delivery is not None]

    def stop(self) -> None:
        """The threads end after the tasks that they have in hand; the mailbox says so to them."""

    def close(self) -> None:
        """What still runs runs on, and is not heard any more: a thread cannot be stopped."""
        self._closed = True
