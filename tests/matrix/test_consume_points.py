"""The crash matrix of consuming: the consumer broker killed at a chosen point, and consumers that die or stand still."""

from __future__ import annotations

import os
import signal
import time

import pytest
from tripwire import SENDS, WRITES, killed_at

from dq import BrokerManager, Consumer, Event, EventOwner, EventType, Publisher
from dq.model.event import decode
from dq.transport.frames import LENGTH
from dq.transport.peer import Peer
from stage import Child, drain, kill, pids, settled, sink_of, until

HOLDER = """
from dq import Consumer
settings = json.loads(sys.argv[3]) if len(sys.argv) > 3 else {}
consumer = Consumer(sys.argv[1], sys.argv[2], sink=sys.argv[2], prefetch=1, **settings)
for task in consumer:
    say(task.payload, task.attempt)
    heard()
    task.ack(wait=True)
    say("acked")
    break
consumer.close()
"""


def rest_of(broker: BrokerManager, sink: str) -> list[tuple]:
    """(payload, attempt) of all that a sink still has to give, acked."""
    return [(task.payload, task.attempt) for task in drain(broker, "s", sink=sink)]


@pytest.fixture
def publisher(dq_broker):
    with Publisher(dq_broker, "s") as made:
        yield made


# --- the consumer broker is killed -----------------------------------------------------------------------------------

DISPATCH = [
    pytest.param("pread64", id="crash C1: not read yet"),
    pytest.param(WRITES, id="crash C1: read, its lease not noted"),
    pytest.param(SENDS, id="crash C1: its lease noted, not sent"),
]


@pytest.mark.parametrize("calls", DISPATCH)
def test_a_consumer_broker_killed_before_a_record_is_sent_gives_it_once(dq_broker, publisher, calls):
    """The consumer comes to the next one by itself and gets it there, as for the first time."""
    with Consumer(dq_broker, "s", sink="s", idle_timeout=10, prefetch=1) as consumer:
        publisher.publish(0)
        tasks = iter(consumer)
        next(tasks).ack(wait=True)
        with killed_at(pids(dq_broker)[1], calls):
            publisher.publish(1)
            task = next(tasks)
            assert (task.payload, task.attempt) == (1, 1)
            task.ack(wait=True)
        tasks.close()
        assert sink_of(dq_broker, "s")["settled"] == 2
    assert rest_of(dq_broker, "s") == []


@pytest.mark.parametrize(
    "calls", [pytest.param(WRITES, id="crash C3: not noted"), pytest.param(SENDS, id="crash C4: noted, not confirmed")]
)
def test_an_ack_that_a_killed_consumer_broker_did_not_confirm_is_said_again(dq_broker, publisher, calls):
    """Nothing was confirmed before it was noted; said again it counts once, and the record does not come again."""
    with Consumer(dq_broker, "s", sink="s", idle_timeout=5) as consumer:
        publisher.publish(0)
        task = next(iter(consumer))
        with killed_at(pids(dq_broker)[1], calls):
            task.ack(wait=True)
        figures = sink_of(dq_broker, "s")
        assert (figures["settled"], figures["redelivered"]) == (1, 0)
    assert rest_of(dq_broker, "s") == []


@pytest.mark.parametrize("when", [1, 2], ids=["before the intent is noted", "after the dead letter is stored, not noted"])
def test_a_dead_letter_stands_once_however_its_broker_is_killed(dq_broker, publisher, when):
    """crash C5: the intent is noted first, and sent again with its number."""
    with Consumer(dq_broker, "s", sink="s", idle_timeout=5) as consumer:
        publisher.publish("bad")
        task = next(iter(consumer))
        with killed_at(pids(dq_broker)[1], WRITES, when):
            task.dead_letter("as a test")
            consumer.flush(10)
        # fails now for the second: it is not sent again until a consumer comes, nor then
        until(lambda: settled(dq_broker, "s", 1), 3, what="it is settled")
    letters = drain(dq_broker, "s-dlq", sink="undertaker")
    assert [(letter.payload, letter.headers["dq-id"]) for letter in letters] == [("bad", "s/0/0")]


def test_a_record_that_waits_for_its_time_still_waits_after_a_kill(dq_broker, publisher):
    """crash C6: the retry stands in the sink's log, and its timer is made anew."""
    with Consumer(dq_broker, "s", sink="s", idle_timeout=5) as consumer:
        publisher.publish(0)
        tasks = iter(consumer)
        next(tasks).retry(after=0.5, error="not yet")
        consumer.flush(5)
        kill(pids(dq_broker)[1])
        began = time.monotonic()
        pids(dq_broker)
        task = next(tasks)
        assert (task.payload, task.attempt, task.last_error) == (0, 2, "not yet")
        assert 0.2 < time.monotonic() - began < 5
        task.ack(wait=True)
        tasks.close()
    assert rest_of(dq_broker, "s") == []


