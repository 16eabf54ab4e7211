"""`MpmcQueue`: every label sees every item that lives; what expires is told once."""

from __future__ import annotations

import os
from datetime import timedelta

import pytest

from dq import Closed, InUse, InvalidName, InvalidSetting
from dq.embedded import MpmcQueue, StartPosition
from stage import Child, Threaded, until

MIB = 1 << 20
OLDEST, NEWEST = StartPosition.OLDEST, StartPosition.NEWEST


@pytest.fixture
def queue(path, clock):
    with MpmcQueue(path, 60, wall=clock) as made:
        yield made


def reopened(queue, path, clock, ttl=60, *, clean=True) -> MpmcQueue:
    if clean:
        queue.close()
    else:
        queue._store.abandon()
    return MpmcQueue(path, ttl, wall=clock)


# --- labels ----------------------------------------------------------------------------------------------------------
def test_each_label_sees_everything_in_order(queue) -> None:
    """R5: next(label, start, n) -> (items, expired); each label has a cursor of its own."""
    queue.add([b"a", b"b", b"c"])
    assert queue.next("one", OLDEST, 2) == ([b"a", b"b"], False)
    assert queue.next("two", OLDEST, 9) == ([b"a", b"b", b"c"], False)
    assert queue.next("one") == ([b"c"], False)
    assert queue.next("one") == ([], False)
    assert queue.labels == ["one", "two"]
    assert len(queue) == 3


@pytest.mark.parametrize("clean", [True, False])
def test_cursors_survive(queue, path, clock, clean) -> None:
    """R5: cursors persist, also when the process ended without a word."""
    queue.add([b"a", b"b", b"c"])
    queue.next("one", OLDEST, 2)
    queue.next("new", NEWEST, 0)
    with reopened(queue, path, clock, clean=clean) as queue:
        assert queue.labels == ["new", "one"]
        assert queue.next("one", OLDEST, 9) == ([b"c"], False)
        assert queue.next("new", OLDEST, 9) == ([b"c"], False)
        queue.add([b"d"])
        assert queue.next("one") == ([b"d"], False)


def test_a_label_can_be_removed(queue, path, clock) -> None:
    """R5: remove_label says whether there was one; it begins anew afterwards."""
    queue.add([b"a", b"b"])
    queue.next("one", OLDEST, 2)
    assert queue.remove_label("one") is True
    assert queue.remove_label("one") is False
    assert queue.labels == []
    assert queue.next("one", OLDEST, 2) == ([b"a", b"b"], False)
    queue.remove_label("one")
    with reopened(queue, path, clock) as queue:
        assert queue.labels == []


@pytest.mark.parametrize(("start", "expected"), [(OLDEST, []), (NEWEST, [])])
def test_a_new_label_on_an_empty_queue_finds_nothing_and_then_what_comes(queue, start, expected) -> None:
    """RocksQ: a new label, oldest or newest, on empty."""
    assert queue.next("one", start, 5) == (expected, False)
    queue.add([b"a", b"b"])
    assert queue.next("one", NEWEST, 5) == ([b"a", b"b"], False)


@pytest.mark.parametrize(("start", "expected"), [(OLDEST, [b"a", b"b", b"c"]), (NEWEST, [b"c"])])
def test_a_new_label_begins_where_it_asks_to(queue, start, expected) -> None:
    """R5: the start counts for a new label; newest is the last item there is (RocksQ: on three items)."""
    queue.add([b"a", b"b"])
    queue.add([b"c"])
    assert queue.next("one", start, 5) == (expected, False)
    assert queue.next("one", OLDEST, 5) == ([], False)


@pytest.mark.parametrize(("start", "first"), [(OLDEST, 0), (NEWEST, 29_999)])
def test_a_new_label_on_a_queue_of_many_segments(path, clock, monkeypatch, start, first) -> None:
    """RocksQ: a new label on a full queue."""
    monkeypatch.setattr("dq.embedded.store.SEGMENT_BYTES", 60_000)
    with MpmcQueue(path, 60, wall=clock) as queue:
        for begin in range(0, 30_000, 100):
            queue.add([b"%d" % n for n in range(begin, begin + 100)])
        assert len(queue._items.sizes) > 2
        assert queue.next("one", start, 3)[0] == [b"%d" % n for n in range(first, min(first + 3, 30_000))]
        seen = queue.next("all", OLDEST, 1)[0]
        while items := queue.next("all", OLDEST, 77)[0]:
            seen += items
        assert seen == [b"%d" % n for n in range(30_000)]


