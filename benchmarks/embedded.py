"""The embedded queues beside rocksq (RocksDB, in Rust): the same items in the same run, and no flush on either side."""

from __future__ import annotations

import contextlib
import gc
import os
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from dq.embedded import MpmcQueue, PersistentQueue, Queue, StartPosition
from measure import Bench, Row, Worker, memory_mb, workers

try:
    import persistqueue
    import rocksq
    from rocksq.blocking import MpmcQueue as RocksMpmc
    from rocksq.blocking import PersistentQueueWithCapacity as RocksQueue
except ImportError:  # outside of the group `bench`
    rocksq = None

_TTL_SECONDS = 24 * 3600
_KIB = 1024
Act = Callable[[Any, list[bytes]], Any]
MISSING = "rocksq and persist-queue are not installed: uv sync --group bench"


def items_of(size: int, count: int) -> list[bytes]:
    """Random bytes: what costs dq most, since they are no text."""
    return [os.urandom(size) for _ in range(count)]


# --- the queues --------------------------------------------------------------------------------------------------------
def dq_queue(path: Path) -> Any:
    return PersistentQueue(path)


def rocks_queue(path: Path) -> Any:
    if rocksq is None:
        raise RuntimeError(MISSING)
    return RocksQueue(str(path))


def dq_mpmc(path: Path) -> Any:
    return MpmcQueue(path, _TTL_SECONDS)


def rocks_mpmc(path: Path) -> Any:
    if rocksq is None:
        raise RuntimeError(MISSING)
    return RocksMpmc(str(path), _TTL_SECONDS)


@contextlib.contextmanager
def opened(bench: Bench, make: Callable[[Path], Any]) -> Iterator[Any]:
    """A new queue, gone afterwards."""
    with bench.directory("embedded") as place:
        queue = make(place / "queue")
        try:
            yield queue
        finally:
            if hasattr(queue, "close"):
                queue.close()
            del queue
            gc.collect()


