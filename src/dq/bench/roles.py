"""What the processes of `dq bench` do: publish in one of the ways, or consume and count."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from dq.bench.processes import slot
from dq.client.consumer import Consumer
from dq.client.publisher import Publisher
from dq.model.record import encode

PACE_SECONDS = 0.001
"""Between two records whose way is timed: 1,000 a second."""


class Published(NamedTuple):
    """What one publisher has done: from when to when (of `time.perf_counter`), how many records, how long each call took."""

    began: float
    ended: float
    records: int
    seconds: list[float]


def body_of(size: int) -> str:
    """What fills a record up, so that its line in the log has `size` bytes."""
    empty = encode({"n": 100_000, "t": 0, "body": ""}, 1_763_000_000.123456)
    return "x" * max(size - len(empty), 0)


def line_of(size: int) -> bytes:
    """The line that stands in the log."""
    return encode({"n": 100_000, "t": 0, "body": body_of(size)}, 1_763_000_000.123456)


# --- publishing --------------------------------------------------------------------------------------------------------


def publisher(control: Connection, root: Path, size: int) -> None:
    """Told (way, stream, count, most seconds), it connects and says so; told to go, it publishes and answers `Published`."""
    body = body_of(size)
    control.send("ready")
    while True:
        way, stream, count, most = control.recv()
        with Publisher(root, stream, create=False) as made:
            control.send("there")
            control.recv()
            control.send(_WAYS[way](made, count, most, body))


def _one_by_one(made: Publisher, count: int, most: float, body: str) -> Published:
    took, began = list[float](), time.perf_counter()
    now = began
    for n in range(count):
        made.publish({"n": n, "t": 0, "body": body})
        before, now = now, time.perf_counter()
        took.append(now - before)
        if now - began > most:
            break
    return Published(began, now, len(took), took)


def _paced(made: Publisher, count: int, most: float, body: str) -> Published:
    began = time.perf_counter()
    for n in range(count):
        due = began + n * PACE_SECONDS
        if (rest := due - time.perf_counter()) > 0:
            time.sleep(rest)
        made.publish({"n": n, "t": time.perf_counter(), "body": body})
        if time.perf_counter() - began > most:
            return Published(began, time.perf_counter(), n + 1, [])
    return Published(began, time.perf_counter(), count, [])


def _submit(made: Publisher, count: int, most: float, body: str) -> Published:
    began, last = time.perf_counter(), None
    for n in range(count):
        last = made.submit({"n": n, "t": 0, "body": body})
    made.flush()
    if last is not None:
        last.result(0)
    return Published(began, time.perf_counter(), count, [])


def _publish_many(made: Publisher, count: int, most: float, body: str) -> Published:
    began = time.perf_counter()
    made.publish_many({"n": n, "t": 0, "body": body} for n in range(count))
    return Published(began, time.perf_counter(), count, [])


_WAYS: dict[str, Callable[[Publisher, int, float, str], Published]] = {
    "publish": _one_by_one, "paced": _paced, "submit": _submit, "publish_many": _publish_many,
}  # fmt: skip


# --- consuming ---------------------------------------------------------------------------------------------------------


def consumer(control: Connection, root: Path, counts: Any, process: int) -> None:
    """Told (stream, sink), it consumes until it is told anything more, and answers how long records took that say when they
    were published."""
    view, place, done = memoryview(counts).cast("B").cast("Q"), slot(process), 0
    control.send("ready")
    while True:
        stream, sink = control.recv()
        delays: list[float] = []
        with Consumer(root, stream, sink=sink) as made:
            waiter = threading.Thread(target=_stop_when_told, args=(control, made), daemon=True)
            control.send("there")
            waiter.start()
            for task in made:
                if task.payload["t"]:
                    delays.append(time.perf_counter() - task.payload["t"])
                task.ack()
                done += 1
                view[place] = done
            waiter.join()
        control.send(delays)


def _stop_when_told(control: Connection, made: Consumer) -> None:
    with contextlib.suppress(EOFError, OSError):
        control.recv()
    made.stop()
