"""What a watcher is told: each envelope that passes a process, in order, with its sizes and without its payload."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

import dq
from dq import BrokerLost, Consumer, Publisher
from dq.client.watcher import Seen, Watcher
from stage import pids, until

SECRET = "a secret nobody may see"


def watched(watcher: Watcher, last: Callable[[Seen], bool]) -> list[Seen]:
    """All that is seen until the one that `last` knows."""
    seen: list[Seen] = []

    def came() -> bool:
        seen.extend(watcher.take(1))
        return any(map(last, seen))

    until(came)
    return seen


def steps(seen: list[Seen]) -> list[tuple[str, str, str, str]]:
    return [(each.process, each.direction, each.kind, each.speaker) for each in seen]


def test_the_way_of_a_record_is_seen_from_its_write_to_its_ack(broker, name):
    with Publisher(broker, name) as publisher, Consumer(broker, name, sink=name) as consumer, Watcher(broker.root) as watcher:
        tasks, sender = iter(consumer), publisher.id
        receipt = publisher.publish({"secret": SECRET}, topic="tea")
        task = next(tasks)
        task.ack(wait=True)
        seen = watched(watcher, lambda each: (each.kind, each.direction, each.process) == ("ACK", "out", "consumer_broker"))
    del seen[: [each.kind for each in seen].index("WRITE")]  # the consumer had just come
    # (An ack may go in two parts, if the one that waits comes a moment after it.)
    assert list(dict.fromkeys(step for step in steps(seen) if step[2] not in ("READ", "TRIM"))) == [
        ("publisher_broker", "in", "WRITE", "PUBLISHER"),
        ("publisher_broker", "out", "ACK", "PUBLISHER_BROKER"),
        ("publisher_broker", "out", "COMMITTED", "PUBLISHER_BROKER"),
        ("consumer_broker", "in", "COMMITTED", "PUBLISHER_BROKER"),
        ("consumer_broker", "out", "TASK", "CONSUMER_BROKER"),
        ("consumer_broker", "in", "ACK", "CONSUMER"),
        ("consumer_broker", "out", "ACK", "CONSUMER_BROKER"),
    ]
    write, answer = seen[0], next(each for each in seen if each.kind == "ACK")
    line = len(f'{{"at":1763797000.1234567,"topic":"tea","payload":{{"secret":"{SECRET}"}}}}\n')
    assert abs(write.body - line) < 3
    assert (write.client, write.fields["stream"], write.fields["count"]) == (sender, name, 1)
    assert f"{answer.fields['stream']}/{answer.fields['bucket']}/{answer.fields['first']}" == receipt.id
    task_seen = next(each for each in seen if each.kind == "TASK")
    assert (task_seen.client, task_seen.fields["sink"], task_seen.body) == (consumer.consumer_id, name, write.body)
    assert SECRET not in repr(seen)
    assert watcher.missed == 0


def test_several_answers_in_one_write_are_seen_one_by_one(broker, name):
    with Publisher(broker, name, batch_size=10) as publisher, Watcher(broker.root) as watcher:
        publisher.publish_many(range(100))
        seen: list[Seen] = []

        def all_came() -> bool:
            seen.extend(each for each in watcher.take(1) if each.client == publisher.id)
            return sum(each.fields["count"] for each in seen if each.kind == "ACK") == 100

        until(all_came)
    assert sum(each.fields["count"] for each in seen if each.kind == "WRITE") == 100
    assert len({each.kind for each in seen}) == 2


def test_who_was_there_before_the_watcher_is_seen_too_and_nobody_after_it_left(broker, name):
    with Publisher(broker, name) as publisher:
        with Watcher(broker.root) as watcher:
            publisher.publish(1)
            watched(watcher, lambda each: each.client == publisher.id)
        publisher.publish(2)
        with Watcher(broker.root) as watcher:
            broker.broadcast(name, 1)
            seen = watched(watcher, lambda each: each.speaker == "LISTENER" and each.kind == "WRITE")
            assert not [each for each in seen if each.client == publisher.id]


def test_a_process_that_is_replaced_is_watched_again(dq_broker):
    with Watcher(dq_broker.root) as watcher, Publisher(dq_broker, "orders") as publisher:
        os.kill(pids(dq_broker)[0], signal.SIGKILL)
        publisher.publish(1)
        until(lambda: watcher.take(0) is not None and watcher.replaced)
        until(lambda: publisher.publish(2) and any(each.kind == "WRITE" for each in watcher.take(0.1)))
        assert watcher.replaced == ["publisher_broker"]


def test_the_end_of_the_broker_is_an_error(tmp_path):
    broker = dq.BrokerManager(tmp_path / "q")
    with Watcher(broker.root) as watcher:
        broker.stop()
        with pytest.raises(dq.BrokerError):
            until(lambda: watcher.take(1) is None)
    with pytest.raises(dq.BrokerNotRunning):
        Watcher(tmp_path / "q")
    assert issubclass(BrokerLost, dq.BrokerError)
