"""A stream as a thing: made, added to, trimmed, removed from, destroyed, and what there is of it. Rows S1 and S2."""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import dq
from dq import Consumer, InvalidName, InvalidPayload, InvalidSetting, Publisher, SettingsMismatch, UnknownStream
from stage import until


def filled(broker: dq.BrokerManager, name: str, count: int = 100, **settings: object) -> dq.Stream:
    """A stream with so many records of about 150 bytes, in segments of some 30."""
    stream = broker.stream(name, segment_bytes=4096, **settings)
    with Publisher(broker, name, batch_size=10) as publisher:
        for begin in range(0, count, 10):  # one commit each: a commit is never split between segments
            publisher.publish_many({"n": n, "text": "x" * 100} for n in range(begin, begin + 10))
    return stream


def segments(broker: dq.BrokerManager, name: str, bucket: int = 0) -> list[str]:
    return sorted(os.listdir(Path(broker.root) / "streams" / name / str(bucket)))


def taken(broker: dq.BrokerManager, name: str, count: int) -> list[dq.Task]:
    """What a new sink is given."""
    with Consumer(broker, name, sink=f"{name}-new", idle_timeout=5) as consumer:
        tasks = []
        for task in consumer:
            task.ack()
            tasks.append(task)
            if len(tasks) == count:
                return tasks
    return tasks


# --- S1 ------------------------------------------------------------------------------------------------------------------
def test_a_stream_is_made_by_name_and_found_again(broker, name):
    """S1: it is made or opened; what it was made with is kept, and another wish is refused."""
    made = broker.stream(name, buckets=2, max_age=timedelta(hours=1))
    assert (made.name, made.buckets, made.settings.max_age) == (name, 2, 3600.0)
    assert broker.stream(name).settings == made.settings
    assert broker.stream(name, max_age=3600).buckets == 2
    with pytest.raises(SettingsMismatch, match=r"max_age=3600\.0 \(asked for: 60"):
        broker.stream(name, max_age=timedelta(minutes=1))
    assert name in broker.streams()
    assert broker.streams() == sorted(broker.streams())


def test_what_is_added_has_an_id_a_name_and_a_topic(broker, name):
    """S1: `add` returns the id once the record is committed."""
    stream = broker.stream(name)
    assert stream.add("paid", {"n": 1}) == f"{name}/0/0"
    assert stream.add("paid", {"n": 2}, "eu", headers={"by": "ada"}) == f"{name}/0/1"
    assert stream.topic("us").add("sent", {"n": 3}, key="ada") == f"{name}/0/2"
    tasks = taken(broker, name, 3)
    assert [(task.id, task.name, task.topic, task.payload["n"]) for task in tasks] == [
        (f"{name}/0/0", "paid", None, 1),
        (f"{name}/0/1", "paid", "eu", 2),
        (f"{name}/0/2", "sent", "us", 3),
    ]
    assert (tasks[1].headers, tasks[2].key) == ({"by": "ada"}, "ada")


def test_what_cannot_be_added_is_refused_and_nothing_is_stored(broker, name):
    stream = broker.stream(name)
    with pytest.raises(InvalidPayload):
        stream.add("paid", {1, 2})
    with pytest.raises(InvalidName):
        stream.topic("no topic")
    with pytest.raises(InvalidName):
        stream.add("paid", 1, "no topic")
    assert stream.stats().records == 0


def test_only_if_exists_adds_nothing_and_makes_nothing(broker, name):
    """S1: `only_if_exists` returns None where the stream is not there, also after it was there."""
    stream = broker.stream(name)
    assert stream.add("paid", 1, only_if_exists=True) == f"{name}/0/0"
    stream.destroy()
    assert stream.add("paid", 2, only_if_exists=True) is None
    assert stream.topic("eu").add("paid", 2, only_if_exists=True) is None
    assert name not in broker.streams()
    broker.stream(name)
    assert stream.add("paid", 3, only_if_exists=True) == f"{name}/0/0"


def test_a_name_that_is_none_is_refused(broker):
    for bad in ("", "a/b", "..", "x" * 129, "a-dlq-later", "gone.json/x"):
        with pytest.raises(InvalidName):
            broker.stream(bad)


# --- S2: limits ----------------------------------------------------------------------------------------------------------
def test_max_records_is_exact_and_the_disk_comes_back(broker, name):
    """S2: old records are trimmed; S2 better: what was given up is counted."""
    stream = filled(broker, name, max_records=25)
    stats = stream.stats()
    assert (stats.records, stats.firsts, stats.ends, stats.trimmed) == (25, (75,), (100,), 75)
    for n in range(5):
        stream.add("one", n)
        assert stream.stats().records == 25
    until(lambda: len(segments(broker, name)) <= 2, what="the segments below are unlinked")
    assert [task.offset for task in taken(broker, name, 25)] == list(range(80, 105))


