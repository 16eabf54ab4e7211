"""`broker.sink(...)`: a sink as a thing that is looked at, moved, paused, put over streams and taken off them, destroyed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sink_bench import publish, rest_of, taken

from dq import BrokerManager, Consumer, InvalidName, InvalidSetting, Pinned, Sink, UnknownSink, UnknownStream
from stage import kill, pids, sink_of, until


def test_a_sink_is_made_and_found_and_tells_of_itself(broker, name) -> None:
    made = broker.sink(name, name, max_attempts=2)
    publish(broker, name, range(3))
    assert name in broker.sinks()
    found = broker.sink(name)
    assert (made.settings.max_attempts, found.stats().streams) == (2, (name,))
    with found.consumer(idle_timeout=0.2) as consumer:
        assert rest_of(consumer) == [0, 1, 2]
    figures = found.stats()
    assert (figures.settled, figures.waiting, figures.in_hand, figures.paused) == (3, 0, 0, False)


def test_a_sink_that_is_not_there_is_said_with_near_names(broker, name) -> None:
    broker.sink(f"{name}-mailers", name)
    with pytest.raises(UnknownSink, match=f"did you mean '{name}-mailers'"):
        broker.sink(f"{name}-mailer")
    with pytest.raises(UnknownSink):
        Consumer(broker, sink=f"{name}-none")
    with pytest.raises(UnknownSink):
        broker.sink(f"{name}-none", name, create=False)
    with pytest.raises(UnknownStream):
        broker.sink(f"{name}-mailers", f"{name}-nothing", create=False)
    with pytest.raises(InvalidName):
        broker.sink("../x", name)


def test_a_sink_goes_back_and_forth(broker, name) -> None:
    """Part 3: seek. What was settled is delivered again; what is passed over is not."""
    ids = publish(broker, name, range(4))
    sink = broker.sink(name, name)
    assert taken(broker, sink=name) == [0, 1, 2, 3]
    sink.seek("oldest")
    assert taken(broker, sink=name) == [0, 1, 2, 3]
    sink.seek(ids[1])
    assert taken(broker, sink=name) == [2, 3]
    sink.seek(timedelta(minutes=5))
    sink.seek("newest")
    assert taken(broker, sink=name) == []
    sink.seek(f"{name}=3")
    assert taken(broker, sink=name) == [3]
    sink.seek(datetime.now(UTC) + timedelta(hours=1))
    assert taken(broker, sink=name) == []
    with pytest.raises(InvalidSetting, match="nothing of stream"):
        sink.seek("another=3")


def test_what_is_in_hand_while_a_sink_is_moved_is_no_longer_its_consumers(broker, name) -> None:
    publish(broker, name, range(3))
    with Consumer(broker, name, sink=name, prefetch=1, idle_timeout=0.5) as consumer:
        tasks = iter(consumer)
        first = next(tasks)
        broker.sink(name).seek("oldest")
        first.ack(wait=True)
        assert rest_of(consumer) == [0, 1, 2]
    assert broker.sink(name).stats().late_acks == 1


def test_a_paused_sink_hands_out_nothing_and_takes_acks(broker, name) -> None:
    publish(broker, name, range(2))
    sink = broker.sink(name, name)
    with Consumer(broker, sink=name, prefetch=1, idle_timeout=0.3) as consumer:
        task = next(iter(consumer))
        sink.pause()
        sink.pause()
        task.ack(wait=True)
        assert rest_of(consumer) == []
        assert (sink.stats().paused, sink.stats().settled) == (True, 1)
        sink.resume()
        sink.resume()
        assert rest_of(consumer) == [1]


def test_streams_come_and_go_while_consumers_work(broker, name) -> None:
    """S6: live add_stream and remove_stream, each with its own start; both idempotent; the cursor is kept unless told."""
    one, two, three = f"{name}-1", f"{name}-2", f"{name}-3"
    for stream in (one, two, three):
        publish(broker, stream, [f"{stream} old"])
    sink = broker.sink(name, one)
    with Consumer(broker, one, sink=name, idle_timeout=0.2) as consumer:
        assert rest_of(consumer) == [f"{one} old"]
        sink.add_stream(two, start="newest")
        sink.add_stream(two, start="oldest")  # it is there already
        sink.add_stream(three)
        publish(broker, two, ["two new"])
        assert sorted(rest_of(consumer)) == sorted([f"{three} old", "two new"])
        # When one is taken off, nothing of it comes
        sink.remove_stream(two)
        sink.remove_stream(two)
        publish(broker, two, ["two newer"])
        assert rest_of(consumer) == []
        assert (sink.stats().streams, sink.stats().detached) == ((one, three), (two,))
        # And when it is put on again, it goes on where it was
        sink.add_stream(two, start="newest")
        assert rest_of(consumer) == ["two newer"]
        # Unless it was told to forget that
        sink.remove_stream(two, destroy=True)
        sink.add_stream(two, start="oldest")
        assert rest_of(consumer) == [f"{two} old", "two new", "two newer"]


def test_a_consumer_that_comes_back_does_not_put_its_sink_over_a_stream_again(dq_broker) -> None:
    publish(dq_broker, "a", [1])
    publish(dq_broker, "b", [2])
    with Consumer(dq_broker, "a", "b", sink="s", idle_timeout=0.3) as consumer:
        assert sorted(rest_of(consumer)) == [1, 2]
        dq_broker.sink("s").remove_stream("b")
        kill(pids(dq_broker)[1])
        publish(dq_broker, "a", [3])
        publish(dq_broker, "b", [4])
        assert until(lambda: rest_of(consumer)) == [3]
    assert dq_broker.sink("s").stats().streams == ("a",)


def test_what_was_done_with_a_sink_survives_a_kill(tmp_path) -> None:
    root = tmp_path / "queue_data"
    with BrokerManager(root) as broker:
        for stream in ("a", "b"):
            publish(broker, stream, range(3))
        sink = broker.sink("s", "a", "b", topic=None)
        sink.seek("a=2;b=1")
        sink.pause()
        sink.remove_stream("b")
        kill(pids(broker)[1])
        until(lambda: sink_of(broker, "s"))
        assert (sink.stats().paused, sink.stats().detached) == (True, ("b",))
    with BrokerManager(root) as broker:
        sink = broker.sink("s")
        assert (sink.stats().paused, sink.stats().detached) == (True, ("b",))
        sink.resume()
        assert taken(broker, sink="s") == [2]
        sink.add_stream("b")
        assert taken(broker, sink="s") == [1, 2]


def test_a_destroyed_sink_is_gone_and_may_be_made_anew(broker, name) -> None:
    publish(broker, name, range(2))
    with Consumer(broker, name, sink=name, prefetch=1) as consumer:
        tasks = iter(consumer)
        next(tasks).ack()
        broker.sink(name).destroy()
        # Its consumers are told, in words
        with pytest.raises(UnknownSink, match=f"no sink '{name}'"):
            list(tasks)
    assert name not in broker.sinks()
    with pytest.raises(UnknownSink):
        broker.sink(name).stats()
    assert not (broker.root / "sinks" / name).exists()
    # And a new one of that name knows nothing of it
    assert taken(broker, name, sink=name) == [0, 1]


def test_dead_letters_of_a_sink_made_anew_are_not_taken_for_those_of_the_one_before(broker, name) -> None:
    publish(broker, name, range(3))

    def give_up() -> list[int]:
        with Consumer(broker, name, sink=name, idle_timeout=0.3) as consumer:
            for task in consumer:
                task.dead_letter("bad")
        return taken(broker, f"{name}-dlq", sink=f"{name}-look", idle=0.3)

    assert give_up() == [0, 1, 2]
    # When it is destroyed, and another one of its name gives up the same records
    broker.sink(name).destroy()
    # Then its dead letters are stored as well, though they count from 0 again
    assert give_up() == [0, 1, 2]


def taken_off(sink: Sink) -> None:
    [stream] = sink.stats().streams
    sink.remove_stream(stream, destroy=True)


@pytest.mark.parametrize("act", [Sink.destroy, taken_off], ids=["destroyed", "taken off"])
def test_what_a_sink_kept_goes_with_it_though_nobody_does_anything(act, broker, name) -> None:
    # Given a sink that is far behind another one, and keeps the disk
    stream = broker.stream(name, segment_bytes=4096, keep_seconds=0, keep_bytes=0)
    behind = broker.sink(f"{name}-behind", name)
    for _ in range(4):
        publish(broker, name, ["x" * 2000] * 5)
    taken(broker, name, sink=name)
    assert stream.stats().segments > 4
    # When it is not over the stream any more
    act(behind)
    # Then the disk comes back without any other event
    until(lambda: stream.stats().segments <= 1)


def test_stats_say_which_record_keeps_the_oldest_segment_and_who_has_it(broker, name) -> None:
    """Part 1: the stats say which record pins the oldest segment and who holds it."""
    publish(broker, name, range(3))
    with Consumer(broker, name, sink=name, prefetch=1) as consumer:
        task = next(iter(consumer))
        assert broker.stream(name).stats().pinned == (Pinned(task.id, name, "leased", consumer.consumer_id),)
        task.ack(wait=True)
        [pin] = broker.stream(name).stats().pinned
        assert (pin.record, pin.state) == (f"{name}/0/1", "waiting")