def rates(queue: Any, items: list[bytes], count: int, put: Act, get: Act) -> tuple[float, float]:
    """Items a second in, then out."""
    rounds = max(count // len(items), 1)
    begun = time.perf_counter()
    for _ in range(rounds):
        put(queue, items)
    filled = time.perf_counter()
    for _ in range(rounds):
        get(queue, items)
    ended = time.perf_counter()
    return rounds * len(items) / (filled - begun), rounds * len(items) / (ended - filled)


def alternating(
    bench: Bench, ours: tuple[Any, Act, Act], theirs: tuple[Any, Act, Act], size: int, batch: int, count: int
) -> list[list[float]]:
    """Rates in and out of dq, and in and out of the other, in turn."""
    found: list[list[float]] = [[], [], [], []]
    for _ in range(bench.runs):
        items = items_of(size, batch)
        for place, (make, put, get) in ((0, ours), (2, theirs)):
            with opened(bench, make) as queue:
                for rate, into in zip(rates(queue, items, count, put, get), found[place : place + 2], strict=True):
                    into.append(rate)
    return found


def _push(queue: Any, items: list[bytes]) -> None:
    queue.push(items)


def _pop(queue: Any, items: list[bytes]) -> None:
    queue.pop(len(items))


def _add(queue: Any, items: list[bytes]) -> None:
    queue.add(items)


def _next(queue: Any, items: list[bytes]) -> None:
    queue.next("label", StartPosition.OLDEST, len(items))


def _rocks_next(queue: Any, items: list[bytes]) -> None:
    queue.next("label", rocksq.StartPosition.Oldest, len(items))


def _pair(
    bench: Bench, name: str, size: int, batch: int, count: int, targets: tuple[float, float], what: tuple[str, str]
) -> list[Row]:
    """Rows for in and out of a PersistentQueue."""
    found = alternating(bench, (dq_queue, _push, _pop), (rocks_queue, _push, _pop), size, batch, bench.records(count))
    return [
        Row(name, what[place], "items/s", found[place], ">=", targets[place], "rocksq", found[2 + place]) for place in (0, 1)
    ]


# --- the figures -------------------------------------------------------------------------------------------------------
def batches(bench: Bench) -> list[Row]:
    """100 bytes, in batches of 100 and of 500."""
    hundred = _pair(
        bench, "embedded_batches", 100, 100, 500_000, (4.0, 2.5), ("`push` of batches of 100", "`pop` of batches of 100")
    )
    return hundred + _pair(
        bench, "embedded_batches", 100, 500, 500_000, (4.0, 2.5), ("`push` of batches of 500", "`pop` of batches of 500")
    )


def one(bench: Bench) -> list[Row]:
    """100 bytes, one at a time."""
    return _pair(bench, "embedded_one", 100, 1, 100_000, (1.5, 1.2), ("`push` one at a time", "`pop` one at a time"))


def mpmc(bench: Bench) -> list[Row]:
    """100 bytes through a label, in batches of 100."""
    ours, theirs = (dq_mpmc, _add, _next), (rocks_mpmc, _add, _rocks_next)
    found = alternating(bench, ours, theirs, 100, 100, bench.records(500_000))
    what = ("MPMC `add` of batches of 100", "MPMC `next` of batches of 100")
    return [
        Row("embedded_mpmc", what[place], "items/s", found[place], ">=", (4.0, 1.5)[place], "rocksq", found[2 + place])
        for place in (0, 1)
    ]


def large(bench: Bench) -> list[Row]:
    """1 KiB and 64 KiB in batches, and 64 KiB beside a bare loop of writes."""
    name = "embedded_large"
    rows = _pair(bench, name, _KIB, 100, 200_000, (3.0, 3.0), ("`push` of 1 KiB, by 100", "`pop` of 1 KiB, by 100"))
    rows += _pair(bench, name, 64 * _KIB, 16, 4_000, (3.0, 3.0), ("`push` of 64 KiB, by 16", "`pop` of 64 KiB, by 16"))
    ours, bare = [], []
    count = bench.records(4_000, 64)
    for _ in range(bench.runs):
        items = items_of(64 * _KIB, 16)
        with opened(bench, dq_queue) as queue:
            ours.append(rates(queue, items, count, _push, lambda *_: None)[0])
        bare.append(_bare(bench, items, count))
    return [*rows, Row(name, "`push` of 64 KiB, by 16", "items/s", ours, ">=", 0.6, "a bare loop of write", bare)]


def _bare(bench: Bench, items: list[bytes], count: int) -> float:
    rounds = max(count // len(items), 1)
    with bench.directory("bare") as place:
        fd = os.open(place / "file", os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            begun = time.perf_counter()
            for _ in range(rounds):
                for item in items:
                    os.write(fd, item)
            return rounds * len(items) / (time.perf_counter() - begun)
        finally:
            os.close(fd)


def memory(bench: Bench) -> list[Row]:
    """What a process has in memory with 5 million items waiting."""
    count, found = bench.records(5_000_000), []
    for _ in range(min(bench.runs, 3)):
        with bench.directory("embedded") as place, workers(Worker(_hoard, str(place / "queue"), count)) as (worker,):
            worker.tell("memory")
            found.append(memory_mb(worker.pid)["rss"])
    return [Row("embedded_memory", f"memory with {count:,} items waiting", "MB", found, "<=", 100.0)]


def _hoard(pipe: Connection, path: str, count: int) -> None:
    """A process that fills a queue, takes some out, and waits."""
    with PersistentQueue(path) as queue:
        for begin in range(0, count, 500):
            queue.push([b"%d" % n + os.urandom(90) for n in range(begin, min(begin + 500, count))])
        queue.push(queue.pop(min(100_000, count)))
        pipe.send("ready")
        pipe.recv()
        pipe.recv()  # until it is ended


def standard(bench: Bench) -> list[Row]:
    """`put` and `get` of a dict one at a time, beside persist-queue's Queue, which keeps its place after each as well."""
    if rocksq is None:
        raise RuntimeError(MISSING)
    ours: tuple[list[float], list[float]] = ([], [])
    theirs: tuple[list[float], list[float]] = ([], [])
    count = bench.records(10_000, 100)
    for _ in range(bench.runs):
        for make, into in ((Queue, ours), (lambda path: persistqueue.Queue(str(path), autosave=True), theirs)):
            with opened(bench, make) as queue:
                put, get = rates(queue, [b""], count, lambda q, _: q.put({"to": "a@b.c", "n": 1}), lambda q, _: q.get())
            into[0].append(put)
            into[1].append(get)
    what = ("`Queue.put` of a dict", "`Queue.get` of a dict")
    return [
        Row("embedded_standard", what[place], "items/s", ours[place], ">=", 1.0, "persist-queue", theirs[place])
        for place in (0, 1)
    ]
