"""Limits of the system on one process: descriptors, file size. They cost what needs more of them, are told, and pass."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import dq
from dq import BrokerManager, Consumer, DiskFull, DqError, Publisher
from dq.transport.door import knock
from stage import Child, kill, pids, settled, until

NOFILE, FSIZE = resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE


@contextlib.contextmanager
def limited(pid: int, which: int, soft: int) -> Iterator[None]:
    """Sets the soft limit of a running process; put back at the end, if the process is still there."""
    before = resource.prlimit(pid, which)
    resource.prlimit(pid, which, (soft, before[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, which, before)


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def first_free(pid: int) -> int:
    """The number that its next descriptor gets: with it as the limit, there is none."""
    taken = set(map(int, os.listdir(f"/proc/{pid}/fd")))
    return next(number for number in range(len(taken) + 1) if number not in taken)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# --- descriptors -----------------------------------------------------------------------------------------------------


def test_a_publisher_broker_without_descriptors_goes_on_with_what_it_has(dq_broker):
    """bad input 55: RLIMIT_NOFILE in the publisher broker."""
    with Publisher(dq_broker, "old") as publisher:
        publisher.publish(0)
        broker_pid = pids(dq_broker)[0]
        with limited(broker_pid, NOFILE, first_free(broker_pid)):
            assert publisher.publish(1).id == "old/0/1"
            with pytest.raises(DqError, match="Too many open files"):
                dq_broker.stream("new")
            assert publisher.publish(2).id == "old/0/2"
        assert dq_broker.stream("new").buckets == 1
        assert dq_broker.publish("new", 1).id == "new/0/0"
        assert pids(dq_broker)[0] == broker_pid


def test_a_consumer_broker_without_descriptors_goes_on_with_what_it_has(dq_broker):
    """bad input 55: RLIMIT_NOFILE in the consumer broker. A consumer that comes meanwhile waits at most."""
    with Publisher(dq_broker, "old") as publisher, Consumer(dq_broker, "old", sink="old", idle_timeout=5) as consumer:
        publisher.publish(0)
        tasks = iter(consumer)
        next(tasks).ack(wait=True)
        broker_pid = pids(dq_broker)[1]
        with limited(broker_pid, NOFILE, first_free(broker_pid)):
            publisher.publish(1)
            next(tasks).ack(wait=True)
            with pytest.raises(DqError):
                Consumer(dq_broker, "old", sink="new", reconnect_timeout=0.2)
            publisher.publish(2)
            next(tasks).ack(wait=True)
        tasks.close()
        assert settled(dq_broker, "old", 3)
        with Consumer(dq_broker, "old", sink="new", idle_timeout=5) as late:
            assert next(iter(late)).payload == 0
        assert pids(dq_broker)[1] == broker_pid


def test_a_manager_without_descriptors_lets_nobody_in_and_does_not_spin(dq_broker):
    """bad input 44 and 55: RLIMIT_NOFILE in the manager. Who is in stays in; who waits at the door comes in afterwards."""
    with Publisher(dq_broker, "s") as publisher:
        publisher.publish(0)
        manager = dq_broker.manager_pid
        with limited(manager, NOFILE, first_free(manager)), contextlib.ExitStack() as waiting:
            before = cpu_seconds(manager)
            began = time.monotonic()
            for _ in range(20):
                waiting.enter_context(knock(dq_broker.root))
            for n in range(1, 101):
                assert publisher.publish(n).id == f"s/0/{n}"
            until(lambda: time.monotonic() - began > 1, what="a second has passed")
            assert cpu_seconds(manager) - before < 0.3
        with Publisher(dq_broker, "s") as late:
            assert late.publish("late").id == "s/0/101"


def test_a_broker_that_dies_while_the_manager_has_no_descriptors_is_started_once_it_has(dq_broker):
    """bad input 55: its restart needs some; nobody else dies of it."""
    with Publisher(dq_broker, "s") as publisher, Consumer(dq_broker, "s", sink="k", idle_timeout=10) as consumer:
        publisher.publish(0)
        tasks = iter(consumer)
        next(tasks).ack(wait=True)
        manager, (publisher_broker, consumer_broker) = dq_broker.manager_pid, pids(dq_broker)
        with limited(manager, NOFILE, 5):
            kill(publisher_broker)
            figures = dq_broker.stats()["publisher_broker"]  # it waits a while for a broker that is being replaced
            assert figures["restarts"] > 1, "a start has failed, and was tried again"
            assert not figures["ready"]
        assert publisher.publish(1).id == "s/0/1"
        next(tasks).ack(wait=True)
        tasks.close()
        assert (dq_broker.manager_pid, pids(dq_broker)[1]) == (manager, consumer_broker)


# --- the size of a file ----------------------------------------------------------------------------------------------


def test_a_file_that_may_not_grow_in_the_publisher_broker_is_a_full_disk(dq_broker):
    """bad input 55: RLIMIT_FSIZE; a short write, then EFBIG, and nothing half-written stays."""
    with Publisher(dq_broker, "s") as publisher:
        publisher.publish(0)
        [segment] = (dq_broker.root / "streams" / "s" / "0").glob("*.jsonl")
        size, broker_pid = segment.stat().st_size, pids(dq_broker)[0]
        with limited(broker_pid, FSIZE, size + 100):
            with pytest.raises(DiskFull, match="File too large"):
                publisher.publish("x" * 1_000)
            assert segment.stat().st_size == size
        assert publisher.publish("y" * 1_000).id == "s/0/1"
        assert pids(dq_broker)[0] == broker_pid
    with Consumer(dq_broker, "s", sink="k", idle_timeout=1) as consumer:
        assert [(task.payload, task.ack())[0] for task in consumer] == [0, "y" * 1_000]


def test_notes_that_may_not_grow_in_the_consumer_broker_confirm_nothing(dq_broker):
    """bad input 55: RLIMIT_FSIZE in the consumer broker: it starts anew, and the ack is confirmed by the next one."""
    with Publisher(dq_broker, "s") as publisher, Consumer(dq_broker, "s", sink="k", idle_timeout=10) as consumer:
        publisher.publish(0)
        task = next(iter(consumer))
        broker_pid = pids(dq_broker)[1]
        with limited(broker_pid, FSIZE, 10):
            task.ack(wait=True)
        assert pids(dq_broker)[1] != broker_pid
        assert settled(dq_broker, "k", 1)
        assert dq_broker.stats()["consumer_broker"]["sinks"]["k"]["redelivered"] == 0


# --- at the start ----------------------------------------------------------------------------------------------------

LIMITED_PROGRAM = """
import resource
resource.setrlimit(getattr(resource, sys.argv[2]), (int(sys.argv[3]),) * 2)
os.execv(sys.executable, [sys.executable, "-m", "dq.main", "serve", sys.argv[1]])
"""


@pytest.mark.parametrize(
    ("limit", "value"),
    [*(("RLIMIT_NOFILE", n) for n in (8, 20, 64)), *(("RLIMIT_FSIZE", n) for n in (0, 2_000))],
)
def test_a_start_within_narrow_limits_works_or_is_refused_without_a_traceback(tmp_path, limit, value):
    """bad input 55: RLIMIT_NOFILE and RLIMIT_FSIZE from the start."""
    root = tmp_path / "q"
    command = [sys.executable, "-c", Child.PRELUDE + LIMITED_PROGRAM, str(root), limit, str(value)]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        if program.stdout.readline():  # it serves: then it stores, or says why not
            with dq.connect(root) as broker, contextlib.suppress(DqError):
                assert broker.publish("s", 1, timeout=5).id == "s/0/0"
            program.send_signal(signal.SIGTERM)
        _, errors = program.communicate(timeout=20)
    finally:
        program.kill()
        program.wait()
    assert "Traceback" not in errors
    assert program.returncode == 0 or errors.startswith("dq"), errors
    if root.exists():
        with BrokerManager(root) as again:
            assert again.publish("s", 2).id.startswith("s/0/")
