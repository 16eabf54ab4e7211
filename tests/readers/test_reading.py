"""Readers: each sees every record, once and in order, of one or more streams and buckets."""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime, timedelta

import pytest

from dq import BrokerManager, Closed, Consumer, InvalidSetting, Publisher, Reader, RecordsTrimmed, UnknownStream, connect
from stage import Child, Threaded, until


def fill(broker: BrokerManager, stream: str, count: int, first: int = 0, **fields: object) -> None:
    with Publisher(broker, stream) as publisher:
        publisher.publish_many({"n": n, **fields} for n in range(first, first + count))


def numbers(records: list) -> list[int]:
    return [record.payload["n"] for record in records]


def drained(reader: Reader, limit: int = 1000) -> list:
    found = []
    while part := reader.get(limit):
        assert len(part) <= limit
        found += part
    return found


# --- all of it ---------------------------------------------------------------------------------------------------------


def test_every_reader_sees_every_record_in_order(broker: BrokerManager, name: str) -> None:
    """S3: readers are independent, and everyone gets everything."""
    fill(broker, name, 3000)
    for limit in (1, 7, 1000, 100_000):
        with Reader(broker, name, start="oldest") as reader:
            found = drained(reader, limit) if limit > 1 else reader.get(1)
            assert numbers(found) == list(range(3000 if limit > 1 else 1))
            assert [record.offset for record in found[:3]] == list(range(len(found[:3])))


def test_a_reader_begins_at_the_newest_unless_told_otherwise(broker: BrokerManager, name: str) -> None:
    """S3: start at newest (default)."""
    fill(broker, name, 10)
    with Reader(broker, name) as reader:
        assert reader.get() == []
        fill(broker, name, 3, 10)
        assert numbers(reader.get()) == [10, 11, 12]


def test_a_record_that_was_confirmed_is_seen_without_waiting(broker: BrokerManager, name: str) -> None:
    """P2: visible to readers as soon as `put` returns; P6: past the end there is nothing."""
    with Publisher(broker, name) as publisher, Reader(broker, name, start="newest") as reader:
        for n in range(50):
            publisher.publish({"n": n})
            assert numbers(reader.get()) == [n]
            assert reader.get() == []


def test_a_record_says_all_that_was_published(broker: BrokerManager, name: str) -> None:
    """S8: an event carries id, stream, name, topic, payload and `created_at` in UTC."""
    with Publisher(broker, name) as publisher:
        publisher.publish(b"raw", key="k", topic="t", name="created", headers={"a": "b"})
    with Reader(broker, name, start="oldest") as reader:
        [record] = reader.get()
    assert (record.id, record.stream, record.bucket, record.offset) == (f"{name}/0/0", name, 0, 0)
    assert (record.key, record.topic, record.name, record.headers, record.payload) == ("k", "t", "created", {"a": "b"}, b"raw")
    assert record.created_at.tzinfo is UTC
    assert abs((datetime.now(UTC) - record.created_at).total_seconds()) < 60


def test_lines_are_what_stands_in_the_log(broker: BrokerManager, name: str) -> None:
    broker.stream(name, buckets=2)
    fill(broker, name, 2000)
    with Reader(broker, name, start="oldest") as reader:
        lines, records = reader.lines(300), []
        assert sum(run.count for run in lines) <= 300
        while part := reader.lines(300):
            lines += part
        reader.reset()
        records = drained(reader)
    assert sum(run.count for run in lines) == 2000 == len(records)
    for run in lines:
        assert run.stream == name
        assert bytes(run.lines).count(b"\n") == run.count
    places = {(run.bucket, run.first + at) for run in lines for at in range(run.count)}
    assert places == {(record.bucket, record.offset) for record in records}


