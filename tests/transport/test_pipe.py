"""`Pipe`: never blocks, loses and doubles no byte however slowly the peer reads, and ends in one of three ways."""

from __future__ import annotations

import random
import socket

import pytest

from dq.config import LIMITS
from dq.errors import ProtocolError
from dq.model.event import Event, EventOwner, EventType, decode
from dq.transport.frames import LENGTH, Inbox
from dq.transport.pipe import Broken, Ended, Pipe
from dq.transport.poller import Poller


@pytest.fixture
def pair():
    """A pipe, and the plain socket at its other end, with small buffers."""
    ours, theirs = socket.socketpair()
    pipe = Pipe(ours, memoryview(bytearray(4096)))
    for sock in (ours, theirs):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    theirs.setblocking(False)
    yield pipe, theirs
    pipe.close()
    theirs.close()


def sip(sock: socket.socket, size: int) -> bytes:
    try:
        return sock.recv(size)
    except BlockingIOError:
        return b""


def drained(pipe: Pipe, peer: socket.socket, sip_bytes: int = 1_000) -> list[bytes]:
    """The frames that the peer gets, a sip at a time, until nothing waits any more."""
    inbox, frames = Inbox(), []
    while True:
        piece = sip(peer, sip_bytes)
        frames += [bytes(frame) for frame in inbox.feed(memoryview(piece))]
        pipe.flush()
        if not piece and not pipe.waits_to_write:
            assert inbox.waiting_bytes == 0
            return frames


def test_a_slow_peer_gets_every_byte_once_and_in_order(pair):
    """Partial writes in every place, empty parts among them."""
    pipe, peer = pair
    rng = random.Random(1)
    sent = []
    for number in range(400):
        parts = [rng.randbytes(rng.choice((0, 0, 1, 3, 700, 5_000))) for _ in range(rng.randrange(1, 5))]
        parts.append(b"%d" % number)
        pipe.send_parts(*parts)
        sent.append(b"".join(parts))
    assert pipe.waits_to_write
    assert drained(pipe, peer, 777) == sent


def test_events_without_a_body_reach_a_slow_peer(pair):
    pipe, peer = pair
    events = [Event(EventType.ACK, EventOwner.CONSUMER_BROKER, {"number": n}) for n in range(2_000)]
    for start in range(0, 2_000, 100):
        pipe.send_all(events[start : start + 100])
    assert [decode(frame)["number"] for frame in drained(pipe, peer, 333)] == list(range(2_000))


def test_more_parts_than_the_system_takes_at_once_go_through(pair):
    pipe, peer = pair
    parts = [b"%04d" % n for n in range(5_000)]
    pipe.send_parts(*parts)
    assert drained(pipe, peer) == [b"".join(parts)]


def test_a_peer_that_does_not_read_is_cut_off_at_the_limit(pair):
    """Row 45: what waits for one client is bounded."""
    pipe, _ = pair
    block = bytes(1 << 20)
    for _ in range(LIMITS.outgoing_bytes_max // len(block) - 1):
        pipe.send_parts(block)
    with pytest.raises(Broken, match="does not read"):
        pipe.send_parts(block, block)


def test_a_peer_that_is_gone_breaks_the_pipe_when_it_is_written_to(pair):
    pipe, peer = pair
    peer.close()
    with pytest.raises(Broken):
        pipe.send_parts(b"x")


def test_a_pipe_whose_peer_closes_between_frames_has_ended(pair):
    pipe, peer = pair
    peer.send(LENGTH.pack(3) + b"abc")
    peer.close()
    assert [bytes(frame) for frame in pipe.receive()] == [b"abc"]
    with pytest.raises(Ended):
        list(pipe.receive())


@pytest.mark.parametrize("cut", range(1, 7))
def test_a_pipe_whose_peer_closes_within_a_frame_is_broken(pair, cut):
    """Row 46: at every byte."""
    pipe, peer = pair
    peer.send((LENGTH.pack(3) + b"abc")[:cut])
    peer.close()
    assert list(pipe.receive()) == []
    with pytest.raises(Broken):
        list(pipe.receive())


def test_a_peer_that_lies_about_a_length_has_broken_the_protocol(pair):
    pipe, peer = pair
    peer.send(LENGTH.pack(2**32 - 1))
    with pytest.raises(ProtocolError, match=str(2**32 - 1)):
        list(pipe.receive())


def test_a_pipe_with_nothing_in_it_gives_nothing(pair):
    pipe, _ = pair
    assert list(pipe.receive()) == []


def test_a_closed_pipe_gives_nothing_and_closes_twice(pair):
    pipe, peer = pair
    peer.send(LENGTH.pack(1) + b"x")
    pipe.close()
    pipe.close()
    assert list(pipe.receive()) == []


def test_a_poller_writes_what_waits_as_soon_as_the_peer_reads(pair):
    pipe, peer = pair
    poller = Poller()
    try:
        poller.add(pipe, lambda: None)
        frame = bytes(100_000)
        pipe.send_parts(frame)
        poller.watch_writes(pipe, lambda *_: pytest.fail("the peer reads"))
        inbox, got = Inbox(), []
        while not got:
            got += inbox.feed(memoryview(sip(peer, 10_000)))
            poller.run_once(0)
        assert [bytes(part) for part in got] == [frame]
        assert poller.run_once(0) == 0  # it is not asked for writing any more
    finally:
        poller.close()


def test_a_poller_is_woken_by_other_threads():
    poller, called = Poller(), []
    try:
        poller.call(lambda: called.append(1))
        poller.run_once(5)
        assert called == [1]
    finally:
        poller.close()
