"""Many streams and many buckets, beside one: the way of a record end to end, and what a thousand streams cost that nobody uses.

`buckets4`: `publish_many` without keys, so that batches go to the four buckets in turn, and two consumers; beside it the same
with one bucket. `streams64`: one process with a `Publisher` a stream gives record after record to one stream after the other by
`submit()`, and two consumers have all of these streams; beside it the same loop with one stream. A run of each has a broker and
processes of its own, which are warmed up before the clock starts.

`many_streams`: 1,000 streams of 4 buckets with a record in each stream. How long until a broker of these is ready after a clean
stop (noted: after a kill), and which part of a core its three processes use together while nothing happens: first without a
client, then with a publisher and a consumer that wait.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from dq import BrokerManager, Consumer, Publisher
from measure import (
    BODY,
    Bench,
    Counters,
    Row,
    Worker,
    broker_pids,
    cpu_seconds,
    kill,
    running,
    say,
    workers,
)
from throughput import CONSUMERS, SINK, STREAM, Flow, consume, flow

BUCKETS, STREAMS = 4, 64
MANY_STREAMS = 1_000
IDLE_SECONDS = 5.0


# --- buckets -----------------------------------------------------------------------------------------------------------


def buckets4(bench: Bench) -> list[Row]:
    """Four buckets beside one."""
    count, warm = bench.records(1_000_000), bench.records(50_000)
    ones: list[Measured] = []
    fours: list[Measured] = []
    for run in range(bench.runs):
        fours.append(_buckets(bench, BUCKETS, count, warm))
        ones.append(_buckets(bench, 1, count, warm))
        say(f"buckets4 {run + 1}: {fours[-1].rate:,.0f}/s, one bucket {ones[-1].rate:,.0f}/s")
    return [_row("buckets4", f"{BUCKETS} buckets, publish_many -> ack()", fours, 0.8, "one bucket", ones, count)]


class Measured(NamedTuple):
    """Records a second, and microseconds of processor time a record, of all processes but the manager."""

    rate: float
    used: float


def _row(name: str, what: str, many: list[Measured], target: float, beside: str, ones: list[Measured], count: int) -> Row:
    notes = {
        "records": count,
        "us of processor time a record": median(each.used for each in many),
        f"of {beside}": median(each.used for each in ones),
    }
    rates, beside_rates = [each.rate for each in many], [each.rate for each in ones]
    return Row(name, what, "records/s", rates, ">=", target, beside, beside_rates, notes)


def _buckets(bench: Bench, buckets: int, count: int, warm: int) -> Measured:
    with bench.broker() as broker:
        broker.stream(STREAM, buckets=buckets)
        with flow(broker, "publish_many", 500) as going:
            return _measured(going, warm, count)


def _measured(going: Flow, warm: int, count: int) -> Measured:
    going.send(0, warm)
    before = sum(going.cpu_seconds().values())
    rate = going.send(warm, count)
    return Measured(rate, (sum(going.cpu_seconds().values()) - before) / count * 1e6)


# --- streams -----------------------------------------------------------------------------------------------------------


def streams64(bench: Bench) -> list[Row]:
    """64 streams in turn beside one."""
    count, warm, number = bench.records(500_000), bench.records(100_000), min(STREAMS, bench.callers)
    ones: list[Measured] = []
    manies: list[Measured] = []
    for run in range(bench.runs):
        manies.append(_streams(bench, number, count, warm))
        ones.append(_streams(bench, 1, count, warm))
        say(f"streams64 {run + 1}: {manies[-1].rate:,.0f}/s, one stream {ones[-1].rate:,.0f}/s")
    return [_row("streams64", f"{number} streams in turn, submit() -> ack()", manies, 0.6, "one stream", ones, count)]


def _streams(bench: Bench, number: int, count: int, warm: int) -> Measured:
    names = [f"{STREAM}-{n}" for n in range(number)]
    counters = Counters(CONSUMERS)
    with bench.broker() as broker:
        publisher = Worker(_publish_in_turn, broker.root, names)
        publisher.hear()  # it has made the streams
        made = [Worker(consume, broker.root, names, SINK, counters.array, n) for n in range(CONSUMERS)]
        with workers(*made), workers(publisher):
            return _measured(Flow(broker, publisher, made, counters), warm, count)


def _publish_in_turn(control: Connection, root: Path, names: Sequence[str]) -> None:
    """A publisher process: record after record to one stream after the other."""
    publishers = [Publisher(root, name) for name in names]
    verbs, body = [publisher.submit for publisher in publishers], BODY
    control.send("made")
    control.send("ready")
    while True:
        first, count = control.recv()
        began = time.perf_counter()
        for n in range(first, first + count):
            verbs[n % len(verbs)]({"to": "a@b.c", "n": n, "body": body})
        for publisher in publishers:
            publisher.flush()
        control.send(began)


# --- a thousand streams ------------------------------------------------------------------------------------------------


def many_streams(bench: Bench) -> list[Row]:
    """Time to ready, and the processor time of brokers with nothing to do."""
    streams = max(int(MANY_STREAMS * min(bench.scale, 1.0)), 10)
    clean: list[float] = []
    killed: list[float] = []
    idle: list[float] = []
    notes: dict[str, Any] = {"streams": streams, "buckets of each": BUCKETS}
    with bench.directory("many") as path:
        began = time.perf_counter()
        with running(path) as broker:
            for n in range(streams):
                broker.stream(f"stream-{n}", buckets=BUCKETS)
                broker.publish(f"stream-{n}", n)
            notes["seconds to make them"] = time.perf_counter() - began
        for run in range(bench.runs):
            for times, then_kill in ((clean, True), (killed, False)):
                began = time.perf_counter()
                with running(path) as broker:
                    times.append(time.perf_counter() - began)
                    idle += [_idle(broker, bench.seconds(IDLE_SECONDS))] if then_kill else []
                    if run == then_kill == 0:
                        notes["% with clients that wait"] = _idle_with_clients(broker, bench.seconds(IDLE_SECONDS))
                    if then_kill:
                        kill(broker_pids(broker))
            say(f"many_streams {run + 1}: ready after {clean[-1]:.2f} s, a kill {killed[-1]:.2f} s; idle {idle[-1]:.2f} %")
    notes["seconds after a kill"] = median(killed)
    what = f"{streams:,} streams x {BUCKETS} buckets"
    return [
        Row("many_streams", f"{what}: time to ready, clean stop", "s", clean, "<=", 3.0, notes=notes),
        Row("many_streams", f"{what}: all three processes idle", "% of a core", [max(part, 0.001) for part in idle], "<=", 2.0),
    ]


def _idle(broker: BrokerManager, seconds: float) -> float:
    """Percent of a core."""
    pids = broker_pids(broker)
    time.sleep(min(1.0, seconds))  # what a start or a client has left to do is done by then
    before, began = sum(map(cpu_seconds, pids)), time.perf_counter()
    time.sleep(seconds)
    return (sum(map(cpu_seconds, pids)) - before) / (time.perf_counter() - began) * 100


def _idle_with_clients(broker: BrokerManager, seconds: float) -> float:
    with Publisher(broker, "stream-0") as publisher, Consumer(broker, "stream-0", "stream-1", sink=SINK, start="newest"):
        publisher.publish(0)
        return _idle(broker, seconds)
