"""Frames: however a stream of them is cut, the same frames come out; a length that lies costs nothing but its connection."""

from __future__ import annotations

import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dq.config import LIMITS
from dq.errors import ProtocolError
from dq.transport.frames import LENGTH, Inbox, framed


def on_the_wire(*frames: bytes) -> bytes:
    return b"".join(b"".join(framed(frame)) for frame in frames)


def fed(chunks: list[bytes], frame_bytes_max: int = LIMITS.frame_bytes_max) -> list[bytes]:
    inbox = Inbox(frame_bytes_max)
    return [bytes(frame) for chunk in chunks for frame in inbox.feed(memoryview(chunk))]


FRAMES = [b"a", b"bc", b"\0\0\0\1", b"x" * 300, b"{}\n" + bytes(range(256))]


def test_every_split_of_a_stream_gives_the_same_frames():
    stream = on_the_wire(*FRAMES)
    for place in range(len(stream) + 1):
        assert fed([stream[:place], stream[place:]]) == FRAMES


def test_every_pair_of_splits_of_a_short_stream_gives_the_same_frames():
    stream = on_the_wire(b"a", b"bcd", b"ef")
    for first in range(len(stream) + 1):
        for second in range(first, len(stream) + 1):
            assert fed([stream[:first], stream[first:second], stream[second:]]) == [b"a", b"bcd", b"ef"]


def test_one_byte_at_a_time_and_a_thousand_frames_at_once_both_work():
    """Row 29."""
    stream = on_the_wire(*FRAMES)
    assert fed([stream[n : n + 1] for n in range(len(stream))]) == FRAMES
    many = [b"%d" % n for n in range(1_000)]
    assert fed([on_the_wire(*many)]) == many


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=20), st.randoms(use_true_random=False))
def test_any_frames_in_any_chunks_come_out_as_they_were(frames: list[bytes], rng: random.Random):
    stream = on_the_wire(*frames)
    chunks, place = [], 0
    while place < len(stream):
        size = rng.randrange(1, 40)
        chunks.append(stream[place : place + size])
        place += size
    assert fed(chunks) == frames


@pytest.mark.parametrize("length", [0, LIMITS.frame_bytes_max + 1, 2**31, 2**32 - 1])
@pytest.mark.parametrize("cut", [0, 1, 2, 3])
def test_a_length_that_no_frame_has_is_refused_and_nothing_is_allocated(length, cut):
    """Row 26."""
    head = LENGTH.pack(length)
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match=str(length)):
            fed([on_the_wire(b"good") + head[:cut], head[cut:] + b"xx"])
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_the_greatest_frame_is_taken_and_one_byte_more_is_not():
    """Row 47."""
    assert fed([on_the_wire(b"x" * 100)], 100) == [b"x" * 100]
    with pytest.raises(ProtocolError, match="101"):
        fed([on_the_wire(b"x" * 101)], 100)


def test_frames_before_a_bad_one_are_given_first():
    inbox, got = Inbox(), []
    feed = inbox.feed(memoryview(on_the_wire(b"a", b"b") + LENGTH.pack(0)))
    with pytest.raises(ProtocolError):
        got.extend(bytes(frame) for frame in feed)
    assert got == [b"a", b"b"]


def test_what_waits_for_its_rest_is_counted():
    inbox = Inbox()
    assert list(inbox.feed(memoryview(b""))) == []
    assert inbox.waiting_bytes == 0
    assert list(inbox.feed(memoryview(on_the_wire(b"abc")[:2]))) == []
    assert inbox.waiting_bytes == 2
    assert list(inbox.feed(memoryview(on_the_wire(b"abc")[2:6]))) == []
    assert inbox.waiting_bytes == 6
    assert list(map(bytes, inbox.feed(memoryview(b"c")))) == [b"abc"]
    assert inbox.waiting_bytes == 0


def test_a_frame_stays_as_it_is_when_the_buffer_it_was_read_into_is_used_again():
    buffer = bytearray(on_the_wire(b"abc", b"de")[:-1])
    inbox = Inbox()
    [frame] = inbox.feed(memoryview(buffer))
    buffer[:] = bytes(len(buffer))
    assert bytes(frame) == b"abc"
    assert list(map(bytes, inbox.feed(memoryview(b"e")))) == [b"de"]


def test_a_frame_of_several_parts_has_one_length_and_no_empty_part():
    parts = framed(b"ab", b"", memoryview(b"cd"), bytearray())
    assert list(map(bytes, parts)) == [LENGTH.pack(4), b"ab", b"cd"]
