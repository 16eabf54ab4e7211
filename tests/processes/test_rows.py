"""Rows L1-L8 of the list of systems, one test or more each, named in the first word of its docstring."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import orjson
import pytest

from dq import (
    BrokerManager,
    BrokerRunning,
    Consumer,
    Event,
    EventOwner,
    EventType,
    OutcomeUnknown,
    ProtocolError,
    Publisher,
    PublishTimeout,
    TaskIn,
)
from dq.model.event import decode
from stage import Child, Threaded, alive, kill, pids, settled, sink_of, until


def take(consumer: Consumer, count: int) -> list:
    """The payloads of the next `count` tasks, acked."""
    payloads = []
    for task in consumer:
        with task:
            payloads.append(task.payload)
        if len(payloads) == count:
            break
    return payloads


# --- L1 --------------------------------------------------------------------------------------------------------------


def test_a_publisher_broker_that_crashes_is_replaced_alone_and_clients_go_on(dq_broker):
    """L1 and crash G3 (who is out of memory is killed with -9): it alone is replaced, and clients see a pause."""
    with Publisher(dq_broker, "emails") as publisher, Consumer(dq_broker, "emails", sink="mailers") as consumer:
        publisher.publish(1)
        assert take(consumer, 1) == [1]
        old_publisher_broker, old_consumer_broker = pids(dq_broker)

        kill(old_publisher_broker)

        assert publisher.publish(2).id == "emails/0/1"
        assert take(consumer, 1) == [2]
        new_publisher_broker, new_consumer_broker = pids(dq_broker)
        assert new_publisher_broker != old_publisher_broker
        assert new_consumer_broker == old_consumer_broker
        assert dq_broker.stats()["pid"] == dq_broker.manager_pid
        assert not alive(old_publisher_broker)


def test_a_consumer_broker_that_crashes_is_replaced_alone_and_clients_go_on(dq_broker):
    """L1 and crash G3: the same for the consumer broker."""
    with Publisher(dq_broker, "emails") as publisher, Consumer(dq_broker, "emails", sink="mailers") as consumer:
        publisher.publish(1)
        assert take(consumer, 1) == [1]
        old_publisher_broker, old_consumer_broker = pids(dq_broker)

        kill(old_consumer_broker)

        publisher.publish(2)
        assert take(consumer, 1) == [2]
        new_publisher_broker, new_consumer_broker = pids(dq_broker)
        assert new_publisher_broker == old_publisher_broker
        assert new_consumer_broker != old_consumer_broker
        assert sink_of(dq_broker, "mailers")["redelivered"] == 0


def test_the_manager_and_both_brokers_are_processes_of_their_own(broker):
    """L1: a manager spawns a publisher broker and a consumer broker, each its own process."""
    publisher_broker, consumer_broker = pids(broker)
    assert len({os.getpid(), broker.manager_pid, publisher_broker, consumer_broker}) == 4
    for pid in (publisher_broker, consumer_broker):
        with open(f"/proc/{pid}/stat") as stat:
            assert int(stat.read().rpartition(")")[2].split()[1]) == broker.manager_pid


# --- L2 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("envelope", "named"),
    [
        ({"type": "WRIT", "owner": "PUBLISHER"}, "WRIT"),
        ({"type": "WRITE", "owner": "PUBLISHERS"}, "PUBLISHERS"),
        ({"type": "SHUTDOWN", "owner": "PUBLISHER"}, "PUBLISHER"),
        ({"type": ["WRITE"], "owner": "PUBLISHER"}, "no event has type"),
        ({"owner": "PUBLISHER"}, "None"),
        ({"type": "WRITE", "owner": "PUBLISHER", "bucket": 0, "sequence": 0}, "count"),
        ({"type": "WRITE", "owner": "PUBLISHER", "bucket": 0, "sequence": 0, "count": 1, "more": 1}, "more"),
        ({"type": "WRITE", "owner": "PUBLISHER", "bucket": "0", "sequence": 0, "count": 1}, "bucket"),
        ({"type": "WRITE", "owner": "PUBLISHER", "bucket": 0, "sequence": True, "count": 1}, "sequence"),
        ({"type": "WRITE", "owner": "PUBLISHER", "bucket": 0, "sequence": 0, "count": -1}, "count"),
        ({"type": "WRITE", "owner": "PUBLISHER", "bucket": 0, "sequence": 0, "count": 1.0}, "count"),
        ({"type": "WRITE", "owner": "PUBLISHER", "bucket": 0, "sequence": 0, "count": 1, "again": 1}, "again"),
    ],
)
def test_an_envelope_that_is_not_exactly_right_is_refused_by_name(envelope, named):
    """L2: events are strict: what is wrong with one is named."""
    with pytest.raises(ProtocolError, match=named):
        decode(orjson.dumps(envelope) + b"\n")


def test_events_pass_through_the_queues_between_processes():
    """L2: an `Event` goes over a `multiprocessing.Queue` as the bytes that it is, and comes out equal."""
    queue = multiprocessing.get_context("spawn").Queue()
    sent = [
        Event(EventType.STATUS, EventOwner.MANAGER, {"request": 7}),
        Event(EventType.WRITE, EventOwner.CONSUMER_BROKER, {"stream": "a-dlq", "publisher": "sink:b", "sequence": 0}, b"{}\n"),
        Event(EventType.SHUTDOWN, EventOwner.MANAGER),
    ]
    try:
        for event in sent:
            queue.put(event.encode())
        assert [decode(queue.get(timeout=5)) for _ in sent] == sent
    finally:
        queue.close()
        queue.join_thread()


def test_a_question_goes_over_both_queues_to_each_broker_and_back(broker):
    """L2: the manager asks both brokers over their queues, and their answers come over the others."""
    stats = broker.stats()
    assert "streams" in stats["publisher_broker"]
    assert "sinks" in stats["consumer_broker"]


# --- L3 --------------------------------------------------------------------------------------------------------------


def test_each_publisher_waits_for_the_acknowledgement_of_its_own_record(broker, name):
    """L3: a publisher waits for the acknowledgement of its own task."""
    with Publisher(broker, name) as publisher, ThreadPoolExecutor(8) as threads:
        receipts = dict(threads.map(lambda n: (publisher.publish({"n": n}).id, n), range(200)))
    assert len(receipts) == 200
    with Consumer(broker, name, sink=name, idle_timeout=0.5) as consumer:
        found = {}
        for task in consumer:
            with task:
                found[task.id] = task.payload["n"]
    assert found == receipts


def test_a_publisher_that_is_not_answered_in_time_gets_an_error_whose_future_still_ends(dq_broker):
    """L3: no acknowledgement in time is a timeout error of ours, and the outcome is still learned."""
    with Publisher(dq_broker, "emails") as publisher:
        publisher.publish(0)
        broker_pid = pids(dq_broker)[0]
        os.kill(broker_pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            with pytest.raises(PublishTimeout, match=r"0\.3 s") as caught:
                publisher.publish(1, timeout=0.3)
            assert 0.25 < time.monotonic() - began < 2
            assert isinstance(caught.value, TimeoutError)
            assert not caught.value.future.done()
        finally:
            os.kill(broker_pid, signal.SIGCONT)
        assert caught.value.future.result(5).id == "emails/0/1"
        assert publisher.publish(2).id == "emails/0/2"


# --- L4 --------------------------------------------------------------------------------------------------------------


def test_many_records_reach_the_file_in_few_batches(dq_broker):
    """L4: writes are batched before they reach the file."""
    with Publisher(dq_broker, "emails") as publisher:
        futures = [publisher.submit(n) for n in range(5_000)]
        assert [future.result(10).id for future in futures] == [f"emails/0/{n}" for n in range(5_000)]
    figures = dq_broker.stats()["publisher_broker"]
    assert figures["records"] == 5_000
    assert figures["batches"] < 500
    assert figures["commits"] <= figures["batches"]


def test_what_came_while_a_commit_was_syncing_is_the_next_commit(dq_broker):
    """L4: batches of many publishers share one commit."""
    publishers = [Publisher(dq_broker, "emails") for _ in range(8)]
    try:
        broker_pid = pids(dq_broker)[0]
        before = dq_broker.stats()["publisher_broker"]["commits"]
        os.kill(broker_pid, signal.SIGSTOP)
        try:
            futures = [publisher.submit(1) for publisher in publishers]
        finally:
            os.kill(broker_pid, signal.SIGCONT)
        assert sorted(future.result(5).id for future in futures) == [f"emails/0/{n}" for n in range(8)]
        assert dq_broker.stats()["publisher_broker"]["commits"] - before < 8
    finally:
        for publisher in publishers:
            publisher.close()


# --- L5 --------------------------------------------------------------------------------------------------------------


def test_a_consumer_waits_idle_is_pushed_a_task_reports_it_and_is_idle_again(broker, name):
    """L5: register, wait idle, be pushed, report, get an acknowledgement for the report, be idle again."""

    def is_idle() -> bool:
        figures = sink_of(broker, name)["consumers"].get(consumer.consumer_id, {})
        return figures.get("credit", 0) > 0 and figures["in_hand"] == 0

    with Publisher(broker, name) as publisher, Consumer(broker, name, sink=name) as consumer:
        registered = [client["id"] for client in broker.stats()["registered"]]
        assert consumer.consumer_id in registered
        confirmed: list[int] = []

        def work() -> None:
            for task in consumer:
                task.ack(wait=True)
                confirmed.append(sink_of(broker, name)["settled"])

        working = Threaded(work)
        for round_number in (1, 2, 3):
            until(is_idle, what="the consumer waits idle")
            publisher.publish(round_number)
            until(lambda expected=round_number: len(confirmed) == expected, what="the task was pushed and confirmed")
        assert confirmed == [1, 2, 3]  # each was settled at the broker when its confirmation came
        until(is_idle, what="the consumer is idle again")
        consumer.stop()
        working.result()


# --- L6 --------------------------------------------------------------------------------------------------------------


def test_what_a_publisher_hands_in_and_what_a_consumer_gets(broker, name):
    """L6: `TaskIn` goes in; `Task` has id, publisher, consumer, payload, started, completed, last check, deadline."""
    with Publisher(broker, name) as publisher:
        handed_in = TaskIn({"to": "ada"}, key="ada", topic="mail.welcome", name="Welcome", headers={"trace": "1"})
        before = datetime.now(UTC)
        [receipt] = publisher.publish_many([handed_in])
        with Consumer(broker, name, sink=name, ack_grace=20, idle_timeout=5) as consumer:
            task = next(iter(consumer))
            assert (task.id, task.stream, task.bucket, task.offset) == (receipt.id, name, 0, 0)
            assert (task.payload, task.key, task.topic, task.name) == ({"to": "ada"}, "ada", "mail.welcome", "Welcome")
            assert task.headers == {"trace": "1"}
            assert (task.publisher, task.consumer, task.sink) == (publisher.id, consumer.consumer_id, name)
            assert (task.attempt, task.last_error, task.outcome) == (1, None, None)
            assert before <= task.created_at <= task.started <= datetime.now(UTC)
            assert task.completed is None
            assert before <= task.last_check <= datetime.now(UTC)
            assert 15 < (task.deadline - task.started).total_seconds() <= 21
            task.ack(wait=True)
            assert task.outcome == "ack"
            assert task.completed is not None
            assert task.started <= task.completed <= datetime.now(UTC)


def test_a_consumer_tells_how_far_it_is_while_it_works(broker, name):
    """L6: a consumer sends updates while it works; they are seen from outside, and the deadline moves on."""
    with Publisher(broker, name) as publisher, Consumer(broker, name, sink=name, idle_timeout=5) as consumer:
        publisher.publish({"pages": 40})
        task = next(iter(consumer))
        task.extend(60, note="page 7 of 40")
        assert (task.deadline - datetime.now(UTC)).total_seconds() > 50
        until(lambda: [note["note"] for note in sink_of(broker, name)["notes"]] == ["page 7 of 40"], what="the note")
        task.extend(60, note="page 8 of 40")
        until(lambda: [note["note"] for note in sink_of(broker, name)["notes"]] == ["page 8 of 40"], what="the next note")
        task.ack(wait=True)


# --- L7 --------------------------------------------------------------------------------------------------------------


def test_a_second_manager_on_a_directory_is_refused_and_told_the_pid(dq_broker):
    """L7 and bad input 57: the directory is locked against a second broker."""
    with pytest.raises(BrokerRunning, match=rf"pid {dq_broker.manager_pid}\b"):
        BrokerManager(dq_broker.root)
    assert dq_broker.publish("emails", 1).id == "emails/0/0"


@pytest.mark.alone
def test_of_twenty_managers_started_at_once_exactly_one_wins(tmp_path, request):
    """L7, crash G7 and T14: 20 managers race for one directory: one wins, the others say whose pid."""

    def start(_: int) -> BrokerManager | BrokerRunning:
        try:
            return BrokerManager(tmp_path / "q")
        except BrokerRunning as error:
            return error

    for round_number in range(request.config.getoption("--race-rounds")):
        with ThreadPoolExecutor(20) as threads:
            outcomes = list(threads.map(start, range(20)))
        winners = [outcome for outcome in outcomes if isinstance(outcome, BrokerManager)]
        try:
            assert len(winners) == 1
            losers = [str(outcome) for outcome in outcomes if isinstance(outcome, BrokerRunning)]
            assert len(losers) == 19
            assert [text for text in losers if f"pid {winners[0].manager_pid}" not in text] == []
            assert winners[0].publish("emails", 1).id == f"emails/0/{round_number}"
        finally:
            for winner in winners:
                winner.stop()


# --- L8 --------------------------------------------------------------------------------------------------------------


def test_a_stop_is_in_order_within_its_limit_and_leaves_nothing(tmp_path):
    """L8: final flush, ordered stop of consumers, brokers, manager, with a limit."""
    root = tmp_path / "q"
    broker = BrokerManager(root)
    all_pids = [broker.manager_pid, *pids(broker)]
    publisher = Publisher(broker, "emails")
    consumer = Consumer(broker, "emails", sink="mailers")
    try:
        publisher.publish_many(range(1_000))
        assert take(consumer, 100) == list(range(100))
        consumer.flush(5)

        began = time.monotonic()
        broker.stop(timeout=5)
        took = time.monotonic() - began
    finally:
        broker.stop()
        for client in (publisher._link, consumer._link):
            client.close()

    assert took < 5
    assert [pid for pid in all_pids if alive(pid)] == []
    assert not (root / "manager.sock").exists()
    with BrokerManager(root) as again, Consumer(again, "emails", sink="mailers", idle_timeout=0.5) as rest:
        assert take(rest, 900) == list(range(100, 1_000))


def test_a_stop_ends_within_its_limit_when_a_broker_hangs(tmp_path):
    """L8: what has not stopped in time is killed; what was confirmed is still there."""
    broker = BrokerManager(tmp_path / "q")
    publisher_broker, consumer_broker = pids(broker)
    manager = broker.manager_pid
    try:
        receipt = broker.publish("emails", 1)
        os.kill(publisher_broker, signal.SIGSTOP)
        with pytest.raises(PublishTimeout) as unanswered:
            broker.publish("emails", 2, timeout=0.2)
        began = time.monotonic()
        broker.stop(timeout=1)
        assert time.monotonic() - began < 4
        with pytest.raises(OutcomeUnknown):
            unanswered.value.future.result(0)
        until(lambda: not any(map(alive, (manager, publisher_broker, consumer_broker))), 3, "all are gone")
    finally:
        for pid in (publisher_broker, consumer_broker, manager):
            kill(pid, signal.SIGCONT)
            kill(pid)
        broker.stop()
    with BrokerManager(tmp_path / "q") as again, Consumer(again, "emails", sink="mailers", idle_timeout=3) as consumer:
        task = next(iter(consumer))
        assert (task.id, task.payload) == (receipt.id, 1)
        task.ack()


def test_consumers_end_their_iteration_in_order(broker, name):
    """L8: a consumer that is stopped finishes the task in its hand and gives back the rest."""
    code = """
import signal
from dq import Consumer
consumer = Consumer(sys.argv[1], sys.argv[2], sink=sys.argv[2], prefetch=10)
signal.signal(signal.SIGTERM, lambda *_: consumer.stop())
for task in consumer:
    with task:
        say(task.payload)
        heard()
consumer.close()
say("done")
"""
    with Publisher(broker, name) as publisher, Child(code, broker.root, name) as child:
        publisher.publish_many(range(10))
        assert child.hear() == 0
        child.process.send_signal(signal.SIGTERM)
        child.tell("go on")
        assert child.hear() == "done"
        assert child.wait() == 0
    assert settled(broker, name, 1)
    with Consumer(broker, name, sink=name, idle_timeout=1) as rest:
        payloads = []
        for task in rest:
            with task:
                payloads.append((task.payload, task.attempt))
    assert payloads == [(n, 1) for n in range(1, 10)]
