"""The processes that publish and consume. Each is a fresh interpreter and attaches by the path of the data directory."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

from dq.client.consumer import Consumer
from dq.client.publisher import Publisher
from dq.client.task import Task
from dq.demo.examine import examine, name_of
from dq.demo.orders import (
    PROBE,
    RESULTS,
    SINKS,
    SPEED,
    TASKS,
    Call,
    Consume,
    Consumed,
    Failed,
    Inbox,
    Note,
    Published,
    PublishMany,
    PublishProbes,
    PublishTasks,
    Quit,
    Ready,
    Report,
)
from dq.errors import DqError

# With the time and the rest around it, a record line of 210 bytes.
_SPEED_BODY = "x" * 127
_SIGN_OF_LIFE_SECONDS = 20.0


def publisher_process(root: str, number: int, pipe: Connection) -> None:
    """One of the processes that publish."""
    _live(pipe, lambda order, inbox: _publish(root, order, inbox))


def consumer_process(root: str, number: int, pipe: Connection) -> None:
    """One of the processes that consume."""
    _live(pipe, lambda order, inbox: _consume(root, number, order, inbox))


def _live(pipe: Connection, work: Any) -> None:
    """Does what is ordered, and says how it went, until it is told to leave."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the parent decides
    inbox = Inbox(pipe)
    try:
        pipe.send(Ready())
        while not isinstance(order := inbox.next(), Quit):
            pipe.send(work(order, inbox))
    except BrokenPipeError:
        raise SystemExit(1) from None  # whoever started this process is gone
    except (DqError, OSError) as error:
        pipe.send(Failed(f"{type(error).__name__}: {error}"))
        raise SystemExit(1) from None
    except BaseException as error:
        pipe.send(Failed(repr(error)))
        raise


# --- publishing ------------------------------------------------------------------------------------------------------
def _publish(root: str, order: object, inbox: Inbox) -> Report:
    if isinstance(order, PublishTasks):
        return _publish_tasks(root, order, inbox)
    if isinstance(order, PublishProbes):
        return _publish_probes(root, order, inbox)
    if isinstance(order, PublishMany):
        return _publish_many(root, order, inbox)
    raise TypeError(f"a publisher does not know {order!r}")


def _publish_tasks(root: str, order: PublishTasks, inbox: Inbox) -> Published:
    """One by one, each receipt waited for, at an even pace until `Hurry` comes."""
    calls: list[Call] = []
    began, pause = time.time(), order.spread_seconds / max(len(order.payloads), 1)
    with Publisher(root, TASKS) as publisher:
        for place, payload in enumerate(order.payloads):
            early = began + place * pause - time.time()
            if early > 0:
                inbox.interrupted.wait(early)
            if inbox.leaving.is_set():
                break
            if inbox.interrupted.is_set():
                pause = 0.0
            calls.append(_timed_publish(publisher, payload))
    return Published(len(calls), began, calls)


def _publish_probes(root: str, order: PublishProbes, inbox: Inbox) -> Published:
    calls: list[Call] = []
    began = time.time()
    with Publisher(root, PROBE) as publisher:
        for number in range(order.count):
            if inbox.leaving.wait(order.pause_seconds):
                break
            calls.append(_timed_publish(publisher, {"probe": number}))
    return Published(len(calls), began, calls)


def _publish_many(root: str, order: PublishMany, inbox: Inbox) -> Published:
    with Publisher(root, SPEED) as publisher:
        began = time.time()
        receipts = publisher.publish_many(_records_until(began + order.seconds, inbox))
    return Published(len(receipts), began, [])


def _records_until(end: float, inbox: Inbox) -> Iterator[dict[str, Any]]:
    first = 1_000_000
    while time.time() < end and not inbox.leaving.is_set():
        for number in range(first, first + 100):
            yield {"to": "ada@example.org", "n": number, "body": _SPEED_BODY}
        first += 100


def _timed_publish(publisher: Publisher, payload: dict[str, Any]) -> Call:
    called, clock = time.time(), time.perf_counter()
    publisher.publish(payload)
    return called, time.perf_counter() - clock


# --- consuming -------------------------------------------------------------------------------------------------------
def _consume(root: str, number: int, order: object, inbox: Inbox) -> Report:
    if not isinstance(order, Consume):
        raise TypeError(f"a consumer does not know {order!r}")
    if order.stream == TASKS:
        # The publisher first: a consumer that is seen to have joined can also publish its results.
        with Publisher(root, RESULTS) as results, Consumer(root, TASKS, sink=SINKS[TASKS]) as consumer:
            inbox.when_interrupted(consumer.stop)
            return _handle_tasks(consumer, results, number)
    with Consumer(root, order.stream, sink=SINKS[order.stream]) as consumer:
        inbox.when_interrupted(consumer.stop)
        return _handle_probes(consumer) if order.stream == PROBE else _handle_many(consumer)


def _handle_tasks(consumer: Consumer, results: Publisher, number: int) -> Consumed:
    """The result is on disk before the task is acked: a kill between the two makes it come twice, never not at all."""
    calls: list[Call] = []
    ended = 0.0
    for task in consumer:
        with task:
            began = time.time()
            task.extend(_SIGN_OF_LIFE_SECONDS, note=Note(number, len(calls) + 1, task.id, name_of(task.payload)).text)
            found = examine(task.payload)
            calls.append(_timed_publish(results, {"task": task.id, **found, **_circumstances(task, number, began)}))
            ended = time.time()
    return Consumed(len(calls), ended, [], calls)


def _circumstances(task: Task, number: int, began: float) -> dict[str, Any]:
    """Who did it, and when it was published, came into this consumer's hands, and was begun."""
    return {
        "consumer": number,
        "attempt": task.attempt,
        "published": task.created_at.timestamp(),
        "received": task.started.timestamp(),
        "began": began,
    }


def _handle_probes(consumer: Consumer) -> Consumed:
    waits: list[float] = []
    for task in consumer:
        waits.append(time.time() - task.created_at.timestamp())
        task.ack()
    return Consumed(len(waits), time.time(), waits, [])


def _handle_many(consumer: Consumer) -> Consumed:
    """Nothing is done with these but counting: what is measured is the way."""
    count, ended = 0, 0.0
    now = time.time
    for task in consumer:
        count += 1
        task.ack()
        ended = now()
    return Consumed(count, ended, [], [])
