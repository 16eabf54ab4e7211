"""Clients that speak and never read: what waits for them is bounded, they are cut off, and nobody else waits."""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import statistics
import time
import tracemalloc
from collections.abc import Callable

import pytest
from raw_client import LENGTH, Neighbours, RawClient, envelope, memory_bytes, write

from dq import Consumer, Publisher
from dq.config import LIMITS, MIB
from dq.core.book import LEASES_UNFLUSHED_MAX
from dq.model.event import Event, EventOwner, EventType
from dq.transport.pipe import Broken, Pipe
from stage import Child, announce, pids, sink_of, until

# What a process may grow by beside what waits for its clients: buffers, and what the allocator keeps of them.
SLACK_BYTES = 48 * MIB
# A neighbour's round trip is under 2 ms on a quiet machine; one that waits for somebody's buffer to drain never ends.
PATIENCE_SECONDS = 1.0


def flood(client: RawClient, content: bytes, beside: Callable[[], float], seconds: float = 60.0) -> tuple[int, list[float]]:
    """Says `content` again and again, and reads nothing, until the broker closes; every 10 ms it does `beside`.

    Returns the bytes that were taken, and what `beside` returned each time.
    """
    sock, waiting, sent, seen = client.sock, memoryview(content), 0, []
    deadline, due = time.monotonic() + seconds, 0.0
    sock.setblocking(False)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while (now := time.monotonic()) < deadline:
            if now >= due:
                seen.append(beside())
                due = time.monotonic() + 0.01
            try:
                count = sock.send(waiting)
            except BlockingIOError:
                select.select([], [sock], [], 0.01)
                continue
            sent += count
            waiting = waiting[count:] or memoryview(content)
        pytest.fail(f"{sent} bytes were taken, and it was not cut off")
    return sent, seen


def p99(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=100)[98]