@pytest.mark.parametrize("wrong", [5, None, b"label", "a\nb", "\ud800"])
def test_a_label_is_text(queue, wrong) -> None:
    with pytest.raises(InvalidName):
        queue.next(wrong)
    assert queue.labels == []
    assert queue.next('gr\u00fc\u00df "dich"') == ([], False)


def test_wrong_arguments_are_refused(queue, tmp_path) -> None:
    with pytest.raises(InvalidSetting, match="StartPosition"):
        queue.next("one", "oldest")
    for count in (-1, True, "3"):
        with pytest.raises(InvalidSetting):
            queue.next("one", OLDEST, count)
    for ttl in (0, -1, "5", None, True, float("nan")):
        with pytest.raises(InvalidSetting, match="ttl"):
            MpmcQueue(tmp_path / "other", ttl)
    with pytest.raises(TypeError):
        queue.add(["text"])
    queue.add([])
    assert queue.is_empty


def test_four_threads_on_one_label_get_20000_items_each_once(path) -> None:
    """R5: threads on one label share its cursor."""
    with MpmcQueue(path, timedelta(hours=1)) as queue:
        for begin in range(0, 20_000, 250):
            queue.add([b"%d" % n for n in range(begin, begin + 250)])

        def read() -> list[bytes]:
            mine: list[bytes] = []
            while items := queue.next("shared", OLDEST, 13)[0]:
                mine += items
            return mine

        threads = [Threaded(read) for _ in range(4)]
        seen = [item for thread in threads for item in thread.result(60)]
    assert sorted(map(int, seen)) == list(range(20_000))


def test_more_labels_than_keep_their_place_in_memory(queue, monkeypatch) -> None:
    monkeypatch.setattr("dq.embedded.labels._READERS_MAX", 3)
    for n in range(0, 40, 4):
        queue.add([b"%d" % k for k in range(n, n + 4)])
    seen: dict[str, list[bytes]] = {f"label-{n}": [] for n in range(9)}
    for turn in range(8):
        for name, items in seen.items():
            items += queue.next(name, OLDEST, 3 + turn % 3 + len(items) % 2)[0]
    for name, items in seen.items():
        items += queue.next(name, OLDEST, 50)[0]
        assert items == [b"%d" % n for n in range(40)], name
    assert sum(label.reader is not None for label in queue._labels.by_name.values()) <= 3


# --- expiry ----------------------------------------------------------------------------------------------------------
def test_all_that_expired_is_told_once(queue, clock) -> None:
    """R6: all expired → ([], True), then ([], False); a new label never sees True (RocksQ: all expired)."""
    queue.add([b"a", b"b"])
    queue.next("one")
    clock.move(60)
    assert queue.next("one") == ([], True)
    assert queue.next("one") == ([], False)
    assert queue.next("new") == ([], False)
    assert queue.next("newest", NEWEST) == ([], False)
    assert (queue.len, queue.payload_size, queue.is_empty) == (0, 0, True)


def test_an_item_lives_exactly_as_long_as_it_is_to(queue, clock) -> None:
    """R better: the TTL is exact to the second on read; theirs were still served long after."""
    queue.add([b"a"])
    clock.move(59.9)
    assert queue.len == 1
    assert queue.next("one") == ([b"a"], False)
    clock.move(0.1)
    assert queue.len == 0
    assert queue.next("two") == ([], False)


@pytest.mark.parametrize(
    ("read", "expired"),
    [(0, True), (1, True), (2, True), (3, False), (4, False), (5, False), (6, False)],
    ids=["nothing", "one-of-first", "most-of-first", "all-of-first", "in-second", "all-of-second", "everything"],
)
@pytest.mark.parametrize("restart", [None, True, False], ids=["open", "reopened", "killed"])
def test_some_that_expired_are_told_to_who_missed_them(queue, path, clock, read, expired, restart) -> None:
    """R6: expired is True once where a label missed some, and reading goes on at the first live item (RocksQ: some expired,
    in every position of the label). Nothing that lives is passed over; theirs skipped up to 255."""
    queue.add([b"0", b"1", b"2"])
    clock.move(30)
    queue.add([b"3", b"4"])
    queue.add([b"5"])
    queue.next("one", OLDEST, read)
    clock.move(35)
    if restart is not None:
        queue = reopened(queue, path, clock, clean=restart)
    with queue:
        alive = [b"%d" % n for n in range(max(read, 3), 6)]
        assert queue.next("one", OLDEST, 1) == (alive[:1], expired)
        assert queue.next("one", OLDEST, 9) == (alive[1:], False)
        assert queue.next("new", OLDEST, 9) == ([b"3", b"4", b"5"], False)
        assert (queue.len, queue.payload_size) == (3, 3)


