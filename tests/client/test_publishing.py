"""How records are handed in: one by one, many, by futures, by many threads."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import dq
from dq import Consumer, InvalidPayload, Publisher, Receipt, TaskIn
from stage import until


def payloads(broker, stream: str) -> list:
    with Consumer(broker, stream, sink=stream, idle_timeout=0.4) as consumer:
        return [(task.payload, task.ack())[0] for task in consumer]


@pytest.fixture
def publisher(broker, name):
    with Publisher(broker, name) as publisher:
        yield publisher


def test_a_receipt_has_the_id_of_its_record_and_says_what_committed_means(publisher, name):
    assert publisher.publish(1) == Receipt(f"{name}/0/0", "sync")
    assert publisher.publish(2).id == f"{name}/0/1"


def test_receipts_of_many_stand_in_the_order_of_the_records(broker, publisher, name):
    receipts = publisher.publish_many(range(2_345))
    assert len(receipts) == 2_345
    assert [receipt.id for receipt in receipts] == [f"{name}/0/{n}" for n in range(2_345)]
    assert len(receipts.ranges) == 1
    assert payloads(broker, name) == list(range(2_345))


@pytest.mark.parametrize("items", [[], (), iter(()), {}])
def test_nothing_may_be_published(publisher, items):
    assert len(publisher.publish_many(items)) == 0


def test_bare_payloads_and_task_ins_may_stand_side_by_side(broker, publisher, name):
    publisher.publish_many([1, TaskIn(2, key="k"), b"3", TaskIn(b"4", topic="t"), {"n": 5}])
    assert sorted(map(str, payloads(broker, name))) == sorted(map(str, [1, 2, b"3", b"4", {"n": 5}]))


def test_a_key_may_be_a_function_of_the_payload_and_that_of_a_task_in_goes_first(broker, name):
    with Publisher(broker, name) as publisher:
        publisher.publish_many([{"id": "a"}, TaskIn({"id": "b"}, key="own")], key=lambda payload: payload["id"])
    with Consumer(broker, name, sink=name, idle_timeout=0.4) as consumer:
        assert [(task.key, task.ack())[0] for task in consumer] == ["a", "own"]


def test_records_without_a_key_go_to_the_buckets_in_turn(broker, name):
    broker.stream(name, buckets=4)
    with Publisher(broker, name, batch_size=10) as publisher:
        publisher.publish_many(range(400))
    ends = broker.stats()["publisher_broker"]["streams"][name]["ends"]
    assert ends == [100, 100, 100, 100]


def test_futures_end_with_receipts_and_work_with_concurrent_futures(publisher, name):
    futures = [publisher.submit(n) for n in range(300)]
    done, open_ones = concurrent.futures.wait(futures, 10)
    assert (len(done), open_ones) == (300, set())
    assert {future.result() for future in concurrent.futures.as_completed(futures, 5)} == {
        Receipt(f"{name}/0/{n}") for n in range(300)
    }
    assert [future.exception(1) for future in futures] == [None] * 300
    assert not futures[0].cancel()


def test_callbacks_of_futures_are_called(publisher):
    called = []
    futures = [publisher.submit(n) for n in range(50)]
    for future in futures:
        future.add_done_callback(called.append)
    until(lambda: len(called) == 50, what="all callbacks were called")
    assert set(called) == set(futures)


def test_a_flush_waits_for_all_that_was_submitted(publisher):
    futures = [publisher.submit(n) for n in range(1_000)]
    publisher.flush(10)
    assert all(future.done() for future in futures)


@pytest.mark.alone
def test_a_batch_that_lingers_leaves_when_its_time_has_come(broker, name):
    with Publisher(broker, name, linger=0.3) as publisher:
        at = time.monotonic()
        futures = [publisher.submit(n) for n in range(10)]
        assert not futures[0].done()
        assert [future.result(5).id for future in futures] == [f"{name}/0/{n}" for n in range(10)]
        assert 0.25 < time.monotonic() - at < 2
        at = time.monotonic()
        publisher.publish("urgent")
        assert time.monotonic() - at < 0.25  # somebody waits for it


def test_a_publisher_that_is_closed_has_sent_all(broker, name):
    with Publisher(broker, name, linger=30) as publisher:
        futures = [publisher.submit(n) for n in range(1_200)]
    assert [future.result(0).id for future in futures] == [f"{name}/0/{n}" for n in range(1_200)]


def test_threads_that_publish_submit_and_publish_many_on_one_publisher_do_not_disturb_each_other(broker, publisher, name):
    def work(thread: int) -> list[str]:
        ids = []
        for n in range(40):
            future = publisher.submit([thread, n, 0])
            ids.append(publisher.publish([thread, n, 1]).id)
            ids += [receipt.id for receipt in publisher.publish_many([[thread, n, 2], [thread, n, 3]])]
            ids.append(future.result(10).id)
        return ids

    with ThreadPoolExecutor(8) as threads:
        all_ids = [receipt_id for ids in threads.map(work, range(8)) for receipt_id in ids]
    assert len(set(all_ids)) == len(all_ids) == 8 * 40 * 4
    got = payloads(broker, name)
    assert sorted(got) == [[thread, n, m] for thread in range(8) for n in range(40) for m in range(4)]
    for thread in range(8):
        mine = [n for of, n, m in got if of == thread and m == 1]
        assert mine == sorted(mine)  # what a thread waited for stands in its order


def test_who_looks_for_a_reader_while_publish_many_still_reads_does_not_wait_for_its_next_item(publisher, monkeypatch):
    """Who publishes many reads the answers of all in passing; while its next item is being made, somebody else has to."""
    reading, answered = threading.Event(), threading.Event()
    link, read_one = publisher._link, publisher._link._read_one

    def slowly(timeout):
        if threading.current_thread().name == "many_0":
            reading.set()
            until(lambda: answered.is_set() or (publisher._batcher.watched and link.sleeping))
        return read_one(timeout)

    def items():
        yield from range(publisher.batch_size)
        assert answered.wait(20)
        yield -1

    monkeypatch.setattr(link, "_read_one", slowly)
    with ThreadPoolExecutor(1, "many") as many:
        receipts = many.submit(publisher.publish_many, items())
        assert reading.wait(10)
        assert publisher.publish(0, timeout=5).id
        answered.set()
        assert len(receipts.result(10)) == publisher.batch_size + 1


def test_a_record_that_is_refused_costs_its_neighbours_nothing(broker, publisher, name):
    good = publisher.submit(1)
    with pytest.raises(InvalidPayload):
        publisher.submit({1})
    assert publisher.publish(2).id == f"{name}/0/1"
    assert good.result(5).id == f"{name}/0/0"
    assert payloads(broker, name) == [1, 2]


def test_what_waits_is_bounded(broker, name, monkeypatch):
    """`submit()` blocks while too much waits, and goes on by itself."""
    with Publisher(broker, name) as publisher:
        blocks = [publisher.submit("x" * 1_000_000) for _ in range(100)]  # 100 MB through a limit of 64 MiB
        assert publisher._batcher.waiting_bytes <= 66 * 1024 * 1024
        assert [block.result(20).id for block in blocks] == [f"{name}/0/{n}" for n in range(100)]


def test_the_broker_itself_publishes_and_says_how_things_stand(broker, name):
    assert broker.publish(name, {"a": 1}, key="k", topic="t", headers={"h": "1"}).id == f"{name}/0/0"
    with dq.connect(broker.root) as other:
        assert other.publish(name, 2).id == f"{name}/0/1"
        assert other.stats()["publisher_broker"]["streams"][name]["records"] == 2


def test_many_threads_share_one_commit(broker, publisher):
    """64 threads that wait for every receipt are answered many at a time."""
    before = broker.stats()["publisher_broker"]["commits"]
    begin = threading.Barrier(64)

    def work(n: int) -> None:
        begin.wait(10)
        for _ in range(10):
            publisher.publish(n)

    with ThreadPoolExecutor(64) as threads:
        list(threads.map(work, range(64)))
    assert broker.stats()["publisher_broker"]["commits"] - before < 320
