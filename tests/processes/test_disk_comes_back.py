"""Disk comes back by itself, and nothing that somebody has still to settle goes with it."""

from __future__ import annotations

from dq import BrokerManager, Consumer, Publisher
from stage import until


def first_kept(broker: BrokerManager, stream: str) -> int:
    figures = broker.stats()["publisher_broker"]["streams"][stream]
    return figures["ends"][0] - figures["records"]


def settle_all(broker: BrokerManager, stream: str, sink: str, count: int) -> list[int]:
    with Consumer(broker, stream, sink=sink, idle_timeout=10) as consumer:
        offsets = []
        for task in consumer:
            task.ack()
            offsets.append(task.offset)
            if len(offsets) == count:
                break
    return offsets


def test_what_every_sink_has_settled_goes_and_the_rest_stays(dq_broker):
    # Given small segments that are not kept once they are settled, and two sinks
    dq_broker.stream("orders", segment_bytes=20_000, keep_seconds=0)
    with Publisher(dq_broker, "orders", batch_size=50) as publisher:
        Consumer(dq_broker, "orders", sink="late").close()
        for _ in range(20):
            publisher.publish_many({"n": n, "text": "x" * 100} for n in range(50))
    # When one of them settles everything, nothing goes: the other has still to see it
    assert len(settle_all(dq_broker, "orders", "early", 1_000)) == 1_000
    until(lambda: dq_broker.stats()["consumer_broker"]["sinks"]["early"]["settled"] == 1_000, what="all is settled once")
    assert first_kept(dq_broker, "orders") == 0
    # And when the other has, the disk comes back
    assert settle_all(dq_broker, "orders", "late", 1_000) == list(range(1_000))
    until(lambda: first_kept(dq_broker, "orders") > 500, what="segments are deleted")
    # Then a new sink begins with what is there, and says nothing of having missed anything
    kept = 1_000 - first_kept(dq_broker, "orders")
    assert len(settle_all(dq_broker, "orders", "new", kept)) == kept
    assert dq_broker.stats()["consumer_broker"]["sinks"]["new"]["missed"] == 0


def test_a_stream_that_is_kept_for_ever_keeps_everything(dq_broker):
    dq_broker.stream("ledger", segment_bytes=20_000, keep_seconds=0, retention="forever")
    with Publisher(dq_broker, "ledger", batch_size=50) as publisher:
        publisher.publish_many({"n": n, "text": "x" * 100} for n in range(1_000))
    settle_all(dq_broker, "ledger", "reader", 1_000)
    # When the broker has been told that all is settled and has looked (the sinks are synced every second)
    until(lambda: dq_broker.stats()["consumer_broker"]["sinks"]["reader"]["settled"] == 1_000, what="all is settled")
    dq_broker.stream("other", segment_bytes=20_000, keep_seconds=0)
    with Publisher(dq_broker, "other", batch_size=50) as publisher:
        for _ in range(10):
            publisher.publish_many({"n": n, "text": "x" * 100} for n in range(50))
    settle_all(dq_broker, "other", "reader-of-other", 500)
    until(lambda: first_kept(dq_broker, "other") > 0, what="the other stream is trimmed, so the broker has looked")
    # Then the first one is whole
    assert first_kept(dq_broker, "ledger") == 0
