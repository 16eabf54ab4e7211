"""`Mailbox`: what one handler has fetched and not started, and the way by which the ends of its tasks go back to the engine."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque

from dq.app.acks import AckRetrier
from dq.app.config import AppConfig
from dq.app.engine import Delivery, Expiring, Subscription
from dq.app.handler import Handler
from dq.app.outcomes import RELEASE, Verdict

log = logging.getLogger("dq")


class Mailbox:
    """What a pool takes its tasks from, and settles them by. Safe to share between threads.

    A pool *pulls*: it takes a delivery when it has a free place for it, runs `handler.call`, and settles. So nothing is fetched
    that nobody could begin, and an empty handler costs no hand-over between threads.

    Args:
        handler: whose tasks these are.
        subscription: where they come from.
        config: of the app.
        retrier: takes the settles that failed.

    Attributes:
        waiting: fetched and not started. A pool may pop from the left of it, and passes over what `has_expired` by then; `take`
            does no more, and fetches when it is empty.
        expiring: whether some of what was fetched expires; else nobody need ask `has_expired`.
        stopped: whether no more work is to be begun.
        failure: what a fetch raised; the app ends with it.
        closed: why this handler alone takes no more tasks, or None.
    """

    def __init__(self, handler: Handler, subscription: Subscription, config: AppConfig, retrier: AckRetrier) -> None:
        self.handler = handler
        self.subscription = subscription
        self.waiting: deque[Delivery] = deque()
        self.stopped = False
        self.failure: Exception | None = None
        self.closed: Exception | None = None
        self._config, self._retrier = config, retrier
        self._fetching = threading.Lock()
        self._settle = subscription.settle
        self._expires = subscription if isinstance(subscription, Expiring) else None
        self.expiring = False

    def take(self, timeout: float) -> Delivery | None:
        """The next task to begin. None: nothing came within `timeout` seconds or a little more, or the app stops."""
        while not self.stopped:
            try:
                delivery = self.waiting.popleft()
            except IndexError:
                if not self.refill(timeout):
                    return None
            else:
                if not (self.expiring and self.has_expired(delivery)):
                    return delivery
        return None

    def has_expired(self, delivery: Delivery) -> bool:
        """Whether a task's time was over while it waited here; it is settled as that then, and not to be begun."""
        return self._expires is not None and self._expires.expire(delivery)

    def refill(self, timeout: float) -> bool:
        """Fetches if nothing waits; one thread does so at a time, the others wait for it. Whether something waits now."""
        if not self._fetching.acquire(timeout=max(timeout, 0.0)):
            return bool(self.waiting)
        try:
            if self.waiting or self.stopped:
                return not self.stopped
            if self._retrier.full:
                time.sleep(self._config.poll_idle_sleep)
                return False
            return self._fetch(min(timeout, self._config.fetch_seconds))
        finally:
            self._fetching.release()

    def _fetch(self, timeout: float) -> bool:
        begun = time.monotonic()
        try:
            came = self.subscription.fetch(self._config.mailbox_share, timeout)
        except Exception as error:
            if not self.stopped:
                self.failure = error
                self.stopped = True
            return False
        if came:
            if self._expires is not None:
                self.expiring = self._expires.expiring
            self.waiting.extend(came)
            if self.stopped:
                self.give_back()  # it was stopped between the fetch and here
            return not self.stopped
        if time.monotonic() - begun < timeout / 2 and not self.stopped:
            time.sleep(min(self._config.poll_idle_sleep, timeout))
        return False

    def settle(self, delivery: Delivery, verdict: Verdict) -> None:
        """Ends a task. Never raises: what fails is tried again by the ack retrier. A task that its handler settled by a verb of
        the task's is settled already."""
        if delivery.outcome is None:
            try:
                self._settle(delivery, verdict)
            except Exception as error:
                self._retrier.add(self.subscription, delivery, verdict, error)

    def settle_later(self, delivery: Delivery, verdict: Verdict) -> None:
        """The same for those who must not wait, as an event loop: an engine whose settles wait is called in another thread."""
        if not self.subscription.settle_waits:
            self.settle(delivery, verdict)
        elif delivery.outcome is None:
            self._retrier.add(self.subscription, delivery, verdict)

    def stop(self) -> None:
        """No more work: what was fetched and not started goes back, no attempt burned. A fetch that waits returns soon."""
        self.stopped = True
        self.subscription.stop()
        self.give_back()

    def give_up(self, error: Exception, *, alone: bool) -> None:
        """No more work for this handler: what waits goes back. The app ends with `error`: at once, or, where this handler is
        closed `alone`, when it ends."""
        if alone:
            self.closed = error
        else:
            self.failure = error
        self.stop()

    def give_back(self) -> int:
        """Gives back what was fetched and not started; how many those were."""
        count = 0
        while self.waiting:
            try:
                delivery = self.waiting.popleft()
            except IndexError:
                break
            self.settle(delivery, RELEASE)
            count += 1
        return count
