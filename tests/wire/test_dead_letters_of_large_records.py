"""A record of the limit is given up as any other one: what dq says of its past has room beside it."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from raw_client import RawClient, write

from dq import BrokerManager, Consumer, Publisher, RecordTooLarge, verify
from dq.config import LIMITS
from stage import until

FILL = "x" * LIMITS.record_bytes_max
ERROR = "ValueError: no good\nTraceback (most recent call last):\n" + "  File, line\n" * 300


def put(broker: BrokerManager, stream: str, *lines: bytes) -> None:
    """Record lines as they are."""
    broker.stream(stream)
    with RawClient.publisher(broker.root, stream) as client:
        for number, line in enumerate(lines):
            client.send(write(number, line))
            assert client.hear()["type"] == "ACK"


def line_of(size: int, **fields: object) -> bytes:
    empty = orjson.dumps({"at": 1.5, **fields, "payload": ""}) + b"\n"
    return empty.replace(b'"payload":""', b'"payload":"%s"' % (b"x" * (size - len(empty))))


def give_up(broker: BrokerManager, stream: str, count: int, **options: object) -> None:
    with Consumer(broker, stream, sink=f"{stream}-sink", idle_timeout=5) as consumer:
        tasks = iter(consumer)
        for _ in range(count):
            next(tasks).dead_letter("bad", "ValueError: no good", ERROR)
        consumer.flush(10)
    until(lambda: _dead(broker, stream) == count, what="each is stored as a dead letter")


def test_a_record_of_the_limit_becomes_a_dead_letter_and_holds_up_no_other(tmp_path: Path) -> None:
    """It is there after a restart, is replayed, given up again and discarded; and the logs are whole."""
    root = tmp_path / "q"
    with BrokerManager(root) as broker:
        put(broker, "exact", line_of(LIMITS.record_bytes_max, key="k", headers={"h": "1"}), b'{"at":1.5,"payload":"small"}\n')
        give_up(broker, "exact", 2)
    with BrokerManager(root) as broker:
        large, small = broker.dlq("exact")
        assert (large.key, large.headers, large.death.reason) == ("k", {"h": "1"}, "bad")
        assert large.death.error_type == "ValueError"
        assert large.death.traceback.endswith("File, line\n")
        assert FILL.startswith(large.payload)
        assert small.payload == "small"
        assert broker.dlq("exact").replay(large.id) == 1
        with Consumer(broker, "exact", sink="exact-sink", idle_timeout=5) as consumer:
            task = next(iter(consumer))
            assert (task.key, task.headers["h"], task.payload) == ("k", "1", large.payload)
            task.dead_letter("again", "KeyError: x", ERROR)
            consumer.flush(10)
        until(lambda: _dead(broker, "exact") == 2, what="it is stored once more")
        [again] = broker.dlq("exact").list(reason="again")
        assert [death.reason for death in again.history] == ["bad"]
        assert broker.dlq("exact").discard(again.id) == 1
        assert [each.payload for each in broker.dlq("exact")] == ["small"]
    assert verify(root).faults == []


def test_a_record_of_the_limit_is_tried_again_much_later_and_delayed(broker: BrokerManager) -> None:
    """Both have more fields beside it than it was published with."""
    put(broker, "retried", line_of(LIMITS.record_bytes_max))
    with Consumer(broker, "retried", sink="s", idle_timeout=5) as consumer:
        next(iter(consumer)).retry(after=3600.0, error="ValueError: \x01" + "é" * 5_000)
        consumer.flush(10)
    until(lambda: _later(broker, "retried").get("waiting") == 1, what="it waits among the delayed ones")
    around = len(line_of(0)) + 60
    broker.publish("retried", FILL[around:], delay=0.1)
    until(lambda: _later(broker, "retried").get("moved") == 1, what="a delayed one comes")


def test_what_grows_when_dq_writes_it_is_kept_as_its_bytes(broker: BrokerManager) -> None:
    """A line that is no JSON, numbers that another program writes shorter, and what is nested too deeply to be written."""
    deep = b'{"payload":' + b"[" * 600 + b"]" * 600 + b"}\n"
    short = b'{"payload":[' + b",".join([b"1e15"] * 700_000) + b"]}\n"
    foreign = b"x" * (LIMITS.record_bytes_max - 1) + b"\n"
    put(broker, "foreign", foreign, deep, short)
    with Consumer(broker, "foreign", sink="foreign-sink", idle_timeout=5) as consumer:
        for task in consumer:
            task.dead_letter("bad")
            if task.offset == 2:
                break
    until(lambda: _dead(broker, "foreign") == 3, what="each is stored as a dead letter")
    assert [each.payload for each in broker.dlq("foreign")] == [foreign[:-1], deep[:-1], short[:-1]]


def test_nobody_publishes_more_than_the_limit(broker: BrokerManager) -> None:
    broker.stream("over")
    with RawClient.publisher(broker.root, "over") as client:
        client.send(write(0, line_of(LIMITS.record_bytes_max + 1)))
        assert client.hear()["error"] == "RecordTooLarge"
    with Publisher(broker, "over") as publisher, pytest.raises(RecordTooLarge):
        publisher.publish(FILL)


def _dead(broker: BrokerManager, stream: str) -> int:
    """How many dead letters there are, without reading them."""
    return broker.stats()["publisher_broker"]["streams"].get(f"{stream}-dlq", {}).get("records", 0)


def _later(broker: BrokerManager, stream: str) -> dict:
    return broker.stats()["consumer_broker"].get("later", {}).get(stream, {})
