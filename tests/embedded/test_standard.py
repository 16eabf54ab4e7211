"""`dq.embedded.Queue`: a program on `queue.Queue` becomes durable by changing one line."""

from __future__ import annotations

import queue as standard
from datetime import UTC, datetime

import pytest

import dq.embedded
from dq import Closed, InvalidPayload, InvalidSetting
from dq.embedded import Queue, remove_queue
from stage import Child, Threaded, until


def test_it_has_the_face_of_the_standard_one(path) -> None:
    names = {name for name in dir(standard.Queue) if not name.startswith("_")} - {"mutex", "not_empty", "not_full", "shutdown"}
    with Queue(path) as queue:
        assert names <= set(dir(queue))
    assert (dq.embedded.Full, dq.embedded.Empty) == (standard.Full, standard.Empty)


@pytest.mark.parametrize("make", [lambda path: standard.Queue(2), lambda path: Queue(path, 2)], ids=["standard", "durable"])
def test_a_program_sees_no_difference(path, make) -> None:
    queue = make(path)
    assert (queue.qsize(), queue.empty(), queue.full(), queue.unfinished_tasks) == (0, True, False, 0)
    queue.put({"n": 1})
    queue.put_nowait([2, "three", None])
    assert (queue.qsize(), queue.empty(), queue.full(), queue.unfinished_tasks) == (2, False, True, 2)
    with pytest.raises(standard.Full):
        queue.put_nowait(4)
    with pytest.raises(standard.Full):
        queue.put(4, timeout=0.01)
    assert queue.get() == {"n": 1}
    queue.put(4)
    queue.task_done()
    assert queue.get(timeout=1) == [2, "three", None]
    assert queue.get_nowait() == 4
    with pytest.raises(standard.Empty):
        queue.get_nowait()
    with pytest.raises(standard.Empty):
        queue.get(timeout=0.01)
    for wrong in (lambda: queue.get(timeout=-1), lambda: queue.put(1, timeout=-1)):
        with pytest.raises(ValueError, match="non-negative"):
            wrong()
    joining = Threaded(queue.join)
    queue.task_done()
    assert joining.running
    queue.task_done()
    joining.result()
    with pytest.raises(ValueError, match="too many times"):
        queue.task_done()
    if isinstance(queue, Queue):
        queue.close()


def test_payloads_are_json_or_bytes(path) -> None:
    payloads = [None, True, 1, -1.5, "text", [1, [2]], {"a": {"b": "c"}}, b"bytes", b"\0\xff", b"", "", {"base64": "YQ=="}]
    with Queue(path) as queue:
        for payload in payloads:
            queue.put(payload)
        queue.put((1, datetime(2026, 1, 2, tzinfo=UTC)))
    with Queue(path) as queue:
        assert [queue.get() for _ in payloads] == payloads
        assert queue.get() == [1, "2026-01-02T00:00:00+00:00"]
        for wrong in (object(), {1: 2}, float("nan"), {1, 2}):
            with pytest.raises(InvalidPayload):
                queue.put(wrong)
        assert (queue.qsize(), queue.unfinished_tasks) == (0, len(payloads) + 1)


def test_who_puts_waits_for_room_and_who_gets_for_an_item(path) -> None:
    with Queue(path, maxsize=1) as queue:
        getting = Threaded(queue.get)
        until(lambda: queue._items._waiters == 1)
        queue.put("a")
        assert getting.result() == "a"
        queue.put("b")
        putting = Threaded(lambda: queue.put("c"))
        until(lambda: queue._items._waiters == 1)
        assert queue.get() == "b"
        putting.result()
        assert queue.get(timeout=5) == "c"


def test_what_was_got_is_gone(path) -> None:
    with Queue(path) as queue:
        queue.put("a")
        queue.put("b")
        assert queue.get() == "a"
    with Queue(path) as queue:
        assert queue.unfinished_tasks == 1
        assert queue.get() == "b"


def test_with_redeliver_what_is_not_done_comes_back(path) -> None:
    """R better: with redeliver=True what was got and is not task_done() comes back on reopen, in its place."""
    code = (
        "from dq.embedded import Queue\n"
        "queue = Queue(sys.argv[1], redeliver=True)\n"
        "for n in range(5): queue.put({'n': n})\n"
        "say([queue.get()['n'] for _ in range(3)])\n"
        "queue.task_done()\n"
        "say('done')\n"
        "heard()\n"
    )
    with Child(code, path) as child:
        assert child.hear() == [0, 1, 2]
        assert child.hear() == "done"
        child.kill()
    with Queue(path, redeliver=True) as queue:
        assert queue.unfinished_tasks == 4
        assert [queue.get()["n"] for _ in range(4)] == [1, 2, 3, 4]
        for _ in range(4):
            queue.task_done()
        queue.join()
    with Queue(path) as queue:
        assert queue.empty()


def test_a_thread_says_done_for_what_it_got_itself(path) -> None:
    with Queue(path, redeliver=True) as queue:
        queue.put("mine")
        queue.put("theirs")
        assert queue.get() == "mine"
        assert Threaded(lambda: (queue.get(), queue.task_done())[0]).result() == "theirs"
    with Queue(path) as queue:
        assert queue.get() == "mine"
        assert queue.empty()


def test_what_was_got_has_left_its_room(path) -> None:
    with Queue(path, maxsize=1, redeliver=True) as queue:
        queue.put("a")
        assert queue.get() == "a"
        queue.put("b", block=False)
        assert queue.full()


def test_workers_drain_it_as_they_would_the_standard_one(path) -> None:
    with Queue(path, redeliver=True) as queue:
        seen: list[int] = []

        def work() -> None:
            while (item := queue.get()) is not None:
                seen.append(item)
                queue.task_done()
            queue.task_done()

        workers = [Threaded(work) for _ in range(3)]
        for n in range(300):
            queue.put(n)
        for _ in workers:
            queue.put(None)
        queue.join()
        for worker in workers:
            worker.result()
        assert sorted(seen) == list(range(300))
        assert queue.empty()


def test_wrong_settings_and_the_end(path) -> None:
    with pytest.raises(InvalidSetting, match="maxsize"):
        Queue(path, maxsize="3")
    queue = Queue(path)
    getting = Threaded(queue.get)
    until(lambda: queue._items._waiters == 1)
    queue.close()
    with pytest.raises(Closed):
        getting.result()
    with pytest.raises(Closed):
        queue.put(1)
    assert queue.unfinished_tasks == 0
    remove_queue(path)
