"""What a consumer may do with its tasks, and what becomes of them."""

from __future__ import annotations

import logging
import signal
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from dq import AlreadySettled, Closed, Consumer, InvalidSetting, Outcome, Publisher, TaskIn
from stage import Child, Threaded, drain, settled, sink_of, until, until_settled


@pytest.fixture
def publisher(broker, name):
    with Publisher(broker, name) as publisher:
        yield publisher


def consumer_of(broker, name: str, **wishes) -> Consumer:
    return Consumer(broker, name, sink=name, **{"idle_timeout": 0.5, **wishes})


def payloads(consumer: Consumer) -> list:
    got = []
    for task in consumer:
        with task:
            got.append(task.payload)
    return got


# --- order and sharing -----------------------------------------------------------------------------------------------


def test_records_of_one_key_keep_their_order(broker, name):
    broker.stream(name, buckets=4)
    with Publisher(broker, name, batch_size=7) as publisher:
        publisher.publish_many(TaskIn(n, key=f"k{n % 10}") for n in range(500))
        for n in range(500, 600):
            publisher.submit(n, key=f"k{n % 10}")
    by_key = defaultdict(list)
    buckets = defaultdict(set)
    with consumer_of(broker, name, idle_timeout=None) as consumer, until_settled(broker, name, consumer):
        for task in consumer:
            with task:
                by_key[task.key].append(task.payload)
                buckets[task.key].add(task.bucket)
    assert {key: sorted(numbers) for key, numbers in by_key.items()} == by_key
    assert sum(map(len, by_key.values())) == 600
    assert {len(found) for found in buckets.values()} == {1}
    assert len(set.union(*buckets.values())) > 1


def test_consumers_of_a_sink_share_its_records_and_each_sink_gets_all(broker, name, publisher):
    publisher.publish_many(range(400))
    with consumer_of(broker, name, prefetch=10) as one, consumer_of(broker, name, prefetch=10) as two:
        sides = [Threaded(lambda side=side: payloads(side)) for side in (one, two)]
        got = [side.result() for side in sides]
    with Consumer(broker, name, sink=f"{name}-b", idle_timeout=0.5) as other:
        assert payloads(other) == list(range(400))
    assert sorted(got[0] + got[1]) == list(range(400))
    assert all(got)


def test_a_new_sink_may_start_at_the_newest(broker, name, publisher):
    publisher.publish("old")
    with consumer_of(broker, name, start="newest") as consumer:
        publisher.publish("new")
        assert payloads(consumer) == ["new"]


def test_two_threads_share_one_consumer(broker, name, publisher):
    publisher.publish_many(range(2_000))
    with (
        consumer_of(broker, name, idle_timeout=None) as consumer,
        ThreadPoolExecutor(2) as threads,
        until_settled(broker, name, consumer),
    ):
        halves = [threads.submit(payloads, consumer) for _ in range(2)]
        got = [half.result(20) for half in halves]
    assert sorted(got[0] + got[1]) == list(range(2_000))
    assert sink_of(broker, name)["redelivered"] == 0


def test_a_task_may_be_settled_by_another_thread(broker, name, publisher):
    publisher.publish_many(range(200))
    with ThreadPoolExecutor(4) as threads, consumer_of(broker, name, prefetch=50, ack_grace=20) as consumer:
        for task in consumer:
            threads.submit(task.ack)
    assert settled(broker, name, 200)


# --- the verbs -------------------------------------------------------------------------------------------------------


def test_a_task_whose_handler_fails_comes_again_with_its_attempt_and_its_error(broker, name, publisher):
    publisher.publish("x")
    seen = []
    with consumer_of(broker, name, max_attempts=5, idle_timeout=2) as consumer:
        for task in consumer:
            seen.append((task.attempt, task.last_error))
            try:
                with task:
                    if task.attempt < 3:
                        raise LookupError(f"no {task.attempt}")
            except LookupError:
                continue
            break
    assert seen == [(1, None), (2, "LookupError: no 1"), (3, "LookupError: no 2")]


def test_a_retry_waits_as_long_as_it_was_told(broker, name, publisher):
    publisher.publish_many(["later", "now"])
    with consumer_of(broker, name, idle_timeout=2, prefetch=1) as consumer:
        tasks = iter(consumer)
        task = next(tasks)
        at = time.monotonic()
        task.retry(after=timedelta(seconds=0.3), error="not yet")
        task = next(tasks)
        assert task.payload == "now"
        task.ack()
        task = next(tasks)
        assert 0.29 < time.monotonic() - at < 1.5
        assert (task.payload, task.attempt, task.last_error) == ("later", 2, "not yet")
        task.ack()