def test_iteration_ends_where_the_end_is_unless_it_follows(broker: BrokerManager, name: str) -> None:
    fill(broker, name, 1200)
    with Reader(broker, name, start="oldest", follow=False) as reader:
        assert numbers(list(reader)) == list(range(1200))
        fill(broker, name, 5, 1200)
        assert numbers(list(reader)) == list(range(1200, 1205))
    with Reader(broker, name, start="oldest") as reader:
        seen = []
        for record in reader:
            seen.append(record)
            if len(seen) == 1205:
                fill(broker, name, 1, 1205)
            elif len(seen) == 1206:
                reader.stop()
        assert numbers(seen) == list(range(1206))


def test_a_large_record_comes_whole(broker: BrokerManager, name: str) -> None:
    with Publisher(broker, name) as publisher:
        publisher.publish_many([{"n": 0, "pad": "x" * 5_000_000}, {"n": 1}, {"n": 2, "pad": "y" * 5_000_000}])
    with Reader(broker, name, start="oldest") as reader:
        assert numbers(drained(reader)) == [0, 1, 2]


# --- where it begins and stands --------------------------------------------------------------------------------------------


def test_it_begins_after_an_id_or_at_a_time(broker: BrokerManager, name: str) -> None:
    """S3: start oldest, after an id, at a time; a timedelta ago."""
    with Publisher(broker, name) as publisher:
        publisher.publish_many({"n": n} for n in range(10))
        with Reader(broker, name, start="oldest") as reader:
            last = reader.get()[-1].created_at
        until(lambda: datetime.now(UTC) > last + timedelta(milliseconds=20))
        moment = datetime.now(UTC)
        until(lambda: datetime.now(UTC) > moment + timedelta(milliseconds=5))
        publisher.publish_many({"n": n} for n in range(10, 20))
    for start, first in (("oldest", 0), (f"{name}/0/14", 15), (moment, 10), (timedelta(hours=1), 0), (f"{name}=7", 7)):
        with Reader(broker, name, start=start) as reader:
            assert numbers(reader.get()) == list(range(first, 20)), start
    with Reader(broker, name, start=datetime.now(UTC) + timedelta(hours=1)) as reader:
        assert reader.get() == []


def test_a_position_goes_on_in_another_reader(broker: BrokerManager, name: str) -> None:
    broker.stream(name, buckets=3)
    fill(broker, name, 3000)
    with Reader(broker, name, start="oldest", follow=False) as reader:
        seen = []
        for record in reader:
            seen.append(record.id)
            if len(seen) == 1234:
                break
        position = reader.position
    with Reader(broker, name, start=position) as reader:
        assert reader.position == position
        rest = [record.id for record in drained(reader)]
    assert len(rest) == 3000 - 1234
    assert len({*seen, *rest}) == 3000


def test_it_goes_back_and_elsewhere(broker: BrokerManager, name: str) -> None:
    """P6: `reset()`, `set_offset()`; past the end there is nothing, until there is something."""
    fill(broker, name, 100)
    with Reader(broker, name, start=f"{name}/0/49") as reader:
        assert len(drained(reader)) == 50
        reader.reset()
        assert numbers(reader.get(1)) == [50]
        reader.seek("oldest")
        assert numbers(reader.get(2)) == [0, 1]
        reader.seek("newest")
        assert reader.get() == []
        reader.seek(f"{name}=102")
        assert reader.get() == []
        fill(broker, name, 5, 100)
        assert numbers(reader.get()) == [102, 103, 104]
        with pytest.raises(InvalidSetting):
            reader.seek(f"{name}=-1")
        with pytest.raises(InvalidSetting):
            reader.seek("other=4")


def test_an_id_is_a_place_in_one_bucket(broker: BrokerManager, name: str) -> None:
    broker.stream(name, buckets=2)
    with pytest.raises(InvalidSetting, match="that one bucket"):
        Reader(broker, name, start=f"{name}/0/3")
    fill(broker, name, 1000)
    with Reader(broker, name, start=f"{name}/1/3", buckets=[1]) as reader:
        assert [(record.bucket, record.offset) for record in reader.get(2)] == [(1, 4), (1, 5)]


# --- buckets ---------------------------------------------------------------------------------------------------------------


