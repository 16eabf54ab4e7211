"""Each client gets its turn: who says much in small pieces does not keep the others waiting, nor does a list of other work."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from raw_client import frame

from dq.transport.pipe import Pipe
from dq.transport.poller import Poller


@pytest.fixture
def pair() -> Iterator[tuple[Pipe, socket.socket]]:
    """A pipe that can be read by the MiB, and the socket at its other end."""
    ours, theirs = socket.socketpair()
    pipe = Pipe(ours, memoryview(bytearray(1 << 20)))
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    theirs.setblocking(False)
    yield pipe, theirs
    pipe.close()
    theirs.close()


def fill(sock: socket.socket, content: bytes) -> int:
    """Writes frames until the kernel takes no more; returns how many of them are whole."""
    sent, many = 0, content * (65_536 // len(content))
    while True:
        try:
            sent += sock.send(many[sent % len(content) :])
        except BlockingIOError:
            return sent // len(content)


@pytest.mark.parametrize("size", [1, 50, 400])
def test_of_many_small_events_one_read_takes_a_few_hundred(pair, size):
    """Bad input 45: after the first read, which shows how small they are."""
    pipe, theirs = pair
    content = frame(bytes(size))
    written = fill(theirs, content)
    reads = [len(list(pipe.receive()))]
    while sum(reads) < written:
        reads.append(len(list(pipe.receive())))
    assert max(reads[1:]) <= max(300, 4096 // len(content) + 1)
    assert len(reads) > 2


def test_of_large_events_one_read_takes_as_much_as_it_can(pair):
    """Batches of 50 KB are not cut into bites: there is a read for several, not several for one."""
    pipe, theirs = pair
    content = frame(bytes(50_000))
    for _ in range(5):
        theirs.sendall(content * 2)
        assert len(list(pipe.receive())) == 2


def test_a_long_list_of_calls_leaves_room_for_the_pipes():
    """Bad input 45: questions to a broker by the hundred; in between it looks who else is there."""
    poller, turns, done = Poller(), [0], threading.Event()
    ours, theirs = socket.socketpair()
    calls = 100

    def slow() -> None:
        nonlocal calls
        time.sleep(0.001)
        calls -= 1
        if not calls:
            done.set()

    def read() -> None:
        turns[0] += 1  # it stays ready: each turn comes here

    try:
        poller.add(ours, read)
        theirs.send(b"x")
        for _ in range(calls):
            poller.call(slow)
        deadline = time.monotonic() + 10
        while not done.is_set():
            assert time.monotonic() < deadline
            poller.run_once(1)
        assert turns[0] >= 10
    finally:
        poller.close()
        ours.close()
        theirs.close()


def test_a_wait_of_years_is_a_wait():
    """Crash C6: a deadline in 30 days or 1e300 s is far, and no error; somebody who comes meanwhile is seen at once."""
    poller, seen = Poller(), []
    ours, theirs = socket.socketpair()
    try:
        poller.add(ours, lambda: seen.append(ours.recv(1)))
        for seconds in (30 * 86_400.0, 2.0**40, 1e300):
            theirs.send(b"x")
            poller.run_once(seconds)
        assert seen == [b"x"] * 3
    finally:
        poller.close()
        ours.close()
        theirs.close()
