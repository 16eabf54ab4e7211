"""How far a run is: the broker's own figures beside what has come in, looked at a few times a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from dq.client.broker import Broker
from dq.demo.crew import Crew
from dq.demo.failed import DemoFailed
from dq.demo.orders import SINKS, TASKS, Note
from dq.demo.results import Results
from dq.demo.source import Work

_LOOK_SECONDS = 0.1
_STALLED_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class ConsumerLine:
    """One consumer as the page shows it.

    Attributes:
        joined: whether it is registered with the sink.
        state: "", "starting" or "killed".
        task: what it began last, by its own note.
    """

    number: int
    pid: int
    joined: bool
    state: str
    in_hand: int
    settled: int
    task: str


@dataclass(frozen=True, slots=True)
class Progress:
    """One look.

    Attributes:
        seconds: since the run began.
        phase: what goes on.
        tasks: how many there are to be; 0 where that is not known.
        published: records in the stream.
        waiting, in_hand, settled: of the sink.
        redelivered: leased once more.
        results: tasks with a result.
    """

    seconds: float
    phase: str
    tasks: int
    published: int
    waiting: int
    in_hand: int
    settled: int
    redelivered: int
    results: int
    consumers: tuple[ConsumerLine, ...]


class View(Protocol):
    """Whoever shows it."""

    def begin(self, seconds: float, phase: str) -> None:
        """Something begins of which there are no figures."""

    def show(self, progress: Progress) -> None:
        """One look."""

    def tell(self, seconds: float, text: str) -> None:
        """Something happened."""


class Watch:
    """Looks, shows, and waits until something is so.

    Attributes:
        stream: which stream is being worked on.
        phase: what goes on, for people.
    """

    def __init__(self, broker: Broker, crew: Crew, results: Results, view: View, work: Work, began: float) -> None:
        self.broker, self.crew, self.results = broker, crew, results
        self._view, self._work, self._began = view, work, began
        self.stream, self.phase = TASKS, "starting"
        self._settled: dict[tuple[str, int], int] = {}

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return time.monotonic() - self._began

    def tell(self, text: str) -> None:
        """Shows that something happened."""
        self._view.tell(self.seconds, text)

    def begin(self, phase: str) -> None:
        """Shows that something begins of which there are no figures."""
        self._view.begin(self.seconds, phase)

    def short(self, name: str) -> str:
        """The name of a task as people read it."""
        return self._work.short(name)

    def look(self) -> Progress:
        """One look, shown."""
        self.crew.listen()
        progress = self._progress(self.broker.stats())
        self._view.show(progress)
        return progress

    def until(self, done: Callable[[Progress], bool]) -> Progress:
        """Looks until `done`; returns the last look.

        Raises:
            DemoFailed: nothing has moved for 30 s, or a process ended.
        """
        moved_at, last = time.monotonic(), (-1, -1, -1, -1)
        while True:
            progress = self.look()
            if done(progress):
                return progress
            now, figures = time.monotonic(), (progress.published, progress.in_hand, progress.settled, progress.results)
            if figures != last:
                moved_at, last = now, figures
            elif now - moved_at > _STALLED_SECONDS:
                raise DemoFailed(
                    f"nothing has moved for {_STALLED_SECONDS:g} s while {self.phase}: {progress.published} published, "
                    f"{progress.waiting} waiting, {progress.in_hand} in hand, {progress.settled} settled, "
                    f"{progress.results} results"
                )
            self.crew.listen(_LOOK_SECONDS)

    def _progress(self, stats: dict[str, Any]) -> Progress:
        stream = stats["publisher_broker"].get("streams", {}).get(self.stream, {})
        sink = stats["consumer_broker"].get("sinks", {}).get(SINKS[self.stream], {})
        shards = sink.get("shards", {}).values()
        # While the publisher broker is being replaced the stream is known by what the consumer broker has seen of it.
        published = sum(stream["ends"]) if stream else sum(shard["end"] for shard in shards)
        return Progress(
            seconds=self.seconds,
            phase=self.phase,
            tasks=len(self._work.payloads) if self.stream == TASKS else 0,
            published=published,
            waiting=sum(shard["waiting"] for shard in shards),
            in_hand=sum(shard["in_hand"] for shard in shards),
            settled=sink.get("settled", 0),
            redelivered=sink.get("redelivered", 0),
            results=self.results.count,
            consumers=self._consumers(stats, sink),
        )

    def _consumers(self, stats: dict[str, Any], sink: dict[str, Any]) -> tuple[ConsumerLine, ...]:
        pids = {consumer: known["pid"] for consumer, known in stats["consumer_broker"].get("consumers", {}).items()}
        hands = {pids[consumer]: hand for consumer, hand in sink.get("consumers", {}).items() if consumer in pids}
        notes = last_notes(sink)
        lines = []
        for worker in self.crew.consumers:
            hand = hands.get(worker.pid)
            if hand is not None:
                self._settled[self.stream, worker.number] = hand["settled"]
            state = "killed" if worker.killed else "" if worker.ready else "starting"
            in_hand = hand["in_hand"] if hand is not None else 0
            settled = self._settled.get((self.stream, worker.number), 0)
            task = self._work.short(notes[worker.number].name) if in_hand and worker.number in notes else ""
            lines.append(ConsumerLine(worker.number, worker.pid, hand is not None, state, in_hand, settled, task))
        return tuple(lines)


def last_notes(sink: dict[str, Any]) -> dict[int, Note]:
    """The last note of each consumer in a sink's status, by the consumer's number."""
    notes = (Note.of(note["note"]) for note in sink.get("notes", ()))
    return {note.consumer: note for note in sorted(notes, key=lambda note: note.begun)}
