"""The non-blocking twins: every operation has a future, no more are under way than may be, no error is silent."""

from __future__ import annotations

import concurrent.futures
import gc
import threading

import pytest

from dq import Closed, InvalidPayload, InvalidSetting, QueueFull
from dq.embedded import NonBlockingMpmcQueue, NonBlockingPersistentQueue, PersistentQueue, StartPosition
from stage import Threaded, until


def test_every_operation_returns_a_future(path) -> None:
    """R7: is_ready, try_get, get, for every operation of the queue."""
    with NonBlockingPersistentQueue(path) as queue:
        pushed = queue.push([b"a", b"b"])
        assert pushed.get() is None
        assert pushed.is_ready()
        assert isinstance(pushed, concurrent.futures.Future)
        assert (queue.len.get(), queue.is_empty.get(), queue.payload_size.get()) == (2, False, 2)
        assert queue.disk_size.get() > 0
        popped = queue.pop(5)
        concurrent.futures.wait([popped])
        assert popped.try_get() == [b"a", b"b"]
        assert queue.inflight_ops == 0
        assert popped.cancel() is False


def test_every_operation_of_the_other_queue_too(path) -> None:
    """R7: both queues."""
    with NonBlockingMpmcQueue(path, ttl=60) as queue:
        queue.add([b"a", b"b"])
        assert queue.next("one", StartPosition.NEWEST, 5).get() == ([b"b"], False)
        assert queue.labels.get() == ["one"]
        assert queue.remove_label("one").get() is True
        assert (queue.len.get(), queue.payload_size.get(), queue.is_empty.get()) == (2, 2, False)
        assert queue.disk_size.get() > 0


def test_they_are_carried_out_in_their_order(path) -> None:
    with NonBlockingPersistentQueue(path) as queue:
        popped = []
        for n in range(300):
            queue.push([b"%d" % n])
            popped.append(queue.pop())
        assert [response.get() for response in popped] == [[b"%d" % n] for n in range(300)]


def test_no_more_are_under_way_than_may_be(path, monkeypatch) -> None:
    """R7: bounded by max_inflight_ops; the next one waits."""
    go_on, push = threading.Event(), PersistentQueue.push
    monkeypatch.setattr(PersistentQueue, "push", lambda self, items: (go_on.wait(10), push(self, items))[1])
    with NonBlockingPersistentQueue(path, max_inflight_ops=2) as queue:
        first, second = queue.push([b"a"]), queue.push([b"b"])
        assert queue.inflight_ops == 2
        assert not first.is_ready()
        assert first.try_get() is None
        third = Threaded(lambda: queue.push([b"c"]))
        until(lambda: queue._room._value == 0)
        assert third.running
        go_on.set()
        assert third.result().get() is None
        assert second.get() is None
    with pytest.raises(InvalidSetting, match="max_inflight_ops"):
        NonBlockingPersistentQueue(path, max_inflight_ops=0)


def test_an_error_is_told_by_the_future(path) -> None:
    """R7: errors are always reported; theirs was silent when a push was refused."""
    with NonBlockingPersistentQueue(path, max_elements=1) as queue:
        assert queue.push([b"a"]).get() is None
        refused = queue.push([b"b"])
        for ask in (refused.get, refused.result):
            with pytest.raises(QueueFull, match="queue is full"):
                ask()
        with pytest.raises(QueueFull):
            refused.try_get()
        assert isinstance(queue.push(["text"]).exception(), InvalidPayload)
        with pytest.raises(InvalidPayload):
            queue.push("text").get()


def test_an_error_that_nobody_asks_for_is_logged(path, caplog) -> None:
    """R7: nor is it silent where the future is dropped."""
    with NonBlockingPersistentQueue(path, max_elements=1) as queue:
        queue.push([b"a", b"b"])
        queue.len.get()
        gc.collect()
        assert "queue is full" in caplog.text
        caplog.clear()
        assert queue.push([b"a", b"b"]).exception() is not None
        gc.collect()
        assert not caplog.text


def test_the_end_waits_for_what_is_under_way(path) -> None:
    queue = NonBlockingPersistentQueue(path)
    responses = [queue.push([b"%d" % n]) for n in range(200)]
    queue.close()
    queue.close()
    assert all(response.is_ready() for response in responses)
    with pytest.raises(Closed):
        queue.push([b"late"])
    with PersistentQueue(path) as kept:
        assert len(kept) == 200
