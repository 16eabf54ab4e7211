"""Many consumers of one sink, and what they notice of others who are slow, stopped or far behind.

`consumers`: 1, 4, 16 and 64 consumer processes share a backlog that is larger than what they handle. After a while the clock
runs until so many more are handled. The total of 64 stands beside the best of all, and of the 64 the one with the fewest and
the one with the most beside a fair share. Their handlers do nothing, so that all of them compete for the broker and for the
processor: the hardest case.

`bystanders`: a publisher and two consumers in steady flow, alone, and with three others about: a consumer of their sink that is
stopped (SIGSTOP) with work in its hand, a sink whose only consumer handles 100 records a second, with 500,000 behind it, and a
reader as slow.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

from backlog import fill
from dq import BrokerManager, Consumer, Reader
from measure import Bench, Counters, Row, Worker, broker_pids, cpu_seconds, handle, say, slot, workers
from throughput import SINK, STREAM, consume, flow

CROWDS = (1, 4, 16, 64)
SLOW_SECONDS, PREFETCH = 0.01, 100


# --- many consumers ----------------------------------------------------------------------------------------------------


def consumers(bench: Bench) -> list[Row]:
    """1 to 64 consumers of one sink."""
    count, warm = bench.records(1_000_000), bench.records(600_000)
    crowds = [crowd for crowd in CROWDS if crowd <= bench.callers]
    rates: dict[int, list[float]] = {crowd: [] for crowd in crowds}
    used: dict[int, list[float]] = {crowd: [] for crowd in crowds}
    fewest: list[float] = []
    most: list[float] = []
    with bench.broker() as broker:
        fill(broker.root, STREAM, warm + count + bench.records(500_000, 50_000))  # no more is in hand, so that nobody runs dry
        for run in range(bench.runs):
            for crowd in crowds:
                rate, shares, seconds = _crowd(broker, f"{SINK}-{run}-{crowd}", crowd, warm, count)
                rates[crowd].append(rate)
                used[crowd].append(seconds * 1e6)
            fewest.append(max(min(shares), 0.001))
            most.append(max(shares))
            seen = ", ".join(f"{crowd}: {of[-1]:,.0f}/s" for crowd, of in rates.items())
            say(f"consumers {run + 1}: {seen}; shares of {crowds[-1]}: {fewest[-1]:.2f} to {most[-1]:.2f}")
    largest = crowds[-1]
    best = [max(rates[crowd][run] for crowd in crowds) for run in range(bench.runs)]
    notes = {f"of {crowd}": median(of) for crowd, of in rates.items()}
    notes |= {f"us of processor time a record of {crowd}": median(of) for crowd, of in used.items()}
    return [
        Row("consumers", f"{largest} consumers of a sink", "records/s", rates[largest], ">=", 0.8, "best", best, notes),
        Row("consumers", f"fewest of one of {largest}", "fair shares", fewest, ">=", 0.5),
        Row("consumers", f"most of one of {largest}", "fair shares", most, "<=", 2.0),
    ]


def _crowd(broker: BrokerManager, sink: str, crowd: int, warm: int, count: int) -> tuple[float, list[float], float]:
    """Records a second of all of them, what each had in fair shares, and seconds of processor time a record."""
    counters = Counters(crowd)
    made = [Worker(consume, broker.root, STREAM, sink, counters.array, n, True) for n in range(crowd)]
    with workers(*made):
        for worker in made:
            worker.tell()
        pids = [broker_pids(broker)[2], *(worker.pid for worker in made)]
        began, first, before = counters.reach(warm, exactly=False), _counts(counters, crowd), sum(map(cpu_seconds, pids))
        ended, last = counters.reach(sum(first) + count, exactly=False), _counts(counters, crowd)
        used = sum(map(cpu_seconds, pids)) - before
    gained = [after - earlier for after, earlier in zip(last, first, strict=True)]
    total = sum(gained)
    return total / (ended - began), [one * crowd / total for one in gained], used / total


def _counts(counters: Counters, crowd: int) -> list[int]:
    view = counters.view()
    return [view[slot(n)] for n in range(crowd)]


# --- bystanders --------------------------------------------------------------------------------------------------------


def bystanders(bench: Bench) -> list[Row]:
    """The rate of a flow beside others in trouble, and alone."""
    count, warm, backlog = bench.records(500_000), bench.records(50_000), bench.records(500_000)
    alone: list[float] = []
    beside: list[float] = []
    notes: dict[str, Any] = {"records": count}
    for run in range(bench.runs):
        for rates, trouble in ((beside, True), (alone, False)):
            with bench.broker() as broker:
                Consumer(broker, STREAM, sink="behind").close()  # from now on all that is published waits for this sink
                fill(broker.root, STREAM, backlog)
                rates.append(_flow_rate(broker, backlog, warm, count, trouble))
                if trouble:
                    settled = broker.stats()["consumer_broker"]["sinks"]["behind"]["settled"]
                    notes["records behind"] = backlog + warm + count - settled
        say(f"bystanders {run + 1}: {beside[-1]:,.0f}/s, alone {alone[-1]:,.0f}/s, ratio {beside[-1] / alone[-1]:.2f}")
    what = "beside a slow reader, a stopped consumer, a sink far behind"
    return [Row("bystanders", what, "records/s", beside, ">=", 0.9, "alone", alone, notes)]


def _flow_rate(broker: BrokerManager, backlog: int, warm: int, count: int, trouble: bool) -> float:
    """Records a second of two consumers that go on; the flow has caught up with all that was published before."""
    others = _troubled(broker) if trouble else contextlib.nullcontext()
    with others, flow(broker, "publish_many", 500) as going:
        going.publisher.tell(backlog, warm)
        # What the stopped one holds, and what it still may be sent, is not handled by others until its leases are over.
        left_out = 2 * PREFETCH
        going.counters.reach(backlog + warm - left_out, exactly=False)
        going.publisher.hear()
        before = sum(going.counters.array)
        going.publisher.tell(backlog + warm, count)
        wanted = count - left_out
        ended = going.counters.reach(before + wanted, exactly=False)
        return wanted / (ended - going.publisher.hear())


@contextlib.contextmanager
def _troubled(broker: BrokerManager) -> Iterator[None]:
    """The three of them, registered; the one that is to be stopped is."""
    stopped = Worker(_holding, broker.root)
    slow = [Worker(_slow_consumer, broker.root), Worker(_slow_reader, broker.root)]
    with workers(stopped, *slow):
        os.kill(stopped.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(stopped.pid, signal.SIGCONT)


def _holding(control: Connection, root: Path) -> None:
    """A consumer with work in its hand that it does not settle."""
    with Consumer(root, STREAM, sink=SINK, prefetch=PREFETCH) as consumer:
        signal.signal(signal.SIGTERM, lambda *_: consumer.stop())
        for task in consumer:
            control.send("ready")
            handle(task.payload)
            control.recv()


def _slow_consumer(control: Connection, root: Path) -> None:
    with Consumer(root, STREAM, sink="behind", prefetch=PREFETCH) as consumer:
        signal.signal(signal.SIGTERM, lambda *_: consumer.stop())
        control.send("ready")
        for task in consumer:
            handle(task.payload)
            task.ack()
            time.sleep(SLOW_SECONDS)


def _slow_reader(control: Connection, root: Path) -> None:
    with Reader(root, STREAM, start="oldest") as reader:
        signal.signal(signal.SIGTERM, lambda *_: reader.stop())
        control.send("ready")
        for record in reader:
            handle(record.payload)
            time.sleep(SLOW_SECONDS)
