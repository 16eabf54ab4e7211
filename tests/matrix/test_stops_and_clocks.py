"""Processes that stand still for a while under load, and a clock that jumps: nothing is lost, nothing comes again in masses."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from load_rig import Load

from dq import BrokerManager, Consumer, Publisher
from stage import Child, marked, pids, sink_of, until

STOPPED = ("the manager", "the publisher broker", "the consumer broker")
LIBRARIES = ("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1", "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1")


def stand_still(pid: int, seconds: float) -> None:
    os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        until(lambda: time.monotonic() - began >= seconds, seconds + 5)
    finally:
        os.kill(pid, signal.SIGCONT)


# --- SIGSTOP ---------------------------------------------------------------------------------------------------------


def test_processes_of_the_broker_that_stand_still_cost_time_and_nothing_else(dq_broker, request):
    """crash B10 and T19: each of the three is stopped under load and goes on. The manager has no heartbeat and kills nobody:
    a stopped broker is waited for. No record comes twice, since no lease has ended (`ack_grace` is longer)."""
    seconds = request.config.getoption("--stop-seconds")
    before = [dq_broker.manager_pid, *pids(dq_broker)]
    load = Load(dq_broker, "s", ack_grace=max(20.0, seconds * 2))
    for pid in before:
        load.goes_on()
        stand_still(pid, seconds)
    load.goes_on()
    figures = load.finish()
    assert [dq_broker.stats()["pid"], *pids(dq_broker)] == before
    assert figures["redelivered"] == 0
    assert set(load.got.values()) == {1}


def test_clients_that_stand_still_cost_their_own_leases_at_most(dq_broker, request):
    """T19: a publisher and a consumer are stopped under load, the consumer for longer than its lease."""
    seconds = request.config.getoption("--stop-seconds")
    code = """
from dq import Consumer, Publisher
publisher = Publisher(sys.argv[1], "s")
consumer = Consumer(sys.argv[1], "s", sink="s", prefetch=5)
publisher.publish("of the child")
said = False
for task in consumer:
    task.ack()
    if not said:
        said = say("in hand") or True
"""
    grace = seconds / 3
    load = Load(dq_broker, "s", ack_grace=grace)
    with Child(code, dq_broker.root) as child:
        assert child.hear(20) == "in hand"
        load.goes_on()
        stand_still(child.pid, seconds)
        load.goes_on()
        child.kill()
    figures = sink_of(dq_broker, "s")
    assert figures["redelivered"] <= 2 * 5 + 1, "no more than was in its hand when it stopped and when it was killed"
    assert figures["dead_lettered"] == 0
    load._ended.set()
    for publishing in load._publishing:
        publishing.result(20)
    ends = dq_broker.stats()["publisher_broker"]["streams"]["s"]["ends"]
    until(lambda: sink_of(dq_broker, "s")["settled"] == ends[0], 20, "all is settled")
    for consumer in load._consumers:
        consumer.stop()
    for consuming in load._consuming:
        consuming.result(20)
    assert load.late == []


# --- the clock -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def moved_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Processes that are started meanwhile see the wall clock as the file says; what they left in shared memory is removed."""
    library = next((path for path in LIBRARIES if Path(path).exists()), None)
    if library is None:
        if os.environ.get("CI") == "true":
            pytest.fail("libfaketime is not installed")
        pytest.skip("libfaketime is not installed (apt-get install faketime): it moves the clock of the broker's processes")
    offset = tmp_path / "offset"
    offset.write_text("+0")
    marker = f"{os.getpid()}-{os.urandom(4).hex()}"
    for name, value in {
        "LD_PRELOAD": library,
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DQ_MOVED_CLOCK": marker,
    }.items():
        monkeypatch.setenv(name, value)
    shared = set(Path("/dev/shm").glob("*faketime*"))
    try:
        yield offset
    finally:
        for pid in marked(f"DQ_MOVED_CLOCK={marker}"):
            os.kill(pid, signal.SIGKILL)
        for path in set(Path("/dev/shm").glob("*faketime*")) - shared:
            path.unlink(missing_ok=True)


def newest_time(root: Path) -> float:
    """What the newest batch header says of the time."""
    newest = sorted((root / "streams" / "s" / "0").glob("*.jsonl"))[-1].read_bytes()
    return float(newest.rpartition(b'{"batch":')[2].partition(b'"at":')[2].partition(b",")[0])


JUMPS = {"an hour back": -3_600, "a day on": 86_400, "to 2038": None, "ten years on": 10 * 365 * 86_400, "back": 0}


def test_a_clock_that_jumps_ends_no_lease_and_loses_nothing(tmp_path, monkeypatch, request):
    """bad input 58 and T19: -1 h, +1 day, over 2038-01-19T03:14:08, +10 years and back, under load.

    Nothing expires, nothing comes again, and retention takes nothing that a sink has still to settle.
    """
    root = tmp_path / "q"
    with moved_clock(tmp_path, monkeypatch) as offset, BrokerManager(root) as broker:
        monkeypatch.delenv("LD_PRELOAD")
        before = [broker.manager_pid, *pids(broker)]
        broker.stream("s", segment_bytes=4096)  # which keeps what is settled for a day
        with Consumer(broker, "s", sink="late"):
            pass
        with Publisher(broker, "s") as publisher, Consumer(broker, "s", sink="slow", idle_timeout=5) as slow:
            publisher.publish("in hand all the while")
            in_hand = next(iter_slow := iter(slow))
            load = Load(broker, "s")
            load.goes_on()
            for seconds in JUMPS.values():
                jump = int(2**31 + 100 - time.time()) if seconds is None else seconds
                offset.write_text(f"{jump:+d}")
                load.goes_on()
                moved = newest_time(root) - time.time()
                assert abs(moved - jump) < 30, "the clock has jumped"
            load.receipts["in hand all the while"] = "s/0/0"
            figures = load.finish()
            assert in_hand.payload == "in hand all the while"
            in_hand.ack(wait=True)
            assert sink_of(broker, "slow")["redelivered"] == 0
            iter_slow.close()
        assert figures["redelivered"] == 0
        assert set(load.got.values()) == {1}
        assert [broker.stats()["pid"], *pids(broker)] == before
        stream = broker.stats()["publisher_broker"]["streams"]["s"]
        assert stream["records"] == stream["ends"][0], "what another sink has still to settle is all there"
        assert stream["segments"] > 1


@pytest.mark.parametrize("jump", [-86_400, 10 * 365 * 86_400], ids=["a day back", "ten years on"])
def test_a_start_with_another_clock_keeps_leases_retries_and_publishers(tmp_path, monkeypatch, jump):
    """bad input 58: the clock is moved between two runs: delayed records come soon, no publisher is forgotten for it."""
    root = tmp_path / "q"
    with moved_clock(tmp_path, monkeypatch) as offset:
        with BrokerManager(root) as broker, Consumer(broker, "s", sink="k", idle_timeout=5) as consumer:
            broker.publish("s", 0)
            next(iter(consumer)).retry(after=0.4)
            consumer.flush(5)
        offset.write_text(f"{jump:+d}")
        with BrokerManager(root) as broker:
            with Consumer(broker, "s", sink="k", idle_timeout=5) as consumer:
                began = time.monotonic()
                task = next(iter(consumer))
                assert (task.payload, task.attempt) == (0, 2)
                assert time.monotonic() - began < 3
                task.ack(wait=True)
            assert broker.publish("s", 1).id == "s/0/1"
            assert sink_of(broker, "k")["settled"] == 1
