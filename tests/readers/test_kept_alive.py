"""A reader waits without polling, outlives the brokers, reads without one, and costs the others nothing."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from dq import BrokerLost, BrokerManager, BrokerNotRunning, Damaged, Publisher, Reader, UnknownStream
from stage import Child, Threaded, kill, pids, until


def waits(broker: BrokerManager, count: int = 1) -> bool:
    return sum(reader["waits"] for reader in broker.stats()["publisher_broker"].get("readers", {}).values()) >= count


def publish(broker: BrokerManager | Path, stream: str, *numbers: int) -> None:
    with Publisher(broker, stream) as publisher:
        publisher.publish_many({"n": n} for n in numbers)


def numbers(records: list) -> list[int]:
    return [record.payload["n"] for record in records]


@pytest.fixture
def own(tmp_path: Path):
    """A broker of this test's own: its processes are killed."""
    with BrokerManager(tmp_path / "queue_data") as broker:
        yield broker


def woken(pid: int) -> int:
    """How often a process gave up the processor of its own will: once for each time it woke."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        status = Path(f"/proc/{pid}/task/{task}/status").read_text()
        total += int(status.split("\nvoluntary_ctxt_switches:")[1].split()[0])
    return total


def test_a_waiting_read_returns_with_the_first_record_of_any_bucket(broker: BrokerManager, name: str) -> None:
    """P better: waiting was done bucket by bucket, and ended only when `limit` was full."""
    other = f"{name}b"
    broker.stream(name, buckets=8)
    broker.stream(other, buckets=8)
    with Reader(broker, name, other) as reader, Publisher(broker, other) as publisher:
        for n in range(12):
            waiting = Threaded(lambda: reader.get(100, timeout=10))
            until(lambda: waits(broker))
            began = time.monotonic()
            publisher.publish({"n": n})
            assert numbers(waiting.result()) == [n]
            assert time.monotonic() - began < 1
        began = time.monotonic()
        assert reader.get(timeout=0.1) == []
        assert 0.1 <= time.monotonic() - began < 1


def test_waiting_costs_no_polling(own: BrokerManager) -> None:
    """S4 better, readers: neither the reader nor a broker wakes while nothing happens."""
    own.stream("quiet")
    code = """
from dq import Reader
with Reader(sys.argv[1], "quiet") as reader:
    say("ready")
    while True:
        say([record.payload for record in reader.get(timeout=None)])
