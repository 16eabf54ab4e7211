"""A sink can want only some topics, or a pattern of them; what does not match is settled for it unseen."""

from __future__ import annotations

import re
import time

import pytest
from sink_bench import publish, rest_of, taken

from dq import Consumer, InvalidSetting, Publisher, SettingsMismatch, TaskIn
from stage import sink_of, until


def mixed(count: int, topics: tuple[str | None, ...]) -> list[TaskIn]:
    """Records whose topics take turns."""
    return [TaskIn(n, topic=topics[n % len(topics)]) for n in range(count)]


def test_a_sink_with_a_topic_gets_that_alone_and_the_rest_is_settled(broker, name) -> None:
    """S7, S better: matching by exact topic; a filtered record is settled for that sink, and stays for the others."""
    with Publisher(broker, name) as publisher:
        publisher.publish_many(mixed(30, ("a", "b", None)))  # one batch with all of them
        publisher.publish_many(TaskIn(n, topic="b") for n in range(30, 60))  # one that is of another topic
        publisher.publish_many(TaskIn(n, topic="a") for n in range(60, 90))  # one that is all of it
        publisher.publish_many(range(90, 120))  # one without any
    assert taken(broker, name, sink=name, topic="a") == [*range(0, 30, 3), *range(60, 90)]
    figures = broker.sink(name).stats()
    assert (figures.settled, figures.filtered, figures.waiting) == (40, 80, 0)
    assert figures.buckets[f"{name}/0"].floor == 120
    assert len(taken(broker, name, sink=f"{name}-all")) == 120


def test_a_pattern_is_searched_for_in_the_topic(broker, name) -> None:
    """S7: a regular expression, `re.search`, also compiled; a record without a topic has the topic ""."""
    topics = ("order.made", "order.paid", "Order.lost", None)
    with Publisher(broker, name) as publisher:
        publisher.publish_many(mixed(8, topics))
    assert taken(broker, name, sink=f"{name}-1", pattern=r"\.paid$") == [1, 5]
    assert taken(broker, name, sink=f"{name}-2", pattern=re.compile("^order", re.IGNORECASE)) == [0, 1, 2, 4, 5, 6]
    assert taken(broker, name, sink=f"{name}-3", pattern="^$") == [3, 7]
    assert broker.sink(f"{name}-2").settings.pattern == "(?i)^order"


def test_a_pattern_that_is_none_is_refused_by_name(broker, name) -> None:
    """S7: a bad one is an error that says so."""
    with pytest.raises(InvalidSetting, match=r"'\(a' is no regular expression: missing \)"):
        Consumer(broker, name, sink=name, pattern="(a")
    with pytest.raises(InvalidSetting, match="not both"):
        broker.sink(name, name, topic="a", pattern="a")
    assert name not in broker.sinks()


def test_the_filter_is_the_sinks_and_kept_with_it(broker, name) -> None:
    broker.sink(name, name, topic="a")
    with pytest.raises(SettingsMismatch, match=r"topic='a' \(asked for: 'b'\)"):
        Consumer(broker, name, sink=name, topic="b")


def test_a_function_of_the_users_own_chooses_too(broker, name) -> None:
    """S7: by the user's own function; what it does not want is settled for the sink, and the stream is untouched."""
    publish(broker, name, range(10))
    assert taken(broker, name, sink=name, match=lambda task: task.payload % 2 == 0) == [0, 2, 4, 6, 8]
    until(lambda: sink_of(broker, name)["dropped"] == 5)
    assert taken(broker, name, sink=name) == []
    assert taken(broker, name, sink=f"{name}-all") == list(range(10))


def test_a_retried_record_of_a_mixed_batch_comes_again_alone(broker, name) -> None:
    with Publisher(broker, name) as publisher:
        publisher.publish_many(mixed(9, ("a", "b", "b")))
    with Consumer(broker, name, sink=name, topic="a", idle_timeout=0.5) as consumer:
        tasks = iter(consumer)
        task = next(tasks)
        assert (task.payload, task.publisher) == (0, task.publisher)
        task.retry(after=0)
        assert sorted(rest_of(consumer)) == [0, 3, 6]
    assert broker.sink(name).stats().filtered == 6


def test_a_long_backlog_of_others_costs_a_filtered_sink_little(broker, name) -> None:
    """A sink that wants one of ten thousand records gets it without its consumer seeing the others."""
    with Publisher(broker, name) as publisher:
        publisher.publish_many(TaskIn(n, topic="a" if n == 9_999 else "b") for n in range(10_000))
    with Consumer(broker, name, sink=name, topic="a", prefetch=1, idle_timeout=2) as consumer:
        assert next(iter(consumer)).payload == 9_999
    assert broker.sink(name).stats().redelivered == 0


def test_a_pattern_that_would_take_for_ever_costs_its_own_sink_alone(broker, name) -> None:
    """A pattern that tries more ways than there are atoms: its consumers are told, and the others are served."""
    long = "a" * 100 + "b"
    publish(broker, name, [1], topic=long)
    with pytest.raises(InvalidSetting, match=r"takes more than 0\.1 s for the topic"):
        taken(broker, name, sink=f"{name}-slow", pattern="(a+)+$", idle=20.0)
    # Who works already is told as well, as soon as such a topic comes
    with Consumer(broker, f"{name}2", sink=f"{name}-later", pattern="(a+)+$") as consumer:
        publish(broker, f"{name}2", [2], topic="aaa")
        tasks = iter(consumer)
        next(tasks).ack()
        publish(broker, f"{name}2", [3], topic=long)
        with pytest.raises(InvalidSetting, match="destroy the sink"):
            next(tasks)
    # The broker lives, and the neighbour is served
    began = time.monotonic()
    assert taken(broker, name, sink=name, pattern="^a+b$", idle=1.0) == [1]
    assert time.monotonic() - began < 10
    assert broker.stats()["consumer_broker"]["restarts"] == 0
    # And once it is destroyed, a better one may have its name
    broker.sink(f"{name}-slow").destroy()
    assert taken(broker, name, sink=f"{name}-slow", pattern="^a+", idle=1.0) == [1]
