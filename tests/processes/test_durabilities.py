"""What streams with each durability survive, on real processes: kills, a lost end of the log, the end of the manager."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dq import Broker, BrokerManager, Damaged, Publisher, QueueFull
from dq.log.memory import place_of
from stage import alive, drain, kill, pids, settled, sink_of, until

LAX = pytest.mark.parametrize("durability", ["interval", "os"])


def drained(broker: Broker, stream: str, sink: str = "all") -> list[Any]:
    return [task.payload["n"] for task in drain(broker, stream, sink=sink)]


@pytest.mark.parametrize("durability", ["sync", "interval", "os"])
def test_a_receipt_says_what_it_promises(broker: BrokerManager, name: str, durability: str) -> None:
    broker.stream(name, durability=durability)
    with Publisher(broker, name) as publisher:
        assert publisher.publish({"n": 0}).durability == durability
        receipts = publisher.publish_many({"n": n} for n in range(1, 10))
        assert {receipt.durability for receipt in receipts} == {durability}


@LAX
def test_a_kill_of_every_process_loses_nothing(tmp_path: Path, durability: str) -> None:
    root = tmp_path / "queue_data"
    with BrokerManager(root) as broker:
        broker.stream("s", durability=durability)
        with Publisher(broker, "s") as publisher:
            publisher.publish_many({"n": n} for n in range(1000))
            for pid in (*pids(broker), broker.stats()["pid"]):
                kill(pid)
                until(lambda pid=pid: not alive(pid))
    with BrokerManager(root) as broker:
        assert drained(broker, "s") == list(range(1000))


@LAX
def test_an_end_that_the_machine_lost_takes_the_sinks_back_with_it(tmp_path: Path, durability: str) -> None:
    """The log has lost its end, as after a power cut: the sink counts it, and misses nothing of what is published then."""
    root = tmp_path / "queue_data"
    publish_drain_and_cut(root, durability)
    with BrokerManager(root) as broker:
        with Publisher(broker, "s") as publisher:
            assert publisher.publish({"n": "new"}).id == "s/0/700"
        assert drained(broker, "s") == ["new"]
        assert sink_of(broker, "all")["cut_back"] == 300


def test_the_same_with_sync_is_damage(tmp_path: Path) -> None:
    """R9 on processes: what a sink was given of a stream that promised to keep it is not there."""
    root = tmp_path / "queue_data"
    publish_drain_and_cut(root, "sync")
    with BrokerManager(root) as broker:
        with Publisher(broker, "s") as publisher:
            publisher.publish_many({"n": "new"} for _ in range(500))
        with pytest.raises(Damaged, match=r"its log lost its end; .* --accept-loss"):
            drained(broker, "s")
        assert "lost its end" in sink_of(broker, "all")["damaged"]["s/0"]


def publish_drain_and_cut(root: Path, durability: str) -> None:
    """1,000 records are published and settled; then the last 300 are taken off, as if they had never reached the disk."""
    with BrokerManager(root) as broker:
        broker.stream("s", durability=durability)
        with Publisher(broker, "s", batch_size=100) as publisher:
            publisher.publish_many({"n": n} for n in range(1000))
        assert len(drained(broker, "s")) == 1000
    [path] = (root / "streams" / "s" / "0").glob("*.jsonl")
    places, position = [], 0
    for line in path.read_bytes().splitlines(keepends=True):
        if line.startswith(b'{"batch"'):
            places.append(position)
        position += len(line)
    path.write_bytes(path.read_bytes()[: places[-3]])


def test_a_stream_with_an_interval_is_flushed_within_it(tmp_path: Path) -> None:
    """Seen from outside: the start after a kill finds nothing that is not on disk, and a clean stop leaves a mark."""
    root = tmp_path / "queue_data"
    with BrokerManager(root) as broker:
        broker.stream("s", durability="interval", sync_seconds=0.05)
        with Publisher(broker, "s") as publisher:
            publisher.publish({"n": 0})
            publisher.publish({"n": 1})
            until(lambda: broker.stats()["publisher_broker"]["streams"]["s"]["unsynced"] == 0, what="it is flushed")
    assert (root / "streams" / "clean.json").exists()


# --- memory ----------------------------------------------------------------------------------------------------------


def test_a_stream_in_memory_survives_its_brokers_and_not_its_manager(tmp_path: Path) -> None:
    root = tmp_path / "queue_data"
    with BrokerManager(root) as broker:
        broker.stream("s", backend="memory")
        with Publisher(broker, "s") as publisher:
            assert publisher.publish({"n": 0}).durability == "memory"
            publisher.publish_many({"n": n} for n in range(1, 500))
            kill(pids(broker)[0])
            kill(pids(broker)[1])
            publisher.publish_many({"n": n} for n in range(500, 1000))
        assert drained(broker, "s") == list(range(1000))
        assert place_of(root).exists()
        assert list((root / "streams" / "s").rglob("*.jsonl")) == []
    assert not place_of(root).exists(), "memory was not given back"
    with BrokerManager(root) as broker:
        with Publisher(broker, "s") as publisher:
            assert publisher.publish({"n": "new"}).id == "s/0/0"
        assert drained(broker, "s") == ["new"]
        assert sink_of(broker, "all")["cut_back"] == 1000


def test_what_a_killed_manager_left_in_memory_is_emptied_by_the_next(tmp_path: Path) -> None:
    root = tmp_path / "queue_data"
    with BrokerManager(root) as broker:
        broker.stream("s", backend="memory")
        with Publisher(broker, "s") as publisher:
            publisher.publish({"n": 0})
        kill(broker.stats()["pid"])
    assert place_of(root).exists()
    with BrokerManager(root) as broker, Publisher(broker, "s") as publisher:
        assert publisher.publish({"n": 1}).id == "s/0/0"


def test_memory_that_is_used_up_is_said_and_comes_back(tmp_path: Path) -> None:
    with BrokerManager(tmp_path / "queue_data") as broker:
        broker.stream("s", backend="memory")
        payload = {"n": 0, "pad": "x" * 500_000}
        with Publisher(broker, "s", batch_size=2) as publisher:
            with pytest.raises(QueueFull, match="publish again when consumers have settled some"):
                publisher.publish_many(payload for _ in range(1000))
            stored = broker.stats()["publisher_broker"]["streams"]["s"]["records"]
            assert 400 < stored < 600
            assert len(drained(broker, "s")) == stored
            until(lambda: settled(broker, "all", stored))
            until(lambda: published(publisher, payload), what="there is room again")


def published(publisher: Publisher, payload: object) -> bool:
    try:
        publisher.publish(payload)
    except QueueFull:
        return False
    return True


def test_no_stream_in_memory_leaves_nothing_in_memory(tmp_path: Path) -> None:
    root = tmp_path / "queue_data"
    with BrokerManager(root) as broker, Publisher(broker, "s") as publisher:
        publisher.publish({"n": 0})
        assert not place_of(root).exists()
