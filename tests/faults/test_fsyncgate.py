"""A real failed flush: ext4 in a file on a tmpfs that is full. The first flush fails, the second would succeed."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from dq import BrokerManager, Consumer, DqError, Publisher
from stage import announce

STREAM, SINK, BODY, BATCH = "work", "workers", "x" * 900, 20


def run(*command: object) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, check=False)
    if done.returncode:
        why = f"{command[0]}: {done.stderr.decode().strip()}"
        if os.environ.get("CI") == "true" and os.geteuid() == 0:
            pytest.fail(why)
        pytest.skip(f"a disk in a file is mounted for this test, and that needs root and loop devices: {why}")


@contextlib.contextmanager
def thin_disk(place: Path) -> Iterator[tuple[Path, Path]]:
    """A disk that says it has 64 MiB and has 4 behind it; and the mount behind it, which can be made larger."""
    below, disk = place / "below", place / "disk"
    below.mkdir(parents=True)
    disk.mkdir()
    try:
        run("mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", below)
        run("truncate", "-s", "64M", below / "image")
        run("mkfs.ext4", "-q", "-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard", below / "image")
        run("mount", "-o", "loop", below / "image", disk)
        yield disk, below
    finally:
        for mounted in (disk, below):
            subprocess.run(["umount", "-l", str(mounted)], capture_output=True, check=False)


@pytest.fixture(scope="module")
def lied_bytes(tmp_path_factory: pytest.TempPathFactory) -> int:
    """What the system itself loses of bytes whose flush had returned 0, measured by bare writes, without dq; 0 on a good one.

    Measured with Linux 6.18: 248 to 13,312 bytes before the failed write read as zeros (ext4 with 1 and 4 KiB blocks; ext2
    324). Why is not known. On such a system the check below cannot be sharper than this.
    """
    with thin_disk(tmp_path_factory.mktemp("bare")) as (disk, _):
        fd, position, chunk = os.open(disk / "bare", os.O_RDWR | os.O_CREAT, 0o600), 0, b"x" * 19_318
        try:
            while True:
                os.pwrite(fd, chunk, position)
                os.fdatasync(fd)
                position += len(chunk)
        except OSError:
            os.fdatasync(fd)  # the second one succeeds: this is why dq never asks twice
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            first_hole = (disk / "bare").read_bytes().find(0)
        finally:
            os.close(fd)
    assert first_hole >= 0, "the flush failed, and nothing was lost"
    return max(position - first_hole, 0)


def publish_until_it_fails(publisher: Publisher, stored: dict[str, int]) -> tuple[list[int], DqError]:
    """Returns the records of the batch whose outcome is not known."""
    first = 0
    while first < 20_000:
        numbers = list(range(first, first + BATCH))
        try:
            receipts = publisher.publish_many({"n": n, "body": BODY} for n in numbers)
        except DqError as error:
            return numbers, error
        stored.update((receipt.id, n) for receipt, n in zip(receipts, numbers, strict=True))
        first += BATCH
    raise AssertionError("the disk behind the disk never was full")


def offsets_on_disk(root: Path) -> int:
    count = 0
    for segment in sorted((root / "streams" / STREAM / "0").glob("*.jsonl")):
        count += sum(1 for line in segment.read_bytes().splitlines() if line.startswith(b'{"at":'))
    return count


@pytest.mark.root
@pytest.mark.timeout(900)
def test_after_a_real_failed_flush_nothing_is_served_that_the_disk_does_not_have(tmp_path, lied_bytes, every_fault, capsys):
    """T10; "fsync failure": not confirmed, the phantom data is not served after the start, nothing confirmed is lost."""
    for attempt in range(20 if every_fault else 3):
        text = fail_and_start_again(tmp_path / str(attempt), lied_bytes)
        announce(capsys, f"\na real failed flush: {text} (bare writes lost {lied_bytes} bytes)\n")


def fail_and_start_again(place: Path, lied_bytes: int) -> str:
    """One life that ends with the failed flush, and the next one; returns what became of it."""
    stored: dict[str, int] = {}
    with thin_disk(place) as (disk, below):
        root = disk / "q"
        with BrokerManager(root) as broker, Publisher(broker, STREAM, reconnect_timeout=1.0) as publisher:
            unknown, error = publish_until_it_fails(publisher, stored)
            restarts = broker.stats()["publisher_broker"]["restarts"]
        assert len(stored) > 1_000, "the disk was full too soon"
        assert restarts >= 1, "the broker that met the failed flush has ended"
        # When there is room again behind the disk, and everything is started anew
        run("mount", "-o", "remount,size=80m", below)
        with BrokerManager(root) as broker:
            served = consume_all(broker)
        # Then what is served is on disk: without the cache the same records are there
        before = offsets_on_disk(root)
        Path("/proc/sys/vm/drop_caches").write_text("1")
        assert offsets_on_disk(root) == before == len(served)
    # And it is the beginning of what was published, whole batches, with all that has a receipt
    assert list(served.items()) == [(f"{STREAM}/0/{n}", n) for n in range(len(served))]
    assert len(served) % BATCH == 0
    phantom = [n for where, n in served.items() if where not in stored]
    assert phantom in ([], unknown)
    lost = [n for where, n in stored.items() if where not in served]
    # A batch of which the system lost a part is cut as a whole; where the system loses nothing, nothing may be lost.
    assert len(lost) * len(BODY) <= (lied_bytes and lied_bytes + BATCH * len(BODY)), f"{len(lost)} records are lost"
    return (
        f"{len(stored)} receipts, then {type(error).__name__}; "
        f"{len(phantom)} of {len(unknown)} came in the end; lost {len(lost)}"
    )


def consume_all(broker: BrokerManager) -> dict[str, int]:
    served: dict[str, int] = {}
    with Consumer(broker, STREAM, sink=SINK, idle_timeout=0.5) as consumer:
        end = broker.stats()["publisher_broker"]["streams"][STREAM]["ends"][0]
        for task in consumer:
            assert task.payload["body"] == BODY
            served[task.id] = task.payload["n"]
            task.ack()
    assert len(served) == end, "all of it is served"
    return served


def test_the_place_of_a_record_is_as_its_receipt_says(tmp_path):
    """What the check above relies on: `id` of a receipt and of a task are the same words."""
    with BrokerManager(tmp_path / "q") as broker, Publisher(broker, STREAM) as publisher:
        receipt = publisher.publish({"n": 0, "body": BODY})
        assert consume_all(broker) == {receipt.id: 0}
    assert orjson.loads((tmp_path / "q" / "dq.json").read_bytes())["format"] == 1
