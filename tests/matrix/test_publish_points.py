"""The crash matrix of publishing: a publisher, or the publisher broker, killed at a chosen point of a record's way."""

from __future__ import annotations

import os
import signal

import pytest
from tripwire import FLUSHES, SENDS, UNLINKS, WRITES, killed_at, slowed

from dq import BrokerManager, Consumer, Event, EventOwner, EventType, Publisher
from dq.model.event import decode
from dq.transport.peer import Peer
from stage import Child, Threaded, drain, kill, pids, settled, until


def take_all(broker: BrokerManager, stream: str, sink: str = "judge") -> list:
    """All payloads that a sink still has to get, in order."""
    return [task.payload for task in drain(broker, stream, sink=sink)]


def write(sequence: int, payload: int, *, again: bool = False) -> Event:
    fields = {"bucket": 0, "sequence": sequence, "count": 1, **({"again": True} if again else {})}
    return Event(EventType.WRITE, EventOwner.PUBLISHER, fields, b'{"at":1.5,"payload":%d}\n' % payload)


def joined(broker: BrokerManager, publisher: str, *, again: bool = False) -> Peer:
    peer = Peer(broker.root)
    fields = {"id": publisher, "pid": os.getpid(), "stream": "s", "create": True, "again": again}
    assert peer.ask(Event(EventType.REGISTER, EventOwner.PUBLISHER, fields), 5).type is EventType.ACK
    return peer


# --- a publisher is killed -------------------------------------------------------------------------------------------

SENDER = """
from dq.transport.peer import Peer
from dq import Event, EventOwner, EventType
peer = Peer(__import__("pathlib").Path(sys.argv[1]))
fields = {"id": "p-dead", "pid": os.getpid(), "stream": "s", "create": True}
peer.ask(Event(EventType.REGISTER, EventOwner.PUBLISHER, fields), 5)
say("joined")
heard()
for n in range(3):
    fields = {"bucket": 0, "sequence": n, "count": 1}
    peer.send(Event(EventType.WRITE, EventOwner.PUBLISHER, fields, b'{"at":1.5,"payload":%d}\\n' % n))
say("sent")
heard()
"""


def test_a_publisher_killed_between_send_and_answer_is_known_by_its_numbers(dq_broker):
    """crash P3: what it had sent may be stored; whoever sends it again as the same publisher gets the same places."""
    with Child(SENDER, dq_broker.root) as child:
        assert child.hear(20) == "joined"
        broker_pid = pids(dq_broker)[0]
        os.kill(broker_pid, signal.SIGSTOP)
        try:
            child.tell("go")
            assert child.hear() == "sent"
            child.kill()
        finally:
            os.kill(broker_pid, signal.SIGCONT)
    until(lambda: dq_broker.stats()["publisher_broker"]["streams"]["s"]["records"] == 3, what="what it sent is stored")
    peer = joined(dq_broker, "p-dead", again=True)
    try:
        answers = [peer.ask(write(n, n, again=n < 3), 5) for n in range(4)]
    finally:
        peer.close()
    assert [(answer.type, answer["first"]) for answer in answers] == [(EventType.ACK, n) for n in range(4)]
    assert take_all(dq_broker, "s") == [0, 1, 2, 3]


def test_a_publisher_killed_after_its_answer_has_published(dq_broker):
    """crash P4."""
    code = "from dq import Publisher\nsay(Publisher(sys.argv[1], 's').publish('kept').id)\nheard()"
    with Child(code, dq_broker.root) as child:
        assert child.hear(20) == "s/0/0"
        child.kill()
    assert take_all(dq_broker, "s") == ["kept"]


def test_a_publisher_killed_with_many_records_under_way_has_stored_a_prefix(dq_broker):
    """crash P5: all that was acknowledged, in order, then perhaps some of the rest, nothing twice and no gap."""
    code = """
from dq import Publisher
publisher = Publisher(sys.argv[1], "s", batch_size=7)
futures = [publisher.submit(n) for n in range(100_000)]
for n, future in enumerate(futures):
    future.result(30)
    if n % 100 == 0:
        say(n)
"""
    with Child(code, dq_broker.root) as child:
        while (acknowledged := child.hear(20)) < 500:
            pass
        child.kill()
        acknowledged = max([acknowledged, *child.hear_rest()])
    found = take_all(dq_broker, "s")
    assert found == list(range(len(found)))
    assert len(found) > acknowledged


# --- the publisher broker is killed ----------------------------------------------------------------------------------

POINTS = [
    pytest.param(WRITES, 1, id="crash B1: received, not written"),
    pytest.param(FLUSHES, 1, id="crash B3: written, not flushed"),
    pytest.param(SENDS, 1, id="crash B4: flushed, not answered"),
]


