"""once on every face of a publisher, with a broker that knows the keys."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import ExitStack

import pytest

from dq import Publisher, Reader, TaskIn, aio
from stage import Child, kill, pids

RACER = """
import dq, sys
with dq.connect(sys.argv[1]) as broker, dq.Publisher(broker, sys.argv[2]) as publisher:
    publisher.publish("ready")
    say("ready")
    heard()
    say([publisher.publish([key, os.getpid()], once=f"k{key}").id for key in range(20)])
"""


def stored(broker, stream: str) -> dict[str, object]:
    with Reader(broker, stream, start="oldest", follow=False) as reader:
        return {record.id: record.payload for record in reader}


def test_processes_that_publish_under_one_key_at_once_store_one_record_and_have_its_id(broker, name):
    broker.stream(name, buckets=3)  # each of them would choose another bucket
    with ExitStack() as stack:
        children = [stack.enter_context(Child(RACER, broker.root, name)) for _ in range(3)]
        assert [child.hear() for child in children] == ["ready"] * 3
        for child in children:
            child.tell(None)
        first, *others = [child.hear() for child in children]
    assert others == [first, first]
    assert len(set(first)) == 20
    there = stored(broker, name)
    assert [there[receipt][0] for receipt in first] == list(range(20))
    assert len(there) == 20 + 3


@pytest.mark.parametrize("options", [{}, {"delay": 3600}], ids=["at once", "delayed"])
def test_a_broker_that_is_killed_between_stores_no_second_one(broker, name, options):
    where = f"{name}-later" if options else name
    with Publisher(broker, name) as publisher, Publisher(broker, name) as other:
        before = [publisher.publish(n, once=f"k{n}", **options).id for n in range(5)]
        waiting = [publisher.submit(n, once=f"k{n}", **options) for n in range(3, 200)]
        kill(pids(broker)[0])
        after = [other.publish(n, once=f"k{n}", **options).id for n in range(200)]
        assert after[:5] == before
        assert [future.result(20).id for future in waiting] == after[3:]
    assert sorted(stored(broker, where).values()) == list(range(200))


def test_one_call_may_hold_duplicates_and_everything_else(broker, name):
    stream = broker.stream(name, buckets=2, priorities=2)
    kinds = (
        lambda n: n,
        lambda n: TaskIn(n, once=f"o{n % 40}"),
        lambda n: TaskIn(n, key=f"k{n % 3}", once=f"o{n % 40}", priority=1, expires=3600),
        lambda n: TaskIn(n, delay=3600, once=f"d{n % 40}"),
        lambda n: TaskIn(n, key=f"k{n % 3}", priority=1),
    )
    items = [kinds[n % 5](n) for n in range(400)]
    with Publisher(broker, name, batch_size=6) as publisher:
        receipts = publisher.publish_many(items)
        assert len(receipts) == 400
        assert publisher.publish("again", once="o1").id == broker.publish(name, "again", once="o1").id
    assert stream.add("again", "again", once="o1") == stream.topic("t").add("again", "again", once="o1")
    there, later = stored(broker, name), stored(broker, f"{name}-later")
    assert set(there) | set(later) == {receipt.id for receipt in receipts}
    assert sorted(there.values()) == sorted(n for n in range(400) if n % 5 in (0, 4) or (n % 5 in (1, 2) and n < 40))
    assert sorted(later.values()) == [n for n in range(40) if n % 5 == 3]
    assert {receipt: n for receipt, n in there.items() if n % 5 == 2 and n < 40}.keys() <= {
        r for r in there if r.split("/")[1] in "23"
    }


def test_records_of_one_key_keep_their_order_whichever_way_they_are_published(broker, name):
    broker.stream(name, buckets=2)
    with Publisher(broker, name, batch_size=4, linger=0.01) as publisher:
        for n in range(100):
            publisher.submit(n, key="a", once=f"k{n}" if n % 3 == 0 else None)
        publisher.publish_many(TaskIn(n, key="a", once=f"k{n}" if n % 3 == 0 else None) for n in range(100, 200))
    assert list(stored(broker, name).values()) == list(range(200))


def test_threads_share_a_publisher_and_the_asyncio_face_waits_for_its_receipts(broker, name):
    ids: list[str] = []
    with Publisher(broker, name) as publisher:
        threads = [threading.Thread(target=lambda: ids.append(publisher.publish(1, once="one").id)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)

    async def main() -> list[str]:
        async with aio.Publisher(broker, name) as publisher:
            futures = [publisher.submit(1, once="one") for _ in range(5)]
            many = await publisher.publish_many([TaskIn(1, once="one")] * 5)
            return [*[(await future).id for future in futures], *[receipt.id for receipt in many]]

    assert len(ids) == 8
    assert set(ids) | set(asyncio.run(main())) == {f"{name}/0/0"}
    assert stored(broker, name) == {f"{name}/0/0": 1}


def test_after_its_window_a_key_is_new(broker, name):
    broker.stream(name, once_seconds=0.2)
    first = broker.publish(name, 1, once="k").id
    assert broker.publish(name, 2, once="k").id == first
    time.sleep(0.25)  # the window
    assert broker.publish(name, 3, once="k").id != first