def test_expiry_in_the_middle_of_a_read(queue, clock) -> None:
    """RocksQ: items expire while a label has read a part of their batch."""
    queue.add([b"%d" % n for n in range(100)])
    clock.move(50)
    queue.add([b"%d" % n for n in range(100, 200)])
    assert queue.next("one", OLDEST, 30)[0][-1] == b"29"
    clock.move(20)
    items, expired = queue.next("one", OLDEST, 30)
    assert (items[0], items[-1], expired) == (b"100", b"129", True)
    clock.move(60)
    assert queue.next("one", OLDEST, 30) == ([], True)


def test_what_expired_while_it_was_closed_is_told(queue, path, clock) -> None:
    queue.add([b"a"])
    queue.next("one", OLDEST, 0)
    clock.move(100)
    with reopened(queue, path, clock) as queue:
        assert queue.next("one") == ([], True)
        assert queue.next("one") == ([], False)
    with MpmcQueue(path, 60, wall=clock) as queue:
        assert queue.next("one") == ([], False)


def test_a_clock_that_is_set_back_keeps_items_longer_and_loses_none(queue, clock) -> None:
    queue.add([b"a"])
    clock.move(-3600)
    queue.add([b"b"])
    clock.move(3600 + 59)
    assert queue.next("one", OLDEST, 5) == ([b"a", b"b"], False)


@pytest.mark.parametrize("item", [os.urandom(3000), b"x" * 400, os.urandom(100)], ids=["raw", "text", "base64"])
def test_disk_comes_back_by_the_segment(path, clock, monkeypatch, item) -> None:
    """R better: an expired segment is deleted; a queue whose items are all over keeps < 1 MiB."""
    monkeypatch.setattr("dq.embedded.store.SEGMENT_BYTES", MIB // 4)
    with MpmcQueue(path, 60, wall=clock) as queue:
        for _ in range(20):
            for _ in range(4):
                queue.add([item] * (100_000 // len(item)))
            clock.move(10)
        assert queue.disk_size < 5 * MIB
        assert queue.payload_size == queue.len * len(item)
        clock.move(60)
        assert queue.is_empty
        assert queue.payload_size == 0
        assert queue.disk_size < MIB
        queue.add([b"new"])
        assert queue.next("one") == ([b"new"], False)
        queue._store.abandon()
    with MpmcQueue(path, 60, wall=clock) as queue:
        assert queue.next("two") == ([b"new"], False)


# --- waiting, owning, the end ----------------------------------------------------------------------------------------
def test_next_can_wait(queue) -> None:
    """R better: next with a timeout."""
    assert queue.next("one", timeout=0.02) == ([], False)
    waiting = Threaded(lambda: queue.next("one", OLDEST, 5, timeout=None))
    until(lambda: queue._waiters == 1)
    queue.add([b"a", b"b"])
    assert waiting.result() == ([b"a", b"b"], False)
    waiting = Threaded(lambda: queue.next("one", timeout=None))
    until(lambda: queue._waiters == 1)
    queue.close()
    with pytest.raises(Closed):
        waiting.result()


def test_after_its_end_a_queue_is_refused(queue) -> None:
    queue.close()
    uses = [lambda: queue.add([b"a"]), lambda: queue.next("one"), lambda: queue.remove_label("one"), lambda: queue.len]
    for use in uses:
        with pytest.raises(Closed):
            use()


def test_it_has_one_owner(queue, path) -> None:
    """R4: as the other queue."""
    with pytest.raises(InUse, match=f"pid {os.getpid()}"):
        MpmcQueue(path, 60)


def test_its_state_survives_a_kill(path) -> None:
    """R4, R5: items and cursors survive kill -9."""
    code = (
        "from dq.embedded import MpmcQueue, StartPosition\n"
        "queue = MpmcQueue(sys.argv[1], 3600)\n"
        "queue.add([b'%d' % n for n in range(1000)])\n"
        "say(len(queue.next('one', StartPosition.OLDEST, 10)[0]))\n"
        "heard()\n"
    )
    with Child(code, path) as child:
        assert child.hear() == 10
        child.kill()
    with MpmcQueue(path, 3600) as queue:
        assert queue.next("one") == ([b"10"], False)
        assert len(queue) == 1000
