"""A delayed record on its way from its publisher to a consumer."""

from __future__ import annotations

import time

import pytest

from dq import Consumer, Publisher, UnknownStream
from dq.core.buckets import bucket_of

HOUR = 3600.0


def test_a_delayed_record_comes_when_it_is_due_with_all_that_it_was_published_with(broker, name):
    broker.stream(name, buckets=2, priorities=2)
    with Publisher(broker, name) as publisher, Consumer(broker, name, sink=name, idle_timeout=5) as consumer:
        began = time.time()
        options = {"key": "k", "topic": "t", "name": "n", "headers": {"h": "1"}, "priority": 1, "expires": HOUR}
        publisher.publish("later", delay=0.2, **options)
        publisher.publish("at once", key="k")
        tasks = iter(consumer)
        first = next(tasks)
        first.ack()
        assert first.payload == "at once"
        task = next(tasks)
        assert 0.2 <= time.time() - began < 5
        assert (task.payload, task.key, task.topic, task.name, task.headers) == ("later", "k", "t", "n", {"h": "1"})
        assert task.bucket == 2 + bucket_of("k", 2)
        assert task.due_at.timestamp() == pytest.approx(began + 0.2, abs=1)
        assert task.expires_at.timestamp() == pytest.approx(began + HOUR, abs=1)
        task.ack(wait=True)


@pytest.mark.parametrize("first", [True, False], ids=["the first delayed", "a later one"])
def test_a_publisher_that_is_alive_makes_a_destroyed_stream_anew_for_a_delayed_record_too(broker, name, first):
    """As it was, as for any other record; and both publishers go on in it."""
    stream = broker.stream(name, buckets=3)
    with Publisher(broker, name) as publisher:
        publisher.publish(0)
        if not first:
            publisher.publish(1, delay=HOUR)
        stream.destroy()
        assert publisher.publish("delayed", delay=0.1).id == f"{name}-later/0/0"
        assert stream.stats().settings.buckets == 3
        publisher.publish("plain")
        with Consumer(broker, name, sink=name, idle_timeout=5) as consumer:
            tasks = [next(iter(consumer)), next(iter(consumer))]
            assert {task.payload for task in tasks} == {"plain", "delayed"}
            for task in tasks:
                task.ack()


def test_a_publisher_that_may_not_make_it_makes_none_for_a_delayed_record_either(broker, name):
    stream = broker.stream(name)
    with Publisher(broker, name, create=False, reconnect_timeout=5) as publisher:
        publisher.publish(0, delay=HOUR)
        stream.destroy()
        with pytest.raises(UnknownStream, match=f"'{name}' was destroyed"):
            publisher.publish(1, delay=HOUR)
    with Publisher(broker, name) as publisher, Publisher(broker, name, create=False) as other:
        publisher.publish(0)
        stream.destroy()
        with pytest.raises(UnknownStream, match=f"no stream '{name}' any more"):
            other.publish(1, delay=HOUR)
    assert name not in broker.streams()


def test_a_stream_that_was_destroyed_is_made_anew_for_a_delayed_record_or_missed_by_its_name(broker, name):
    stream = broker.stream(name)
    with Publisher(broker, name) as publisher:
        publisher.publish(0, delay=HOUR)
        broker.publish(name, 1, delay=HOUR)
        stream.destroy()
        assert stream.add("due", 3, delay=HOUR, only_if_exists=True) is None
        assert broker.publish(name, 4, delay=HOUR).id == f"{name}-later/0/0"
        assert publisher.publish(5, delay=HOUR).id == f"{name}-later/0/1"
        stream.destroy()
        assert stream.add("due", 6, delay=HOUR) == f"{name}-later/0/0"
