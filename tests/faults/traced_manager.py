"""A manager one of whose brokers runs below strace in its first life, with small limits so that a short script has everything.

Told by the environment: `DQ_TRACED` is the broker's name, `DQ_TRACER` a program that takes the place of the interpreter.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing import resource_tracker

from dq.broker import consumer_broker, publisher_broker
from dq.broker.entry import main as manager_main
from dq.broker.supervised import Supervised
from dq.config import LIMITS
from dq.model.event import EventOwner


def _make_small() -> None:
    for name, value in (("sink_sync_seconds", 0.05), ("sink_segment_bytes", 3_000), ("reserve_bytes", 65_536)):
        object.__setattr__(LIMITS, name, value)


def publisher_broker_main(*arguments) -> None:  # type: ignore[no-untyped-def]
    _make_small()
    publisher_broker.main(*arguments)


def consumer_broker_main(*arguments) -> None:  # type: ignore[no-untyped-def]
    _make_small()
    consumer_broker.main(*arguments)


MAINS = {EventOwner.PUBLISHER_BROKER: publisher_broker_main, EventOwner.CONSUMER_BROKER: consumer_broker_main}


def main(options: str) -> None:
    resource_tracker.ensure_running()  # it is not to be traced
    start = Supervised.start

    def start_traced(self: Supervised) -> None:
        self._main = MAINS[self.owner]
        traced = self.owner == os.environ.get("DQ_TRACED") and not self.restarts
        multiprocessing.set_executable(os.environ["DQ_TRACER"] if traced else sys.executable)
        start(self)

    Supervised.start = start_traced  # type: ignore[method-assign]
    manager_main(options)
