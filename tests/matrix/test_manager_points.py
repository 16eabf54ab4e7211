"""The crash matrix of the manager: killed before, between and after its children, while it stops, and with all it started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tripwire import SPAWNS, attached, inject, need_strace

import dq
from dq import BrokerManager, BrokerNotRunning, Consumer, Publisher
from stage import alive, kill, marked, pids, settled, sink_of, until


@contextlib.contextmanager
def marked_run() -> Iterator[str]:
    """All that is started meanwhile has this marker in its environment, and none of it is left at the end."""
    marker = f"MATRIX_RUN={os.getpid()}-{os.urandom(4).hex()}"
    name, value = marker.split("=")
    os.environ[name] = value
    try:
        yield marker
    finally:
        del os.environ[name]
        for pid in marked(marker):
            kill(pid)


def all_gone(marker: str, seconds: float = 2.0) -> None:
    until(lambda: not marked(marker), seconds, "no process is left")


def serves_again(root: Path, *kept: object) -> None:
    """A new manager serves, and all that was confirmed is there."""
    with BrokerManager(root) as broker:
        with Consumer(broker, "s", sink="judge", idle_timeout=0.2) as consumer:
            assert [(task.payload, task.ack())[0] for task in consumer] == list(kept)
        broker.publish("s", "again")


@pytest.mark.parametrize(
    "nth",
    [
        pytest.param(1, id="crash M1: before anything"),
        pytest.param(2, id="crash M1: before children"),
        pytest.param(3, id="crash M2: after one child"),
    ],
)
def test_a_manager_killed_while_it_starts_its_children_leaves_nothing(tmp_path, nth):
    """It starts Python's tracker of resources, the publisher broker, the consumer broker: killed as it starts the Nth."""
    root = tmp_path / "q"
    with marked_run() as marker:
        command = [need_strace(), "-qq", "-o", os.devnull, *inject(SPAWNS, "signal=KILL", f"when={nth}")]
        done = subprocess.run(
            [*command, sys.executable, "-m", "dq.main", "serve", str(root)], capture_output=True, timeout=20, check=False
        )
        assert done.returncode == -signal.SIGKILL
        assert b"serves" not in done.stdout
        all_gone(marker)
        with pytest.raises(BrokerNotRunning):
            dq.connect(root)
        serves_again(root)
        all_gone(marker)


def test_a_manager_killed_while_it_replaces_a_child_leaves_nothing(tmp_path):
    """crash M6: one broker is dead, the other leaves by itself."""
    root = tmp_path / "q"
    with marked_run() as marker:
        broker = BrokerManager(root)
        try:
            broker.publish("s", 1)
            publisher_broker, _ = pids(broker)
            with attached(broker.manager_pid, *inject(SPAWNS, "signal=KILL", "when=1")):
                kill(publisher_broker)
                until(lambda: not alive(broker.manager_pid), what="the manager is killed")
            all_gone(marker)
        finally:
            broker.stop()
        serves_again(root, 1)
        all_gone(marker)


def test_killed_managers_leave_no_children_and_a_free_door(tmp_path, request):
    """crash M3 and T13: killed at work; its brokers are gone within 2 s, and the next one serves at once."""
    root, kept = tmp_path / "q", []
    with marked_run() as marker:
        for round_number in range(request.config.getoption("--kill-rounds")):
            broker = BrokerManager(root)
            try:
                assert broker.publish("s", round_number).id == f"s/0/{round_number}"
                kept.append(round_number)
                kill(broker.manager_pid)
                all_gone(marker)
            finally:
                broker.stop()
        serves_again(root, *kept)
        all_gone(marker)


def test_a_manager_killed_while_it_stops_loses_nothing(tmp_path):
    """crash M5: no mark of a clean end, a full check at the next start."""
    root = tmp_path / "q"
    with marked_run() as marker:
        broker = BrokerManager(root)
        broker.publish("s", 1)
        _, consumer_broker = pids(broker)
        try:
            os.kill(consumer_broker, signal.SIGSTOP)  # it is the first to be waited for
            kill(broker.manager_pid, signal.SIGTERM)
            until(lambda: not (root / "manager.sock").exists(), what="the door is closed")
            kill(broker.manager_pid)
        finally:
            kill(consumer_broker, signal.SIGCONT)
            broker.stop()
        all_gone(marker)
        serves_again(root, 1)
        all_gone(marker)


def test_the_whole_group_killed_at_once_loses_nothing(tmp_path):
    """crash G1: killpg -9 of the manager and both brokers, under load; each record with a receipt is there, once."""
    root = tmp_path / "q"
    with marked_run() as marker:
        broker = BrokerManager(root)
        publisher = Publisher(broker, "s", reconnect_timeout=0.1, batch_size=10)
        futures = [publisher.submit(n) for n in range(20_000)]
        futures[500].result(10)
        os.killpg(os.getpgid(broker.manager_pid), signal.SIGKILL)
        publisher.close(5)
        broker.stop()
        confirmed = [n for n, future in enumerate(futures) if future.exception(5) is None]
        all_gone(marker)
        with BrokerManager(root) as again, Consumer(again, "s", sink="judge", idle_timeout=0.5) as consumer:
            found = [(task.payload, task.ack())[0] for task in consumer]
        assert found == list(range(len(found)))
        assert len(found) > max(confirmed) > 500


def tracker_of(manager: int) -> int:
    """Python's tracker of resources, a child of the manager."""
    for child in Path(f"/proc/{manager}/task/{manager}/children").read_text().split():
        if b"resource_tracker" in Path(f"/proc/{child}/cmdline").read_bytes():
            return int(child)
    raise AssertionError("the manager has no tracker of resources")


def test_nothing_depends_on_pythons_tracker_of_resources(tmp_path):
    """crash G4: it is killed; records pass, a broker is replaced, and the stop is in order."""
    root = tmp_path / "q"
    with marked_run() as marker, BrokerManager(root) as broker, Publisher(broker, "s") as publisher:
        publisher.publish(0)
        tracker = tracker_of(broker.manager_pid)
        kill(tracker)
        until(lambda: not alive(tracker), what="it is dead")
        with Consumer(broker, "s", sink="k", idle_timeout=5) as consumer:
            tasks = iter(consumer)
            next(tasks).ack(wait=True)
            for place in (0, 1):
                old = pids(broker)[place]
                kill(old)
                until(lambda p=place, dead=old: pids(broker)[p] != dead, what="it is replaced")
                publisher.publish(place + 1)
                next(tasks).ack(wait=True)
            tasks.close()
        assert settled(broker, "k", 3)
        assert sink_of(broker, "k")["redelivered"] == 0
        publisher.close()
        broker.stop()
        all_gone(marker)
    assert (root / "streams" / "clean.json").exists()
