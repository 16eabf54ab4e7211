"""What a backlog of 5 million records costs: memory of each broker, and speed of draining.

Memory: one sink has everything waiting, first 100,000 records, then 5 million; the resident memory of each broker is read
after each, and noted: its peak while two consumers drain all of it.

Drain: two consumers share 500,000 records of a new sink: once over a stream that holds no more than these, once over a
stream of 5 million. The two alternate; both start cold, and nobody publishes meanwhile: it is the consuming side alone. The
rate over all 5 million is noted.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from dq import BrokerManager, Consumer, Publisher
from measure import BODY, Bench, Counters, Row, Worker, broker_pids, memory_mb, say, workers
from throughput import CONSUMERS, consume

BACKLOG, SMALL, SLICE = 5_000_000, 100_000, 500_000
BROKERS = ("publisher broker", "consumer broker")


def fill(root: Path, stream: str, records: int, batch: int = 500) -> None:
    """Publishes so many; the rate is no matter here."""
    body = BODY
    with Publisher(root, stream, batch_size=batch) as publisher:
        publisher.publish_many({"to": "a@b.c", "n": n, "body": body} for n in range(records))


def _drain(broker: BrokerManager, stream: str, sink: str, records: int, *, exactly: bool) -> float:
    """Records a second of two consumers, from their first look at the sink to the last of these handled."""
    counters = Counters(CONSUMERS)
    made = [Worker(consume, broker.root, stream, sink, counters.array, n, True) for n in range(CONSUMERS)]
    with workers(*made) as consumers:
        began = time.perf_counter()
        for consumer in consumers:
            consumer.tell()
        return records / (counters.reach(records, exactly=exactly) - began)


def _memory(broker: BrokerManager) -> list[dict[str, float]]:
    return [memory_mb(pid) for pid in broker_pids(broker)[1:]]


def memory(bench: Bench) -> list[Row]:
    """Resident memory of each broker."""
    small, large = bench.records(SMALL), bench.records(BACKLOG)
    with bench.broker() as broker:
        Consumer(broker, "backlog", sink="all").close()  # from now on all that is published waits for this sink
        fill(broker.root, "backlog", small)
        before = _memory(broker)
        fill(broker.root, "backlog", large - small)
        after = _memory(broker)
        rate = _drain(broker, "backlog", "all", large, exactly=True)
        drained = _memory(broker)
    say(f"backlog_memory: {small:,} {before}, {large:,} {after}, drained at {rate:,.0f}/s {drained}")
    rows = []
    for name, few, many, end in zip(BROKERS, before, after, drained, strict=True):
        notes: dict[str, Any] = {"records": large, "pss": many["pss"], "peak while drained": end["peak"]}
        rows.append(Row("backlog_memory", f"{name}, {large:,} waiting", "MB", [many["rss"]], "<=", 120, notes=notes))
        rows.append(
            Row("backlog_memory", f"{name}, beside {small:,}", "MB", [many["rss"]], "<=", 1.2, f"at {small:,}", [few["rss"]])
        )
    return rows


def drain(bench: Bench) -> list[Row]:
    """The rate of two consumers within the backlog, beside that without."""
    small, large = bench.records(SLICE), bench.records(BACKLOG)
    within: list[float] = []
    without: list[float] = []
    with bench.broker() as broker:
        fill(broker.root, "small", small)
        fill(broker.root, "large", large)
        for run in range(bench.runs):
            without.append(_drain(broker, "small", f"small-{run}", small, exactly=True))
            within.append(_drain(broker, "large", f"large-{run}", small, exactly=False))
            say(f"backlog_drain {run + 1}: {within[-1]:,.0f}/s, without {without[-1]:,.0f}/s")
        whole = _drain(broker, "large", "whole", large, exactly=True)
    what = f"drain {small:,} of {large:,} waiting"
    return [Row("backlog_drain", what, "records/s", within, ">=", 0.9, f"{small:,} alone", without, {"all of them": whole})]