def test_a_task_that_fails_each_time_is_given_up_once(broker, name, publisher):
    publisher.publish_many([TaskIn("bad", key="k", topic="t", headers={"h": "1"}), TaskIn("good")])
    seen = []
    with consumer_of(broker, name, max_attempts=3, idle_timeout=None) as consumer, until_settled(broker, name, consumer):
        for task in consumer:
            if task.payload == "bad":
                seen.append(task.attempt)
                task.retry(after=0, error=f"error {task.attempt}")
            else:
                task.ack()
    assert seen == [1, 2, 3]
    until(lambda: settled(broker, name, 2), what="the dead letter is stored")
    [letter] = drain(broker, f"{name}-dlq", sink=f"{name}-undertaker")
    assert (letter.payload, letter.key, letter.topic) == ("bad", "k", "t")
    expected = {"h": "1", "dq-id": f"{name}/0/0", "dq-sink": name, "dq-attempts": "3", "dq-reason": "max_attempts"}
    assert expected.items() <= letter.headers.items()
    assert letter.headers["dq-error"] == "error 3"


def test_a_task_may_be_given_up_at_once_with_a_reason(broker, name, publisher):
    publisher.publish("x")
    with consumer_of(broker, name, idle_timeout=None) as consumer, until_settled(broker, name, consumer):
        for task in consumer:
            task.dead_letter("the address is no address")
    until(lambda: settled(broker, name, 1), what="the dead letter is stored")
    with Consumer(broker, f"{name}-dlq", sink=f"{name}-undertaker", idle_timeout=2) as undertaker:
        letter = next(iter(undertaker))
        assert (letter.payload, letter.headers["dq-reason"]) == ("x", "the address is no address")
        letter.ack()


def test_a_task_may_be_dropped(broker, name, publisher):
    publisher.publish("x")
    with consumer_of(broker, name, idle_timeout=None) as consumer, until_settled(broker, name, consumer):
        for task in consumer:
            task.drop()
    assert settled(broker, name, 1)
    assert sink_of(broker, name)["dropped"] == 1


def test_a_released_task_comes_again_as_it_was(broker, name, publisher):
    publisher.publish("x")
    seen = []
    with consumer_of(broker, name, idle_timeout=2) as consumer:
        for task in consumer:
            seen.append((task.payload, task.attempt))
            if len(seen) < 3:
                task.release()
            else:
                task.ack()
                break
    assert seen == [("x", 1)] * 3


@pytest.mark.parametrize("first", ["ack", "drop", "release", "retry"])
def test_a_task_is_settled_once(broker, name, publisher, first):
    publisher.publish("x")
    with consumer_of(broker, name) as consumer:
        task = next(iter(consumer))
        getattr(task, first)()
        outcome = task.outcome
        for second in (task.ack, task.drop, task.retry, task.release, lambda: task.dead_letter("x"), lambda: task.extend(1)):
            with pytest.raises(AlreadySettled, match=task.id):
                second()
        assert task.outcome == outcome == Outcome(first)


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), timedelta(seconds=-1)])
def test_times_that_are_none_are_refused(broker, name, publisher, seconds):
    publisher.publish("x")
    with consumer_of(broker, name) as consumer:
        task = next(iter(consumer))
        with pytest.raises(InvalidSetting):
            task.retry(after=seconds)
        with pytest.raises(InvalidSetting):
            task.extend(seconds)
        assert task.outcome is None
        task.ack()


# --- leaving the loop ------------------------------------------------------------------------------------------------


def test_an_exception_that_leaves_the_loop_gives_the_rest_back_unburned(broker, name, publisher):
    publisher.publish_many(range(100))

    def fails_at_ten(consumer: Consumer) -> None:
        for task in consumer:
            with task:
                if task.payload == 10:
                    raise LookupError("ten")

    with consumer_of(broker, name, prefetch=50) as consumer:
        with pytest.raises(LookupError, match="ten"):
            fails_at_ten(consumer)
        until(lambda: sink_of(broker, name)["consumers"][consumer.consumer_id]["in_hand"] == 0, what="nothing is in hand")
        with consumer_of(broker, name, idle_timeout=1) as other:
            attempts = {task.payload: (task.attempt, task.ack())[0] for task in other}
    assert attempts == {10: 2} | dict.fromkeys(range(11, 100), 1)


def test_a_loop_that_is_left_can_be_entered_again(broker, name, publisher):
    publisher.publish_many(range(30))
    with consumer_of(broker, name) as consumer:
        got = []
        for _ in range(3):
            for task in consumer:
                with task:
                    got.append((task.payload, task.attempt))
                if len(got) % 10 == 0:
                    break
        assert got == [(n, 1) for n in range(30)]
        assert payloads(consumer) == []


def test_ctrl_c_in_the_middle_of_a_task_gives_it_back_unburned(broker, name, publisher):
    publisher.publish("x")
    with consumer_of(broker, name) as consumer:
        with pytest.raises(KeyboardInterrupt), next(iter(consumer)) as task:
            raise KeyboardInterrupt
        assert task.outcome == Outcome.RELEASE
    with consumer_of(broker, name) as consumer:
        assert [(task.attempt, task.ack())[0] for task in consumer] == [1]


def test_an_idle_consumer_ends_after_its_time(broker, name, publisher):
    began = time.monotonic()
    with consumer_of(broker, name, idle_timeout=0.2) as consumer:
        assert payloads(consumer) == []
        assert 0.15 < time.monotonic() - began < 2
        publisher.publish("x")
        assert payloads(consumer) == ["x"]


