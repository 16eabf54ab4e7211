"""`LoopPool`: coroutine functions, all on one event loop, which has a thread of its own.

Deliveries come to the loop in lists. There they are run by tasks of asyncio that live long, each of which awaits one handler
after
the other: so a handler that never waits costs no asyncio task, and one that does has a task around it, as `asyncio.timeout`
needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from dq.app.config import AppConfig
from dq.app.engine import Delivery
from dq.app.handler import Handler, traced
from dq.app.mailbox import Mailbox
from dq.app.outcomes import ACK, DeadLetter, Verdict, failed, verdict_of
from dq.app.pools import InFlight
from dq.errors import HandlerTimeout

_TURN_SECONDS = 0.01
"""How long one asyncio task runs handlers that never wait, before it lets the rest of the loop have its turn."""


class LoopThread:
    """An event loop in a thread; all handlers of an app share one."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True, name="dq-loop")
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.close()

    def call(self, function: Callable[..., object], *arguments: object) -> None:
        """Has something called on the loop; nothing once that has ended."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(function, *arguments)

    def close(self, seconds: float) -> None:
        """Cancels what still runs, and ends the loop."""
        self.call(self._cancel)
        self._thread.join(seconds)

    def _cancel(self) -> None:
        running = asyncio.all_tasks(self.loop)
        for task in running:
            task.cancel()
        ending = self.loop.create_task(self._end(running))
        ending.add_done_callback(lambda _: self.loop.stop())

    async def _end(self, running: set[asyncio.Task[object]]) -> None:
        if running:
            await asyncio.wait(running, timeout=1.0)
        await self.loop.shutdown_asyncgens()


class LoopPool:
    """Runs the tasks of a coroutine function on the loop.

    Args:
        mailbox: where they come from.
        config: `max_in_flight` and `fetch_seconds` count.
        wake: is called when a task begins after a time without any, so that ticks come soon.
        thread: the loop.

    Attributes:
        timeouts: tasks that ran longer than the handler's timeout, and were cancelled.
    """

    def __init__(self, mailbox: Mailbox, config: AppConfig, wake: Callable[[], None], thread: LoopThread) -> None:
        self.handler: Handler = mailbox.handler
        self._call = traced(mailbox.handler)
        self.places = mailbox.handler.max_in_flight or config.max_in_flight
        self._mailbox, self._config, self._wake, self._loop = mailbox, config, wake, thread
        self._running: dict[asyncio.Task[None], InFlight | None] = {}
        self._parked: deque[asyncio.Future[None]] = deque()
        self._called = self._closed = False
        self._inside = self._done = self._seen = 0
        self._free_at = 0.0
        self.timeouts = 0
        self._room = threading.Condition()
        self._fetcher = threading.Thread(target=self._fetch, daemon=True, name=f"dq-{self.handler.name}")

    def start(self) -> None:
        """The thread that fetches."""
        self._free_at = time.monotonic()
        self._fetcher.start()

    # --- in the thread that fetches ------------------------------------------------------------------------------------

    def _fetch(self) -> None:
        """Fetches whenever nothing waits and a place is free, and has that place woken for what came."""
        mailbox = self._mailbox
        while not mailbox.stopped:
            if not self._wants_more():
                with self._room:
                    self._room.wait_for(lambda: self._wants_more() or mailbox.stopped, self._config.fetch_seconds)
            elif mailbox.refill(self._config.fetch_seconds):
                self._wake()
                self._loop.call(self._next_place)
        self._wake()  # it may have ended by an error of the engine's

    def _wants_more(self) -> bool:
        return not self._mailbox.waiting and self._inside < self.places

    # --- on the loop ---------------------------------------------------------------------------------------------------

    def _next_place(self) -> None:
        """Has one more place work, if something waits and one is free."""
        self._called = False
        if not self._mailbox.waiting or self._mailbox.stopped:
            return
        while self._parked:
            parked = self._parked.popleft()
            if not parked.done():
                parked.set_result(None)
                return
        if len(self._running) < self.places:
            task = self._loop.loop.create_task(self._work())
            self._running[task] = None
            task.add_done_callback(self._running.pop)

    async def _work(self) -> None:
        """One place: works off what waits, then parks."""
        task = asyncio.current_task()
        if task is None:
            return
        mailbox, loop, clock = self._mailbox, self._loop.loop, time.monotonic
        while not mailbox.stopped:
            turn_ends = clock() + _TURN_SECONDS
            while not mailbox.stopped:
                try:
                    delivery = mailbox.waiting.popleft()
                except IndexError:
                    break
                if mailbox.expiring and mailbox.has_expired(delivery):
                    if not mailbox.waiting:
                        self._tell_fetcher()
                    continue
                self._inside += 1
                if not mailbox.waiting:
                    self._tell_fetcher()
                elif not self._called:
                    self._called = True  # should this one have to wait, another place goes on meanwhile
                    loop.call_soon(self._next_place)
                now = clock()
                self._running[task] = InFlight(delivery, now)
                await self._run(delivery, task)
                self._running[task] = None
                self._inside -= 1
                self._done += 1
                if not mailbox.waiting:
                    self._tell_fetcher()
                if now > turn_ends:
                    await asyncio.sleep(0)
                    turn_ends = clock() + _TURN_SECONDS
            parked = loop.create_future()
            self._parked.append(parked)
            await parked

    async def _run(self, delivery: Delivery, task: asyncio.Task[None]) -> None:
        handler = self.handler
        try:
            result = self._call(delivery)
            if not isinstance(result, DeadLetter):  # the payload fits
                if handler.timeout is None:
                    result = await result
                else:
                    result = await self._in_time(result, handler.timeout)
        except asyncio.CancelledError as error:
            if self._closed:
                raise
            while task.cancelling():
                task.uncancel()  # this place goes on with others
            verdict: Verdict = failed(error, handler.name, delivery)
        except BaseException as error:  # SystemExit too: a task does not end the app
            verdict = failed(error, handler.name, delivery)
        else:
            verdict = ACK if result is None else verdict_of(result)
        if not self._closed:
            self._mailbox.settle_later(delivery, verdict)

    async def _in_time(self, running: Awaitable[Any], seconds: float) -> Any:
        """What the handler returns, or HandlerTimeout: it is cancelled by then."""
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                return await running
        except TimeoutError as error:
            if not limit.expired():
                raise  # the handler's own
            self.timeouts += 1
            raise HandlerTimeout(f"it ran longer than {seconds:g} s, and was cancelled") from error

    def _tell_fetcher(self) -> None:
        with self._room:
            self._room.notify_all()

    # --- in the thread of the app ----------------------------------------------------------------------------------------

    def tick(self, now: float) -> bool:
        """Gives back what has waited for long while all places were busy."""
        if self._done != self._seen or self._inside < self.places:
            self._seen, self._free_at = self._done, now
        elif self._mailbox.waiting and now - self._free_at > self._config.give_back_seconds:
            self._mailbox.give_back()
        return self._inside > 0

    def in_flight(self) -> Sequence[InFlight]:
        """What the loop works on."""
        return [each for each in list(self._running.values()) if each is not None]

    def stop(self) -> None:
        """The places end after the tasks that they have in hand; the mailbox says so to them."""
        self._tell_fetcher()

    def close(self) -> None:
        """What still runs is cancelled with the loop, and not heard any more."""
        self._closed = True
