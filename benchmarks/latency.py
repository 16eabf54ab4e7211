"""From `publish()` called to user code running in another process, at 1,000 records a second.

The publisher keeps a timetable: a call that comes late because the one before it took long is made at once, and counts from
its own beginning; how many were late by more than a millisecond, and the p99 from the timetable, are noted. Beside it stand
bare `fdatasync` calls of the same line: one after the other (the reference, the stricter one) and at 1,000 a second (noted).
"""

from __future__ import annotations

import time
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path

from dq import Consumer, Publisher
from floor import BareWrites
from measure import BODY, Bench, Row, Worker, handle, percentile, say, workers
from throughput import SINK, STREAM

EVERY = 0.001


def latency(bench: Bench) -> list[Row]:
    """p50 beside a bare `fdatasync`, and p99."""
    count, p50s, p99s, p99s_due, late = bench.records(2_000, 200), [], [], [], []
    syncs: list[float] = []
    paced: list[float] = []
    with bench.broker() as broker, bench.directory("floor") as directory:
        bare, publisher = BareWrites(directory), Worker(_publish, broker.root)
        with workers(publisher), workers(Worker(_consume, broker.root)) as (consumer,):
            _once(publisher, consumer, min(count, 500))  # warm
            for run in range(bench.runs):
                delays, delays_due, behind = _once(publisher, consumer, count)
                syncs.append(percentile(bare.sync_seconds(count), 0.5) * 1e3)
                paced.append(percentile(bare.sync_seconds(count // 2, EVERY), 0.5) * 1e3)
                p50s.append(percentile(delays, 0.5) * 1e3)
                p99s.append(percentile(delays, 0.99) * 1e3)
                p99s_due.append(percentile(delays_due, 0.99) * 1e3)
                late.append(behind)
                say(f"latency {run + 1}: p50 {p50s[-1]:.3f} ms, p99 {p99s[-1]:.2f} ms, bare sync {syncs[-1]:.3f} ms")
        bare.close()
    notes = {"sync at 1,000/s, ms": sorted(paced)[len(paced) // 2]}
    notes99 = {
        "p99 from the timetable, ms": sorted(p99s_due)[len(p99s_due) // 2],
        "late of each 2,000": sorted(late)[len(late) // 2],
    }
    return [
        Row("latency", "publish() -> user code, p50 at 1,000/s", "ms", p50s, "<=", 3.0, "fdatasync", syncs, notes),
        Row("latency", "publish() -> user code, p99 at 1,000/s", "ms", p99s, "<=", 10.0, notes=notes99),
    ]


def _once(publisher: Worker, consumer: Worker, count: int) -> tuple[list[float], list[float], int]:
    """Delays from the call, delays from the timetable, and how many calls were late."""
    consumer.tell(count)
    calls = publisher.ask(count)
    arrivals = consumer.hear()
    delays = [arrivals[n] - called for n, (called, _) in enumerate(calls)]
    delays_due = [arrivals[n] - due for n, (_, due) in enumerate(calls)]
    return delays, delays_due, sum(called - due > EVERY for called, due in calls)


def _publish(control: Connection, root: Path) -> None:
    with Publisher(root, STREAM) as publisher:
        control.send("ready")
        while True:
            (count,) = control.recv()
            calls, began = [], time.perf_counter() + EVERY
            for n in range(count):
                due = began + n * EVERY
                if (rest := due - time.perf_counter()) > 0:
                    time.sleep(rest)
                calls.append((time.perf_counter(), due))
                publisher.publish({"to": "a@b.c", "n": n, "body": BODY})
            control.send(calls)


def _consume(control: Connection, root: Path) -> None:
    with Consumer(root, STREAM, sink=SINK) as consumer, closing(iter(consumer)) as tasks:
        control.send("ready")
        while True:
            (count,) = control.recv()
            arrivals = [0.0] * count
            for _ in range(count):
                task = next(tasks)
                arrivals[handle(task.payload)] = time.perf_counter()
                task.ack()
            control.send(arrivals)
