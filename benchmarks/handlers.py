"""Handlers that do nothing: what an app itself costs, beside runners that need no server either.

The records are there before the clock starts. It runs from `app.run(burst=True)` to its return: the subscription, every task
through the handler, and every settle confirmed on disk. The others get the same payloads, one process and one thread, and are
timed in the same way, from the first task to the last settle; fewer tasks, since they need seconds for these:

==============  =========================================================================================================
huey            its own consumer with one thread over `SqliteHuey`; a task is deleted when it is begun, so a crash loses it
persist-queue   a loop of `get`, the handler and `ack` over `SQLiteAckQueue`
litequeue       a loop of `pop`, the handler and `done`
==============  =========================================================================================================

As they come, huey and persist-queue flush each settle (`PRAGMA synchronous` is FULL, 2), and litequeue does not (NORMAL, 1).
So litequeue is measured twice: told to flush, which is the same work, and as it comes, which is less.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import orjson

from dq import App, BrokerManager, Publisher
from measure import Bench, Row, payload, say

try:
    import huey
    import litequeue
    import persistqueue
except ImportError:  # outside of the group `bench`
    huey = None

STREAM = "handled"
RECORDS, RECORDS_OF_OTHERS = 500_000, 3_000
MISSING = "huey, litequeue and persist-queue are not installed: uv sync --group bench"


def empty(payload: dict[str, Any]) -> None:
    """The handler."""


async def empty_async(payload: dict[str, Any]) -> None:
    """The same on the loop."""


def rate(broker: BrokerManager, count: int, function: Callable[..., Any], sink: str) -> float:
    """Tasks a second of a stream that holds `count` records, from `run` called to `run` returned."""
    app = App(broker, sink=sink)
    app.handler(STREAM, name="empty")(function)
    begun = time.perf_counter()
    app.run(burst=True)
    seconds = time.perf_counter() - begun
    settled = broker.stats()["consumer_broker"]["sinks"][f"{sink}.empty"]["settled"]
    if settled != count:
        raise RuntimeError(f"{settled} of {count} tasks are settled")
    return count / seconds


@contextlib.contextmanager
def filled(bench: Bench, count: int) -> Iterator[BrokerManager]:
    """A broker, and a stream of records."""
    with bench.broker() as broker:
        with Publisher(broker, STREAM) as publisher:
            publisher.publish_many(payload(n) for n in range(count))
        yield broker


def _row(bench: Bench, name: str, function: Callable[..., Any], target: float) -> list[Row]:
    count, rates = bench.records(RECORDS), []
    for run in range(bench.runs):
        with filled(bench, count) as broker:
            rates.append(rate(broker, count, function, "workers"))
        say(f"{name} {run + 1}: {rates[-1]:,.0f}/s")
    return [Row(name, f"{function.__name__}() in one process", "tasks/s", rates, ">=", target, notes={"records": count})]


def handlers_sync(bench: Bench) -> list[Row]:
    """A function that does nothing."""
    return _row(bench, "handlers_sync", empty, 100_000)


def handlers_async(bench: Bench) -> list[Row]:
    """A coroutine function that does nothing."""
    return _row(bench, "handlers_async", empty_async, 60_000)


# --- the others --------------------------------------------------------------------------------------------------------


def _synchronous(connection: Any) -> int:
    """What SQLite does about a commit: 2 flushes it, 1 does not."""
    level: int = connection.execute("PRAGMA synchronous").fetchone()[0]
    return level


def of_huey(place: Path, count: int) -> tuple[float, int]:
    """huey's own consumer, with one thread; nothing is kept of results."""
    logging.getLogger("huey").setLevel(logging.ERROR)
    runner = huey.SqliteHuey("bench", filename=str(place / "huey.db"), immediate=False, results=False)
    done, all_done = [0], threading.Event()

    @runner.task()
    def work(payload: dict[str, Any]) -> None:
        empty(payload)
        done[0] += 1
        if done[0] == count:
            all_done.set()

    for n in range(count):
        work(payload(n))
    consumer = runner.create_consumer(workers=1, periodic=False, initial_delay=0.01, check_worker_health=False)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    begun = time.perf_counter()
    consumer.start()
    if not all_done.wait(120):
        raise RuntimeError(f"huey did {done[0]} of {count} tasks")
    seconds = time.perf_counter() - begun
    consumer.stop(graceful=True)
    for number, handler in before.items():
        signal.signal(number, handler)
    level = _synchronous(runner.storage.conn)
    runner.storage.close()
    return count / seconds, level


def of_persist_queue(place: Path, count: int) -> tuple[float, int]:
    """`SQLiteAckQueue`, as it comes."""
    queue = persistqueue.SQLiteAckQueue(str(place / "persist"), multithreading=True)
    for n in range(count):
        queue.put(payload(n))
    begun = time.perf_counter()
    for _ in range(count):
        task = queue.get()
        empty(task)
        queue.ack(task)
    seconds = time.perf_counter() - begun
    level = _synchronous(queue._putter)
    queue.close()
    return count / seconds, level


def of_litequeue(place: Path, count: int, *, flushes: bool = False) -> tuple[float, int]:
    """litequeue, as it comes, or told to flush."""
    queue = litequeue.LiteQueue(str(place / "lite.db"))
    if flushes:
        queue.conn.execute("PRAGMA synchronous = FULL")
    for n in range(count):
        queue.put(orjson.dumps(payload(n)).decode())
    begun = time.perf_counter()
    for _ in range(count):
        message = queue.pop()
        empty(orjson.loads(message.data))
        queue.done(message.message_id)
    seconds = time.perf_counter() - begun
    level = _synchronous(queue.conn)
    queue.close()
    return count / seconds, level


OTHERS: dict[str, Callable[[Path, int], tuple[float, int]]] = {
    "huey": of_huey,
    "persist-queue": of_persist_queue,
    "litequeue, flushing": lambda place, count: of_litequeue(place, count, flushes=True),
    "litequeue": of_litequeue,
}
NOT_FLUSHING = "litequeue"


def handlers_beside(bench: Bench) -> list[Row]:
    """dq beside the best of the others that flush their settles, and beside the one that does not."""
    if huey is None:
        raise RuntimeError(MISSING)
    count, few = bench.records(RECORDS), bench.records(RECORDS_OF_OTHERS, 100)
    ours: list[float] = []
    theirs: dict[str, list[float]] = {name: [] for name in OTHERS}
    levels: dict[str, int] = {}
    for run in range(bench.runs):
        with filled(bench, count) as broker:
            ours.append(rate(broker, count, empty, "workers"))
        for name, measured in OTHERS.items():
            with bench.directory("beside") as place:
                found, levels[name] = measured(place, few)
                theirs[name].append(found)
        say(f"handlers_beside {run + 1}: {ours[-1]:,.0f}/s; " + ", ".join(f"{name} {theirs[name][-1]:,.0f}" for name in OTHERS))
    rates = {name: median(found) for name, found in theirs.items()}
    best = max((name for name in OTHERS if name != NOT_FLUSHING), key=lambda name: rates[name])
    notes = {f"{name} (synchronous={levels[name]})": rates[name] for name in OTHERS}
    return [
        Row("handlers_beside", "all flush their settles", "tasks/s", ours, ">=", 30, best, theirs[best], notes),
        Row("handlers_beside", "dq alone flushes", "tasks/s", ours, ">=", 30, NOT_FLUSHING, theirs[NOT_FLUSHING]),
    ]
