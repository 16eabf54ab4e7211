"""delay, priority and expires on every face of a publisher."""

from __future__ import annotations

import asyncio
import os
import time
from datetime import UTC, datetime, timedelta

import pytest

import dq
from dq import Consumer, Forked, InvalidSetting, Publisher, Reader, TaskIn, aio
from dq.core.buckets import bucket_of
from stage import kill, pids, until

HOUR = 3600.0


def records(broker, *streams: str) -> list[dict]:
    """The lines of streams, decoded, with the bucket of each."""
    with Reader(broker, *streams, start="oldest", follow=False) as reader:
        return [{"bucket": record.bucket, **record._fields} for record in reader]


@pytest.fixture
def publisher(broker, name):
    with Publisher(broker, name) as publisher:
        yield publisher


# --- priority --------------------------------------------------------------------------------------------------------
def test_a_priority_is_a_lane_of_buckets_on_every_face(broker, name):
    stream = broker.stream(name, buckets=2, priorities=3)
    of = {key: bucket_of(key, 2) for key in "abcd"}
    with Publisher(broker, name, batch_size=5) as publisher:
        for key, bucket in of.items():
            assert publisher.publish(0, key=key).id.startswith(f"{name}/{bucket}/")
            assert publisher.submit(1, key=key, priority=1).result(10).id.startswith(f"{name}/{2 + bucket}/")
            assert broker.publish(name, 2, key=key, priority=2).id.startswith(f"{name}/{4 + bucket}/")
        turns = [publisher.publish(1, priority=1).id.split("/")[1] for _ in range(4)]
        assert turns in (["2", "3"] * 2, ["3", "2"] * 2)
        receipts = publisher.publish_many(
            TaskIn(n % 3, key=None if n % 2 else "abcd"[n % 4], priority=n % 3) for n in range(120)
        )
        assert len(receipts) == 120
        with pytest.raises(InvalidSetting, match="priorities from 0 to 2"):
            publisher.publish(3, priority=3)
    assert stream.add("now", 2, priority=2).split("/")[1] in "45"
    assert asyncio.run(an_aio_publish(broker, name, 1, priority=1)).split("/")[1] in "23"
    lines = records(broker, name)
    assert len(lines) == 12 + 4 + 120 + 2
    for line in lines:
        lane, bucket = divmod(line["bucket"], 2)
        assert lane == line["payload"]
        assert line.get("key") is None or bucket == of[line["key"]]
    waiting = broker.publish(name, 4, key="a", priority=2, delay=HOUR).id
    assert waiting.startswith(f"{name}-later/0/")
    assert [line["priority"] for line in records(broker, f"{name}-later")] == [2]


async def an_aio_publish(broker, name: str, payload: object, **options: object) -> str:
    async with aio.Publisher(broker, name) as publisher:
        return (await publisher.publish(payload, **options)).id


# --- delay -----------------------------------------------------------------------------------------------------------
def test_a_delayed_record_waits_in_a_stream_of_its_own_with_its_time_in_its_line(broker, publisher, name):
    moment = datetime.now(UTC) + timedelta(hours=1)
    receipts = [
        publisher.publish(0, key="k", delay=HOUR),
        publisher.submit(1, topic="t", delay=timedelta(hours=1)).result(10),
        broker.publish(name, 2, delay=moment, expires=2 * HOUR),
    ]
    assert [receipt.id for receipt in receipts] == [f"{name}-later/0/{n}" for n in range(3)]
    assert publisher.publish(3).id == f"{name}/0/0"
    lines = records(broker, f"{name}-later")
    assert [line["payload"] for line in lines] == [0, 1, 2]
    assert [line["due"] for line in lines] == pytest.approx([moment.timestamp()] * 3, abs=5)
    assert (lines[0]["key"], lines[1]["topic"], lines[2]["due"]) == ("k", "t", moment.timestamp())
    assert lines[2]["expires"] == pytest.approx(time.time() + 2 * HOUR, abs=5)


def test_publish_many_sends_each_record_its_way_and_gives_a_receipt_for_each(broker, name):
    stream = broker.stream(name, buckets=2)
    items = [n if n % 3 else TaskIn(n, key=f"k{n % 5}", delay=HOUR if n % 2 else None, expires=2 * HOUR) for n in range(90)]
    with Publisher(broker, name, batch_size=7) as publisher:
        receipts = publisher.publish_many(items)
    assert len({receipt.id for receipt in receipts}) == 90
    delayed = [item.payload for item in items if isinstance(item, TaskIn) and item.delay]
    assert [r.id for r in receipts][-len(delayed) :] == [f"{name}-later/0/{n}" for n in range(len(delayed))]
    assert [line["payload"] for line in records(broker, f"{name}-later")] == delayed
    there = records(broker, name)
    assert sorted(line["payload"] for line in there) == sorted(set(range(90)) - set(delayed))
    assert {line["payload"] for line in there if "expires" in line} == set(range(0, 90, 6))
    assert stream.add("due", 1, delay=HOUR).startswith(f"{name}-later/0/")
    assert stream.topic("t").add("due", 1, delay=HOUR).startswith(f"{name}-later/0/")


@pytest.mark.parametrize("suffix", ["-dlq", "-later"])
def test_nothing_can_be_delayed_in_a_stream_that_dq_keeps_itself(broker, publisher, name, suffix):
    with (
        Publisher(broker, name + suffix) as internal,
        pytest.raises(InvalidSetting, match=f"leave delay out, or publish to '{name}'"),
    ):
        internal.publish(1, delay=1)