def test_ranks_share_the_buckets(broker: BrokerManager, name: str) -> None:
    """P5: rank r of w reads the buckets i with i % w == r."""
    broker.stream(name, buckets=5)
    fill(broker, name, 5000)
    seen = []
    for rank in range(2):
        with Reader(broker, name, start="oldest", rank=rank, world_size=2) as reader:
            found = drained(reader)
        assert {record.bucket for record in found} == {bucket for bucket in range(5) if bucket % 2 == rank}
        seen += numbers(found)
    assert sorted(seen) == list(range(5000))


def test_news_of_buckets_that_it_does_not_read_does_not_end_its_waiting(broker: BrokerManager, name: str) -> None:
    """P5: a ranked reader is told of all buckets of a stream, and goes on asking until there is something of its own."""
    # Given two keys that go to different buckets, and a reader of one of them that waits
    broker.stream(name, buckets=2)
    with Publisher(broker, name) as publisher, Reader(broker, name, rank=0, world_size=2) as reader:
        waiting = Threaded(lambda: reader.get(timeout=5))
        until(lambda: any(told["waits"] for told in broker.stats()["publisher_broker"]["readers"].values()))
        # When something comes to the other bucket, and then to its own
        for key in ("ada", "ada", "eve"):
            publisher.publish({"key": key}, key=key)
        # Then it has that
        assert [record.payload["key"] for record in waiting.result()] == ["eve"]


@pytest.mark.parametrize(
    "wish",
    [
        {"rank": 2, "world_size": 2}, {"rank": -1, "world_size": 2}, {"rank": 0}, {"world_size": 2},
        {"rank": 0, "world_size": 0},
        {"rank": True, "world_size": 2}, {"buckets": [1]}, {"buckets": []}, {"buckets": [-1]}, {"buckets": ["0"]},
        {"buckets": [0], "rank": 0, "world_size": 1}, {"start": "yesterday"}, {"start": datetime(2026, 1, 1)},
        {"start": timedelta(seconds=-1)}, {"topic": "a", "pattern": "b"}, {"pattern": "("}, {"match": 3},
        {"reconnect_timeout": -1},
    ],
    ids=str,
)  # fmt: skip
def test_a_wish_that_cannot_be_is_refused(broker: BrokerManager, name: str, wish: dict) -> None:
    """P5: a rank that is not below world_size is an error; S7: a bad pattern says so."""
    broker.stream(name)
    with pytest.raises(InvalidSetting):
        Reader(broker, name, **wish)
    until(lambda: not any(name in r["streams"] for r in broker.stats()["publisher_broker"]["readers"].values()))


def test_a_call_that_cannot_be_is_refused(broker: BrokerManager, name: str) -> None:
    broker.stream(name)
    with Reader(broker, name) as reader:
        for wish in ({"limit": 0}, {"limit": -1}, {"limit": 1.5}, {"timeout": -1}, {"timeout": "1"}):
            with pytest.raises(InvalidSetting):
                reader.get(**wish)
    with pytest.raises(InvalidSetting, match="needs a stream"):
        Reader(broker)


def test_a_busy_bucket_does_not_starve_the_others(broker: BrokerManager, name: str) -> None:
    """P better: a busy bucket 0 starved the rest."""
    other = f"{name}b"
    broker.stream(other)
    fill(broker, name, 20_000)
    with Reader(broker, name, other, start="oldest") as reader:
        assert len(reader.get(100)) == 100
        fill(broker, other, 10)
        turns = next(turn for turn in range(1000) if any(record.stream == other for record in reader.get(100)))
        assert turns < 190  # long before the end of the busy one
        reader.reset()
        both = reader.get(100)
        assert {record.stream for record in both} == {name, other}


# --- streams come and go ---------------------------------------------------------------------------------------------------


