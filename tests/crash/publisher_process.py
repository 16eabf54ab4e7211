"""A publisher of the crash test, as a process: publishes by every verb and tells its history on its standard output.

Arguments: data directory, stream, its name, seed. The end of its standard input ends it in order.
"""

from __future__ import annotations

import faulthandler
import os
import random
import signal
import sys
import threading
import zlib

import orjson

from dq import BrokerError, DqError, Publisher, TaskIn

PAUSE_SECONDS = 0.02


def tell(*line: object) -> None:
    os.write(1, orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))


def payload(record: str, rng: random.Random) -> dict[str, object]:
    fill = "x" * rng.choice((0, 20, 150, 150, 2_000))
    return {"id": record, "fill": fill, "sum": zlib.crc32(f"{record} {fill}".encode())}


def place(receipt_id: str) -> list[int]:
    _, bucket, offset = receipt_id.rsplit("/", 2)
    return [int(bucket), int(offset)]


class Run:
    def __init__(self, publisher: Publisher, name: str, rng: random.Random) -> None:
        self.publisher, self.name, self.rng, self.count = publisher, name, rng, 0

    def new_ids(self, count: int) -> list[str]:
        ids = [f"{self.name}-{self.count + n}" for n in range(count)]
        self.count += count
        tell("invoke", ids)
        return ids

    def one(self) -> None:
        [record] = self.new_ids(1)
        receipt = self.publisher.publish(payload(record, self.rng), key=self.rng.choice((None, "a", "b", record)))
        tell("ok", [record], [place(receipt.id)], True)

    def many_of_a_key(self) -> None:
        ids = self.new_ids(self.rng.randrange(1, 200))
        key = self.rng.choice("abcdef")
        receipts = self.publisher.publish_many([TaskIn(payload(record, self.rng), key=key) for record in ids])
        tell("ok", ids, [place(receipt.id) for receipt in receipts], True)

    def many(self) -> None:
        ids = self.new_ids(self.rng.randrange(1, 200))
        receipts = self.publisher.publish_many(payload(record, self.rng) for record in ids)
        tell("ok", ids, [place(receipt.id) for receipt in receipts], False)

    def submitted(self) -> None:
        ids = self.new_ids(self.rng.randrange(1, 60))
        futures = [self.publisher.submit(payload(record, self.rng), key="a") for record in ids]
        tell("ok", ids, [place(future.result(30).id) for future in futures], True)


def main(root: str, stream: str, name: str, seed: str) -> None:
    rng = random.Random(seed)
    stopped = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stopped.set()), daemon=True).start()
    publisher = None
    while publisher is None and not stopped.is_set():
        try:
            publisher = Publisher(root, stream)
        except BrokerError:  # the manager is being started again
            stopped.wait(0.02)
    if publisher is None:
        return
    run = Run(publisher, name, rng)
    verbs = (run.one, run.many_of_a_key, run.many, run.submitted)
    while not stopped.is_set():
        try:
            rng.choice(verbs)()
        except DqError as error:
            tell("info", f"{type(error).__name__}: {error}")
        stopped.wait(PAUSE_SECONDS)
    publisher.close()
    tell("end")


if __name__ == "__main__":
    faulthandler.register(signal.SIGUSR1)  # so that the test can ask where it stands
    main(*sys.argv[1:])