@pytest.mark.parametrize(("calls", "when"), POINTS)
def test_a_publisher_broker_killed_within_a_commit_is_followed_by_one_that_stores_it_once(dq_broker, calls, when):
    """The publisher waits, sends it again by itself, and gets one place."""
    with Publisher(dq_broker, "s") as publisher:
        assert publisher.publish(0).id == "s/0/0"
        broker_pid = pids(dq_broker)[0]
        with killed_at(broker_pid, calls, when):
            assert publisher.publish(1).id == "s/0/1"
        assert publisher.publish(2).id == "s/0/2"
        assert pids(dq_broker)[0] != broker_pid
    assert take_all(dq_broker, "s") == [0, 1, 2]
    quarantine = dq_broker.root / "quarantine"
    assert not quarantine.exists() or list(quarantine.iterdir()) == []  # nothing was torn


def test_a_publisher_broker_killed_between_two_answers_of_one_commit(dq_broker):
    """crash B5: one publisher has its answer, the other has none, sends again, and both stand once."""
    with Publisher(dq_broker, "s") as first, Publisher(dq_broker, "s") as second:
        first.publish("a"), second.publish("b")
        broker_pid = pids(dq_broker)[0]
        before = dq_broker.stats()["publisher_broker"]["commits"]
        assert before >= 2
        os.kill(broker_pid, signal.SIGSTOP)
        futures = [publisher.submit(n) for n, publisher in enumerate((first, second))]
        for publisher in (first, second):
            until(lambda p=publisher: p._batcher.in_flight == 1, what="both are sent")
        with killed_at(broker_pid, SENDS, 2):
            os.kill(broker_pid, signal.SIGCONT)
            ids = sorted(future.result(10).id for future in futures)
    assert ids == ["s/0/2", "s/0/3"]
    assert sorted(take_all(dq_broker, "s"), key=str) == [0, 1, "a", "b"]


def test_a_publisher_broker_killed_between_two_deletions_leaves_a_log_that_begins_later(dq_broker):
    """crash B7: oldest first, so that there is no gap; what is not settled is not touched."""
    dq_broker.stream("s", segment_bytes=4096, keep_seconds=0, keep_bytes=0)
    with Publisher(dq_broker, "s") as publisher:
        for _ in range(12):
            publisher.publish_many("x" * 400 for _ in range(10))
    bucket = dq_broker.root / "streams" / "s" / "0"
    segments = sorted(int(path.stem) for path in bucket.glob("*.jsonl"))
    assert len(segments) > 8
    broker_pid = pids(dq_broker)[0]
    with (
        Consumer(dq_broker, "s", sink="first", idle_timeout=5) as consumer,
        killed_at(broker_pid, UNLINKS, 2),
    ):
        for task in consumer:
            task.ack()
            if task.offset == 79:
                break
        consumer.flush(5)
    left = sorted(int(path.stem) for path in bucket.glob("*.jsonl"))
    assert len(left) < len(segments)
    assert left == segments[-len(left) :]
    assert [task.offset for task in drain(dq_broker, "s", sink="first")] == list(range(80, 120))
    assert dq_broker.publish("s", "on").id == "s/0/120"


@pytest.mark.parametrize("whom", ["the publisher broker", "the manager"])
def test_a_commit_that_is_under_way_at_sigterm_is_finished_and_answered(tmp_path, whom):
    """crash B9: SIGTERM during the flush: the batch is stored and answered, and the end is clean."""
    root = tmp_path / "q"
    with BrokerManager(root) as broker, Publisher(broker, "s", reconnect_timeout=2) as publisher:
        publisher.publish(0)
        broker_pid = pids(broker)[0]
        with slowed(broker_pid, FLUSHES, 0.5):
            publishing = Threaded(lambda: publisher.publish(1))
            until(lambda: b'"payload":1}' in (root / "streams" / "s" / "0" / f"{0:020}.jsonl").read_bytes())
            kill(broker_pid if whom == "the publisher broker" else broker.manager_pid, signal.SIGTERM)
            assert publishing.result().id == "s/0/1"
        if whom == "the publisher broker":  # which is replaced, as after any end that nobody asked for
            assert publisher.publish(2).id == "s/0/2"
            return
        until(lambda: broker._process.poll() == 0, what="the manager has ended well")
        assert (root / "streams" / "clean.json").exists()
    with BrokerManager(root) as broker:
        assert take_all(broker, "s") == [0, 1]


def test_an_answer_is_read_although_its_broker_died_after_sending_it(dq_broker):
    """crash P4 and B5, from the other side: an answer that stands in the pipe counts."""
    peer = joined(dq_broker, "p-late")
    try:
        peer.send(write(0, 7))
        until(lambda: dq_broker.stats()["publisher_broker"]["streams"]["s"]["records"] == 1, what="it is stored")
        kill(pids(dq_broker)[0])
        answer = decode(peer.receive(5))
        assert (answer.type, answer["first"]) == (EventType.ACK, 0)
    finally:
        peer.close()
    assert take_all(dq_broker, "s") == [7]
    assert settled(dq_broker, "judge", 1)
