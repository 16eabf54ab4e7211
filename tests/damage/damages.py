"""The ways in which a log is damaged: each takes a window and gives the files as they are after it."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from damage_bench import Segment, Window

from dq.log.format import Identity, SegmentHeader, decode_segment, encode_segment, segment_name

SECTORS = (512, 4096)
Files = dict[str, bytes]
Damage = Callable[[Random, Window], Files]


def any_segment(chance: Random, window: Window) -> Segment:
    """The last one as often as all others together: it alone may be cut."""
    return window.last if chance.random() < 0.5 else chance.choice(window.segments)


def a_place(chance: Random, segment: Segment) -> int:
    """Anywhere, or near where something begins."""
    size = len(segment.content)
    if chance.random() < 0.5:
        return chance.randrange(size)
    near = chance.choice([0, *(batch.begin for batch in segment.batches), size])
    return min(max(near + chance.randint(-40, 140), 0), size - 1)


def with_file(window: Window, segment: Segment, content: bytes) -> Files:
    return {**window.files, segment.name: content}


# --- bytes -------------------------------------------------------------------------------------------------------------
def bits_flipped(chance: Random, window: Window) -> Files:
    segment = any_segment(chance, window)
    spoiled = bytearray(segment.content)
    for _ in range(chance.choice((1, 1, 1, 2, 8))):
        spoiled[a_place(chance, segment)] ^= 1 << chance.randrange(8)
    return with_file(window, segment, bytes(spoiled))


def bytes_overwritten(chance: Random, window: Window) -> Files:
    segment = any_segment(chance, window)
    place, spoiled = a_place(chance, segment), bytearray(segment.content)
    new = chance.choice((b"\0", b"\n", b"0", b"9", b"}", chance.randbytes(chance.randint(1, 64))))
    spoiled[place : place + len(new)] = new[: len(spoiled) - place]
    return with_file(window, segment, bytes(spoiled))


def bytes_inserted(chance: Random, window: Window) -> Files:
    segment = any_segment(chance, window)
    place, content = a_place(chance, segment), segment.content
    new = chance.choice((b"\0", b"\n", b"\r", b"0", chance.randbytes(chance.randint(1, 64)), content[place : place + 40]))
    return with_file(window, segment, content[:place] + new + content[place:])


def bytes_deleted(chance: Random, window: Window) -> Files:
    segment = any_segment(chance, window)
    place = a_place(chance, segment)
    return with_file(window, segment, segment.content[:place] + segment.content[place + chance.randint(1, 600) :])


# --- sectors -----------------------------------------------------------------------------------------------------------
def sector_zeroed(chance: Random, window: Window) -> Files:
    segment, sector = any_segment(chance, window), chance.choice(SECTORS)
    begin = a_place(chance, segment) // sector * sector
    spoiled = bytearray(segment.content)
    stop = min(begin + sector * chance.choice((1, 1, 3)), len(spoiled))
    spoiled[begin:stop] = bytes(stop - begin)
    return with_file(window, segment, bytes(spoiled))


def sector_stale(chance: Random, window: Window) -> Files:
    """A sector has what once stood elsewhere in the log."""
    segment, other, sector = any_segment(chance, window), chance.choice(window.segments), chance.choice(SECTORS)
    begin = a_place(chance, segment) // sector * sector
    source = a_place(chance, other) // sector * sector
    spoiled = bytearray(segment.content)
    stop = min(begin + sector, len(spoiled))
    spoiled[begin:stop] = other.content[source : source + stop - begin]
    return with_file(window, segment, bytes(spoiled))


# --- batches -----------------------------------------------------------------------------------------------------------
def pieces(segment: Segment) -> list[bytes]:
    return [segment.content[batch.begin : batch.stop] for batch in segment.batches]


def batch_doubled(chance: Random, window: Window) -> Files:
    segment = any_segment(chance, window)
    parts = pieces(segment)
    at = chance.randrange(len(parts))
    parts.insert(chance.choice((at, len(parts))), parts[at])
    return with_file(window, segment, segment.head + b"".join(parts))


def batches_swapped(chance: Random, window: Window) -> Files:
    segment = any_segment(chance, window)
    parts = pieces(segment)
    one, other = chance.randrange(len(parts)), chance.randrange(len(parts))
    parts[one], parts[other] = parts[other], parts[one]
    return with_file(window, segment, segment.head + b"".join(parts))


def batch_dropped(chance: Random, window: Window) -> Files:
    segment = any_segment(chance, window)
    parts = pieces(segment)
    del parts[chance.randrange(len(parts))]
    return with_file(window, segment, segment.head + b"".join(parts))


def batch_of_another_segment(chance: Random, window: Window) -> Files:
    segment, other = any_segment(chance, window), chance.choice(window.segments)
    parts = pieces(segment)
    parts[chance.randrange(len(parts))] = chance.choice(pieces(other))
    return with_file(window, segment, segment.head + b"".join(parts))


# --- segments ----------------------------------------------------------------------------------------------------------
def segment_foreign(chance: Random, window: Window) -> Files:
    """The same batches under a whole header of another log: nothing but the identity tells them apart."""
    segment = any_segment(chance, window)
    header = decode_segment(segment.head)
    ours = header.identity
    identity = chance.choice(
        (
            Identity(ours.stream, ours.bucket, "another", ours.epoch),
            Identity("orders", ours.bucket, ours.uuid, ours.epoch),
            Identity(ours.stream, ours.bucket + 1, ours.uuid, ours.epoch),
            Identity(ours.stream, ours.bucket, ours.uuid, ours.epoch + 1),
            Identity(ours.stream, ours.bucket, ours.uuid, ours.epoch, "sink"),
        )
    )
    head = encode_segment(SegmentHeader(header.first, identity, header.at, header.prev, header.publishers))
    return with_file(window, segment, head + segment.content[len(segment.head) :])


def segments_exchanged(chance: Random, window: Window) -> Files:
    one, other = chance.sample(window.segments, 2)
    return {**window.files, one.name: other.content, other.name: one.content}


def segment_renamed(chance: Random, window: Window) -> Files:
    segment = any_segment(chance, window)
    files = dict(window.files)
    del files[segment.name]
    near = segment.first + chance.choice((-1, 1, chance.randint(2, 2_000)))
    return {**files, segment_name(max(near, 0)): segment.content}


def segment_missing(chance: Random, window: Window) -> Files:
    files = dict(window.files)
    del files[any_segment(chance, window).name]
    return files


def segment_truncated(chance: Random, window: Window) -> Files:
    segment = any_segment(chance, window)
    return with_file(window, segment, segment.content[: a_place(chance, segment)])


def header_lost(chance: Random, window: Window) -> Files:
    segment = any_segment(chance, window)
    return with_file(window, segment, segment.content[len(segment.head) :])


# --- tails -------------------------------------------------------------------------------------------------------------
def tail_stale(chance: Random, window: Window) -> Files:
    """Old bytes of the log behind its end, from the beginning of a batch or from anywhere."""
    segment, other = any_segment(chance, window), chance.choice(window.segments)
    begin = chance.choice((a_place(chance, other), chance.choice(other.batches).begin))
    return with_file(window, segment, segment.content + other.content[begin : begin + chance.randint(1, 20_000)])


def tail_torn(chance: Random, window: Window) -> Files:
    """The beginning of the batch that would be next, as a kill leaves it."""
    segment = any_segment(chance, window)
    batch = chance.choice(segment.batches)
    whole = segment.content[batch.begin : batch.stop]
    new = whole.replace(b'{"batch":%d,' % batch.first, b'{"batch":%d,' % segment.end, 1)
    return with_file(window, segment, segment.content + new[: chance.randrange(1, len(new))])


def tail_of_nuls(chance: Random, window: Window) -> Files:
    """1 byte to 64 MiB, each length of bits as likely as any other."""
    segment = any_segment(chance, window)
    kept = a_place(chance, segment) if chance.random() < 0.3 else len(segment.content)
    return with_file(window, segment, segment.content[:kept] + bytes(1 << chance.choice((*range(17), *range(17), *range(27)))))


DAMAGES: list[Damage] = [
    bits_flipped, bytes_overwritten, bytes_inserted, bytes_deleted, sector_zeroed, sector_stale, batch_doubled,
    batches_swapped, batch_dropped, batch_of_another_segment, segment_foreign, segments_exchanged, segment_renamed,
    segment_missing, segment_truncated, header_lost, tail_stale, tail_torn, tail_of_nuls,
]  # fmt: skip