def test_what_an_option_may_not_be_is_refused_before_anything_is_sent(broker, publisher, name):
    for option in ({"delay": -1}, {"expires": datetime(2030, 1, 1)}, {"once": ""}, {"priority": 1}, {"priority": True}):
        for face in (publisher.publish, publisher.submit, lambda *a, **o: broker.publish(name, *a, **o)):
            with pytest.raises(InvalidSetting):
                face(1, **option)
        with pytest.raises(InvalidSetting) as refused:
            publisher.publish_many([0, TaskIn(1, **option), 2])
        assert len(refused.value.receipts) == 1
    assert [line["payload"] for line in records(broker, name)] == [0] * 5


def test_close_waits_for_the_delayed_ones_too_and_so_does_flush(broker, name):
    publisher = Publisher(broker, name, linger=5)
    first = publisher.submit(1, delay=HOUR)
    assert publisher.waiting_bytes > 0
    publisher.flush(10)
    assert first.done()
    second = publisher.submit(2, delay=HOUR)
    publisher.close()
    assert second.result(0).id == f"{name}-later/0/1"
    with pytest.raises(dq.Closed):
        publisher.submit(3, delay=HOUR)


def test_delayed_ones_under_way_survive_a_broker_that_is_killed(broker, name):
    with Publisher(broker, name) as publisher:
        publisher.publish(-1, delay=HOUR)
        futures = [publisher.submit(n, delay=HOUR) for n in range(200)]
        kill(pids(broker)[0])
        futures += [publisher.submit(n, delay=HOUR) for n in range(200, 400)]
        offsets = [int(future.result(20).id.rpartition("/")[2]) for future in futures]
    assert offsets == list(range(1, 401))
    assert [line["payload"] for line in records(broker, f"{name}-later")] == list(range(-1, 400))


def test_a_publisher_for_delayed_records_is_its_parents_after_a_fork(broker, publisher, name):
    publisher.publish(0, delay=HOUR)
    read, write = os.pipe()
    child = os.fork()
    if not child:  # pragma: no cover
        try:
            publisher.publish(1, delay=HOUR)
        except Forked:
            os.write(write, b"refused")
        finally:
            os._exit(0)
    os.close(write)
    until(lambda: os.waitpid(child, os.WNOHANG)[0] == child)
    assert os.read(read, 100) == b"refused"
    os.close(read)
    assert publisher.publish(2, delay=HOUR).id == f"{name}-later/0/1"


def test_the_asyncio_publisher_delays_too_and_waits_for_it(broker, name):
    async def main() -> list[str]:
        async with aio.Publisher(broker, name) as publisher:
            many = await publisher.publish_many([TaskIn(0, delay=HOUR), 1])
            futures = [publisher.submit(n, delay=HOUR) for n in range(2, 5)]
            one = await publisher.publish(5, delay=HOUR, expires=2 * HOUR)
            with pytest.raises(InvalidSetting):
                publisher.submit(6, delay="soon")
            await publisher.flush(10)
            assert all(future.done() for future in futures)
            return [receipt.id for receipt in (*many, *[future.result() for future in futures], one)]

    assert asyncio.run(main()) == [f"{name}/0/0", *(f"{name}-later/0/{n}" for n in range(5))]
    assert [line["payload"] for line in records(broker, f"{name}-later")] == [0, 2, 3, 4, 5]


# --- expiry ----------------------------------------------------------------------------------------------------------
def in_time(number: int) -> TaskIn | int:
    """Every third one has expired, every third one will, and the others never."""
    return number if number % 3 == 2 else TaskIn(number, key="k", expires=HOUR * (number % 3))


@pytest.mark.parametrize("face", ["sync", "asyncio"])
def test_what_has_expired_is_not_handed_out_and_is_counted(broker, name, face):
    async def consume() -> list[int]:
        async with aio.Consumer(broker, name, sink=name, idle_timeout=0.2) as consumer:
            return [(task.ack(), task.payload)[1] async for task in consumer]

    with Publisher(broker, name) as publisher:
        publisher.publish_many(TaskIn(-n, expires=0) for n in range(1, 11))  # a whole batch, which the broker passes over
        publisher.publish_many(in_time(n) for n in range(90))
        publisher.publish(90, expires=datetime.now(UTC) - timedelta(days=1))
    if face == "sync":
        with Consumer(broker, name, sink=name, idle_timeout=0.2) as consumer:
            payloads = [(task.ack(), task.payload)[1] for task in consumer]
    else:
        payloads = asyncio.run(consume())
    assert sorted(payloads) == [n for n in range(90) if n % 3]
    stats = until(lambda: (found := broker.sink(name).stats()).settled == 60 and found)
    assert (stats.expired, stats.dropped) == (41, 0)
    assert len(records(broker, name)) == 101, "readers see them"


def test_a_record_that_expires_in_the_hand_is_not_handed_out(broker, name):
    with Publisher(broker, name) as publisher:
        publisher.publish_many([0, TaskIn(1, expires=0.3), TaskIn(2, expires=HOUR)])
    with Consumer(broker, name, sink=name, idle_timeout=0.2, prefetch=10) as consumer:
        given = []
        for task in consumer:
            with task:
                given.append(task.payload)
                if task.payload == 0:
                    time.sleep(0.35)  # the second one is here already, in time
    assert given == [0, 2]
    assert until(lambda: broker.sink(name).stats().expired == 1)
