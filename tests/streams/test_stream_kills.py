"""Kills and full disks while something is made to go: there is all of it or nothing, and what was said stays so."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from sim_files import FaultyFiles

from dq import BrokerManager, DqError, Publisher
from dq.log.catalog import Catalog, OpenStream
from dq.log.files import Files
from dq.log.gone_file import Gone
from dq.log.layout import Layout
from dq.log.storage import Batch
from dq.model.settings import StreamSettings
from stage import drain, kill, pids, until


class Killed(BaseException):
    """The process is no more."""


def made(root: Path, files: Files) -> tuple[Catalog, OpenStream]:
    """A stream with ten records in two buckets."""
    root.mkdir(mode=0o700)
    catalog = Catalog(files, root)
    catalog.open()
    stream = catalog.create("orders", StreamSettings(buckets=2))
    for writer in stream.writers:
        writer.append(Batch("ada", 0, 5, b'{"n":1}\n' * 5))
        writer.commit()
    return catalog, stream


def killed_at(files: FaultyFiles, number: int) -> None:
    """From now on, this call of any kind is the last one."""
    left = [number]

    def count(_: str) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Killed

    files.on_call = count


@pytest.mark.parametrize("number", range(40))
def test_a_kill_anywhere_in_a_destruction_leaves_all_or_nothing(tmp_path, number):
    """S2: kill -9 during destroy."""
    files, root = FaultyFiles(), tmp_path / "queue_data"
    catalog, _ = made(root, files)
    killed_at(files, number)
    try:
        catalog.destroy("orders")
    except Killed:
        pass
    else:
        number = -1
    again = Catalog(Files(), root)
    again.open()
    assert again.errors == {}
    if again.streams:
        assert number >= 0
        assert [writer.end.offset for writer in again.streams["orders"].writers] == [5, 5]
    assert sorted(os.listdir(root / "streams")) == sorted(again.streams)
    again.destroy("orders")
    assert again.create("orders", StreamSettings()).writers[0].end.offset == 0
    again.close(clean=True)


@pytest.mark.parametrize("number", range(8))
def test_a_kill_anywhere_in_a_removal_leaves_the_old_or_the_new(tmp_path, number):
    files, root = FaultyFiles(), tmp_path / "queue_data"
    catalog, stream = made(root, files)
    old, new = Gone.nothing(2), Gone.nothing(2).with_removed([{1}, {2}])
    killed_at(files, number)
    said = False
    try:
        catalog.keep_gone(stream, new)
        said = True
    except Killed:
        pass
    again = Catalog(Files(), root)
    again.open()
    assert again.streams["orders"].gone in ((new,) if said else (old, new))
    assert not list(Layout(root).stream("orders").glob("*.tmp"))
    again.close(clean=True)


def test_what_was_trimmed_and_removed_stays_so_through_kills_and_restarts(tmp_path):
    """S2: restart keeps marks and removed; the disk comes back."""
    root = tmp_path / "queue_data"
    with BrokerManager(root) as broker:
        stream = broker.stream("orders", segment_bytes=4096)
        memory = broker.stream("short", backend="memory")
        with Publisher(broker, "orders") as publisher:
            for begin in range(0, 100, 10):
                publisher.publish_many({"n": n, "text": "x" * 100} for n in range(begin, begin + 10))
        for n in range(5):
            memory.add("n", n)
        assert (stream.trim(max_records=40), stream.remove("orders/0/70", "orders/0/71")) == (60, 2)
        assert (memory.trim(max_records=3), memory.remove("short/0/3")) == (2, 1)
        # When the publisher broker is killed
        kill(pids(broker)[0])
        pids(broker)
        # Then the next one knows
        assert (stream.stats().firsts, stream.stats().records, stream.stats().removed) == ((60,), 38, 2)
        assert (memory.stats().firsts, memory.stats().records) == ((2,), 2)
        until(lambda: len(os.listdir(root / "streams" / "orders" / "0")) <= 3, what="the disk comes back")
    with BrokerManager(root) as broker:
        assert (broker.stream("orders").stats().records, broker.stream("orders").stats().trimmed) == (38, 60)
        # And a stream in memory, which begins anew, has nothing that is gone
        memory = broker.stream("short")
        assert [memory.add("n", n) for n in range(4)] == [f"short/0/{n}" for n in range(4)]
        assert (memory.stats().records, memory.stats().firsts) == (4, (0,))


def publishes_on(stored: list[str]) -> None:
    before = len(stored)
    until(lambda: len(stored) > before + 20, what="it publishes on")


def test_destroying_under_kills_ends_well(tmp_path):
    """S2: the publisher broker is killed while streams are destroyed and made anew, and a publisher is busy in one."""
    with BrokerManager(tmp_path / "queue_data") as broker:
        stream = broker.stream("orders", buckets=2)
        stop, stored = threading.Event(), []

        def publish() -> None:
            with Publisher(broker, "orders") as publisher:
                while not stop.is_set():
                    try:
                        stored.append(publisher.publish(len(stored)).id)
                    except DqError as error:
                        stored.append(str(error))

        thread = threading.Thread(target=publish)
        thread.start()
        try:
            for _ in range(3):
                publishes_on(stored)
                killer = threading.Thread(target=kill, args=(pids(broker)[0],))
                killer.start()
                stream.destroy()
                killer.join()
            publishes_on(stored)
        finally:
            stop.set()
            thread.join()
        # Then what was published last can be read, and there is one stream
        last = [each for each in stored if each.startswith("orders/")][-1]
        read = [task.id for task in drain(broker, "orders", sink="k")]
        assert last in read
        assert broker.streams() == ["orders"]
        assert stream.stats().records == len(read)
