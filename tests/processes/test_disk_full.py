"""A full disk: publishers are told, consumers go on, publishing works again by itself once there is room."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dq import BrokerManager, Consumer, DiskFull, Publisher
from stage import until


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mount = tmp_path / "disk"
    mount.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(mount)], capture_output=True, check=False)
    if done.returncode:
        reason = f"a small disk is mounted for this test, and that needs root: {done.stderr.decode().strip()}"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=True)


def publish_until_full(publisher: Publisher) -> tuple[int, DiskFull]:
    stored = 0
    while True:
        try:
            stored += len(publisher.publish_many({"n": stored + n, "body": "x" * 1_000} for n in range(500)))
        except DiskFull as error:
            return stored + len(error.receipts), error


@pytest.mark.root
def test_a_full_disk_stops_publishers_alone_until_there_is_room(small_disk):
    """bad input 55: a real full disk."""
    got: list[int] = []
    with BrokerManager(small_disk / "q") as broker, Publisher(broker, "s") as publisher:
        with Consumer(broker, "s", sink="k") as consumer:

            def work() -> None:
                for task in consumer:
                    got.append(task.payload["n"])
                    task.ack()

            thread = threading.Thread(target=work)
            thread.start()
            # Given a disk that is filled by publishing
            stored, error = publish_until_full(publisher)
            assert "free some space" in str(error)
            # Then all that has a receipt reaches its consumer, and is acked, though nothing more can be stored
            until(lambda: len(got) == stored, what="what was stored is consumed")
            assert got == list(range(stored))
            # When there is room again, publishing works without anybody's help
            subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
            receipt = publisher.publish({"n": -1, "body": "y" * 5_000})
            assert receipt.id == f"s/0/{stored}"
            until(lambda: got[-1] == -1, what="the record behind the full disk is consumed")
            consumer.stop()
            thread.join()
        status = broker.stats()
    # And nobody died of it, and no litter is left
    assert (status["publisher_broker"]["restarts"], status["consumer_broker"]["restarts"]) == (0, 0)
    assert not [path for path in small_disk.rglob("*") if path.suffix in (".tmp", ".torn")]


@pytest.mark.root
def test_a_key_whose_record_found_no_room_is_not_known(small_disk):
    """S, later there: what a failed commit did not store is stored when it is published again, and once."""
    with BrokerManager(small_disk / "q") as broker, Publisher(broker, "s") as publisher:
        publisher.publish("small", once="first")
        publish_until_full(publisher)
        futures = [publisher.submit("x" * 1_000_000, once="big") for _ in range(4)]
        assert {type(future.exception(10)) for future in futures} == {DiskFull}
        assert publisher.publish("again", once="first").id == "s/0/0"
        subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
        end = publisher.publish("plain").id
        receipts = [publisher.publish("x" * 1_000_000, once="big").id for _ in range(2)]
        assert receipts == [f"s/0/{int(end.rpartition('/')[2]) + 1}"] * 2
