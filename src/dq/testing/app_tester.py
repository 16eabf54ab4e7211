"""`AppTester`: runs an app's handlers in the thread of a test, one task after the other, under a clock moved by hand."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from dq.app.application import App
from dq.app.engine import Delivery, Engine, SubscriptionSettings
from dq.app.every import Ticker
from dq.app.handler import Handler
from dq.app.outcomes import Ack, DeadLetter, Drop, Release, Retry, Verdict, failed, verdict_of
from dq.errors import UsageError
from dq.model.outcome import Outcome
from dq.model.record import Record
from dq.testing.hand_clock import HandClock
from dq.testing.memory_engine import MemoryEngine
from dq.testing.memory_sink import MemorySubscription

TASKS_MAX: Final = 10_000
_OF_VERB: Final[dict[Outcome, Verdict]] = {
    Outcome.ACK: Ack(),
    Outcome.DROP: Drop(),
    Outcome.RETRY: Retry(),
    Outcome.RELEASE: Release(),
    Outcome.DEAD_LETTER: DeadLetter("by a verb of the task"),
}


@dataclass(frozen=True, slots=True)
class Done:
    """One run of a handler.

    Attributes:
        handler: its name.
        id, stream, key, topic, payload, attempt: of the task.
        verdict: how it ended: `Ack()`, `Retry(...)`, …
        error: what the handler raised, or None.
    """

    handler: str
    id: str
    stream: str
    key: str | None
    topic: str | None
    payload: Any
    attempt: int
    verdict: Verdict
    error: BaseException | None


class _Place(NamedTuple):
    handler: Handler
    subscription: MemorySubscription


class AppTester:
    """An app in the hand of a test: nothing runs until it is told to, and then in the thread of the test.

    While it is open, the app publishes into an engine in memory; then it has its own again. Handlers of processes and with
    timeouts run in this thread too, without those.

    Args:
        app: whose handlers are registered already.
        now: where the clock begins, an aware datetime; default 2026-01-01 12:00 UTC.
        strict: let an exception of a handler come through to the test, where it would be tried again. Default False.
        engine: an engine to go on with, as after a restart of the program; default a new one.

    Attributes:
        clock: to be moved by `clock.advance(seconds)`; recurring work is fired on the way.
        engine: the `MemoryEngine`.
        handled: all runs of handlers so far (`Done`), in order.
    """

    __test__ = False

    def __init__(
        self, app: App, *, now: datetime | None = None, strict: bool = False, engine: MemoryEngine | None = None
    ) -> None:
        self.app, self._strict = app, strict
        self.engine = engine or MemoryEngine(HandClock(now))
        if not isinstance(self.engine.clock, HandClock):
            raise UsageError("an AppTester moves its clock by hand: MemoryEngine(HandClock())")
        self.clock: HandClock = self.engine.clock
        self.handled: list[Done] = []
        self._places: list[_Place] = []
        self._runner: asyncio.Runner | None = None
        self._before: Engine | None = None
        self._opened = False

    # --- its life ------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        app, config = self.app, self.app.config
        self._before, self._opened = app.exchange_engine(self.engine), True
        settings = SubscriptionSettings(
            max_attempts=config.handler_max_attempts, ack_grace=config.ack_grace, prefetch=1, reclaim_interval=1.0
        )
        for handler in app.handlers.values():
            subscription = self.engine.subscribe(
                app.sink_of(handler), handler.streams, topic=handler.topic, pattern=handler.pattern, settings=settings
            )
            self._places.append(_Place(handler, subscription))
        if not app.recurring:
            return self
        ticker = Ticker(app, self.clock.wall)
        self._look(ticker)
        self.clock.stop_at(ticker.next_tick, lambda: self._look(ticker))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Gives the app its own engine back. Safe twice."""
        for place in self._places:
            place.subscription.close()
        self._places.clear()
        self.clock.forget_stops()
        if self._runner is not None:
            self._runner.close()
            self._runner = None
        if self._opened:
            self._opened = False
            self.app.exchange_engine(self._before)

    def _look(self, ticker: Ticker) -> None:
        if self._opened:
            while ticker.look():
                pass

    # --- doing ---------------------------------------------------------------------------------------------------------

    def publish(self, stream: str, payload: Any, **wishes: Any) -> str:
        """As `App.publish`: `key`, `topic`, `name`, `headers`, `delay`, `once`, `priority`, `expires`; returns the id."""
        return self.engine.publish(stream, payload, **wishes)

    def advance(self, seconds: float | timedelta) -> None:
        """As `clock.advance`."""
        self.clock.advance(seconds)

    def run_until_idle(self, most: int = TASKS_MAX) -> int:
        """Runs the handlers until none has a task that is ready now; returns how many tasks that were.

        What is to come later (delays, retries, recurring work) waits until the clock is moved.

        Raises:
            UsageError: there were more than `most`: handlers that publish to each other without end.
        """
        self._check_open()
        count = 0
        while ran := sum([self._run_one(place) for place in self._places]):
            count += ran
            if count > most:
                raise UsageError(f"over {most:,} tasks, and still not idle: do handlers publish to each other for ever?")
        return count

    def run_until_settled(self, most: int = TASKS_MAX) -> int:
        """As `run_until_idle`, and moves the clock on to each retry and each delayed record, until none is left.

        Recurring work is fired on the way; it does not keep this going.
        """
        count = self.run_until_idle(most)
        while (due := self.engine.next_due()) is not None:
            self.clock.advance(max(due - self.clock.wall(), 0.001))
            count += self.run_until_idle(most - count)
        return count

    def _run_one(self, place: _Place) -> bool:
        [*found] = place.subscription.fetch(1, 0.0)
        for delivery in found:
            verdict, error = self._call(place.handler, delivery)
            if delivery.outcome is None:
                place.subscription.settle(delivery, verdict)
            else:
                verdict = _OF_VERB[delivery.outcome]
            self.handled.append(
                Done(
                    place.handler.name, delivery.id, delivery.stream, delivery.key, delivery.topic, delivery.payload,
                    delivery.attempt, verdict, error,
                )
            )  # fmt: skip
            if error is not None and self._strict:
                raise error
        return bool(found)

    def _call(self, handler: Handler, delivery: Delivery) -> tuple[Verdict, Exception | None]:
        try:
            result = handler.call(delivery)
            if inspect.iscoroutine(result):
                if self._runner is None:
                    self._runner = asyncio.Runner()
                result = self._runner.run(result)
        except Exception as error:
            return failed(error, handler.name, delivery), error
        return verdict_of(result), None

    def _check_open(self) -> None:
        if not self._opened:
            raise UsageError("this AppTester is not open: use it by `with AppTester(app) as tester:`, or the fixture dq_app")

    # --- looking -------------------------------------------------------------------------------------------------------

    def of(self, handler: str) -> list[Done]:
        """The runs of one handler."""
        return [done for done in self.handled if done.handler == handler]

    @property
    def acked(self) -> list[Done]:
        """Runs that did their work."""
        return [done for done in self.handled if isinstance(done.verdict, Ack)]

    @property
    def dropped(self) -> list[Done]:
        """Runs that did not want their task."""
        return [done for done in self.handled if isinstance(done.verdict, Drop)]

    @property
    def retried(self) -> list[Done]:
        """Runs that failed; the last one of a task that failed for good is among them."""
        return [done for done in self.handled if isinstance(done.verdict, Retry)]

    @property
    def released(self) -> list[Done]:
        """Runs that gave their task back as it was."""
        return [done for done in self.handled if isinstance(done.verdict, Release)]

    @property
    def dead_letters(self) -> list[Record]:
        """The dead letters of all streams: `payload`, and in `headers` "dq-id", "dq-sink", "dq-attempts", "dq-reason", …"""
        streams = [stream for name, stream in sorted(self.engine.streams.items()) if name.endswith("-dlq")]
        return [record for stream in streams for record in stream.records()]

    @property
    def delayed(self) -> list[tuple[str, Any, float]]:
        """What waits for its time: (stream, payload, seconds from now), the first to come first; delays and retries."""
        wall = self.clock.wall()
        return [(stream, payload, due - wall) for stream, payload, due in self.engine.delayed]

    @property
    def expired(self) -> int:
        """How many records were not handed out, since their time was over."""
        return sum(sink.expired for sink in self.engine.sinks.values())

    def published(self, stream: str, headers: Mapping[str, str] | None = None) -> list[Record]:
        """All records that a stream got, those with these headers if they are given."""
        wanted = dict(headers or {}).items()
        return [record for record in self.engine.records(stream) if wanted <= record.headers.items()]
