"""What passes between the demonstration and its worker processes, beside the queue itself: orders down, reports up."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

TASKS, RESULTS, PROBE, SPEED = "tasks", "results", "probe", "speed"
"""The streams of a run."""
SINKS = {TASKS: "workers", RESULTS: "page", PROBE: "probe", SPEED: "speed"}

Call = tuple[float, float]
"""A `publish()`: when it was called, in seconds since 1970, and how long it took."""


@dataclass(frozen=True, slots=True)
class PublishTasks:
    """Publish these one by one, over `spread_seconds` unless `Hurry` comes."""

    payloads: list[dict[str, Any]]
    spread_seconds: float


@dataclass(frozen=True, slots=True)
class PublishProbes:
    """Publish so many records one by one, at leisure."""

    count: int
    pause_seconds: float


@dataclass(frozen=True, slots=True)
class PublishMany:
    """Publish as much as goes, in batches of 500, for so long."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Consume:
    """Consume this stream until `Stop` comes."""

    stream: str


@dataclass(frozen=True, slots=True)
class Hurry:
    """What is left is to be published at once."""


@dataclass(frozen=True, slots=True)
class Stop:
    """End what you do, and report."""


@dataclass(frozen=True, slots=True)
class Quit:
    """Leave."""


Order = PublishTasks | PublishProbes | PublishMany | Consume | Hurry | Stop | Quit


@dataclass(frozen=True, slots=True)
class Ready:
    """The process runs and waits for orders."""


@dataclass(frozen=True, slots=True)
class Published:
    """All is published: how many records, from when to when, and each call where they went one by one."""

    count: int
    began: float
    calls: list[Call]


@dataclass(frozen=True, slots=True)
class Consumed:
    """The consuming was stopped.

    Attributes:
        count: records handled.
        ended: when the last one was, in seconds since 1970.
        waits: for probes, seconds from `publish()` called to the handler running.
        calls: the `publish()` of each result.
    """

    count: int
    ended: float
    waits: list[float]
    calls: list[Call]


@dataclass(frozen=True, slots=True)
class Failed:
    """The process cannot go on."""

    reason: str


Report = Ready | Published | Consumed | Failed


@dataclass(frozen=True, slots=True)
class Note:
    """What a consumer says of a task when it begins it, by `task.extend(note=)`; the broker shows it in its status.

    Attributes:
        consumer: the consumer's number.
        begun: how many it has begun, this one too.
        task, name: what it begins.
    """

    consumer: int
    begun: int
    task: str
    name: str

    @property
    def text(self) -> str:
        """As it is sent."""
        return f"{self.consumer} {self.begun} {self.task} {self.name}"

    @classmethod
    def of(cls, text: str) -> Note:
        """From what was sent."""
        consumer, begun, task, name = text.split(" ", 3)
        return cls(int(consumer), int(begun), task, name)


class Inbox:
    """The orders to this process. A thread reads them, for `Hurry`, `Stop` and `Quit` come while it works.

    Attributes:
        interrupted: `Hurry` or `Stop` has come since the work began, or `Quit`.
        leaving: `Quit` has come.
    """

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._orders: SimpleQueue[Order] = SimpleQueue()
        self._lock = threading.Lock()
        self._stop: Callable[[], None] | None = None
        self.interrupted = threading.Event()
        self.leaving = threading.Event()
        threading.Thread(target=self._read, daemon=True, name="dq-demo-orders").start()

    def next(self) -> Order:
        """The next piece of work; waits for it."""
        return self._orders.get()

    def when_interrupted(self, stop: Callable[[], None]) -> None:
        """Has `stop` called at the next `Hurry` or `Stop`; at once where that has come already."""
        with self._lock:
            self._stop = stop
            if self.interrupted.is_set():
                stop()

    def _read(self) -> None:
        while True:
            try:
                order = self._pipe.recv()
            except (EOFError, OSError):
                # Whoever started this process is gone. What is in hand goes back to the queue, as at any death.
                os._exit(1)
            if isinstance(order, Quit):
                self.leaving.set()
                self._orders.put(order)
            if isinstance(order, (Hurry, Stop, Quit)):
                with self._lock:
                    self.interrupted.set()
                    if self._stop is not None:
                        self._stop()
            else:
                # Work is ordered only after the report on what came before it, so this interrupt is over.
                with self._lock:
                    self._stop = None
                    self.interrupted.clear()
                self._orders.put(order)
