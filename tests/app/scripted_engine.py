"""An engine of the tests' own: deliveries in memory, settles that are noted and that fail when they are told to."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from dq.app.outcomes import DeadLetter, Release, Retry


@dataclass(eq=False)
class Given:
    """A delivery."""

    id: str
    stream: str
    payload: Any
    sink: str
    attempt: int = 1
    last_error: str | None = None
    key: str | None = None
    topic: str | None = None
    name: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    outcome: Any = None
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def extend(self, seconds: float, note: str | None = None) -> None:
        """Nobody takes it away."""


class Held:
    """A subscription. `settled` has (payload, verdict), in the order of the settles; `fetches` what each fetch brought."""

    settle_waits = False

    def __init__(self, engine: ScriptedEngine, sink: str, streams, settings) -> None:
        self.engine, self.sink, self.streams, self.settings = engine, sink, tuple(streams), settings
        self.waiting: deque[Given] = deque()
        self.settled: list[tuple[Any, Any]] = []
        self.fetches: list[int] = []
        self.open = 0
        self.stopped = self.flushed = self.closed = False

    def fetch(self, limit, timeout):
        with self.engine.changed:
            self.engine.changed.wait_for(lambda: self.waiting or self.stopped or self.engine.broken, timeout)
            if self.engine.broken is not None:
                raise self.engine.broken
            if self.stopped:
                return []
            given = [self.waiting.popleft() for _ in range(min(limit, len(self.waiting)))]
            self.open += len(given)
            self.fetches.append(len(given))
            return given

    def settle(self, delivery, verdict) -> None:
        self.engine.refuse(delivery, verdict)
        with self.engine.changed:
            self.open -= 1
            self.settled.append((delivery.payload, verdict))
            if isinstance(verdict, Release):
                self.waiting.append(delivery)
            elif isinstance(verdict, Retry):
                delivery.attempt, delivery.last_error = delivery.attempt + 1, verdict.error
                if delivery.attempt > self.settings.max_attempts:
                    self.settled.append((delivery.payload, DeadLetter("max_attempts", error=verdict.error)))
                else:
                    self.waiting.append(delivery)
            self.engine.changed.notify_all()

    def backlog(self) -> int:
        return len(self.waiting) + self.open

    def stop(self) -> None:
        with self.engine.changed:
            self.stopped = True
            self.engine.changed.notify_all()

    def flush(self, timeout) -> None:
        self.flushed = True

    def close(self) -> None:
        self.closed = True


class ScriptedEngine:
    """What an app needs, in one process. `refuse` is called before each settle and may raise; `broken` is raised by fetches."""

    def __init__(self, refuse: Callable[[Given, Any], None] = lambda delivery, verdict: None) -> None:
        self.changed = threading.Condition()
        self.held: dict[str, Held] = {}
        self.refuse = refuse
        self.broken: Exception | None = None
        self._published: list[tuple[str, str, Any]] = []

    def subscribe(self, sink, streams, *, topic, pattern, settings):
        held = self.held[sink] = Held(self, sink, streams, settings)
        for id_, stream, payload in self._published:
            self._give(held, id_, stream, payload)
        return held

    def publish(self, stream, payload, **options):
        with self.changed:
            id_ = f"{stream}/0/{len(self._published)}"
            self._published.append((id_, stream, payload))
            for held in self.held.values():
                self._give(held, id_, stream, payload)
            self.changed.notify_all()
            return id_

    @staticmethod
    def _give(held: Held, id_: str, stream: str, payload: Any) -> None:
        if stream in held.streams:
            held.waiting.append(Given(id_, stream, payload, held.sink))

    def close(self) -> None:
        """Nothing is open."""