"""
    with Child(code, own.root) as child:
        assert child.hear() == "ready"
        until(lambda: waits(own))
        publisher_broker, _ = pids(own)

        def in_a_second() -> tuple[int, int]:
            before = woken(child.pid), woken(publisher_broker)
            threading.Event().wait(1.0)
            return woken(child.pid) - before[0], woken(publisher_broker) - before[1]

        until(lambda: (woken_now := in_a_second())[0] <= 1 and woken_now[1] <= 3, what="a second in which nobody wakes")
        publish(own, "quiet", 1)
        assert child.hear() == [{"n": 1}]


def test_a_waiting_reader_outlives_both_brokers_processes(own: BrokerManager) -> None:
    """A kill of the publisher broker under a waiting reader: it goes on, sees each record once, and none is missing."""
    publish(own, "orders", 0)
    with Reader(own, "orders", start="oldest") as reader:
        assert numbers(reader.get()) == [0]
        for n in range(1, 4):
            waiting = Threaded(lambda: reader.get(timeout=20))
            until(lambda: waits(own))
            kill(pids(own)[0])
            publish(own, "orders", n)
            assert numbers(waiting.result(20)) == [n]
        assert reader.lost == reader.missed == 0


def test_a_waiting_reader_outlives_the_manager(tmp_path: Path) -> None:
    root = tmp_path / "queue_data"
    first = BrokerManager(root)
    publish(first, "orders", 0)
    with Reader(root, "orders", start="oldest", reconnect_timeout=30) as reader:
        assert numbers(reader.get()) == [0]
        waiting = Threaded(lambda: reader.get(timeout=25))
        until(lambda: waits(first))
        kill(first.manager_pid)
        first.close()
        with BrokerManager(root) as second:
            publish(second, "orders", 1)
            assert numbers(waiting.result(25)) == [1]


def test_a_broker_that_stays_away_is_told_of_and_looked_for_again(tmp_path: Path) -> None:
    root = tmp_path / "queue_data"
    with BrokerManager(root) as broker:
        publish(broker, "orders", 0)
        reader = Reader(root, "orders", reconnect_timeout=0.2)
    with pytest.raises(BrokerLost, match="start it again"):
        reader.get(timeout=20)
    with BrokerManager(root) as broker:
        publish(broker, "orders", 1)
        assert numbers(reader.get(timeout=10)) == [1]
    reader.close()


# --- without a broker ------------------------------------------------------------------------------------------------------


def test_what_is_on_disk_is_read_without_a_broker(tmp_path: Path) -> None:
    """Without a running broker a reader can still read the directory, and does not wait."""
    root = tmp_path / "queue_data"
    with BrokerManager(root) as broker:
        broker.stream("orders", buckets=3, segment_bytes=1 << 20)
        publish(broker, "orders", *range(3000))
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    with Reader(root, "orders", start="oldest") as reader:
        assert len(reader.get(10_000)) == 3000
        assert reader.get() == []
        with pytest.raises(BrokerNotRunning, match="all that is on disk was read"):
            reader.get(timeout=1)
        with pytest.raises(BrokerNotRunning):
            list(reader)
        reader.add_stream("orders")
        with pytest.raises(UnknownStream):
            reader.add_stream("others")
        reader.reset()
        assert len(reader.get(10_000)) == 3000
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    with pytest.raises(UnknownStream):
        Reader(root, "others")
    with pytest.raises(BrokerNotRunning):
        Reader(tmp_path, "orders")


def test_a_torn_tail_is_not_read_and_not_touched(tmp_path: Path) -> None:
    root = tmp_path / "queue_data"
    with BrokerManager(root) as broker:
        publish(broker, "orders", *range(10))
        publish(broker, "orders", *range(10, 20))
        for pid in (broker.manager_pid, *pids(broker)):
            kill(pid)
    path = root / "streams" / "orders" / "0" / f"{0:020d}.jsonl"
    content = path.read_bytes()
    path.write_bytes(content[:-10])
    with Reader(root, "orders", start="oldest", follow=False) as reader:
        assert numbers(list(reader)) == list(range(10))
    assert path.read_bytes() == content[:-10]
    path.write_bytes(content.replace(b'"n":3', b'"n":4'))
    with pytest.raises(Damaged, match="checksum"):
        Reader(root, "orders", start="oldest")


def test_it_goes_on_with_a_broker_that_is_started_meanwhile(tmp_path: Path) -> None:
    root = tmp_path / "queue_data"
    with BrokerManager(root) as broker:
        publish(broker, "orders", 0)
    with Reader(root, "orders", start="oldest") as reader:
        assert numbers(reader.get()) == [0]
        with BrokerManager(root) as broker:
            publish(broker, "orders", 1)
            assert numbers(reader.get(timeout=10)) == [1]
            waiting = Threaded(lambda: reader.get(timeout=10))
            until(lambda: waits(broker))
            publish(broker, "orders", 2)
            assert numbers(waiting.result()) == [2]


# --- a stream that is not what it was --------------------------------------------------------------------------------------


def cut(root: Path, stream: str, keep: int) -> None:
    """Leaves `keep` batches of a stream, as a power cut may where nothing was flushed."""
    path = root / "streams" / stream / "0" / f"{0:020d}.jsonl"
    parts = path.read_bytes().split(b'\n{"batch":')
    path.write_bytes(b'\n{"batch":'.join(parts[: keep + 1]) + b"\n")


@pytest.mark.parametrize("durability", ["os", "sync"])
def test_a_stream_that_lost_its_end_takes_the_reader_back_or_is_damaged(tmp_path: Path, durability: str) -> None:
    root = tmp_path / "queue_data"
    first = BrokerManager(root)
    first.stream("orders", durability=durability)
    for n in range(6):
        publish(first, "orders", n)
    with Reader(root, "orders", start="oldest") as reader:
        assert numbers(reader.get()) == list(range(6))
        processes = first.manager_pid, *pids(first)
        for pid in processes:
            kill(pid)
        first.close()
        cut(root, "orders", 4)
        with BrokerManager(root) as second:
            publish(second, "orders", 10, 11, 12)
            if durability == "os":
                assert numbers(reader.get(timeout=10)) == [10, 11, 12]
                assert reader.lost == 2
            else:
                for _ in range(2):
                    with pytest.raises(Damaged, match="its log lost its end"):
                        reader.get(timeout=10)
                reader.seek("orders=4")
                assert numbers(reader.get()) == [10, 11, 12]


# --- the others ------------------------------------------------------------------------------------------------------------


def test_a_reader_that_does_not_read_costs_nobody(broker: BrokerManager, name: str) -> None:
    """One slow reader: it is told nothing that it did not ask for, however much is committed."""
    broker.stream(name)
    slow = Reader(broker, name)
    slow.get()
    with Reader(broker, name) as reader, Publisher(broker, name) as publisher:
        for n in range(500):
            publisher.publish({"n": n})
            assert numbers(reader.get(timeout=10)) == [n]
    assert len(slow.get(10_000)) == 500
    slow.close()


def test_a_stopped_reader_costs_nobody(broker: BrokerManager, name: str) -> None:
    code = """
from dq import Reader
with Reader(sys.argv[1], sys.argv[2]) as reader:
    say("ready")
    while True:
        reader.get(timeout=None)
"""
    broker.stream(name)
    with Child(code, broker.root, name) as child:
        assert child.hear() == "ready"
        until(lambda: waits(broker))
        kill(child.pid, 19)
        with Reader(broker, name) as reader, Publisher(broker, name) as publisher:
            for n in range(300):
                publisher.publish({"n": n})
                assert numbers(reader.get(timeout=10)) == [n]
