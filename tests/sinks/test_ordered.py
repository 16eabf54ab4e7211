"""`ordered=True`: one consumer at a time for each bucket, and what is retried holds back all behind it. `no_ack=True`."""

from __future__ import annotations

from sink_bench import publish, rest_of, taken

from dq import BrokerManager, Consumer, Publisher
from dq.core.buckets import bucket_of
from stage import Child, kill, sink_of, until


def test_a_bucket_is_one_consumers_until_nothing_of_it_is_in_hand(broker, name) -> None:
    """Design 5, ordered: one consumer at a time per bucket."""
    broker.stream(name, buckets=2)
    publish(broker, name, range(5), key="k")
    with (
        Consumer(broker, name, sink=name, ordered=True, prefetch=2, idle_timeout=0.2) as one,
        Consumer(broker, sink=name, prefetch=2, idle_timeout=0.2) as two,
    ):
        first = next(iter(one))
        assert rest_of(two) == []  # all of the bucket waits for the one that has it
        first.ack()
        assert [0, *rest_of(one), *rest_of(two)] == [0, 1, 2, 3, 4]


def test_a_retried_record_holds_back_what_is_behind_it(broker, name) -> None:
    """Design 5, ordered: when a task is retried, that bucket's rest is given back unstarted and waits for it."""
    broker.stream(name, buckets=2)
    with Publisher(broker, name) as publisher:
        publisher.publish_many(range(50), key="a")
        publisher.publish_many(range(100, 150), key=next(k for k in "bcdefgh" if _bucket(k) != _bucket("a")))
    seen: list[int] = []
    with Consumer(broker, name, sink=name, ordered=True, prefetch=40, idle_timeout=0.4) as consumer:
        for task in consumer:
            seen.append(task.payload)
            if task.payload in (3, 17, 120) and task.attempt < 3:
                task.retry(after=0.03)
            else:
                assert task.attempt == (3 if task.payload in (3, 17, 120) else 1)
                task.ack()
    once = list(dict.fromkeys(seen))
    assert [n for n in once if n < 100] == list(range(50))
    assert [n for n in once if n >= 100] == list(range(100, 150))
    for bucket in ([n for n in seen if n < 100], [n for n in seen if n >= 100]):
        assert bucket == sorted(bucket)  # nothing came before what was still to be done
    assert broker.sink(name).stats().settled == 100


def _bucket(key: str) -> int:
    return bucket_of(key, 2)


def test_a_released_record_comes_before_what_is_behind_it(broker, name) -> None:
    publish(broker, name, range(6))
    seen = []
    with Consumer(broker, name, sink=name, ordered=True, prefetch=6, idle_timeout=0.3) as consumer:
        for task in consumer:
            seen.append(task.payload)
            if seen == [0, 1, 2]:
                task.release()
            else:
                task.ack()
    assert seen == [0, 1, 2, 2, 3, 4, 5]


DIES = """
import dq
from dq import Consumer
with dq.connect(sys.argv[1]) as broker:
    with Consumer(broker, sys.argv[2], sink=sys.argv[2], prefetch=10) as consumer:
        for task in consumer:
            say(task.payload)
            if task.payload == 3:
                os._exit(1)
            task.ack(wait=True)
"""


def test_when_a_consumer_dies_the_next_one_goes_on_in_order(broker, name) -> None:
    broker.sink(name, name, ordered=True)
    publish(broker, name, range(8))
    with Child(DIES, broker.root, name) as child:
        assert [child.hear() for _ in range(4)] == [0, 1, 2, 3]
    assert taken(broker, name, sink=name, idle=0.5) == [3, 4, 5, 6, 7]


def test_a_late_ack_is_refused_in_an_ordered_sink(broker, name) -> None:
    """Design 5: with ordered=True a late ack is refused by lease number."""
    publish(broker, name, range(2))
    with Consumer(broker, name, sink=name, ordered=True, ack_grace=0.2, idle_timeout=1) as late:
        tasks = iter(late)
        old = next(tasks)
        beyond = next(tasks)  # the first is left unsettled: overdue after its grace, and all that was behind it is given back
        again = next(tasks)
        assert (again.payload, again.attempt) == (0, 2)
        old.ack()
        beyond.ack()
        late.flush()
        assert sink_of(broker, name)["settled"] == 0
        again.ack()
        assert rest_of(late) == [1]


def test_without_acks_a_record_is_delivered_once_at_most(tmp_path) -> None:
    """S4: `no_ack`, at most once: what was handed out never comes again, whoever is killed."""
    with BrokerManager(tmp_path / "queue_data") as broker:
        publish(broker, "s", range(20))
        with Consumer(broker, "s", sink="s", no_ack=True, prefetch=5, idle_timeout=0.3) as consumer:
            tasks = iter(consumer)
            assert [next(tasks).payload for _ in range(3)] == [0, 1, 2]
            until(lambda: sink_of(broker, "s")["settled"] >= 5)
            kill(broker.stats()["consumer_broker"]["pid"])
            rest: list[int] = []

            def all_that_was_not_handed_out() -> bool:
                rest.extend(task.payload for task in consumer)
                return set(range(5, 20)) <= set(rest)

            until(all_that_was_not_handed_out)
        assert sorted({0, 1, 2, *rest}) == sorted([0, 1, 2, *rest])
        assert taken(broker, "s", sink="s") == []
        figures = broker.sink("s").stats()
        assert (figures.settled, figures.in_hand, figures.late_acks, figures.ignored) == (20, 0, 0, 0)


def test_the_verbs_of_a_task_without_ack_change_nothing(broker, name) -> None:
    publish(broker, name, range(4))
    with Consumer(broker, name, sink=name, no_ack=True, idle_timeout=0.2) as consumer:
        tasks = iter(consumer)
        next(tasks).ack()
        next(tasks).retry()
        next(tasks).dead_letter("no")
        with next(tasks) as task:
            task.extend(5, note="n")
        assert list(tasks) == []
    figures = broker.sink(name).stats()
    assert (figures.settled, figures.retried, figures.dead_lettered, figures.late_acks) == (4, 0, 0, 0)