def test_stop_from_another_thread_ends_a_loop_that_waits(broker, name, publisher):
    with consumer_of(broker, name, idle_timeout=None) as consumer:
        waiting = Threaded(lambda: payloads(consumer))
        until(lambda: sink_of(broker, name)["consumers"][consumer.consumer_id]["credit"], what="it waits")
        consumer.stop()
        assert waiting.result(2) == []


def test_stop_from_a_signal_handler_ends_a_loop_that_waits(broker, name, publisher):
    code = """
import signal
from dq import Consumer
consumer = Consumer(sys.argv[1], sys.argv[2], sink=sys.argv[2])
signal.signal(signal.SIGTERM, lambda *_: consumer.stop())
say("ready")
for task in consumer:
    with task:
        say(task.payload)
consumer.close()
say("done")
"""
    with Child(code, broker.root, name) as child:
        assert child.hear() == "ready"
        publisher.publish("x")
        assert child.hear() == "x"
        child.process.send_signal(signal.SIGTERM)
        assert child.hear(3) == "done"
        assert child.wait() == 0


def test_a_closed_consumer_says_so(broker, name, publisher):
    publisher.publish_many(range(3))
    consumer = consumer_of(broker, name)
    tasks = iter(consumer)
    task = next(tasks)
    consumer.close()
    consumer.close()
    with pytest.raises(Closed):
        next(iter(consumer))
    with pytest.raises(Closed):
        consumer.flush()
    with pytest.raises(Closed):
        task.ack(wait=True)
    tasks.close()
    publisher.close()
    for use in (publisher.publish, publisher.submit, lambda item: publisher.publish_many([item])):
        with pytest.raises(Closed):
            use(1)


# --- leases ----------------------------------------------------------------------------------------------------------


def test_a_task_left_unsettled_comes_again_after_its_grace_with_a_warning(broker, name, publisher, caplog):
    publisher.publish_many(["forgotten", "next"])
    with caplog.at_level(logging.WARNING, "dq"), consumer_of(broker, name, ack_grace=0.4, idle_timeout=3) as consumer:
        tasks = iter(consumer)
        forgotten = next(tasks)
        left_at = time.monotonic()
        task = next(tasks)
        assert task.payload == "next"
        task.ack()
        again = next(tasks)
        assert 0.3 < time.monotonic() - left_at < 2
        assert (again.payload, again.attempt) == ("forgotten", 2)
        again.ack(wait=True)
    assert f"task {forgotten.id} was left unsettled" in caplog.text


def test_a_task_that_was_given_more_time_may_be_left_open(broker, name, publisher, caplog):
    """As the warning itself says: `dq consume --no-ack` holds on to what it has shown."""
    publisher.publish_many(["held", "next"])
    with caplog.at_level(logging.WARNING, "dq"), consumer_of(broker, name, ack_grace=0.2, idle_timeout=0.6) as consumer:
        tasks = iter(consumer)
        held = next(tasks)
        held.extend(60)
        assert [task.payload for task in tasks if not task.ack()] == ["next"]  # thrice the grace: it does not come again
        held.ack(wait=True)
    assert "unsettled" not in caplog.text
    assert (sink_of(broker, name)["redelivered"], sink_of(broker, name)["settled"]) == (0, 2)


def test_a_task_in_hand_is_renewed_for_as_long_as_it_takes(broker, name, publisher):
    publisher.publish_many(["long", "short"])
    with consumer_of(broker, name, ack_grace=0.3) as consumer, consumer_of(broker, name, idle_timeout=1.2) as other:
        task = next(iter(consumer))
        assert payloads(other) in ([], ["short"])  # four times the grace
        task.ack(wait=True)
    assert sink_of(broker, name)["redelivered"] <= 1


def test_an_ack_that_comes_late_counts_while_the_record_is_open(broker, name, publisher):
    publisher.publish_many(["slow", "next"])
    with consumer_of(broker, name, ack_grace=0.3, idle_timeout=2, prefetch=2) as consumer:
        tasks = iter(consumer)
        slow = next(tasks)
        next(tasks).ack()  # `slow` is abandoned
        until(lambda: sink_of(broker, name)["shards"][f"{name}/0"]["waiting"] or sink_of(broker, name)["redelivered"], 3)
        slow.ack(wait=True)
        assert until(lambda: settled(broker, name, 2), what="the late ack counts")


def test_more_time_is_kept_to(broker, name, publisher):
    publisher.publish_many(["slow", "next"])
    with consumer_of(broker, name, ack_grace=0.3, idle_timeout=1) as consumer:
        tasks = iter(consumer)
        slow = next(tasks)
        slow.extend(1.5)
        extended_at = time.monotonic()
        next(tasks).ack()  # `slow` is abandoned, but has asked for more time
        for task in tasks:
            assert time.monotonic() - extended_at > 1.4
            assert task.payload == "slow"
            task.ack()
            break


def test_all_that_was_settled_is_confirmed_when_the_consumer_is_closed(broker, name, publisher):
    publisher.publish_many(range(1_000))
    with consumer_of(broker, name) as consumer:
        for task in consumer:
            task.ack()
            if task.payload == 499:
                break
    assert settled(broker, name, 500)