def test_streams_are_added_and_removed_while_it_runs(broker: BrokerManager, name: str) -> None:
    """S6: one reader over several streams, each with its own start; both idempotent."""
    names = [f"{name}{part}" for part in "abc"]
    for each in names:
        fill(broker, each, 10)
    with Reader(broker, names[0], start="oldest") as reader:
        assert len(reader.get()) == 10
        reader.add_stream(names[1], start="oldest")
        reader.add_stream(names[1], start="newest")
        reader.add_stream(names[2])
        assert reader.streams == tuple(names)
        assert [(record.stream, record.payload["n"]) for record in drained(reader)] == [(names[1], n) for n in range(10)]
        fill(broker, names[2], 1, 10)
        assert numbers(reader.get()) == [10]
        reader.remove_stream(names[2])
        reader.remove_stream(names[2])
        for each in names:
            fill(broker, each, 1, 11)
        assert sorted(record.stream for record in drained(reader)) == names[:2]
        with pytest.raises(UnknownStream):
            reader.add_stream(f"{name}x")
        with pytest.raises(InvalidSetting):
            reader.add_stream(names[2], start=f"{names[0]}/0/1")
        assert reader.streams == tuple(names[:2])
        fill(broker, names[0], 1, 12)
        assert numbers(reader.get()) == [12]


def test_an_unknown_stream_is_refused_with_near_names(broker: BrokerManager, name: str) -> None:
    broker.stream(f"{name}-orders")
    with pytest.raises(UnknownStream, match=f"{name}-orders"):
        Reader(broker, f"{name}-order")
    assert f"{name}-order" not in broker.stats()["publisher_broker"]["streams"]


# --- filters ---------------------------------------------------------------------------------------------------------------


def publish_topics(broker: BrokerManager, stream: str) -> None:
    """Batches of one topic, of two, of none, and of more than a header names."""
    with Publisher(broker, stream) as publisher:
        n = 0
        for topics in (["a"], ["b"], ["a", "b"], [None], [None, "a"], [f"t{part}" for part in range(30)], ["a", "orders.eu"]):
            for topic in topics * 3:
                publisher.submit({"n": n, "topic": topic}, topic=topic)
                n += 1
            publisher.flush()


@pytest.mark.parametrize("decoded", [True, False], ids=["records", "lines"])
def test_a_filter_takes_what_it_names_and_passes_over_the_rest(broker: BrokerManager, name: str, decoded: bool) -> None:
    """S7: matching by exact topic or pattern (`re.search`), or by the user's own function."""
    publish_topics(broker, name)
    with Reader(broker, name, start="oldest") as reader:
        everything = drained(reader)
    wishes = [
        ({"topic": "a"}, lambda topic: topic == "a"),
        ({"topic": "t7"}, lambda topic: topic == "t7"),
        ({"pattern": "^orders|b"}, lambda topic: topic in ("orders.eu", "b")),
        ({"pattern": "^$"}, lambda topic: topic is None),
        ({"match": lambda record: record.payload["n"] % 2 == 0 and record.topic == "a"}, None),
        ({"topic": "nothing"}, lambda topic: False),
    ]
    for wish, takes in wishes:
        expected = [r.offset for r in everything if (takes(r.topic) if takes else wish["match"](r))]
        with Reader(broker, name, start="oldest", **wish) as reader:
            if decoded:
                assert [record.offset for record in drained(reader, 5)] == expected
            else:
                offsets = []
                while runs := reader.lines(5):
                    offsets += [run.first + at for run in runs for at in range(run.count)]
                assert offsets == expected
            assert reader.position == f"{name}={len(everything)}"


def test_what_the_users_function_raises_is_raised_and_nothing_is_lost(broker: BrokerManager, name: str) -> None:
    fill(broker, name, 10)
    failing = {7}

    def match(record) -> bool:
        if record.payload["n"] in failing:
            raise ZeroDivisionError
        return True

    with Reader(broker, name, start="oldest", match=match) as reader:
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                reader.get()
        failing.clear()
        assert numbers(reader.get()) == list(range(10))


# --- what is gone ----------------------------------------------------------------------------------------------------------