@pytest.mark.parametrize("size", [0, 60, 5_000, 300_000])
def test_what_waits_for_a_client_takes_little_more_memory_than_it_is(size):
    """Bad input 45: also where it is a million of the shortest answers. The limit is on bytes, and bytes are what it holds."""
    ours, theirs = socket.socketpair()
    pipe = Pipe(ours, memoryview(bytearray(1024)))
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)  # what the kernel takes does not wait here
    answer = Event(EventType.ACK, EventOwner.CONSUMER_BROKER, {"number": 1}, bytes(size))
    content = len(answer.encode()) + LENGTH.size
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(2 * MIB // content + 1):
            pipe.send(answer)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
        pipe.close()
        theirs.close()
    assert 1.8 * MIB < grown < 2.8 * MIB


def test_too_much_that_waits_is_an_error():
    """Bad input 45: at 64 MiB."""
    ours, theirs = socket.socketpair()
    pipe = Pipe(ours, memoryview(bytearray(1024)))
    try:
        for _ in range(LIMITS.outgoing_bytes_max // MIB - 1):
            pipe.send_parts(bytes(MIB))
        with pytest.raises(Broken, match="does not read"):
            pipe.send_parts(bytes(4 * MIB))
    finally:
        pipe.close()
        theirs.close()


def test_a_publisher_that_never_reads_is_cut_off_and_nobody_waits_for_it(broker, neighbours, capsys):
    """Crash P6, bad input 45: it gets an answer to each of its batches, and reads none, for 64 MiB of answers."""
    process = pids(broker)[0]
    before = memory_bytes(process)
    taken = "x" * 128  # it stands in the answers: the longer, the sooner
    # A gap: answered and not stored, which is the most that a publisher can have said to it for what it says.
    content = write(2**63) * 500
    with RawClient.publisher(broker.root, "flooded", taken) as client:
        client.send(write(0))
        sent, trips = flood(client, content, neighbours.round_trip)
    announce(capsys, f" {sent / 1e6:.0f} MB said, {len(trips)} round trips beside it, p99 {p99(trips) * 1e3:.1f} ms ")
    assert memory_bytes(process, "VmHWM") - before < LIMITS.outgoing_bytes_max + SLACK_BYTES
    assert p99(trips) < PATIENCE_SECONDS
    until(lambda: taken not in {client["id"] for client in broker.stats()["registered"]}, what="it is forgotten")


def test_a_consumer_that_never_reads_is_cut_off_and_what_it_held_comes_back(dq_broker, capsys):
    """Bad input 45: it grants credit and acks blindly, without reading one of its leases, for 64 MiB of them."""
    count, size = 24_000, 4_000
    neighbours = Neighbours(dq_broker)
    process = pids(dq_broker)[1]
    with Publisher(dq_broker, "deep") as publisher:
        publisher.publish_many("x" * size for _ in range(count))
    before = memory_bytes(process)
    with RawClient.consumer(dq_broker.root, "deep", "deep") as client:
        # Leases are numbered one after another, and whoever guesses them need not read: each ack makes room for the next.
        leases = range(LEASES_UNFLUSHED_MAX, LEASES_UNFLUSHED_MAX + 2_000)
        acks = b"".join(envelope("ACK", "CONSUMER", number=n, ranges=[[lease, 0, count]]) for n, lease in enumerate(leases))
        content = envelope("READ", "CONSUMER", credit=count) + acks
        said, trips = flood(client, content, neighbours.round_trip)
    announce(capsys, f" {said / 1e6:.0f} MB said, {len(trips)} round trips beside it, p99 {p99(trips) * 1e3:.1f} ms ")
    assert memory_bytes(process, "VmHWM") - before < LIMITS.outgoing_bytes_max + SLACK_BYTES
    assert p99(trips) < PATIENCE_SECONDS
    # What it had in hand comes back, so that every record is settled by somebody.
    with Consumer(dq_broker, "deep", sink="deep", idle_timeout=0.5) as consumer:
        rest = sum(1 for task in consumer if task.ack() is None)
    assert rest > 0
    assert until(lambda: sink_of(dq_broker, "deep")["settled"] == count, what="all are settled")
    assert neighbours.processes() == neighbours.before
    neighbours.close()


def test_a_consumer_that_holds_all_it_may_and_reads_nothing_costs_no_more_than_that(dq_broker):
    """Bad input 45: without acks what is leased to it is bounded before anything has to be cut off."""
    process = pids(dq_broker)[1]
    with Publisher(dq_broker, "deep") as publisher:
        publisher.publish_many("x" * 4_000 for _ in range(12_000))
    before = memory_bytes(process)
    with RawClient.consumer(dq_broker.root, "deep", "deep") as client:
        for _ in range(100):
            client.say("READ", "CONSUMER", credit=50_000)
        held = until(lambda: sink_of(dq_broker, "deep")["shards"]["deep/0"]["in_hand"], what="it has something in hand")
        in_hand = [consumer["in_hand_bytes"] for consumer in sink_of(dq_broker, "deep")["consumers"].values()]
        assert in_hand[0] <= LIMITS.prefetch_bytes_max + LIMITS.task_bytes
        assert 0 < held < 12_000
        assert memory_bytes(process, "VmHWM") - before < LIMITS.prefetch_bytes_max + SLACK_BYTES
        assert client.hear()["first"] == 0  # it is still served


def test_a_stopped_publisher_costs_nobody_anything(broker, name, neighbours):
    """Crash P6: SIGSTOP with answers on their way to it; the neighbours go on, and so does it afterwards."""
    code = """
from dq import Publisher
with Publisher(sys.argv[1], sys.argv[2]) as publisher:
    futures = [publisher.submit("x" * 1_000) for n in range(20_000)]
    say("sent")
    say([future.result(30).id for future in futures][-1])
"""
    with Child(code, broker.root, name) as child:
        assert child.hear() == "sent"
        child.process.send_signal(signal.SIGSTOP)
        trips = [neighbours.round_trip() for _ in range(200)]
        assert p99(trips) < PATIENCE_SECONDS
        child.process.send_signal(signal.SIGCONT)
        assert child.hear(40) == f"{name}/0/19999"
        assert child.wait() == 0


def test_a_client_that_asks_without_end_and_never_reads_is_cut_off(dq_broker, capsys):
    """Bad input 45: questions for figures, each of which costs both brokers work; nobody waits until all are answered."""
    # (Needs a change of `Manager._status`: whatever is asked while the brokers are asked is answered by one more question.)
    neighbours = Neighbours(dq_broker)
    for n in range(50):
        dq_broker.stream(f"another-stream-{n}")
    before = memory_bytes(dq_broker.manager_pid)
    content = b"".join(envelope("STATUS", "CLIENT", request=n) for n in range(2_000))
    with RawClient.client(dq_broker.root) as client:
        said, trips = flood(client, content, neighbours.round_trip, 10.0)
    announce(capsys, f" {said / 1e6:.1f} MB said, {len(trips)} round trips beside it, p99 {p99(trips) * 1e3:.1f} ms ")
    assert p99(trips) < PATIENCE_SECONDS
    stats = dq_broker.stats()
    assert stats["clients"] == 1
    assert len(stats["publisher_broker"]["streams"]) == 51
    assert memory_bytes(dq_broker.manager_pid, "VmHWM") - before < LIMITS.outgoing_bytes_max + SLACK_BYTES
    assert neighbours.processes() == neighbours.before
    neighbours.close()
