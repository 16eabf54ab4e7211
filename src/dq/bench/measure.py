"""`Measurement`: the figures of `dq bench`, each beside the floor of the same run."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from dq.bench.floor import Floor
from dq.bench.processes import Counters, Worker, broker_pids, kill, percentile, running
from dq.bench.roles import Published, consumer, line_of, publisher
from dq.client.manager import BrokerManager
from dq.client.stream import Stream
from dq.config import LIMITS
from dq.model.histogram import SHARES
from dq.model.settings import MEMORY

_MOST_SECONDS = 0.6
"""What is done one by one is done for no longer, so that a slow disk does not make a long bench."""
_ONE_BY_ONE_MAX, _PACED_MAX = 2_000, 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is to be measured.

    Attributes:
        records: of each figure whose records are not waited for one by one.
        size: bytes of a record's line in the log.
        durability: of the streams.
        publishers, consumers: processes.
        runs: how often each figure is measured.
    """

    records: int
    size: int
    durability: str
    publishers: int
    consumers: int
    runs: int


@dataclass(slots=True)
class Figure:
    """One figure.

    Attributes:
        name: of it.
        runs: what was measured, in records a second.
        floor: what the bare loop did in the same runs.
    """

    name: str
    runs: list[float] = field(default_factory=list)
    floor: list[float] = field(default_factory=list)

    def told(self) -> dict[str, Any]:
        """As JSON takes it."""
        found = {
            "name": self.name,
            "unit": "records/s",
            "median": median(self.runs),
            "min": min(self.runs),
            "max": max(self.runs),
        }
        return {**found, "runs": self.runs, "floor": median(self.floor), "ratio": self.ratio}

    @property
    def ratio(self) -> float:
        """Of the medians."""
        return median(self.runs) / median(self.floor)


