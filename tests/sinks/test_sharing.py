"""A sink is one cursor that its consumers share, in whatever process they are."""

from __future__ import annotations

import signal
from datetime import timedelta

import pytest
from sink_bench import publish, rest_of, taken

from dq import Consumer, SettingsMismatch
from stage import Child, kill, sink_of, until


def test_each_record_goes_to_one_of_a_sinks_consumers_and_every_sink_gets_all(broker, name) -> None:
    """S4: two instances of one sink deliver once; other names get copies."""
    # Given two consumers of one sink that both want work
    with (
        Consumer(broker, name, sink=name, prefetch=1, idle_timeout=0.3) as one,
        Consumer(broker, name, sink=name, prefetch=1, idle_timeout=0.3) as two,
    ):
        first, second = iter(one), iter(two)
        publish(broker, name, range(10))
        # When they take turns
        seen = []
        for turn in (first, second) * 5:
            task = next(turn)
            seen.append(task.payload)
            task.ack()
        # Then each record came once, and to both
        assert sorted(seen) == list(range(10))
        assert rest_of(one) == rest_of(two) == []
    # And a sink of another name gets all of them again
    assert taken(broker, name, sink=f"{name}-copy") == list(range(10))


def test_what_is_not_acked_comes_again_after_its_grace_and_never_once_it_is(broker, name) -> None:
    """S4: unacked for `ack_grace`, delivered again to whoever is alive; acked, never again."""
    publish(broker, name, ["a"])
    with Consumer(broker, name, sink=name, ack_grace=0.3, idle_timeout=2) as forgetful:
        tasks = iter(forgetful)
        left = next(tasks)
        # When its user asks for the next one and leaves it unsettled, another one gets it after the grace
        with Consumer(broker, name, sink=name, idle_timeout=2) as other:
            again = until(lambda: _asked(tasks) or _first(other), what="it comes to one of them")
            assert (again.payload, again.attempt) == ("a", 2)
            again.ack(wait=True)
        assert left.outcome is None
    # Then it is settled for good
    assert taken(broker, name, sink=name) == []


def _asked(tasks):
    return next(tasks, None)


def _first(consumer):
    return next(iter(consumer), None)


def test_work_moves_to_the_other_instance_when_the_first_closes(broker, name) -> None:
    """S9: close leaves in-flight work for others, at once and with no attempt burned."""
    publish(broker, name, ["a", "b"])
    with Consumer(broker, name, sink=name, idle_timeout=2) as second:
        with Consumer(broker, name, sink=name) as first:
            assert next(iter(first)).payload == "a"
        tasks = [task for task, _ in zip(second, range(2), strict=False)]
        assert sorted((task.payload, task.attempt) for task in tasks) == [("a", 1), ("b", 1)]


def test_a_sink_that_is_there_keeps_its_cursor_whatever_start_is_asked_for(broker, name) -> None:
    """S5: start options count only when the sink is new."""
    publish(broker, name, range(3))
    assert taken(broker, name, sink=name, start="oldest") == [0, 1, 2]
    publish(broker, name, range(3, 5))
    assert taken(broker, name, sink=name, start="newest") == [3, 4]
    # But its other settings are its own
    with pytest.raises(SettingsMismatch, match=r"max_attempts=5 \(asked for: 2\)"):
        Consumer(broker, name, sink=name, max_attempts=2)


def test_a_new_sink_begins_where_it_is_told_to(broker, name) -> None:
    """S4: start at newest, oldest, after an id, at a time."""
    ids = publish(broker, name, range(3))
    assert taken(broker, name, sink=f"{name}-newest", start="newest") == []
    assert taken(broker, name, sink=f"{name}-after", start=ids[0]) == [1, 2]
    assert taken(broker, name, sink=f"{name}-ago", start=timedelta(hours=1)) == [0, 1, 2]
    assert taken(broker, name, sink=f"{name}-position", start=f"{name}=2") == [2]


SILENT = """
import dq
from dq import Consumer
with dq.connect(sys.argv[1]) as broker:
    with Consumer(broker, sys.argv[2], sink=sys.argv[2]) as consumer:
        for task in consumer:
            say("has", task.payload)
            heard()
"""


def test_a_stale_consumer_is_removed_and_its_work_claimed(broker, name) -> None:
    """S9: a stale consumer is cleaned up after 2 x grace and its work claimed."""
    broker.sink(name, name, ack_grace=0.3)
    publish(broker, name, ["a"])
    with Child(SILENT, broker.root, name) as child:
        assert child.hear() == ["has", "a"]
        # When it stands still with a record in hand
        kill(child.pid, signal.SIGSTOP)
        # Then the record is another's after the grace, and the consumer is forgotten after twice that
        assert taken(broker, name, sink=name, idle=2) == ["a"]
        until(lambda: sink_of(broker, name)["consumers"] == {}, what="the stale one is forgotten")
        # And when it goes on it comes anew by itself
        kill(child.pid, signal.SIGCONT)
        child.tell(None)
        publish(broker, name, ["b"])
        assert child.hear() == ["has", "b"]
