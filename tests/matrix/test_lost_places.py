"""Files that are taken away under a running broker: its socket comes back, a lost directory ends it loudly."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

import dq
from dq import BrokerManager, BrokerNotRunning, Consumer, DqError, Publisher, Reader
from dq.broker.directory import Directory
from dq.config import LIMITS
from dq.log.files import Files
from stage import alive, pids, until


def reachable(root: Path) -> bool:
    try:
        dq.connect(root).close()
    except BrokerNotRunning:
        return False
    return True


# --- the socket ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "how"), [(10, "removed"), (150, "replaced")], ids=["in the directory", "elsewhere, behind a pointer"]
)
def test_a_socket_that_is_taken_away_is_made_anew_and_who_is_in_notices_nothing(tmp_path, length, how):
    """crash G5: new clients come in again soon; those that are there go on all the while."""
    root = tmp_path / ("d" * length)
    with (
        BrokerManager(root) as broker,
        Publisher(broker, "s") as publisher,
        Consumer(broker, "s", sink="k", idle_timeout=5) as consumer,
    ):
        before = (broker.manager_pid, *pids(broker))
        tasks = iter(consumer)
        socket = root / "manager.sock"
        socket.unlink()
        if how == "replaced":
            socket.touch()
        publisher.publish("on")
        next(tasks).ack(wait=True)
        until(lambda: reachable(root), LIMITS.watch_seconds + 3, "the door is there again")
        assert socket.lstat().st_mode & 0o777 == 0o600
        with Publisher(root, "s") as new:
            assert new.publish("new").id == "s/0/1"
        next(tasks).ack(wait=True)
        tasks.close()
        assert (broker.stats()["pid"], *pids(broker)) == before
    assert not socket.exists()


def test_a_socket_that_is_not_its_own_is_left_alone_at_the_end(tmp_path):
    """crash G5: what somebody else put in its place after the last look."""
    root = tmp_path / "q"
    broker = BrokerManager(root)
    pids(broker)
    until(lambda: reachable(root), what="it is reachable")
    (root / "manager.sock").unlink()
    (root / "manager.sock").write_text("of somebody else")
    broker.stop()
    assert (root / "manager.sock").read_text() == "of somebody else"


# --- the directory ---------------------------------------------------------------------------------------------------


def deleted(root: Path) -> None:
    shutil.rmtree(root)


def moved_away(root: Path) -> None:
    root.rename(root.with_name("elsewhere"))


def replaced(root: Path) -> None:
    moved_away(root)
    root.mkdir(mode=0o700)


def emptied(root: Path) -> None:
    for path in root.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def lock_replaced(root: Path) -> None:
    (root / "dq.lock").unlink()
    (root / "dq.lock").touch()


def swapped(root: Path) -> None:
    moved_away(root)
    shutil.copytree(root.with_name("elsewhere"), root)


@pytest.mark.parametrize("act", [deleted, moved_away, replaced, emptied, lock_replaced, swapped])
def test_a_directory_that_is_no_longer_the_one_that_was_taken_is_known(tmp_path, act):
    """crash G6: in whatever way it went, also where the next one gets the same inode number."""
    directory = Directory(tmp_path / "q", Files())
    directory.take()
    try:
        assert directory.lost() is None
        act(tmp_path / "q")
        assert directory.lost() is not None
    finally:
        directory.release()
        directory.release()


@pytest.mark.parametrize("act", [deleted, moved_away])
def test_a_data_directory_that_is_taken_away_ends_its_broker_loudly(tmp_path, capfd, act):
    """crash G6: it says so, ends with the code of a failed disk, and publishers get an error."""
    root = tmp_path / "q"
    with BrokerManager(root) as broker:
        all_pids = [broker.manager_pid, *pids(broker)]
        publisher = Publisher(broker, "s", reconnect_timeout=0.2)
        publisher.publish(0)
        began = time.monotonic()
        act(root)
        process = broker._process
        until(lambda: process.poll() is not None, LIMITS.watch_seconds + 3, "the broker has ended")
        assert process.returncode == 74
        assert not any(map(alive, all_pids))
        assert time.monotonic() - began < LIMITS.watch_seconds + 3
        with pytest.raises(DqError):
            publisher.publish(1)
        publisher.close(1)
    said = capfd.readouterr().err
    assert f"the data directory {root}" in said
    assert "Traceback" not in said
    assert not root.exists()
    if act is moved_away:
        with BrokerManager(root.with_name("elsewhere")) as again, Consumer(again, "s", sink="k", idle_timeout=2) as consumer:
            assert next(iter(consumer)).payload == 0


def test_no_receipt_is_given_for_what_goes_into_a_deleted_file(tmp_path):
    """crash G6: between the deletion and the manager's next look nothing is confirmed that nobody will find."""
    root = tmp_path / "q"
    with BrokerManager(root) as broker:
        publisher = Publisher(broker, "s", reconnect_timeout=0.2)
        publisher.publish(0)
        shutil.rmtree(root / "streams" / "s")
        try:
            receipt = publisher.publish(1, timeout=3)
        except DqError:
            receipt = None  # nobody was told that it is stored
        publisher.close(1)
        if receipt is not None:  # the next broker has made the stream anew by then, and the record stands there
            with Reader(broker, "s", start="oldest") as reader:
                assert [(record.id, record.payload) for record in reader.get()] == [(receipt.id, 1)]
    assert os.path.isdir(root)