def test_several_buckets_share_max_records_rounded_up(broker, name):
    stream = filled(broker, name, 400, buckets=3, max_records=10)
    assert stream.stats().records == 12
    assert all(end - first == 4 for first, end in zip(stream.stats().firsts, stream.stats().ends, strict=True))


def test_max_bytes_goes_by_the_segment_and_spares_the_active_one(broker, name):
    stream = filled(broker, name, 1_000, max_bytes=20_000)
    until(lambda: stream.stats().bytes <= 20_000 or stream.stats().segments == 1, what="the oldest segments are gone")
    stats = stream.stats()
    assert stats.trimmed == stats.firsts[0] == 1_000 - stats.records > 0
    assert segments(broker, name)[0] == f"{stats.firsts[0]:020d}.jsonl"


def test_records_beyond_max_age_are_gone_soon(broker, name):
    stream = filled(broker, name, 50, max_age=timedelta(seconds=0.5))
    assert stream.stats().records == 50
    until(lambda: stream.stats().records == 0, 3, what="all are too old")
    young = stream.add("young", 1)
    assert stream.stats().records == 1
    assert [task.id for task in taken(broker, name, 1)] == [young]


def test_a_stream_in_memory_has_the_same_limits(broker, name):
    stream = broker.stream(name, backend="memory", max_records=3)
    for n in range(10):
        stream.add("n", n)
    assert (stream.stats().records, stream.stats().trimmed) == (3, 7)
    assert stream.remove(f"{name}/0/8") == 1
    assert taken(broker, name, 1)[0].offset == 7


@pytest.mark.parametrize("setting", ["max_records", "max_bytes", "max_age", "ttl", "keep_seconds", "keep_bytes"])
@pytest.mark.parametrize("value", [-1, "many", True, timedelta(seconds=-1)])
def test_a_limit_that_is_none_is_refused(broker, name, setting, value):
    """S2: negative, or no number at all: an error, and no stream."""
    with pytest.raises(InvalidSetting, match=setting):
        broker.stream(name, **{setting: value})
    assert name not in broker.streams()


# --- S2: trim ------------------------------------------------------------------------------------------------------------
def test_a_trim_gives_up_the_oldest_and_says_how_many(broker, name):
    stream = filled(broker, name)
    assert stream.trim(max_records=60) == 40
    assert stream.trim(max_records=60) == 0
    assert stream.trim(before=f"{name}/0/50") == 10
    stats = stream.stats()
    assert (stats.records, stats.firsts, stats.trimmed) == (50, (50,), 50)
    until(lambda: segments(broker, name)[0] > f"{0:020d}.jsonl", what="the first segment is unlinked")
    assert [task.offset for task in taken(broker, name, 50)] == list(range(50, 100))
    assert stream.trim("newest") == 50
    assert stream.stats().records == 0


def test_a_trim_before_a_time_keeps_what_came_then_and_later(broker, name):
    stream = filled(broker, name, 30)
    between = datetime.now(UTC)
    stream.add("young", 1)
    assert stream.trim(before=timedelta(hours=1)) == 0
    assert stream.trim(before=between) == 30
    assert stream.stats().firsts == (30,)


def test_a_trim_of_one_bucket_leaves_the_others(broker, name):
    stream = filled(broker, name, 100, buckets=2)
    before = stream.stats()
    assert stream.trim(before=f"{name}/1/20") == 20
    assert stream.stats().firsts == (before.firsts[0], 20)


@pytest.mark.parametrize(
    "wish",
    [
        {},
        {"before": "newest", "max_records": 1},
        {"max_records": -1},
        {"max_records": 1.5},
        {"max_records": True},
        {"before": "yesterday"},
        {"before": "another/0/1"},
        {"before": datetime(2026, 1, 1)},  # no time zone
        {"before": timedelta(seconds=-1)},
        {"before": 7},
    ],
)
def test_a_trim_that_means_nothing_is_refused(broker, name, wish):
    stream = filled(broker, name, 10)
    with pytest.raises(InvalidSetting):
        stream.trim(**wish)
    assert stream.stats().records == 10


# --- S2: remove ----------------------------------------------------------------------------------------------------------
def test_removed_records_are_counted_once_and_only_if_they_are_there(broker, name):
    """S2: `remove(ids)`."""
    stream = filled(broker, name, 20)
    stream.trim(max_records=18)
    assert stream.remove(*(f"{name}/0/{n}" for n in (1, 5, 6, 6, 7, 20, 10**18))) == 3
    assert stream.remove(f"{name}/0/6") == 0
    assert stream.remove() == 0
    stats = stream.stats()
    assert (stats.records, stats.removed, stats.trimmed) == (15, 3, 2)


