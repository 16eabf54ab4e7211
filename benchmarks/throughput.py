"""The way of a record, end to end: 1 publisher process, the broker, 2 consumer processes, every receipt after `fdatasync`.

The rate is that of N records, from the first encode to the last task handled, in steady flow: publisher and consumers are
connected and 50,000 records have gone the whole way before the clock starts, so that prefetch and batches have grown; the
floor's processes are warmed up by as many. The rate of those first 50,000 is shown as `cold`. Every run has a broker and
processes of its own; a floor follows each.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import floor
from dq import BrokerManager, Consumer, Publisher
from measure import BODY, Bench, Counters, Row, Worker, broker_pids, cpu_seconds, handle, say, slot, workers

STREAM, SINK, CONSUMERS = "emails", "mailers", 2


def publish(control: Connection, root: Path, stream: str, batch: int, way: str) -> None:
    """A publisher process: told (first, count), publishes these and answers with the time of the first encode."""
    send = {"publish_many": _publish_many, "submit": _submit}[way]
    with Publisher(root, stream, batch_size=batch) as publisher:
        control.send("ready")
        while True:
            first, count = control.recv()
            began = time.perf_counter()
            send(publisher, first, count)
            control.send(began)


def _publish_many(publisher: Publisher, first: int, count: int) -> None:
    body = BODY
    receipts = publisher.publish_many({"to": "a@b.c", "n": n, "body": body} for n in range(first, first + count))
    if len(receipts) != count:
        raise RuntimeError(f"{len(receipts)} receipts for {count} records")


def _submit(publisher: Publisher, first: int, count: int) -> None:
    last, body = None, BODY
    for n in range(first, first + count):
        last = publisher.submit({"to": "a@b.c", "n": n, "body": body})
    publisher.flush()
    if last is not None:
        last.result(0)


def consume(
    control: Connection, root: Path, stream: str | Sequence[str], sink: str, counts: Any, place: int, told: bool = False
) -> None:
    """A consumer process, of a stream or of several: counts what it has handled; begins at once, or when told."""
    done, place, view = 0, slot(place), memoryview(counts).cast("B").cast("Q")
    streams = [stream] if isinstance(stream, str) else stream
    with Consumer(root, *streams, sink=sink) as consumer:
        signal.signal(signal.SIGTERM, lambda *_: consumer.stop())
        control.send("ready")
        if told:
            control.recv()
        for task in consumer:
            handle(task.payload)
            task.ack()
            done += 1
            view[place] = done


class Flow:
    """A publisher and two consumers, registered.

    Attributes:
        counters: of what was handled.
        pids: by the name of the process, the brokers' included.
    """

    def __init__(self, broker: BrokerManager, publisher: Worker, consumers: Sequence[Worker], counters: Counters) -> None:
        self.publisher, self.counters = publisher, counters
        brokers = zip(("publisher broker", "consumer broker"), broker_pids(broker)[1:], strict=True)
        self.pids = {"publisher": publisher.pid, **dict(brokers)}
        self.pids |= {f"consumer {n}": worker.pid for n, worker in enumerate(consumers, 1)}

    def send(self, first: int, count: int) -> float:
        """Records a second of these, from the first encode to the last task handled."""
        self.publisher.tell(first, count)
        ended = self.counters.reach(first + count)
        return count / (ended - self.publisher.hear())

    def cpu_seconds(self) -> dict[str, float]:
        """What each process has used."""
        return {name: cpu_seconds(pid) for name, pid in self.pids.items()}


@contextlib.contextmanager
def flow(broker: BrokerManager, way: str, batch: int) -> Iterator[Flow]:
    """The processes of one run."""
    counters = Counters(CONSUMERS)
    # The publisher first: it makes the stream.
    publisher = Worker(publish, broker.root, STREAM, batch, way)
    made = [Worker(consume, broker.root, STREAM, SINK, counters.array, n) for n in range(CONSUMERS)]
    with workers(publisher, *made):
        yield Flow(broker, publisher, made, counters)


def _one_run(bench: Bench, way: str, records: int, warm: int, batch: int) -> tuple[float, float, dict[str, Any]]:
    with bench.broker() as broker, flow(broker, way, batch) as running:
        cold = running.send(0, warm)
        before = running.cpu_seconds()
        rate = running.send(warm, records)
        used = {f"us of {name}": (end - before[name]) / records * 1e6 for name, end in running.cpu_seconds().items()}
        stats = broker.stats()["publisher_broker"]
        sizes = {"line bytes": _line_bytes(broker), "batches": stats["batches"], "commits": stats["commits"]}
        sizes |= {"us of processor time a record": sum(used.values()), **used}
    return rate, cold, sizes


def _line_bytes(broker: BrokerManager) -> int:
    """The length of a stored line, to see that dq and the floor handle the same bytes."""
    with max((broker.root / "streams" / STREAM / "0").glob("*.jsonl")).open("rb") as file:
        file.seek(-2_000, 2)
        return len(file.readlines()[-1])


def _row(bench: Bench, name: str, what: str, target: float, records: int, way: str) -> Row:
    count, warm, batch = bench.records(records), bench.records(50_000), 500
    rates, colds, floors, floors_used, sizes = [], [], [], [], {}
    for run in range(bench.runs):
        rate, cold, sizes = _one_run(bench, way, count, warm, batch)
        with bench.directory("floor") as directory:
            bare, used = floor.pipeline(directory, count, batch, warm)
        floors.append(bare)
        floors_used.append(used)
        rates.append(rate)
        colds.append(cold)
        say(f"{name} {run + 1}: {rate:,.0f}/s, cold {cold:,.0f}/s, floor {bare:,.0f}/s, ratio {rate / bare:.2f}")
    notes = {"records": count, "cold": median(colds), **sizes, "us of the floor": median(floors_used)}
    return Row(name, what, "records/s", rates, ">=", target, "floor", floors, notes)


def end_to_end(bench: Bench) -> list[Row]:
    """`publish_many` in, iteration and `ack()` out."""
    return [_row(bench, "end_to_end", "publish_many -> ack() a task", 1.0, 1_000_000, "publish_many")]


def submit(bench: Bench) -> list[Row]:
    """One `submit()` a record in, iteration and `ack()` out."""
    return [_row(bench, "submit", "submit() a record -> ack() a task", 0.45, 500_000, "submit")]