@dataclass(slots=True)
class Latency:
    """How long something took: of each run, by `SHARES`, in seconds."""

    name: str
    runs: list[dict[str, float]] = field(default_factory=list)

    def add(self, seconds: Sequence[float]) -> None:
        """One run more."""
        self.runs.append({name: percentile(seconds, part) for name, part in SHARES.items()})

    def median(self, part: str) -> float:
        """Of all runs."""
        return median(run[part] for run in self.runs)

    def told(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {"name": self.name, "unit": "s", **{part: self.median(part) for part in SHARES}, "runs": self.runs}


class Measurement:
    """The figures, in their order.

    Args:
        wish: what is to be measured.
        say: is told what goes on.
    """

    def __init__(self, wish: Wish, say: Callable[[str], None]) -> None:
        self.wish, self._say = wish, say
        self.publish, self.submit = Figure("publish()"), Figure("submit()")
        self.publish_many, self.end_to_end = Figure("publish_many()"), Figure("end to end")
        self.receipt, self.way = Latency("publish() to receipt"), Latency("publish() to user code")
        self.flush = Latency("bare flush of one record")

    @property
    def figures(self) -> list[Figure]:
        """All of them."""
        return [self.publish, self.submit, self.publish_many, self.end_to_end]

    @property
    def latencies(self) -> list[Latency]:
        """All of them; that of the flush where there is one."""
        return [self.receipt, self.way] + [self.flush] * (self.wish.durability == "sync")

    def run(self, directory: Path) -> None:
        """Measures all in an empty directory."""
        wish = self.wish
        self._say("starting")
        with ExitStack() as opened:
            broker = opened.enter_context(_broker(directory / "queue_data"))
            floor = Floor(directory, line_of(wish.size), sync=wish.durability == "sync")
            opened.callback(floor.close)
            crew = opened.enter_context(_crew(broker, wish))
            for number in range(1, wish.runs + 1):
                self._one_run(crew, floor, number)

    def _one_run(self, crew: _Crew, floor: Floor, number: int) -> None:
        wish, where = self.wish, f"run {number} of {self.wish.runs}: "
        few = min(max(wish.records // 50, 50), _ONE_BY_ONE_MAX)
        self._say(where + "the floor")
        began = time.perf_counter()
        took = floor.sync_seconds(few, most=_MOST_SECONDS)
        one = len(took) / (time.perf_counter() - began)
        many = floor.rate(wish.records, max(min(LIMITS.batch_bytes_max // wish.size, wish.records), 1), _MOST_SECONDS)
        self.flush.add(took)
        for figure, bare in zip(self.figures, (one, many, many, many), strict=True):
            figure.floor.append(bare)
        self._say(where + "publish()")
        done = crew.publish("publish", few)
        self.publish.runs.append(_rate(done))
        self.receipt.add([seconds for each in done for seconds in each.seconds])
        self._say(where + "submit()")
        self.submit.runs.append(_rate(crew.publish("submit", wish.records)))
        self._say(where + "publish_many()")
        self.publish_many.runs.append(_rate(crew.publish("publish_many", wish.records)))
        self._say(where + "end to end")
        rate, delays = crew.end_to_end(wish.records, min(max(wish.records // 200, 50), _PACED_MAX))
        self.end_to_end.runs.append(rate)
        self.way.add(delays)


def _rate(done: Sequence[Published]) -> float:
    return sum(each.records for each in done) / (max(each.ended for each in done) - min(each.began for each in done))


class _Crew:
    """The processes of all runs."""

    def __init__(self, broker: BrokerManager, wish: Wish, publishers: list[Worker], consumers: list[Worker], counted: Counters):
        self._broker, self._wish, self._publishers, self._consumers = broker, wish, publishers, consumers
        self._counters, self._counted, self._streams = counted, 0, 0

    def _stream(self) -> Stream:
        """A new one."""
        self._streams += 1
        kept = {"backend": MEMORY} if self._wish.durability == MEMORY else {"durability": self._wish.durability}
        return self._broker.stream(f"bench-{self._streams}", **kept)

    def publish(self, way: str, count: int) -> list[Published]:
        """Into a stream that nobody consumes."""
        stream = self._stream()
        try:
            return self._send(way, stream.name, count)
        finally:
            stream.destroy()

    def _send(self, way: str, stream: str, count: int, publishers: int | None = None) -> list[Published]:
        made = self._publishers[:publishers]
        each, more = divmod(count, len(made))
        for place, worker in enumerate(made):
            worker.tell(way, stream, each + (place < more), _MOST_SECONDS)
        for worker in made:
            worker.hear()
        for worker in made:
            worker.tell("go")
        return [worker.hear() for worker in made]

    def end_to_end(self, count: int, paced: int) -> tuple[float, list[float]]:
        """Records a second from the first that is published to the last that is handled, in steady flow; and how long records
        took to user code that came one by one."""
        stream = self._stream()
        for worker in self._consumers:
            worker.tell(stream.name, f"{stream.name}-sink")
        for worker in self._consumers:
            worker.hear()
        self._reach(self._send("publish_many", stream.name, max(count // 10, len(self._publishers))))  # grown by then
        done = self._send("publish_many", stream.name, count)
        rate = count / (self._reach(done) - min(each.began for each in done))
        self._reach(self._send("paced", stream.name, paced, 1))
        for worker in self._consumers:
            worker.tell("stop")
        delays = [delay for worker in self._consumers for delay in worker.hear()]
        self._broker.sink(f"{stream.name}-sink").destroy()
        stream.destroy()
        return rate, delays

    def _reach(self, done: Sequence[Published]) -> float:
        """When all these were handled."""
        self._counted += sum(each.records for each in done)
        return self._counters.reach(self._counted)


@contextmanager
def _broker(path: Path) -> Iterator[BrokerManager]:
    """A broker; when it goes wrong, or is interrupted, it is not waited for: what it has is thrown away."""
    with running(path, logging.ERROR) as broker:
        try:
            yield broker
        except BaseException:
            kill(broker_pids(broker))
            raise


@contextmanager
def _crew(broker: BrokerManager, wish: Wish) -> Iterator[_Crew]:
    counters = Counters(wish.consumers)
    with ExitStack() as ended:
        publishers: list[Worker] = []
        consumers: list[Worker] = []
        for made, count in ((publishers, wish.publishers), (consumers, wish.consumers)):
            for number in range(count):
                mine: tuple[Any, ...] = (publisher, broker.root, wish.size)
                worker = Worker(*(mine if made is publishers else (consumer, broker.root, counters.array, number)))
                ended.callback(worker.close)
                ended.callback(worker.leave)
                made.append(worker)
        for worker in publishers + consumers:
            worker.hear()
        try:
            yield _Crew(broker, wish, publishers, consumers, counters)
        except BaseException:
            for worker in publishers + consumers:
                worker.kill()
            raise
        for worker in publishers + consumers:
            worker.leave()  # all at once