def test_leases_of_consumers_that_do_not_come_back_to_the_next_consumer_broker(dq_broker):
    """crash C2 and C8: leases are kept for a while for who comes back with their numbers; one is dead, one stands still.

    The dead one's record goes to another. So does that of the one that stands still; its own ack comes late, while nobody has
    settled the record, and counts; the other's then changes nothing.
    """
    for stream in ("dead", "still"):
        dq_broker.publish(stream, stream)
    with Child(HOLDER, dq_broker.root, "dead") as dead, Child(HOLDER, dq_broker.root, "still") as still:
        assert dead.hear(20) == ["dead", 1]
        assert still.hear(20) == ["still", 1]
        broker_pid = pids(dq_broker)[1]
        os.kill(broker_pid, signal.SIGSTOP)  # so that it does not see the consumer die first
        dead.kill()
        os.kill(still.pid, signal.SIGSTOP)
        kill(broker_pid)
        with Child(HOLDER, dq_broker.root, "dead") as heir, Child(HOLDER, dq_broker.root, "still") as other:
            assert heir.hear(20)[0] == "dead"
            assert other.hear(20)[0] == "still"
            os.kill(still.pid, signal.SIGCONT)
            still.tell("go")
            assert still.hear() == "acked"
            assert settled(dq_broker, "still", 1)
            for child in (other, heir):
                child.tell("go")
                assert child.hear() == "acked"
    for sink in ("dead", "still"):
        assert sink_of(dq_broker, sink)["settled"] == 1


# --- consumers die or stand still ------------------------------------------------------------------------------------


def test_what_a_killed_consumer_had_not_started_comes_at_once_as_new(dq_broker, publisher):
    """crash W1: not after a timeout; the one it had begun is the only suspect."""
    code = "from dq import Consumer\nfor task in Consumer(sys.argv[1], 's', sink='s', prefetch=10):\n    say(1)\n    heard()"
    publisher.publish_many(range(10))
    with Child(code, dq_broker.root) as child:
        child.hear(20)
        until(lambda: sink_of(dq_broker, "s")["shards"]["s/0"]["in_hand"] == 10, what="all ten are in its hand")
        child.kill()
    began = time.monotonic()
    found = rest_of(dq_broker, "s")
    assert time.monotonic() - began < 4
    assert [payload for payload, _ in found] == list(range(10))
    assert [attempt for _, attempt in found[1:]] == [1] * 9


@pytest.mark.parametrize("done", [False, True], ids=["crash W2: within the work", "crash W3: the work done, no ack sent"])
def test_a_record_whose_consumer_is_killed_alone_with_it_comes_as_its_second_attempt(dq_broker, publisher, tmp_path, done):
    """At least once: what its consumer did outside may be done twice."""
    publisher.publish(0)
    with Child(HOLDER, dq_broker.root, "s") as child:
        assert child.hear(20) == [0, 1]
        if done:
            (tmp_path / "done").touch()
        child.kill()
    assert rest_of(dq_broker, "s") == [(0, 2)]
    assert (tmp_path / "done").exists() == done


def test_half_an_ack_is_none(dq_broker, publisher):
    """crash W4: the connection ends within the frame; at every byte of it."""
    publisher.publish(0)
    ack = Event(EventType.ACK, EventOwner.CONSUMER, {"number": 1, "ranges": [[1, 0, 1]], "now": True}).encode()
    whole = LENGTH.pack(len(ack)) + ack
    fields = {"pid": os.getpid(), "sink": "s", "streams": ["s"], "create": True, "settings": {"max_attempts": 1_000_000}}
    for cut in range(1, len(whole)):
        peer = Peer(dq_broker.root)
        try:
            hello = Event(EventType.REGISTER, EventOwner.CONSUMER, {"id": f"c-{cut}", **fields})
            assert peer.ask(hello, 5).type is EventType.ACK
            peer.send(Event(EventType.READ, EventOwner.CONSUMER, {"credit": 1}))
            task = decode(peer.receive(5))
            assert task.type is EventType.TASK, cut
            peer._sock.sendall(whole[:cut])
        finally:
            peer.close()
    assert not settled(dq_broker, "s", 1)
    assert [payload for payload, _ in rest_of(dq_broker, "s")] == [0]


def test_a_confirmed_ack_stays_whoever_is_killed_next(tmp_path):
    """crash W5: the consumer, both brokers and the manager, one after another."""
    root = tmp_path / "q"
    with BrokerManager(root) as broker:
        broker.publish("s", 0)
        with Child(HOLDER, root, "s") as child:
            assert child.hear(20) == [0, 1]
            child.tell("go")
            assert child.hear() == "acked"
            child.kill()
        for place in (1, 0):
            kill(pids(broker)[place])
            assert rest_of(broker, "s") == []
        broker.publish("s", 1)
        kill(broker.manager_pid)
    with BrokerManager(root) as broker:
        assert rest_of(broker, "s") == [(1, 1)]


def test_a_consumer_that_stands_still_loses_its_lease_and_its_late_ack_counts_or_changes_nothing(dq_broker, publisher):
    """crash W6: alive and silent; after `ack_grace` its record goes to another, and its own ack comes late."""
    publisher.publish_many([0, 1])
    with Child(HOLDER, dq_broker.root, "s", '{"ack_grace": 0.5}') as still:
        payload, attempt = still.hear(20)
        assert (payload, attempt) == (0, 1)
        os.kill(still.pid, signal.SIGSTOP)
        with Consumer(dq_broker, "s", sink="s", idle_timeout=5) as other:
            found = []
            for task in other:
                found.append((task.payload, task.attempt))
                task.ack(wait=True)
                if len(found) == 2:
                    break
        assert sorted(found) == [(0, 2), (1, 1)]
        os.kill(still.pid, signal.SIGCONT)
        still.tell("go")
        assert still.hear() == "acked"  # it learns nothing of it, and nothing happens
        assert still.wait() == 0
    assert sink_of(dq_broker, "s")["settled"] == 2
    assert rest_of(dq_broker, "s") == []
