"""A short life of one directory, as a process: publishes, consumes, retries, gives up, rolls and trims; tells all of it.

Arguments: data directory. Each line is told at once, and whatever becomes of the brokers meanwhile, the script goes on.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from pathlib import Path

import orjson

from dq import BrokerManager, Consumer, DiskFull, DqError, Publisher, Task
from dq.client import starter

STREAM, SINK, BUCKETS, BATCHES, BATCH = "work", "workers", 2, 8, 8
SECONDS = float(os.environ.get("DQ_SCRIPT_SECONDS", "25"))  # what is not there by then does not come
HERE = str(Path(__file__).parent)


def tell(*line: object) -> None:
    os.write(1, orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))


def number(record: str) -> int:
    return int(record.removeprefix("r"))


def is_given_up(record: str) -> bool:
    return number(record) % 20 == 13


def is_retried(record: str) -> bool:
    return number(record) % 20 == 6


class Work:
    """The consumer, in a thread of its own."""

    def __init__(self, consumer: Consumer) -> None:
        self.consumer, self.open = consumer, list[str]()
        self.done: set[str] = set()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            for task in self.consumer:
                self._handle(task)
            self._confirm()
        except DqError as error:
            tell("info", f"consumer: {type(error).__name__}: {error}")
        self.open = []

    def _handle(self, task: Task) -> None:
        record = task.payload["id"]
        tell("recv", time.monotonic_ns(), record, [task.bucket, task.offset], task.attempt, len(task.payload["fill"]) == 300)
        if is_given_up(record):
            task.dead_letter("bad")
            self.done.add(record)
        elif is_retried(record) and task.attempt == 1:
            task.retry(after=0, error="once")
        else:
            task.ack()
            self.open.append(record)
            self.done.add(record)
            if len(self.open) >= 6:
                self._confirm()

    def _confirm(self) -> None:
        self.consumer.flush(SECONDS)
        tell("acked", time.monotonic_ns(), self.open)
        self.open = []


def publish(publisher: Publisher, ids: list[str]) -> set[str]:
    """Returns those whose publisher may give them up: their outcome is not known, or there was no room."""
    tell("invoke", ids)
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            receipts = publisher.publish_many({"id": record, "fill": "x" * 300} for record in ids)
        except DiskFull as error:
            tell("full", len(error.receipts))
            if time.monotonic() < deadline and not len(error.receipts):
                time.sleep(0.02)
                continue
            return set(ids)
        except DqError as error:
            tell("info", f"publisher: {type(error).__name__}: {error}")
            return set(ids)
        places = [[int(part) for part in receipt.id.rsplit("/", 2)[1:]] for receipt in receipts]
        tell("ok", ids, places, True)
        return set()


def await_trim(broker: BrokerManager, deadline: float) -> None:
    """Segments that are settled go soon. Some of them may be held by what nobody knows the outcome of."""
    while time.monotonic() < deadline:
        stream = broker.stats()["publisher_broker"].get("streams", {}).get(STREAM)
        if stream is not None and stream["records"] < sum(stream["ends"]):
            return
        time.sleep(0.01)


def started(root: str) -> BrokerManager:
    """A broker that dies at its first start takes its manager with it, and the caller is told: here it tries once more."""
    try:
        return BrokerManager(root)
    except DqError as error:
        tell("info", f"start: {type(error).__name__}: {error}")
        os.environ.pop("DQ_TRACED", None)
        return BrokerManager(root)


def make_stream(broker: BrokerManager) -> None:
    """Again where the disk did not take it."""
    for _ in range(4):
        try:
            broker.stream(STREAM, buckets=BUCKETS, segment_bytes=4_096, keep_seconds=0, keep_bytes=0)
            return
        except DqError as error:
            tell("info", f"stream: {type(error).__name__}: {error}")


def main(root: str) -> None:
    program = "from traced_manager import main; main(sys.argv[2])"
    starter._PROGRAM = f"import sys, json; sys.path[:] = [{HERE!r}, *json.loads(sys.argv[1])]; {program}"
    with started(root) as broker:
        make_stream(broker)
        with Publisher(broker, STREAM) as publisher, Consumer(broker, STREAM, sink=SINK, prefetch=5) as consumer:
            work, unknown, everything = Work(consumer), set[str](), set[str]()
            for batch in range(BATCHES):
                ids = [f"r{batch * BATCH + n}" for n in range(BATCH)]
                everything.update(ids)
                unknown |= publish(publisher, ids)
            deadline = time.monotonic() + SECONDS
            while not everything - unknown <= work.done and time.monotonic() < deadline and work.thread.is_alive():
                time.sleep(0.005)
            tell("waited", sorted(everything - unknown - work.done))
            consumer.stop()  # its acks are confirmed then
            work.thread.join(SECONDS)
        await_trim(broker, time.monotonic() + 2.0)
        tell("stats", broker.stats())
    tell("end")


if __name__ == "__main__":
    faulthandler.register(10)  # SIGUSR1, so that the test can ask where it stands
    main(*sys.argv[1:])