def test_records_that_are_gone_are_told_of_once(broker: BrokerManager, name: str) -> None:
    broker.stream(name, segment_bytes=1 << 20, keep_seconds=0, keep_bytes=0)
    with Reader(broker, name, start="oldest") as reader:
        pad = "x" * 1000
        fill(broker, name, 5000, pad=pad)
        assert len(reader.get(10)) == 10
        with Sink(broker, name) as consume:
            consume(5000)
            until(lambda: broker.stats()["publisher_broker"]["streams"][name]["records"] < 5000, what="segments go")
        position = reader.position
        with pytest.raises(RecordsTrimmed, match="goes on with offset") as caught:
            drained(reader)
        first = caught.value.first
        assert 0 < caught.value.missed == reader.missed
        rest = drained(reader)
        assert numbers(rest) == list(range(first, 5000))
        # A saved position that lies below is no other case
        with Reader(broker, name, start=position) as late:
            with pytest.raises(RecordsTrimmed):
                late.get()
            assert len(drained(late)) == len(drained(Reader(broker, name, start="oldest")))


class Sink:
    """Consumes so many records of a stream, so that its segments may go."""

    def __init__(self, broker: BrokerManager, stream: str) -> None:
        self._broker, self._stream = broker, stream

    def __enter__(self):
        self._consumer = Consumer(self._broker, self._stream, sink=f"{self._stream}-sink")

        def consume(count: int) -> None:
            tasks = iter(self._consumer)
            for _ in range(count):
                next(tasks).ack()
            self._consumer.flush()

        return consume

    def __exit__(self, *_: object) -> None:
        self._consumer.close()


# --- its end ---------------------------------------------------------------------------------------------------------------


def test_it_is_closed_once_and_refused_afterwards(broker: BrokerManager, name: str) -> None:
    """S9: safe twice, use after close refused."""
    fill(broker, name, 3)
    reader = Reader(broker, name, start="oldest")
    reader.close()
    reader.close()
    reader.stop()
    for use in (reader.get, reader.lines, lambda: list(reader), reader.reset, lambda: reader.seek("oldest")):
        with pytest.raises(Closed):
            use()
    until(lambda: not any(name in r["streams"] for r in broker.stats()["publisher_broker"]["readers"].values()))


def test_a_waiting_read_is_ended_by_stop_and_by_close(broker: BrokerManager, name: str) -> None:
    broker.stream(name)
    for ends in ("stop", "close"):
        reader = Reader(broker, name)
        waiting = Threaded(lambda reader=reader: reader.get(timeout=None))
        until(lambda: any(r["waits"] for r in broker.stats()["publisher_broker"]["readers"].values()))
        getattr(reader, ends)()
        if ends == "stop":
            assert waiting.result() == []
            assert list(reader) == []
        else:
            with pytest.raises(Closed):
                waiting.result()
        reader.close()


def test_threads_share_a_reader(broker: BrokerManager, name: str) -> None:
    broker.stream(name, buckets=2)
    fill(broker, name, 6000)
    with Reader(broker, name, start="oldest", follow=False) as reader:
        found: list[str] = []

        def take() -> None:
            while part := reader.get(50):
                found.extend(record.id for record in part)

        threads = [threading.Thread(target=take) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert len(found) == len(set(found)) == 6000


def test_a_forked_child_is_refused_and_does_not_disturb(broker: BrokerManager, name: str) -> None:
    code = """
from dq import Publisher, Reader, Forked
with Publisher(sys.argv[1], sys.argv[2]) as publisher, Reader(sys.argv[1], sys.argv[2]) as reader:
    publisher.publish(1)
    child = os.fork()
    if not child:
        try:
            reader.get()
        except Forked:
            os._exit(7)
        os._exit(1)
    say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    publisher.publish(2)
    say([record.payload for record in reader.get()])
"""
    with Child(code, broker.root, name) as child:
        assert child.hear() == 7
        assert child.hear() == [1, 2]
        assert child.wait() == 0


def test_it_takes_a_path_or_what_connect_returns(broker: BrokerManager, name: str) -> None:
    fill(broker, name, 2)
    with connect(broker.root) as attached, Reader(attached, name, start="oldest") as one:
        assert len(one.get()) == 2
    with Reader(os.fspath(broker.root), name, start="oldest") as two:
        assert len(two.get()) == 2
