"""Who holds what of a sink, and taking it back."""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime, timedelta

import pytest
from sink_bench import publish, taken

from dq import Consumer, InUse, InvalidSetting, UnknownSink
from stage import Threaded, kill, pids, sink_of, until


def test_it_is_told_who_holds_what_since_when_and_until_when(broker, name) -> None:
    publish(broker, name, range(3))
    with Consumer(broker, name, sink=name, prefetch=3, idle_timeout=2) as consumer:
        tasks = iter(consumer)
        task = next(tasks)
        task.extend(3600, note="half way")
        [held] = until(lambda: _with_note(broker.sink(name).leases()), what="the note is heard")
        assert (held.sink, held.stream, held.bucket, held.first, held.last, held.open) == (name, name, 0, 0, 2, 3)
        assert (held.id, held.ids) == (f"{name}/0/0", f"{name}/0/0..2")
        assert (held.consumer, held.pid, held.state) == (consumer.consumer_id, os.getpid(), "connected")
        assert (held.attempt, held.note) == (1, "half way")
        now = datetime.now(UTC)
        assert now - timedelta(seconds=30) < held.since <= now < held.until
        # The start of its process is that of this one, to a tick
        with open("/proc/self/stat") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
        with open("/proc/uptime") as file:
            age = float(file.read().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")
        assert abs((now - held.started).total_seconds() - age) < 2
        task.ack()


def _with_note(holdings):
    return holdings.listed if any(each.note for each in holdings) else None


def test_leases_are_found_by_stream_and_consumer_and_the_rest_is_counted(broker, name) -> None:
    publish(broker, name, range(3))
    publish(broker, f"{name}b", range(1))
    with (
        Consumer(broker, name, f"{name}b", sink=name, prefetch=1, idle_timeout=2) as one,
        Consumer(broker, sink=name, prefetch=1, idle_timeout=2) as two,
    ):
        loops = iter(one), iter(two)
        tasks = [next(loop) for loop in loops]
        assert len(broker.who(name)) == 2
        [held] = broker.who(name, consumer=two.consumer_id)
        assert held.id == tasks[1].id
        by_stream = {stream: len(broker.who(stream=stream)) for stream in (name, f"{name}b")}
        assert sum(by_stream.values()) == 2
        first = broker.who(name, limit=1)
        assert (len(first), first.more) == (1, 1)
        for task in tasks:
            task.ack()
    with pytest.raises(UnknownSink):
        broker.who(f"{name}-nowhere")


def test_a_record_taken_back_is_anothers_at_the_same_attempt_and_its_holders_ack_is_late(broker, name) -> None:
    [record] = publish(broker, name, ["a"])
    with Consumer(broker, name, sink=name, idle_timeout=2) as hangs:
        loop = iter(hangs)
        held = next(loop)
        sink = broker.sink(name)
        # When it is taken back, nobody gets it from the one that hangs, though that one wants more
        assert sink.release(record) == 1
        assert sink.leases().listed == ()
        with Consumer(broker, sink=name, idle_timeout=2) as other:
            again = next(iter(other))
            assert (again.id, again.attempt) == (record, 1)
            again.ack(wait=True)
            # Then the ack of the first one changes nothing, and is counted
            held.ack(wait=True)
            figures = sink.stats()
            assert (figures.settled, figures.late_acks) == (1, 1)
        # And nobody has it to be taken back any more
        assert sink.release(record) == 0


def test_who_hangs_gets_no_more_until_it_goes_on(broker, name) -> None:
    [record, _] = publish(broker, name, ["a", "b"])
    with Consumer(broker, name, sink=name, prefetch=3, idle_timeout=2) as consumer:
        tasks = iter(consumer)
        first = next(tasks)
        assert broker.sink(name).release(record) == 1
        publish(broker, name, ["c"])
        until(lambda: sink_of(broker, name)["shards"][f"{name}/0"]["waiting"] == 2, what="both wait, though it wanted three")
        first.ack(wait=True)
        assert [each.payload for each, _ in zip(_acked(tasks), range(2), strict=False)] == ["b", "c"], "its late ack counted"


def _acked(tasks):
    for task in tasks:
        task.ack()
        yield task


def test_all_that_a_consumer_has_is_taken_back(broker, name) -> None:
    publish(broker, name, range(5))
    with Consumer(broker, name, sink=name, prefetch=5, idle_timeout=2) as consumer:
        loop = iter(consumer)
        next(loop)
        assert broker.sink(name).release(consumer=consumer.consumer_id) == 5
        assert taken(broker, sink=name) == [0, 1, 2, 3, 4]
        assert sink_of(broker, name)["redelivered"] == 5


def test_in_an_ordered_sink_nothing_is_taken_from_behind_what_stays(broker, name) -> None:
    ids = publish(broker, name, range(3))
    with Consumer(broker, name, sink=name, ordered=True, prefetch=3, idle_timeout=2) as consumer:
        loop = iter(consumer)
        next(loop)
        sink = broker.sink(name)
        with pytest.raises(InUse, match=f"{ids[0]} in the same hand comes first"):
            sink.release(ids[1])
        assert len(sink.leases()) == 1
        assert sink.release(ids[0]) == 3, "and what lies behind it"
        assert taken(broker, sink=name) == [0, 1, 2]


def test_what_is_no_id_and_who_names_nothing_is_refused(broker, name) -> None:
    sink = broker.sink(name, name)
    for wrong in ({}, {"consumer": "c"}):
        ids = ["x/0/1"] if wrong else []
        with pytest.raises(InvalidSetting, match="name one of both"):
            sink.release(*ids, **wrong)
    for text in ("oldest", "a/b", "2020-01-01T00:00:00+00:00", ""):
        with pytest.raises(InvalidSetting, match="no id of a record"):
            sink.release(text)
    with pytest.raises(InvalidSetting, match="a text"):
        sink.release(7)
    assert sink.release("elsewhere/0/1", consumer=None) == 0
    assert sink.release(consumer="nobody") == 0


def test_it_stays_taken_back_when_the_consumer_broker_is_killed(broker, name) -> None:
    ids = publish(broker, name, ["a", "b"])
    with Consumer(broker, name, sink=name, prefetch=2, idle_timeout=10) as hangs:
        loop = iter(hangs)
        held = next(loop)
        [lease] = broker.who(name)
        assert (lease.open, lease.ids) == (2, f"{ids[0]}..1")
        assert broker.sink(name).release(ids[1]) == 1
        kill(pids(broker)[1], signal.SIGKILL)
        with Consumer(broker, sink=name, idle_timeout=1) as other:
            asking = iter(other)
            taker = Threaded(lambda: next(asking, None))
            # Then the next one knows it: the first record stays in the hand that has it, the other one is handed out anew
            kept, again = until(lambda: _both(broker, name, ids), what="both are in hand")
            taker.result()
        assert (kept.lease, kept.open, kept.consumer, kept.since) == (lease.lease, 1, hangs.consumer_id, None)
        assert (again.open, again.attempt) == (1, 1)
        assert again.lease > lease.lease
        held.ack(wait=True)


def _both(broker, name, ids):
    found = {each.id: each for each in broker.who(name) if each.state == "connected"}
    return [found[each] for each in ids] if found.keys() >= set(ids) else None
