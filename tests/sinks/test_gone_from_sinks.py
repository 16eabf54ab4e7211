"""What a sink makes of records that are gone: trimmed, removed, or with their whole stream."""

from __future__ import annotations

from sink_bench import publish, rest_of, taken

from dq import Consumer
from stage import kill, pids, sink_of, until


def test_a_sink_that_was_too_slow_is_told_what_it_lost(broker, name) -> None:
    """S better, part 1: dropping unread work is counted, reported to the sink that lost it, and shown in the stats."""
    broker.stream(name, max_records=5)
    sink = broker.sink(name, name)
    publish(broker, name, range(3))
    assert taken(broker, sink=name) == [0, 1, 2]
    publish(broker, name, range(3, 20))
    until(lambda: broker.stream(name).stats().records == 5, what="its limit is kept, which no receipt waits for")
    assert taken(broker, sink=name) == [15, 16, 17, 18, 19]
    figures = sink.stats()
    assert (figures.settled, figures.missed, figures.waiting) == (8, 12, 0)


def test_a_record_that_was_removed_is_not_delivered(broker, name) -> None:
    """S2: `remove(ids)`, also for sinks that stand before it, and for new ones."""
    ids = publish(broker, name, range(6))
    sink = broker.sink(name, name)
    with Consumer(broker, sink=name, prefetch=1, idle_timeout=0.3) as consumer:
        first = next(iter(consumer))
        assert broker.stream(name).remove(ids[0], ids[2], ids[5]) == 3
        first.ack()  # it was in a hand already
        assert rest_of(consumer) == [1, 3, 4]
    assert (sink.stats().settled, sink.stats().removed) == (4, 2)
    assert taken(broker, name, sink=f"{name}-new") == [1, 3, 4]


def test_a_removed_record_stays_removed_for_a_consumer_broker_that_is_new(dq_broker) -> None:
    ids = publish(dq_broker, "s", range(4))
    dq_broker.sink("s", "s")
    dq_broker.stream("s").remove(ids[1])
    with Consumer(dq_broker, sink="s", prefetch=1, idle_timeout=0.5) as consumer:
        assert next(iter(consumer)).payload == 0
        kill(pids(dq_broker)[1])
        dq_broker.stream("s").remove(ids[2])
        got: list[int] = []
        until(lambda: got.extend(rest_of(consumer)) or 3 in got)
        assert set(got) <= {0, 3}


def test_records_are_trimmed_under_a_sink_by_a_word(broker, name) -> None:
    ids = publish(broker, name, range(4))
    sink = broker.sink(name, name)
    assert broker.stream(name).trim(ids[3]) == 3
    assert taken(broker, sink=name) == [3]
    assert sink.stats().missed == 3


def test_a_stream_that_is_destroyed_and_made_anew_begins_anew_for_its_sinks(broker, name) -> None:
    """S2: destroy; add after destroy makes it anew."""
    publish(broker, name, range(3))
    with Consumer(broker, name, sink=name, prefetch=1, idle_timeout=0.5) as consumer:
        tasks = iter(consumer)
        old = next(tasks)
        broker.stream(name).destroy()
        until(lambda: not broker.sink(name).stats().buckets, what="the other broker has heard of it")
        assert rest_of(consumer) == []
        old.ack()
        consumer.flush()
        publish(broker, name, ["new"])
        assert until(lambda: rest_of(consumer)) == ["new"]
    assert sink_of(broker, name)["damaged"] == {}


def test_a_sink_survives_the_end_of_its_stream_and_its_broker(dq_broker) -> None:
    publish(dq_broker, "s", range(3))
    publish(dq_broker, "t", range(3))
    sink = dq_broker.sink("both", "s", "t")
    dq_broker.stream("s").destroy()
    kill(pids(dq_broker)[1])
    assert taken(dq_broker, sink="both", idle=0.5) == [0, 1, 2]
    publish(dq_broker, "s", ["again"])
    assert taken(dq_broker, "s", "t", sink="both", idle=0.5) == ["again"]
    assert sink.stats().streams == ("s", "t")


def test_what_a_sink_has_to_do_again_is_not_deleted_meanwhile(dq_broker) -> None:
    dq_broker.stream("s", segment_bytes=4096, keep_seconds=0, keep_bytes=0)
    sink = dq_broker.sink("s", "s")
    publish(dq_broker, "s", ["x" * 1000] * 10)
    assert len(taken(dq_broker, sink="s")) == 10
    segments = until(lambda: (found := dq_broker.stream("s").stats()).segments < 3 and found)
    sink.seek("oldest")
    left = segments.ends[0] - segments.firsts[0]
    publish(dq_broker, "s", ["y" * 1000] * 10)
    assert len(taken(dq_broker, sink="s")) == left + 10
    assert sink.stats().missed == 0


def test_what_no_sink_is_over_any_more_is_kept(dq_broker) -> None:
    """Part 1: kept while no sink exists."""
    dq_broker.stream("s", segment_bytes=4096, keep_seconds=0, keep_bytes=0)
    sink = dq_broker.sink("s", "s")
    publish(dq_broker, "s", ["x" * 1000] * 10)
    assert len(taken(dq_broker, sink="s")) == 10
    first = until(lambda: (found := dq_broker.stream("s").stats().firsts[0]) > 0 and found)
    sink.destroy()
    publish(dq_broker, "s", ["y" * 1000] * 10)
    other = dq_broker.sink("t", "s")
    assert other.stats().waiting == 20 - first