@pytest.mark.parametrize("bad", ["another/0/1", "{name}/1/0", "{name}/0", "{name}/0/-1", "{name}/0/01", "", 7])
def test_an_id_of_something_else_is_refused_and_nothing_is_removed(broker, name, bad):
    stream = filled(broker, name, 10)
    with pytest.raises(InvalidSetting):
        stream.remove(f"{name}/0/1", bad.format(name=name) if isinstance(bad, str) else bad)
    assert stream.stats().removed == 0


# --- S2: destroy and ttl -------------------------------------------------------------------------------------------------
def test_a_stream_that_is_destroyed_gives_its_disk_back(broker, name):
    """S2: `destroy()`; one that is not there is no error."""
    stream = filled(broker, name)
    stream.destroy()
    assert not (Path(broker.root) / "streams" / name).exists()
    assert not [left for left in os.listdir(Path(broker.root) / "streams") if left.endswith(".gone")]
    stream.destroy()
    for ask in (stream.stats, lambda: stream.trim(max_records=1), lambda: stream.remove(f"{name}/0/1")):
        with pytest.raises(UnknownStream, match=name):
            ask()


def test_add_after_destroy_makes_it_anew_as_it_was(broker, name):
    """S2: and the handle's settings count."""
    stream = broker.stream(name, buckets=3, max_records=30)
    stream.add("old", 1)
    stream.destroy()
    assert stream.add("new", 2, key="k").endswith("/0")
    assert stream.stats().settings == stream.settings
    assert stream.stats().records == 1


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_a_publisher_that_is_alive_goes_on_in_the_new_stream(broker, name, busy):
    """S2: add after destroy makes it anew, and numbers begin anew; nothing of what is under way is lost."""
    stream = broker.stream(name, buckets=2)
    with Publisher(broker, name, batch_size=5) as publisher:
        publisher.publish_many(range(100))
        future = None
        if busy:
            future = [publisher.submit(n) for n in range(200)]
        stream.destroy()
        receipt = publisher.publish("anew", key="a")
        assert receipt.id.startswith(name)
        assert stream.stats().settings.buckets == 2
        if future is not None:
            for each in future:
                each.result(10)
        publisher.publish_many(range(50))
        assert stream.stats().records >= 51


def test_a_publisher_that_may_not_make_it_is_told(broker, name):
    broker.stream(name)
    with Publisher(broker, name, create=False, reconnect_timeout=5) as publisher:
        publisher.publish(1)
        broker.stream(name).destroy()
        with pytest.raises(UnknownStream):
            publisher.publish(2)
    assert name not in broker.streams()


def test_a_publisher_whose_stream_has_other_buckets_now_is_refused(broker, name):
    """Its keys have other buckets, so it says to be made anew; the handle's own publisher is, by itself."""
    broker.stream(name, buckets=4)
    broker.publish(name, 1)
    publisher = Publisher(broker, name)
    publisher.publish(1)
    broker.stream(name).destroy()
    broker.stream(name, buckets=2)
    with pytest.raises(dq.Closed, match="make a new Publisher"):
        publisher.publish(2)
    publisher.close()
    assert broker.publish(name, 2).id.startswith(f"{name}/")
    assert broker.stream(name).stats().records == 1


def test_the_dead_letters_of_a_destroyed_stream_stay(broker, name):
    stream = broker.stream(name)
    stream.add("bad", 1)
    with Consumer(broker, name, sink=name, idle_timeout=5) as consumer:
        next(iter(consumer)).dead_letter("no good")
        consumer.flush(5)
        until(lambda: f"{name}-dlq" in broker.streams(), what="the dead letter is stored")
    stream.destroy()
    assert broker.stream(f"{name}-dlq").stats().records == 1


def test_a_stream_with_a_ttl_is_destroyed_when_it_is_over(broker, name):
    """S2: an absolute ttl counts from when the stream was made, whatever is added; a sliding one is renewed by each add."""
    broker.stream(name, ttl=timedelta(seconds=1.2))
    sliding = broker.stream(f"{name}-sliding", ttl=1.2, ttl_sliding=True)
    stop, added = threading.Event(), []

    def add() -> None:
        while not stop.wait(0.1):
            added.append(sliding.add("tick", 1, only_if_exists=True))

    thread = threading.Thread(target=add)
    thread.start()
    try:
        until(lambda: name not in broker.streams(), what="its time is over")
        count = len(added)
        until(lambda: len(added) > count + 15, what="the other one is renewed all the time")
    finally:
        stop.set()
        thread.join()
    assert None not in added
    until(lambda: f"{name}-sliding" not in broker.streams(), what="nobody renews it any more")


def test_it_says_in_words_what_cannot_be_asked_of_a_stream(broker, name):
    broker.stream(name)
    with pytest.raises(InvalidSetting, match="can be asked for trim, remove, destroy, stats, sync, list"):
        broker.change("stream", name, "polish")
    with pytest.raises(UnknownStream, match=f"did you mean '{name}'"):
        broker.change("stream", f"{name}x", "stats")
