"""A full disk: what does not fit is refused and leaves nothing, taking out goes on, and putting in does once there is room."""

from __future__ import annotations

import contextlib
import itertools
import os

import pytest
from mounts import fill, tmpfs

from dq import verify
from dq.embedded import MpmcQueue, PersistentQueue, StartPosition
from dq.errors import DiskFull

pytestmark = pytest.mark.root
ITEMS = {"text": [b"x" * 100] * 50, "base64": [os.urandom(100)] * 50, "raw": [os.urandom(3000)] * 20}


def until_full(act) -> int:
    """How often it can be done."""
    for times in itertools.count():
        try:
            act()
        except DiskFull:
            return times
    raise AssertionError


@pytest.mark.parametrize("kind", ITEMS)
def test_a_full_disk_refuses_what_does_not_fit_and_lets_the_rest_out(tmp_path, kind) -> None:
    items = ITEMS[kind]
    with tmpfs(tmp_path / "disk", "6m") as disk, PersistentQueue(disk / "queue") as queue:
        pushed = until_full(lambda: queue.push(items)) * len(items)
        assert len(queue) == pushed
        filler = fill(disk)
        with pytest.raises(DiskFull):
            queue.push(items)
        popped = 0
        while got := queue.pop(1 if popped < 3000 else 100):  # each pop is noted, and there is no room but the reserve
            assert set(got) == {items[0]}
            popped += len(got)
            if popped % 50 == 1 and popped < 3000:
                with contextlib.suppress(DiskFull):  # it does not take the room that taking out needs
                    queue.push(items)
                    pushed += len(items)
        assert popped == pushed
        filler.unlink()
        queue.push(items)
        assert queue.pop(1000) == items
        queue._store.abandon()
        assert verify(disk / "queue").faults == []
        with PersistentQueue(disk / "queue") as again:
            assert again.is_empty


def test_labels_go_on_reading_on_a_full_disk(tmp_path) -> None:
    with tmpfs(tmp_path / "disk", "4m") as disk, MpmcQueue(disk / "queue", 3600) as queue:
        items = [os.urandom(100)] * 50
        added = until_full(lambda: queue.add(items)) * 50
        fill(disk)
        seen = 0
        while got := queue.next("one", StartPosition.OLDEST, 100)[0]:
            seen += len(got)
        assert seen == added
