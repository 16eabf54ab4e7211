"""The two kills: a consumer that holds a task, and the publisher broker while everybody waits for a receipt."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass

from dq.demo.crew import Worker
from dq.demo.failed import DemoFailed
from dq.demo.orders import SINKS, TASKS, Call, Consume, Hurry, Note
from dq.demo.progress import ConsumerLine, Progress, Watch, last_notes

_SETTLE_SECONDS = 0.02
"""Until what a process sent before it was frozen has arrived."""
_TRIES_AT_LEISURE = 20


@dataclass(frozen=True, slots=True)
class ConsumerKill:
    """A consumer was killed.

    Attributes:
        at: when, in seconds since 1970.
        second: when, in seconds since the run began.
        in_hand: records it held.
        task, name: the one it was working on.
        by: number of the consumer that did it instead.
        received_ms, begun_ms: from the kill until that one had it in its hands, and began it.
        instead: number and pid of the new process in its place.
    """

    at: float
    second: float
    number: int
    pid: int
    in_hand: int
    task: str
    name: str
    by: int
    received_ms: float
    begun_ms: float
    instead: tuple[int, int]


@dataclass(frozen=True, slots=True)
class BrokerKill:
    """The publisher broker was killed.

    Attributes:
        at: when, in seconds since 1970.
        second: when, in seconds since the run began.
        pid, new_pid: the old process and the one in its place.
        ready_ms: from the kill until the new one was seen to serve.
    """

    at: float
    second: float
    pid: int
    new_pid: int
    ready_ms: float


@dataclass(frozen=True, slots=True)
class Unanswered:
    """The records that were under way to the publisher broker when it was killed.

    Attributes:
        count: how many had no receipt.
        first_ms, last_ms: from the kill until the first and the last of them had it.
    """

    count: int
    first_ms: float
    last_ms: float


def kill_consumer(watch: Watch) -> ConsumerKill | None:
    """Kills a consumer that holds a task, starts another in its place, and waits until the task is done by somebody else.

    The victim is frozen first, for a few milliseconds: so what is said to be in its hands is in its hands when it dies.

    Returns:
        None: all tasks were done before one could be found, as with a handful of lines.
    """
    for tries in itertools.count(1):
        progress = watch.look()
        if progress.settled >= progress.tasks:
            return None
        if tries == _TRIES_AT_LEISURE:
            watch.crew.tell(watch.crew.publishers, Hurry())  # so that more waits, and everybody has something
        victim = _busiest(watch, progress)
        if victim is not None:
            os.kill(victim.pid, signal.SIGSTOP)
            try:
                time.sleep(_SETTLE_SECONDS)
                line, note = _frozen(watch, victim)
                # What it began and the broker has not seen settled is in its hands, whether its result is out or not.
                if note is not None and line.in_hand and line.settled < note.begun:
                    return _finish(watch, victim, line.in_hand, note)
            finally:
                if not victim.killed:
                    os.kill(victim.pid, signal.SIGCONT)
        watch.crew.listen(_SETTLE_SECONDS)
    return None


def _busiest(watch: Watch, progress: Progress) -> Worker | None:
    lines = [line for line in progress.consumers if line.in_hand]
    if not lines:
        return None
    number = max(lines, key=lambda line: line.in_hand).number
    return next(worker for worker in watch.crew.consumers if worker.number == number)


def _frozen(watch: Watch, victim: Worker) -> tuple[ConsumerLine, Note | None]:
    """The broker's figures of a frozen consumer, and what it said last."""
    sink = watch.broker.stats()["consumer_broker"]["sinks"][SINKS[TASKS]]
    note = last_notes(sink).get(victim.number)
    # The figures after the note: what is not settled by then was not settled when the note was read.
    return next(line for line in watch.look().consumers if line.number == victim.number), note


def _finish(watch: Watch, victim: Worker, in_hand: int, note: Note) -> ConsumerKill:
    second, task, name = watch.seconds, note.task, note.name
    at = watch.crew.kill(victim)
    more = f" and {in_hand - 1} more" if in_hand > 1 else ""
    watch.tell(f"kill -9 {victim.pid}: {victim.label}, which held {watch.short(name)}{more}")
    new = watch.crew.add_consumer()
    watch.crew.tell([new], Consume(TASKS))
    watch.until(lambda _: watch.results.by_others(task, victim.number) is not None)
    again = watch.results.by_others(task, victim.number)
    if again is None:
        raise DemoFailed(f"{name} was not delivered again")
    received, begun = (again["received"] - at) * 1000, (again["began"] - at) * 1000
    watch.tell(f"{watch.short(name)} in the hands of consumer {again['consumer']} after {received:.0f} ms")
    watch.until(lambda progress: any(line.number == new.number and line.joined for line in progress.consumers))
    instead = (new.number, new.pid)
    return ConsumerKill(at, second, victim.number, victim.pid, in_hand, task, name, again["consumer"], received, begun, instead)


def kill_publisher_broker(watch: Watch) -> BrokerKill:
    """Has all publishers publish as fast as they can, kills the publisher broker amid it, and waits for the next one."""
    pid = watch.broker.stats()["publisher_broker"]["pid"]
    watch.crew.tell(watch.crew.publishers, Hurry())
    time.sleep(_SETTLE_SECONDS)
    second, at = watch.seconds, time.time()
    os.kill(pid, signal.SIGKILL)
    watch.tell(f"kill -9 {pid}: the PublisherBroker, while all publish")
    while True:
        broker = watch.broker.stats()["publisher_broker"]
        if broker["ready"] and broker["pid"] not in (pid, None):
            break
        watch.crew.listen(0.005)
        if time.time() - at > 30:
            raise DemoFailed("the PublisherBroker was not replaced within 30 s")
    ready_ms = (time.time() - at) * 1000
    watch.tell(f"a new PublisherBroker, pid {broker['pid']}, serves after {ready_ms:.0f} ms")
    return BrokerKill(at, second, pid, broker["pid"], ready_ms)


def unanswered(kill: BrokerKill, calls: Iterable[Call]) -> Unanswered:
    """Which publishes were under way at the kill, and when they had their receipts."""
    waits = [(called + took - kill.at) * 1000 for called, took in calls if called <= kill.at < called + took]
    return Unanswered(len(waits), min(waits, default=0.0), max(waits, default=0.0))
