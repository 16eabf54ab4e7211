"""The floor: what CPython can do on this machine with no broker at all, and no allocator thrash.

`pipeline`: three bare processes: producer (encode into one bytearray) -> Pipe -> writer (write + fdatasync) -> Pipe ->
consumer (decode as one array and call). They handle the very lines that dq stores, {"at":...,"payload":{...}}, and have been
warmed up like dq's before the clock starts. `bare_writes`: one process that writes and syncs the same line again and again.

`python benchmarks/floor.py [DIRECTORY]` prints both.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import orjson

from dq.bench.floor import Floor
from measure import BODY, LATEST_SECONDS, LINE, Worker, cpu_seconds, handle, payload, workers


def _producer(control: Connection, pipe: Connection, batch: int) -> None:
    control.send("ready")
    while True:
        first, count = control.recv()
        began = time.perf_counter()
        _produce(pipe, first, count, batch)
        control.send(began)


def _produce(pipe: Connection, first: int, count: int, batch: int) -> None:
    dumps, body, at = orjson.dumps, BODY, time.time()
    i, end = first, first + count
    while i < end:
        lines = bytearray()
        for j in range(i, min(i + batch, end)):
            lines += dumps({"at": at, "payload": {"to": "a@b.c", "n": j, "body": body}}, None, LINE)
        pipe.send_bytes(lines)
        i += batch


def _writer(control: Connection, source: Connection, sink: Connection, path: str) -> None:
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_TRUNC, 0o600)
    control.send("ready")
    while True:  # until the producer has gone
        lines = source.recv_bytes()
        os.write(fd, lines)
        os.fdatasync(fd)
        sink.send_bytes(lines)


def _consumer(control: Connection, pipe: Connection) -> None:
    control.send("ready")
    while True:
        (wanted,) = control.recv()
        got = 0
        while got < wanted:
            lines = pipe.recv_bytes()
            for record in orjson.loads(b"[" + lines[:-1].replace(b"\n", b",") + b"]"):
                handle(record["payload"])
                got += 1
        control.send(time.perf_counter())


def pipeline(directory: Path, records: int, batch: int = 500, warm: int = 50_000) -> tuple[float, float]:
    """Records a second from the first encode to the last call, and microseconds of processor time a record."""
    path = directory / "floor.log"
    source, to_writer = multiprocessing.Pipe(False)
    from_writer, to_consumer = multiprocessing.Pipe(False)
    made = [
        Worker(_producer, to_writer, batch),
        Worker(_writer, source, to_consumer, str(path)),
        Worker(_consumer, from_writer),
    ]
    for end in (to_writer, source, to_consumer, from_writer):
        end.close()
    try:
        with workers(*made) as (producer, _, consumer):
            for first, count in ((0, warm), (warm, records)):
                used = sum(cpu_seconds(worker.pid) for worker in made)
                consumer.tell(count)
                producer.tell(first, count)
                ended, began = consumer.hear(LATEST_SECONDS), producer.hear()
            used = sum(cpu_seconds(worker.pid) for worker in made) - used
    finally:
        path.unlink(missing_ok=True)
    return records / (ended - began), used / records * 1e6


def record_line() -> bytes:
    """The line that dq stores for a record."""
    return orjson.dumps({"at": time.time(), "payload": payload(100_000)}, None, LINE)


class BareWrites(Floor):
    """A file to which one line after the other is appended, each with its `fdatasync`."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, record_line())


def main() -> None:
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    for batch in (1, 10, 100, 500, 1000):
        rate, used = pipeline(directory, 1_000_000 if batch >= 100 else 20_000, batch)
        print(f"floor, batches of {batch}: {rate:,.0f} records/s, {used:.2f} us of processor time each", flush=True)
    bare = BareWrites(directory)
    print(f"write + fdatasync, one line each: {bare.rate(5000):,.0f}/s")
    bare.close()


if __name__ == "__main__":
    main()
