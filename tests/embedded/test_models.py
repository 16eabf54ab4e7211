"""Embedded queues against plain models: a deque, and a list of items with their times."""

from __future__ import annotations

import tempfile
from collections import deque
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import dq.embedded.persistent
import dq.embedded.store
from dq.embedded import MpmcQueue, PersistentQueue, StartPosition
from dq.errors import QueueFull
from dq.log.item_lines import decode, decode_sizes, encode, is_raw, sizes_of

ITEMS = st.lists(
    st.one_of(
        st.binary(max_size=20),
        st.text(max_size=10).map(str.encode),
        st.binary(min_size=1, max_size=3).map(lambda part: part * 2000),
        st.sampled_from(
            [b"", b"\n", b"\\n", b'{"batch":1}', b'"}\n{"base64":"', b"\0" * 30, b"\xf0\x9f\x98\x80", b"\xed\xa0\x80"]
        ),
    ),
    min_size=1,
    max_size=12,
)


@given(ITEMS)
@settings(max_examples=200)
def test_items_come_back_from_their_lines(items) -> None:
    size = sum(map(len, items))
    lines = encode(items, size)
    if lines is None:
        assert size >= 4096
        lines = sizes_of(items)
        assert is_raw(lines)
        assert decode_sizes(lines) == list(map(len, items))
    else:
        assert not is_raw(lines)
        assert decode(lines) == items
    assert lines.endswith(b"\n")
    assert lines.count(b"\n") == len(items)
    assert b"\0" not in lines
    assert not any(line.startswith(b'{"batch":') for line in lines.split(b"\n"))


class SmallSegments(RuleBasedStateMachine):
    """Makes everything happen early: segments, new logs of cursors, items that are not kept in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(dq.embedded.store, "SEGMENT_BYTES", 6000)
        self.patch.setattr(dq.embedded.store, "CURSOR_SEGMENT_BYTES", 2000)
        self.patch.setattr(dq.embedded.store, "FRESH_BYTES", 1500)
        self.patch.setattr(dq.embedded.persistent, "READY_COUNT_MAX", 20)
        self.place = tempfile.TemporaryDirectory()
        self.path = Path(self.place.name) / "queue"

    def teardown(self) -> None:
        self.patch.undo()
        self.place.cleanup()


class AgainstDeque(SmallSegments):
    """A `PersistentQueue`, closed, killed and opened at will."""

    @initialize(bound=st.sampled_from([30, 10**9]))
    def begin(self, bound) -> None:
        self.bound = bound
        self.queue = PersistentQueue(self.path, bound)
        self.model: deque[bytes] = deque()
        self.taken: list = []

    @rule(items=ITEMS)
    def push(self, items) -> None:
        held = sum(len(taken[1]) for taken in self.taken)
        if len(self.model) + held + len(items) > self.bound:
            with pytest.raises(QueueFull):
                self.queue.push(items)
        else:
            self.queue.push(items)
            self.model.extend(items)

    @rule(count=st.integers(0, 25))
    def pop(self, count) -> None:
        expected = [self.model.popleft() for _ in range(min(count, len(self.model)))]
        assert self.queue.pop(count) == expected

    @rule(count=st.integers(1, 8))
    def take(self, count) -> None:
        if self.taken:
            return  # one at a time, so that a deque can be the model of what comes back
        taken = self.queue.take(count)
        items = taken.__enter__()
        assert items == [self.model.popleft() for _ in range(min(count, len(self.model)))]
        self.taken.append((taken, items))

    @rule(well=st.booleans())
    def end(self, well) -> None:
        if self.taken:
            taken, items = self.taken.pop()
            taken.__exit__(None if well else KeyError, None, None)
            if not well:
                self.model.extendleft(reversed(items))

    @rule(clean=st.booleans())
    def reopen(self, clean) -> None:
        if clean:
            self.queue.close()
        else:
            self.queue._store.abandon()
        for _, items in self.taken:
            self.model.extendleft(reversed(items))
        self.taken.clear()
        self.queue = PersistentQueue(self.path, self.bound)

    @invariant()
    def sizes(self) -> None:
        if hasattr(self, "queue"):
            assert len(self.queue) == len(self.model)
            assert self.queue.payload_size == sum(map(len, self.model))

    def teardown(self) -> None:
        if hasattr(self, "queue"):
            assert self.queue.pop(10_000) == list(self.model)
            if not self.taken:
                assert len(self.queue._items.sizes) <= 1
            self.queue._store.abandon()
        super().teardown()


class AgainstList(SmallSegments):
    """An `MpmcQueue` and three labels, under a clock that is moved."""

    @initialize()
    def begin(self) -> None:
        self.now = 1_700_000_000.0
        self.queue = self.opened()
        self.items: list[tuple[float, bytes]] = []
        self.cursors: dict[str, int] = {}

    def opened(self) -> MpmcQueue:
        return MpmcQueue(self.path, 100, wall=lambda: self.now)

    @property
    def floor(self) -> int:
        alive = (place for place, (at, _) in enumerate(self.items) if at + 100 > self.now)
        return next(alive, len(self.items))

    @rule(items=ITEMS)
    def add(self, items) -> None:
        self.queue.add(items)
        self.items += [(self.now, item) for item in items]

    @rule(seconds=st.integers(0, 60))
    def move(self, seconds) -> None:
        self.now += seconds

    @rule(label=st.sampled_from("abc"), start=st.sampled_from(list(StartPosition)), count=st.integers(0, 20))
    def next(self, label, start, count) -> None:
        floor, end = self.floor, len(self.items)
        if label not in self.cursors:
            self.cursors[label] = max(end - 1, floor) if start is StartPosition.NEWEST else floor
        cursor = self.cursors[label]
        begin = max(cursor, floor)
        expected = [item for _, item in self.items[begin : begin + count]]
        assert self.queue.next(label, start, count) == (expected, cursor < floor)
        self.cursors[label] = begin + len(expected)

    @rule(label=st.sampled_from("abc"))
    def remove(self, label) -> None:
        assert self.queue.remove_label(label) == (self.cursors.pop(label, None) is not None)

    @rule(clean=st.booleans())
    def reopen(self, clean) -> None:
        if clean:
            self.queue.close()
        else:
            self.queue._store.abandon()
        self.queue = self.opened()

    @invariant()
    def sizes(self) -> None:
        if hasattr(self, "queue"):
            alive = [item for _, item in self.items[self.floor :]]
            assert (self.queue.len, self.queue.payload_size) == (len(alive), sum(map(len, alive)))
            assert self.queue.labels == sorted(self.cursors)

    def teardown(self) -> None:
        if hasattr(self, "queue"):
            self.queue._store.abandon()
        super().teardown()


AgainstDeque.TestCase.settings = settings(max_examples=20, stateful_step_count=40)
AgainstList.TestCase.settings = settings(max_examples=20, stateful_step_count=40)
TestAgainstDeque = AgainstDeque.TestCase
TestAgainstList = AgainstList.TestCase
