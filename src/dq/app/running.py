"""`Run`: one run of an app, from the first subscription to the last confirmation."""

from __future__ import annotations

import contextlib
import logging
import queue
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING

from dq import tracing
from dq.app.acks import AckRetrier
from dq.app.engine import SubscriptionSettings
from dq.app.handler import Handler
from dq.app.loops import LoopPool, LoopThread
from dq.app.mailbox import Mailbox
from dq.app.pools import InFlight, Pool
from dq.app.processes import ProcessPool
from dq.app.threads import ThreadPool
from dq.app.worker_options import worker_options
from dq.model.told import about, foreign

if TYPE_CHECKING:
    from dq.app.application import App

log = logging.getLogger("dq")
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_TELL_SECONDS, _TELL_FIRST_SECONDS = 1.0, 0.3
_SHOWN = 5
_BURST_LOOK_SECONDS = 0.02
_LIVELY_SECONDS = 0.05


class Run:
    """One run; made by `App.run`."""

    def __init__(self, app: App) -> None:
        self._app, self._config = app, app.config
        self._retrier = AckRetrier(app.config)
        self._mailboxes: list[Mailbox] = []
        self._pools: list[Pool] = []
        self._loop: LoopThread | None = None
        # A SimpleQueue, since a signal handler may put into it while this thread waits at it.
        self._wakes: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._sleeping = False
        self._stops = 0

    # --- from elsewhere ------------------------------------------------------------------------------------------------

    def stop(self, *, now: bool = False) -> None:
        """Asks for a stop, in order; with `now` at once."""
        self._stops = max(self._stops, 2 if now else 1)
        self._wakes.put(None)

    def wake(self) -> None:
        """A task begins: the ticks are to come soon. Cheap while they do."""
        if self._sleeping:
            self._sleeping = False
            self._wakes.put(None)

    # --- in the thread that runs -----------------------------------------------------------------------------------------

    def run(self, *, burst: bool) -> None:
        """Starts all, ticks until it is stopped, drains, and raises what ended it."""
        if self._stops:
            return  # it was stopped before it began: no task is to be begun
        with self._signals():
            try:
                self._start()
                self._tick_until_stopped(burst)
                self._drain()
            finally:
                self._end()
        for mailbox in self._mailboxes:
            failure = mailbox.failure or mailbox.closed
            if failure is not None:
                raise failure

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Signals are for the main thread alone: elsewhere none is touched."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._signalled) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self._stops += 1
        self._wakes.put(None)

    def _start(self) -> None:
        app, config = self._app, self._config
        settings = SubscriptionSettings(
            max_attempts=config.handler_max_attempts,
            ack_grace=config.ack_grace,
            prefetch=config.mailbox_share,
            reclaim_interval=config.reclaim_interval,
        )
        engine = app.engine
        tracing.look()
        for handler in app.handlers.values():
            subscription = engine.subscribe(
                app.sink_of(handler), handler.streams, topic=handler.topic, pattern=handler.pattern, settings=settings
            )
            mailbox = Mailbox(handler, subscription, config, self._retrier)
            self._mailboxes.append(mailbox)
            self._pools.append(self._pool(handler, mailbox))
        for pool in self._pools:
            if not self._stops:
                pool.start()

    def _pool(self, handler: Handler, mailbox: Mailbox) -> Pool:
        if handler.processes:
            return ProcessPool(mailbox, self._config, self.wake, worker_options(self._app, handler))
        if handler.is_async:
            self._loop = self._loop or LoopThread()
            return LoopPool(mailbox, self._config, self.wake, self._loop)
        return ThreadPool(mailbox, self._config, self.wake)

    def _tick_until_stopped(self, burst: bool) -> None:
        config, empty_looks, lively_until = self._config, 0, time.monotonic() + _LIVELY_SECONDS
        while not self._stops and not self._broken_off(burst):
            self._sleeping = True  # from here on, who begins a task wakes
            now = time.monotonic()
            ticked = [pool.tick(now) for pool in self._pools]
            busy = any(ticked)
            if burst and not busy:
                # Twice: what was published a moment ago may not have come to the sink at the first look.
                empty_looks = empty_looks + 1 if self._all_empty() else 0
                if empty_looks == 2:
                    return
            soon = busy or now < lively_until
            self._sleeping = not soon
            if self._wait(config.grow_seconds if soon else _BURST_LOOK_SECONDS if burst else config.fetch_seconds):
                lively_until = time.monotonic() + _LIVELY_SECONDS  # what begins is not to be seen at the first tick

    def _broken_off(self, burst: bool) -> bool:
        """Whether something failed that ends the app: one handler that is closed does not, unless all is to be worked off."""
        closed = [mailbox.closed is not None for mailbox in self._mailboxes]
        return any(mailbox.failure for mailbox in self._mailboxes) or (any(closed) if burst else bool(closed) and all(closed))

    def _wait(self, seconds: float) -> bool:
        """Whether somebody woke this thread."""
        try:
            self._wakes.get(timeout=seconds)
        except queue.Empty:
            return False
        with contextlib.suppress(queue.Empty):
            while True:
                self._wakes.get_nowait()
        return True

    def _all_empty(self) -> bool:
        if self._retrier.waiting or any(mailbox.waiting for mailbox in self._mailboxes):
            return False
        return all(mailbox.subscription.backlog() == 0 for mailbox in self._mailboxes)

    # --- the end -----------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """No new work; what is in flight; the settles."""
        begun = time.monotonic()
        for mailbox in self._mailboxes:
            mailbox.stop()
        for pool in self._pools:
            pool.stop()
        deadline, tell_at = begun + self._config.drain_seconds, begun + _TELL_FIRST_SECONDS
        while (left := self._in_flight()) and self._stops < 2:
            now = time.monotonic()
            if now >= deadline:
                break
            if now >= tell_at:
                tell_at = now + _TELL_SECONDS
                log.warning("stopping: waiting up to %.0f s more for %s", deadline - now, self._shown(left, now))
            for pool in self._pools:
                pool.tick(now)
            self._wait(min(self._config.grow_seconds, deadline - now))
        if left:
            why = "told to stop at once" if self._stops >= 2 else f"not done within {self._config.drain_seconds:g} s"
            log.warning("stopping: %s; given back: %s", why, self._shown(left, time.monotonic()))

    def _in_flight(self) -> list[tuple[str, InFlight]]:
        return [(pool.handler.name, each) for pool in self._pools for each in pool.in_flight()]

    @staticmethod
    def _shown(left: list[tuple[str, InFlight]], now: float) -> str:
        """What is waited for, the longest first."""
        left.sort(key=lambda each: each[1].since)
        named = [f"{name} with {each.delivery.id} ({now - each.since:.1f} s)" for name, each in left[:_SHOWN]]
        more = f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
        return f"{len(left)} task(s): {', '.join(named)}{more}"

    def _end(self) -> None:
        """Ends everything, whatever state it is in."""
        for mailbox in self._mailboxes:
            mailbox.stopped = True
        for pool in self._pools:
            pool.close()
        if self._loop is not None:
            self._loop.close(self._config.fetch_seconds)
        seconds = 1.0 if self._stops >= 2 else self._config.drain_seconds
        self._retrier.join(seconds)
        self._retrier.close()
        for mailbox in self._mailboxes:
            try:
                mailbox.subscription.flush(seconds)
            except Exception as error:
                log.warning(
                    "handler %s: not all settles are confirmed, those tasks may come again: %s",
                    mailbox.handler.name,
                    foreign(error),
                    extra=about(error, handler=mailbox.handler.name),
                )
        for mailbox in self._mailboxes:
            mailbox.subscription.close()
