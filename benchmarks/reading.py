"""How fast a reader reads a log of 5 million records, and finds a time in it.

The log is published through the broker. A reader begins anew for each run; what it reads is in the page cache, as it was
written just before. `read_records` stands beside bare `orjson.loads` over each of the same lines, which are in memory then.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import orjson

from backlog import fill
from dq import BrokerManager, Publisher, Reader
from measure import Bench, Row, payload, say

RECORDS, DECODED = 5_000_000, 1_000_000
SEEKS = 20


@contextlib.contextmanager
def _log(bench: Bench, records: int) -> Iterator[BrokerManager]:
    with bench.broker() as broker:
        fill(broker.root, "long", records)
        yield broker


def read_lines(bench: Bench) -> list[Row]:
    """Records a second as raw lines, all of the log."""
    records, rates = bench.records(RECORDS), list[float]()
    with _log(bench, records) as broker:
        for run in range(bench.runs):
            with Reader(broker, "long", start="oldest") as reader:
                began, read = time.perf_counter(), 0
                while runs := reader.lines(10_000):
                    read += sum(part.count for part in runs)
                rates.append(read / (time.perf_counter() - began))
            if read != records:
                raise RuntimeError(f"{read} of {records} records were read")
            say(f"read_lines {run + 1}: {rates[-1]:,.0f}/s")
    return [Row("read_lines", f"read {records:,} as lines", "records/s", rates, ">=", 2_500_000)]


def read_records(bench: Bench) -> list[Row]:
    """Records a second, decoded, beside `orjson.loads` of the same lines."""
    records = bench.records(DECODED)
    rates, bare = list[float](), list[float]()
    with _log(bench, records) as broker:
        with Reader(broker, "long", start="oldest") as reader:
            lines = [line for run in _all(reader) for line in bytes(run).splitlines()]
        for run in range(bench.runs):
            with Reader(broker, "long", start="oldest", follow=False) as reader:
                began, total = time.perf_counter(), 0
                for record in reader:
                    total += record.payload["n"]
                rates.append(records / (time.perf_counter() - began))
            if total != records * (records - 1) // 2:
                raise RuntimeError("some records were not read, or read twice")
            began, total = time.perf_counter(), 0
            for line in lines:
                total += orjson.loads(line)["payload"]["n"]
            bare.append(records / (time.perf_counter() - began))
            say(f"read_records {run + 1}: {rates[-1]:,.0f}/s, orjson.loads {bare[-1]:,.0f}/s")
    what = f"read {records:,} as records"
    return [Row("read_records", what, "records/s", rates, ">=", 0.5, "orjson.loads of each line", bare)]


def _all(reader: Reader) -> Iterator[memoryview]:
    while runs := reader.lines(10_000):
        for run in runs:
            yield run.lines


def seek_time(bench: Bench) -> list[Row]:
    """Milliseconds from `seek` to a time in the log until the record there is read; the worst of each run."""
    records, worst = bench.records(RECORDS), list[float]()
    with _log(bench, records) as broker, Reader(broker, "long", start="oldest") as reader:
        first = reader.get(1)[0].created_at.timestamp()
        with Publisher(broker, "long") as publisher:
            publisher.publish(payload(records))
        last = time.time()
        for run in range(bench.runs):
            taken = []
            for _ in range(SEEKS):
                at = datetime.fromtimestamp(random.uniform(first, last - 0.1), UTC)
                began = time.perf_counter()
                reader.seek(at)
                found = reader.get(1)
                taken.append((time.perf_counter() - began) * 1e3)
                if not found or found[0].created_at < at:
                    raise RuntimeError(f"a record of {found} was found where {at} was looked for")
            worst.append(max(taken))
            say(f"seek_time {run + 1}: {worst[-1]:.1f} ms at worst")
    return [Row("seek_time", f"seek to a time in {records:,}", "ms", worst, "<=", 20)]
