"""`broker.metrics()`: the counters and latencies of what was done, and the age of what was left."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dq import BrokerManager, Consumer, Publisher, Snapshot, aio
from dq.cli.exposition import FAMILIES, text_of
from dq.cli.top_rates import view_of
from dq.model.histogram import Histogram


@pytest.fixture(scope="module")
def broker(tmp_path_factory) -> Iterator[BrokerManager]:
    with BrokerManager(tmp_path_factory.mktemp("metrics") / "queue_data") as shared:
        yield shared


def work(broker, name, published: int, handled: int) -> None:
    with Publisher(broker, name) as publisher:
        publisher.publish_many(range(published))
    with Consumer(broker, name, sink=name, prefetch=1) as consumer:
        for count, task in enumerate(consumer, 1):
            with task:
                pass
            if count == handled:
                break
        consumer.flush()


def test_a_snapshot_counts_what_was_done(broker, name):
    before = broker.metrics()
    began = time.time()
    work(broker, name, published=50, handled=20)
    now = broker.metrics()
    assert isinstance(now, Snapshot)
    assert now.streams[name].published == now.streams[name].records == 50
    assert now.records - before.records == 50
    assert now.commits > before.commits
    assert (now.sinks[name].settled, now.sinks[name].waiting) == (20, 30)
    assert now.store_seconds.since(before.store_seconds).count == 50
    assert now.commit_seconds.since(before.commit_seconds).count == now.commits - before.commits
    assert now.hand_seconds[name].count == 20
    assert began - 1 < now.oldest_at[name] < now.at
    for process in now.processes.values():
        assert process.ready
        assert process.resident_bytes > 1_000_000
        assert process.cpu_seconds > 0
        assert began - 60 < process.started_at < now.at
    with pytest.raises(dataclasses.FrozenInstanceError):
        now.records = 0


def test_a_sink_that_has_settled_all_has_no_oldest_record(broker, name):
    work(broker, name, published=5, handled=5)
    assert name not in broker.metrics().oldest_at


def test_the_oldest_is_the_first_that_is_not_settled(broker, name):
    with Publisher(broker, name) as publisher:
        publisher.publish_many([1, 2])
        with Consumer(broker, name, sink=name, prefetch=1) as consumer:
            next(iter(consumer)).ack()
        at = broker.metrics().oldest_at[name]
        publisher.publish(3)
    assert broker.metrics().oldest_at[name] == at
    with Consumer(broker, name, sink=name, prefetch=1) as consumer:
        next(iter(consumer)).ack()
    assert broker.metrics().oldest_at[name] > at


def test_all_of_it_is_told_as_prometheus_takes_it(broker, name):
    work(broker, name, published=3, handled=3)
    snapshot = broker.metrics()
    found = {family.name: family for family in text_string_to_metric_families(text_of(snapshot))}
    assert set(found) == {family.name.removesuffix("_total") for family in FAMILIES}
    for family in FAMILIES:
        told = found[family.name.removesuffix("_total")]
        assert (told.type, told.documentation) == (family.kind, family.says)
        assert all(set(sample.labels) - {"le"} == set(family.labels) for sample in told.samples)
    waiting = {sample.labels["sink"]: sample.value for sample in found["dq_sink_waiting"].samples}
    assert waiting == {sink: stats.waiting for sink, stats in snapshot.sinks.items()}
    counts = [sample for sample in found["dq_sink_hand_seconds"].samples if sample.labels["sink"] == name]
    buckets = [sample.value for sample in counts if sample.name.endswith("_bucket")]
    assert buckets == sorted(buckets)
    assert buckets[-1] == 3


def test_a_broker_that_is_being_replaced_has_told_nothing():
    bare = {"pid": 0, "restarts": 2, "ready": False}
    status = {"root": "x", "pid": 0, "publisher_broker": bare, "consumer_broker": bare}
    snapshot = Snapshot.of(status, {})
    assert not snapshot.publisher_broker.ready
    assert snapshot.consumer_broker.restarts == 2
    assert snapshot.streams == {}
    assert 'dq_process_ready{process="publisher_broker"} 0.0' in text_of(snapshot)


def test_rates_are_what_came_between_two_looks(broker, name):
    work(broker, name, published=10, handled=4)
    before = broker.metrics()
    work(broker, name, published=30, handled=6)
    now = dataclasses.replace(broker.metrics(), at=before.at + 2)
    view = view_of(now, before)
    stream = next(row for row in view.streams if row.name == name)
    sink = next(row for row in view.sinks if row.name == name)
    assert (stream.rate_in, stream.records) == (15, 40)
    assert (sink.rate_in, sink.rate_out, sink.waiting) == (15, 3, 30)
    assert sink.hand is not None
    assert set(sink.hand) == {"p50", "p95", "p99"}
    assert view.store is not None
    first = view_of(before, None)
    assert (first.rate_in, first.seconds) == (0, 0)


def test_the_async_face_has_it_too(broker, name):
    work(broker, name, published=1, handled=1)

    async def metrics() -> Snapshot:
        async with aio.connect(broker.root) as connected:
            return await connected.metrics()

    snapshot = asyncio.run(metrics())
    assert snapshot.streams[name].records == 1
    assert isinstance(snapshot.store_seconds, Histogram)
