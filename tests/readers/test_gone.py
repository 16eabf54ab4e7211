"""Records that are taken out of a stream, trimmed, or destroyed with it, under a reader."""

from __future__ import annotations

import pytest

from dq import BrokerManager, Publisher, Reader, RecordsTrimmed, UnknownStream
from stage import Threaded, until


def publish(broker: BrokerManager, stream: str, count: int, first: int = 0) -> None:
    with Publisher(broker, stream) as publisher:
        publisher.publish_many({"n": n} for n in range(first, first + count))


def numbers(records: list) -> list[int]:
    return [record.payload["n"] for record in records]


def test_removed_records_are_passed_over(broker: BrokerManager, name: str) -> None:
    stream = broker.stream(name)
    publish(broker, name, 20)
    with Reader(broker, name, start="oldest") as before:
        assert numbers(before.get(5)) == list(range(5))
        gone = (3, 6, 7, 19)
        assert stream.remove(*[f"{name}/0/{n}" for n in gone]) == 4
        with Reader(broker, name, start="oldest") as after:
            left = [n for n in range(20) if n not in gone]
            assert numbers(after.get()) == left
            after.reset()
            assert [run.first + at for run in after.lines() for at in range(run.count)] == left
            assert after.position == f"{name}=20"
        before.refresh()
        assert numbers(before.get()) == [n for n in left if n >= 5]
        assert before.missed == after.missed == 0


def test_records_below_a_trim_are_not_served(broker: BrokerManager, name: str) -> None:
    stream = broker.stream(name)
    publish(broker, name, 100)
    with Reader(broker, name, start="oldest") as reader:
        assert numbers(reader.get(10)) == list(range(10))
        stream.trim(f"{name}/0/40")
        reader.refresh()
        with pytest.raises(RecordsTrimmed, match="30 records") as caught:
            reader.get()
        assert (caught.value.first, caught.value.missed, reader.missed) == (40, 30, 30)
        assert numbers(reader.get()) == list(range(40, 100))
        with Reader(broker, name, start="oldest") as late:
            assert numbers(late.get(1)) == [40]


def test_a_stream_that_is_made_anew_is_read_from_its_first_record(broker: BrokerManager, name: str) -> None:
    stream = broker.stream(name)
    publish(broker, name, 10)
    with Reader(broker, name, start="oldest") as reader:
        assert len(reader.get()) == 10
        stream.destroy()
        publish(broker, name, 3, 100)
        assert numbers(reader.get(timeout=10)) == [100, 101, 102]


def test_a_waiting_reader_of_a_stream_that_is_destroyed_is_told(broker: BrokerManager, name: str) -> None:
    stream = broker.stream(name)
    with Reader(broker, name) as reader:
        waiting = Threaded(lambda: reader.get(timeout=20))
        until(lambda: any(r["waits"] for r in broker.stats()["publisher_broker"]["readers"].values()))
        stream.destroy()
        with pytest.raises(UnknownStream):
            waiting.result()
        publish(broker, name, 1)
        assert numbers(reader.get(timeout=10)) == [0]
