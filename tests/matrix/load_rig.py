"""A steady load in this process: publishers with receipts, consumers with confirmed acks, and who got what how often."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter

from dq import Broker, Consumer, Publisher
from stage import Threaded, sink_of, until

PAUSE_SECONDS = 0.002


class Load:
    """Publishes numbers to a stream, some at a time, and consumes them by one sink until it is told to end.

    Attributes:
        receipts: by number, the id of its receipt.
        got: how often each number came.
        late: numbers that came again after their ack was confirmed.
    """

    def __init__(self, broker: Broker, stream: str, publishers: int = 2, consumers: int = 2, **settings) -> None:
        self.broker, self.stream = broker, stream
        self.receipts: dict[str, str] = {}
        self.got: Counter[str] = Counter()
        self.confirmed: set[str] = set()
        self.late: list[str] = []
        self._ended = threading.Event()
        made = [Publisher(broker, stream) for _ in range(publishers)]
        self._consumers = [Consumer(broker, stream, sink=stream, **settings) for _ in range(consumers)]
        self._publishing = [Threaded(lambda p=p, n=n: self._publish(p, n)) for n, p in enumerate(made)]
        self._consuming = [Threaded(lambda c=c: self._consume(c)) for c in self._consumers]

    def _publish(self, publisher: Publisher, number: int) -> None:
        count = 0
        with publisher:
            while not self._ended.is_set():
                payloads = [f"{number}-{count + n}" for n in range(1 + count % 7)]
                count += len(payloads)
                for payload, receipt in zip(payloads, publisher.publish_many(payloads), strict=True):
                    self.receipts[payload] = receipt.id
                self._ended.wait(PAUSE_SECONDS)

    def _consume(self, consumer: Consumer) -> None:
        with contextlib.closing(consumer):
            for task in consumer:
                self.got[task.payload] += 1
                if task.payload in self.confirmed:
                    self.late.append(task.payload)
                task.ack(wait=task.offset % 50 == 0)
                if task.offset % 50 == 0:
                    self.confirmed.add(task.payload)

    @property
    def progress(self) -> tuple[int, int]:
        """Receipts and records received up to now."""
        return len(self.receipts), sum(self.got.values())

    def goes_on(self, seconds: float = 15.0) -> None:
        """Both sides make progress from here."""
        published, received = self.progress
        until(lambda: self.progress[0] > published + 20 and self.progress[1] > received + 20, seconds, "the load goes on")

    def finish(self) -> dict:
        """Ends publishing, lets all be consumed, ends; returns the figures of the sink. Nothing may be lost or undone."""
        self._ended.set()
        for publishing in self._publishing:
            publishing.result(20)
        until(lambda: self.got.keys() >= self.receipts.keys(), 20, "all that was published is received")
        for consumer in self._consumers:
            consumer.stop()
        for consuming in self._consuming:
            consuming.result(20)
        figures = sink_of(self.broker, self.stream)
        assert len(set(self.receipts.values())) == len(self.receipts), "two records at one place"
        assert self.got.keys() == self.receipts.keys(), "lost or unexpected"
        assert self.late == [], "it came after its ack was confirmed"
        assert figures["settled"] == len(self.receipts)
        return figures
