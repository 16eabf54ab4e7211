"""`dq log stats`: what is live in each segment, what pins it, and how full the disk is; with a broker and without."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dq import BrokerManager, Consumer, Publisher
from dq.embedded import PersistentQueue


def fill(broker: BrokerManager, name: str) -> None:
    """Some segments of one bucket."""
    broker.stream(name, segment_bytes=4096)
    with Publisher(broker, name) as publisher:
        for begin in range(0, 100, 10):
            publisher.publish_many({"n": n, "body": "x" * 100} for n in range(begin, begin + 10))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    """A data directory that no broker serves: a sink has settled all but record 45, and what is from 90 on."""
    root = tmp_path_factory.mktemp("dq") / "queue_data"
    with BrokerManager(root) as broker:
        fill(broker, "orders")
        broker.publish("logs", 1)
        broker.publish("logs", 1, delay=3_600)
        with Consumer(broker, "orders", sink="mailers", prefetch=1, idle_timeout=0.1) as consumer:
            for task in consumer:
                if task.payload["n"] == 45:
                    task.retry(after=50)
                elif task.payload["n"] < 90:
                    task.ack(wait=False)
                else:
                    break
    return root


def told(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_each_segment_says_what_is_live_in_it_and_what_pins_it(stopped, dq) -> None:
    ended = dq("log", "stats", "orders", "--data", stopped, "--json")
    assert (ended.code, ended.err) == (0, "")
    orders, disk = told(ended.out)
    segments = orders["segments"]
    assert len(segments) > 3
    assert [each["first"] for each in segments[1:]] == [each["stop"] for each in segments[:-1]]
    assert (orders["records"], orders["live"], segments[-1]["kept"]) == (100, 11, "it is written")
    assert orders["bytes"] == sum(Path(each["file"]).stat().st_size for each in segments)
    assert all(each["first_at"] <= each["last_at"] for each in segments)
    assert segments[0]["live"] == 0
    assert segments[0]["kept"].startswith("settled, kept for ")
    [pinned] = [each for each in segments if each["first"] <= 45 < each["stop"]]
    assert pinned["pins"][0]["record"] == "orders/0/45"
    assert (pinned["live"], pinned["kept"], pinned["pins"][0]["sink"]) == (1, "not settled", "mailers")
    [behind] = [each for each in segments if each["first"] == pinned["stop"]]
    assert (behind["live"], behind["kept"]) == (0, "an older one is kept")
    assert disk["disk"]["free"] > 0


def test_all_of_it_is_a_screen_for_people(stopped, dq) -> None:
    out = dq("log", "stats", "--data", stopped).out
    assert "stream orders: 100 records, 11% live" in out
    assert "(delayed): logs-later/0/0 delayed" in out
    assert "mailers: orders/0/45 " in out
    assert "later:logs" in out
    assert "mailers" in out
    assert out.splitlines()[-1].startswith("these take ")


def test_beside_a_broker_it_names_the_consumer_that_holds_a_segment(here, name, dq) -> None:
    fill(here, name)
    with Consumer(here, name, sink=name, prefetch=1) as consumer:
        task = next(iter(consumer))
        [stream] = [each for each in told(dq("log", "stats", name, "--json").out) if "stream" in each]
        pin = here.stream(name).stats().pinned[0]
        task.ack()
    first = stream["segments"][0]["pins"][0]
    assert (first["record"], first["sink"], first["state"], first["consumer"]) == (
        pin.record,
        pin.sink,
        pin.state,
        pin.consumer,
    )
    assert pin.consumer is not None


def test_a_stream_without_a_sink_has_no_live_share(stopped, dq) -> None:
    [logs, _] = told(dq("log", "stats", "logs", "--data", stopped, "--json").out)
    assert (logs["live"], logs["segments"][0]["pins"]) == (None, [])


@pytest.mark.parametrize("spoilt", ["streams/orders/0", "sinks/mailers", "streams/orders/stream.json"])
def test_of_damage_it_shows_the_rest_and_exits_with_65(stopped, dq, tmp_path, spoilt) -> None:
    root = shutil.copytree(stopped, tmp_path / "queue_data")
    path = root / spoilt
    path = min(path.glob("*.jsonl")) if path.is_dir() else path
    path.write_bytes(b"?" + path.read_bytes()[1:])
    ended = dq("log", "stats", "--data", root)
    assert (ended.code, str(path) in ended.err) == (65, True)
    assert "stream logs: 1 records" in ended.out


def test_where_there_is_nothing_to_tell_of_it_says_so(dq, tmp_path, stopped) -> None:
    assert dq("log", "stats", "order", "--data", stopped).code == 4
    ended = dq("log", "stats", "--data", tmp_path / "none")
    assert (ended.code, "no data directory" in ended.err) == (69, True)
    PersistentQueue(tmp_path / "queue").close()
    ended = dq("log", "stats", "--data", tmp_path / "queue")
    assert (ended.code, "embedded queue" in ended.err) == (2, True)


def test_a_directory_that_is_just_made_has_a_disk_all_the_same(dq, tmp_path) -> None:
    (tmp_path / "dq.json").write_text("{}")
    assert dq("log", "stats", "--data", tmp_path).out.startswith("these take 0 B")
