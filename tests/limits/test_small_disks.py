"""Disks that are full, have no inode left, or turn read-only: dq says so, goes on as far as it can, and recovers by itself."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import pytest
from mounts import ext4, fill, litter, mounted, run, take_inodes, tmpfs

from dq import BrokerManager, Consumer, DiskFull, DqError, Publisher
from stage import Threaded, sink_of, until

pytestmark = pytest.mark.root


def serve(root: Path) -> tuple[int, str]:
    """Exit code and standard error of a broker in the foreground that cannot start."""
    done = run(sys.executable, "-m", "dq.main", "serve", root)
    return done.returncode, done.stderr


def take(broker: BrokerManager, stream: str, count: int) -> list:
    with Consumer(broker, stream, sink=f"{stream}-sink", idle_timeout=5) as consumer:
        payloads = []
        for task in consumer:
            payloads.append(task.payload)
            task.ack(wait=True)
            if len(payloads) == count:
                break
    return payloads


# --- at the start ----------------------------------------------------------------------------------------------------


def assert_told_without_a_traceback(root: Path, *named: str) -> None:
    code, errors = serve(root)
    assert code not in (0, 1), errors
    assert "Traceback" not in errors
    assert any(name in errors for name in named), errors
    with pytest.raises(DqError, match="|".join(named)):
        BrokerManager(root)


def test_a_disk_without_a_byte_left_is_told_at_the_start(tmp_path):
    """bad input 55: 0 free bytes."""
    with ext4(tmp_path / "disk", "2M", "-O", "^has_journal") as disk:
        fill(disk)
        assert_told_without_a_traceback(disk / "q", "No space left on device")
        # And once there is room it starts, with nothing left of the attempts
        (disk / "filler").unlink()
        with BrokerManager(disk / "q") as broker:
            assert broker.publish("s", 1).id == "s/0/0"
        assert litter(disk) == []


def test_a_disk_without_an_inode_left_is_told_at_the_start(tmp_path):
    """bad input 55: 0 free inodes, with room for bytes."""
    with ext4(tmp_path / "disk", "4M", "-N", "32", "-O", "^has_journal") as disk:
        taken = take_inodes(disk)
        assert taken
        assert_told_without_a_traceback(disk / "q", "No space left on device")
        for path in taken:
            path.unlink()
        with BrokerManager(disk / "q") as broker:
            assert broker.publish("s", 1).id == "s/0/0"


def test_a_disk_that_may_not_be_written_is_told_at_the_start(tmp_path):
    """bad input 55: a read-only file system, with and without a data directory on it."""
    with tmpfs(tmp_path / "disk", "16m") as disk:
        with BrokerManager(disk / "q") as broker:
            broker.publish("s", 1)
        before = sorted(path.relative_to(disk) for path in disk.rglob("*"))
        assert run("mount", "-o", "remount,ro", disk).returncode == 0
        assert_told_without_a_traceback(disk / "q", "Read-only file system")
        assert_told_without_a_traceback(disk / "new", "Read-only file system")
        assert run("mount", "-o", "remount,rw", disk).returncode == 0
        assert sorted(path.relative_to(disk) for path in disk.rglob("*")) == before
        with BrokerManager(disk / "q") as broker:
            assert take(broker, "s", 1) == [1]


# --- at work ---------------------------------------------------------------------------------------------------------


def publish_until_full(publisher: Publisher) -> tuple[int, DiskFull]:
    stored = 0
    while True:
        try:
            publisher.publish({"n": stored, "body": "x" * 20_000})
            stored += 1
        except DiskFull as error:
            return stored, error


def test_a_disk_that_fills_up_and_has_room_again_twice_over(tmp_path):
    """bad input 55: full while publishing, again and again; acks are confirmed all the while, and no litter is left."""
    with tmpfs(tmp_path / "disk", "16m") as disk, BrokerManager(disk / "q") as broker:
        with Publisher(broker, "s") as publisher, Consumer(broker, "s", sink="k", idle_timeout=10) as consumer:
            tasks, expected = iter(consumer), 0
            for _ in range(2):
                filler = fill(disk)
                stored, error = publish_until_full(publisher)
                assert "free some space" in str(error)
                assert "No space left on device" in str(error)
                for n in range(stored):  # consumers go on, and each of their acks is confirmed
                    task = next(tasks)
                    assert task.payload["n"] == n
                    task.ack(wait=True)
                expected += stored
                with pytest.raises(DiskFull):  # a stream cannot be made either, and says so
                    broker.stream("another")
                assert litter(disk) == []
                filler.unlink()
                assert publisher.publish({"n": -1, "body": ""}).id == f"s/0/{expected}"
                task = next(tasks)
                assert task.payload["n"] == -1
                task.ack(wait=True)
                expected += 1
            tasks.close()
            assert sink_of(broker, "k")["settled"] == expected
        status = broker.stats()
        assert (status["publisher_broker"]["restarts"], status["consumer_broker"]["restarts"]) == (0, 0)
        assert broker.stream("another").buckets == 1


def test_a_disk_that_has_no_inode_left_while_it_is_used(tmp_path):
    """bad input 55: 0 free inodes while publishing: old segments go on, new files are refused by name."""
    with ext4(tmp_path / "disk", "32M", "-N", "64", "-O", "^has_journal") as disk, BrokerManager(disk / "q") as broker:
        broker.stream("s", segment_bytes=4096)
        with Publisher(broker, "s") as publisher:
            publisher.publish(0)
            take(broker, "s", 1)
            taken = take_inodes(disk)
            assert taken
            publisher.publish("it fits into the segment that is there")
            with pytest.raises(DiskFull, match="No space left on device"):
                [publisher.publish("x" * 5_000) for _ in range(3)]  # one of them begins a segment
            with pytest.raises(DqError, match="No space left on device"):
                broker.stream("another")
            assert litter(disk) == []
            for path in taken:
                path.unlink()
            assert publisher.publish("the end").id.startswith("s/0/")
        assert take(broker, "s", 1) == ["it fits into the segment that is there"]
        status = broker.stats()
        assert (status["publisher_broker"]["restarts"], status["consumer_broker"]["restarts"]) == (0, 0)


def test_a_disk_that_turns_read_only_under_a_running_broker_gives_no_receipt(tmp_path):
    """bad input 55: the kernel makes a file system read-only after an error; `mount -o remount,ro` refuses while dq writes."""
    with ext4(tmp_path / "disk", "32M", "-O", "^has_journal") as disk, BrokerManager(disk / "q") as broker:
        receipt = broker.publish("s", "before")
        busy = run("mount", "-o", "remount,ro", disk)
        assert busy.returncode != 0
        device = Path(run("findmnt", "-n", "-o", "SOURCE", disk).stdout.strip()).name
        Path(f"/sys/fs/ext4/{device}/trigger_fs_error").write_text("1")
        until(lambda: run("touch", disk / "writable").returncode, what="it is read-only")
        publishing = Threaded(lambda: broker.publish("s", "after", timeout=1.5))
        with pytest.raises(DqError) as caught:
            publishing.result(10)
        assert receipt.id == "s/0/0"
        assert "disk" in str(caught.value) or "Read-only" in str(caught.value) or "no answer" in str(caught.value)
        began = time.monotonic()
        broker.stop(timeout=1)
        assert time.monotonic() - began < 5, "a stop keeps its limit, whatever is wrong"
        copy = tmp_path / "copy"
        shutil.copytree(disk / "q", copy, ignore=shutil.ignore_patterns("*.sock"))
    with BrokerManager(copy) as again:
        assert take(again, "s", 1) == ["before"]


def test_a_data_directory_whose_disk_is_taken_away_ends_its_broker_loudly(tmp_path):
    """crash G6: unmounted under a running broker."""
    point = tmp_path / "disk"
    with mounted(point, "-t", "tmpfs", "-o", "size=16m,mode=0700", "tmpfs"), BrokerManager(point) as broker:
        assert broker.publish("s", 1).id == "s/0/0"
        assert run("umount", "-l", point).returncode == 0
        process = broker._process
        until(lambda: process.poll() is not None, 5, "the broker has ended")
        assert process.returncode == 74
        assert list(point.iterdir()) == []  # nothing was written to what lies below
