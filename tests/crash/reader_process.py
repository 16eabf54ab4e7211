"""The reader of the crash test, as a process: tells what it reads, and where it stands, on its standard output.

Arguments: data directory, stream, where to begin: "oldest", or the position at which another one was. The end of its standard
input ends it in order.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading

import orjson
from consumer_process import is_whole

from dq import BrokerError, DqError, Reader

LIMIT, WAIT_SECONDS = 200, 0.2


def tell(*line: object) -> None:
    os.write(1, orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))


def read(reader: Reader) -> None:
    """Tells of records and of the position behind them in one line: who is killed meanwhile has told neither."""
    records = reader.get(LIMIT, WAIT_SECONDS)
    if records:
        told = [[record.payload["id"], [record.bucket, record.offset], is_whole(record.payload)] for record in records]
        tell("read", told, reader.position)


def main(root: str, stream: str, begin: str) -> None:
    stopped = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stopped.set()), daemon=True).start()
    reader = None
    while reader is None and not stopped.is_set():
        try:
            reader = Reader(root, stream, start=begin)
        except BrokerError:  # the manager is being started again
            stopped.wait(0.02)
    if reader is None:
        return
    while not stopped.is_set():
        try:
            read(reader)
        except DqError as error:
            tell("info", f"{type(error).__name__}: {error}")
    reader.close()
    tell("end")


if __name__ == "__main__":
    faulthandler.register(signal.SIGUSR1)  # so that the test can ask where it stands
    main(*sys.argv[1:])
