"""`stop()` from a signal handler: it may come between any two lines of what it interrupts, where locks may be held."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from dq import Consumer, Listener, Publisher, Reader
from stage import Threaded


def interrupted(work: Callable[[], object], handler: Callable[[], object], at: int) -> int:
    """Runs `work` in a thread and `handler` in the midst of it, before the line of that number, as a signal's handler runs.

    Returns how many lines the work has.
    """
    lines = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal lines
        if event == "line":
            if lines == at:
                handler()  # is not traced itself
            lines += 1
        return trace

    def run() -> None:
        sys.settrace(trace)
        try:
            work()
        finally:
            sys.settrace(None)

    Threaded(run).result(5)
    return lines


def everywhere(rounds: Callable[[], tuple[Callable[[], object], Callable[[], object]]], step: int) -> int:
    """Interrupts each `step`-th line of a round; returns how many lines were tried."""
    at = tried = 0
    while True:
        work, handler = rounds()
        if interrupted(work, handler, at) <= at:
            return tried
        at, tried = at + step, tried + 1


@pytest.mark.parametrize("prefetch", ["auto", 1])
def test_a_consumer(broker, name, prefetch):
    with Publisher(broker, name) as publisher:

        def a_round() -> tuple[Callable[[], object], Callable[[], object]]:
            publisher.publish("x")
            consumer = Consumer(broker, name, sink=name, prefetch=prefetch, idle_timeout=0.001)

            def work() -> None:
                for task in consumer:
                    with task:
                        pass
                consumer.close()

            return work, consumer.stop

        assert everywhere(a_round, 3) > 60


def test_a_reader(broker, name):
    with Publisher(broker, name) as publisher:

        def a_round() -> tuple[Callable[[], object], Callable[[], object]]:
            publisher.publish("x")
            reader = Reader(broker, name)

            def work() -> None:
                reader.get(1, 0.001)
                reader.get(1, 0.001)
                reader.close()

            return work, reader.stop

        assert everywhere(a_round, 3) > 60


def test_a_listener(broker, name):
    def a_round() -> tuple[Callable[[], object], Callable[[], object]]:
        listener = Listener(broker, name)
        broker.broadcast(name, "x", mode="forget")

        def work() -> None:
            listener.get(0.001)
            listener.get(0.001)
            listener.close()

        return work, listener.stop

    assert everywhere(a_round, 3) > 60
