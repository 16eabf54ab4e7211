"""A consumer of the crash test, as a process: settles what it gets and tells its history on its standard output.

Arguments: data directory, stream, sink, its name, seed, prefetch. The end of its standard input ends it in order.
"""

from __future__ import annotations

import faulthandler
import os
import random
import signal
import sys
import threading
import time
import zlib

import orjson

from dq import BrokerError, Consumer, DqError, Task


def tell(*line: object) -> None:
    os.write(1, orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))


def is_whole(payload: object) -> bool:
    return isinstance(payload, dict) and payload["sum"] == zlib.crc32(f"{payload['id']} {payload['fill']}".encode())


class Run:
    def __init__(self, consumer: Consumer, rng: random.Random) -> None:
        self.consumer, self.rng = consumer, rng
        self.open: list[str] = []

    def work(self, task: Task) -> None:
        record, whole = task.payload["id"], is_whole(task.payload)
        tell("recv", time.monotonic_ns(), record, [task.bucket, task.offset], task.attempt, whole)
        drawn = self.rng.random()
        if drawn < 0.01:
            task.retry(after=0.01, error="drawn")
        elif drawn < 0.02:
            task.release()
        elif drawn < 0.04:
            self.open.append(record)
            task.ack(wait=True)
            self.confirmed()
        else:
            self.open.append(record)
            task.ack()
            if drawn > 0.97:
                self.consumer.flush(30)
                self.confirmed()

    def confirmed(self) -> None:
        tell("acked", time.monotonic_ns(), self.open)
        self.open = []


def main(root: str, stream: str, sink: str, seed: str, prefetch: str) -> None:
    stopped = threading.Event()
    held: list[Consumer] = []

    def watch() -> None:
        sys.stdin.read()
        stopped.set()
        for consumer in held:
            consumer.stop()

    threading.Thread(target=watch, daemon=True).start()
    while not stopped.is_set() and not held:
        try:
            size = "auto" if prefetch == "auto" else int(prefetch)
            held.append(Consumer(root, stream, sink=sink, prefetch=size, max_attempts=100_000))
        except BrokerError:  # the manager is being started again
            stopped.wait(0.02)
    if not held:
        return
    [consumer] = held
    run = Run(consumer, random.Random(seed))
    while not stopped.is_set():
        try:
            for task in consumer:
                run.work(task)
            consumer.flush(30)
            run.confirmed()
        except DqError as error:
            run.open = []
            tell("info", f"{type(error).__name__}: {error}")
    consumer.close()
    tell("end")


if __name__ == "__main__":
    faulthandler.register(signal.SIGUSR1)  # so that the test can ask where it stands
    main(*sys.argv[1:])
