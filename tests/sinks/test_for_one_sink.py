"""A batch may be for one sink alone: the others settle it unopened, readers pass over it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from sink_bench import taken

from dq import Consumer, Publisher, Reader, TaskIn
from dq.client.drafts import Draft, DraftFuture
from dq.model.record import encode
from stage import kill, until


class Told(Draft):
    """A batch of whose records more is said than a publisher says."""

    __slots__ = ("told",)

    def about(self):
        return self.told


def publish_told(publisher: Publisher, told: dict, *payloads: object, topics: Sequence[str] = ()) -> None:
    draft = Told(0, "sync")
    draft.told = told
    for payload, topic in zip_longest(payloads, topics):
        draft.lines += encode(payload, 1.0, topic=topic)
        draft.count += 1
    draft.topics |= set(topics)
    draft.labelled = len(topics)
    publisher.begin_batches([draft])
    DraftFuture(draft, 0).result(10)


def test_the_one_sink_gets_it_and_the_others_settle_it_unopened(broker, name) -> None:
    with Publisher(broker, name) as publisher:
        publisher.publish_many(range(3))
        publish_told(publisher, {"for": f"{name}-a"}, "a1", "a2")
        publisher.publish_many(range(3, 5))
        publish_told(publisher, {"for": f"{name}-b"}, "b1")
    assert taken(broker, name, sink=f"{name}-a") == [0, 1, 2, "a1", "a2", 3, 4]
    assert taken(broker, name, sink=f"{name}-b") == [0, 1, 2, 3, 4, "b1"]
    figures = broker.sink(f"{name}-a").stats()
    assert (figures.settled, figures.filtered, figures.buckets[f"{name}/0"].floor) == (7, 1, 8)


def test_readers_pass_over_it(broker, name) -> None:
    with Publisher(broker, name) as publisher:
        publisher.publish_many(range(3))
        publish_told(publisher, {"for": "other"}, *range(100, 600))
        publisher.publish(3)
    with Reader(broker, name, start="oldest", follow=False) as reader:
        assert [record.payload for record in reader] == [0, 1, 2, 3]


def test_filters_and_sinks_without_acks_and_in_order_know_it_too(broker, name) -> None:
    with Publisher(broker, name) as publisher:
        publisher.publish_many(TaskIn(n, topic="t") for n in range(3))
        publish_told(publisher, {"for": "nobody"}, *range(100, 120))
        publisher.publish_many(TaskIn(n, topic="t") for n in range(3, 6))
    assert taken(broker, name, sink=f"{name}-filter", topic="t") == list(range(6))
    assert taken(broker, name, sink=f"{name}-fast", no_ack=True) == list(range(6))
    assert taken(broker, name, sink=f"{name}-order", ordered=True) == list(range(6))


def test_what_its_records_burned_before_counts_through_a_kill(broker, name) -> None:
    """max_attempts holds over both lives of a record; what it burned here comes on top, also after a restart of the broker."""
    with Publisher(broker, name) as publisher:
        publish_told(publisher, {"for": name, "attempts": 2, "error": "ValueError: far"}, "x")
        publisher.publish("y")
    broker.sink(name, name, max_attempts=4)
    with Consumer(broker, sink=name, prefetch=1) as consumer:
        task = next(iter(consumer))
        assert (task.payload, task.attempt, task.last_error) == ("x", 3, "ValueError: far")
        task.retry(after=0, error="ValueError: near")
    kill(broker.stats()["consumer_broker"]["pid"])
    with Consumer(broker, sink=name, prefetch=1, idle_timeout=2) as consumer:
        found = {}
        for task in consumer:
            found[task.payload] = (task.attempt, task.last_error)
            if task.payload == "x":
                task.retry(after=0, error="ValueError: last")
                break
            task.ack()
    assert found["x"] == (4, "ValueError: near")
    until(lambda: broker.sink(name).stats().dead_lettered == 1)
    with Reader(broker, f"{name}-dlq", start="oldest", follow=False) as reader:
        assert [(each.payload, each.headers["dq-attempts"]) for each in reader] == [("x", "4")]


def test_what_a_filter_takes_out_of_it_has_burned_nothing_here(broker, name) -> None:
    """A sink made anew may filter otherwise than the one whose records wait. Its log is read again by the next broker."""
    with Publisher(broker, name) as publisher:
        publish_told(
            publisher, {"for": name, "attempts": 2, "error": "e"}, *"abc", topics=("t", "u", "t")
        )  # fmt: skip
    seen = []
    with Consumer(broker, name, sink=name, topic="t") as consumer:
        for task in consumer:
            seen.append((task.payload, task.attempt))
            if len(seen) == 1:
                kill(broker.stats()["consumer_broker"]["pid"])
            task.ack()
            if len(seen) == 2:
                break
        consumer.flush(10)
    assert seen == [("a", 3), ("c", 3)]
    figures = broker.sink(name).stats()
    assert (figures.settled, figures.filtered) == (2, 1)
