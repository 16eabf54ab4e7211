"""Priorities and expiry through the broker."""

from __future__ import annotations

import time

import pytest
from sink_bench import rest_of, taken

from dq import Consumer, InvalidSetting, Publisher, Reader, SettingsMismatch, TaskIn


def test_higher_priorities_come_first_and_are_counted(broker, name) -> None:
    """Priorities: what is urgent overtakes a backlog that was there before; each keeps its order."""
    broker.stream(name, buckets=2, priorities=3)
    broker.sink(name, name)
    with Publisher(broker, name) as publisher:
        publisher.publish_many(TaskIn(("low", n), key="k") for n in range(40))
        publisher.publish_many(TaskIn(("high", n), key="k", priority=2) for n in range(5))
    with Consumer(broker, name, sink=name, prefetch=1, idle_timeout=0.2) as consumer:
        first = next(iter(consumer))
        waiting = broker.sink(name).stats().waiting_by_priority
        assert (waiting[0], waiting[1], first.payload) == (40, 0, ["high", 0])
        first.ack()
        got = [first.payload, *rest_of(consumer)]
    assert [n for lane, n in got if lane == "high"] == list(range(5))
    assert [n for lane, n in got if lane == "low"] == list(range(40))
    assert sum(lane == "high" for lane, _ in got[:7]) == 5
    with Reader(broker, name, start="oldest", follow=False) as reader:
        assert len(list(reader)) == 45


def test_priorities_are_kept_and_refused(broker, name) -> None:
    broker.stream(name, priorities=2)
    with pytest.raises(SettingsMismatch, match="priorities=2"):
        broker.stream(name, priorities=3)
    with pytest.raises(InvalidSetting, match="1024 are the most"):
        broker.stream(f"{name}-wide", buckets=200, priorities=6)


def test_batches_that_expired_are_settled_unopened(broker, name) -> None:
    """Expiry: not handed to the user's code after its time, and counted; readers still see it."""
    broker.sink(name, broker.stream(name).name)
    with Publisher(broker, name) as publisher:
        publisher.publish_many(TaskIn(n, expires=0.05) for n in range(1_000))
        publisher.publish_many(range(1_000, 1_010))
        publisher.publish_many(TaskIn(n, expires=0.05) for n in range(1_010, 1_020))
        ends = time.time() + 0.06
        publisher.publish_many(TaskIn(n, expires=60) for n in range(1_020, 1_030))
    while time.time() < ends:  # wall time is what counts
        time.sleep(0.01)
    assert taken(broker, name, sink=name, prefetch=5) == [*range(1_000, 1_010), *range(1_020, 1_030)]
    figures = broker.sink(name).stats()
    assert (figures.expired, figures.settled, figures.waiting, figures.dead_lettered) == (1_010, 20, 0, 0)
    with Reader(broker, name, start="oldest", follow=False) as reader:
        assert len(list(reader)) == 1_030


def test_what_comes_back_after_its_time_is_not_handed_out_again(broker, name) -> None:
    """Expiry: a record that is retried."""
    broker.publish(name, 1, expires=0.5)
    with Consumer(broker, name, sink=name, idle_timeout=1.0) as consumer:
        tasks = []
        for task in consumer:
            tasks.append(task.attempt)
            task.retry(after=0.6)
    assert tasks == [1]
    assert broker.sink(name).stats().expired == 1
