"""The walk over batches: the one hot loop that recovery and readers share.

It takes bytes and says how far they are whole and in their place; what to do about the rest is its caller's to judge.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from pathlib import Path
from zlib import crc32

import orjson

from dq.config import MIB
from dq.errors import LogError
from dq.log.files import Files
from dq.log.format import BATCH_START, HEADER_BYTES_MAX, SUFFIX_BYTES, count_lines
from dq.model.about import About
from dq.model.shown import outlined, shown

_CHUNK_BYTES = 4 * MIB
_SECTOR_BYTES = 512
_TO_SUFFIX = SUFFIX_BYTES - 1  # from the newline of a header back to its suffix
_ANY_BATCH = re.compile(rb'(?:\A|\n)(?=\{"batch":)')

Topics = tuple[str, ...] | None
"""The topics that a batch header names, as it has them; None where no record of the batch has one."""
Seen = tuple[int, int, int, int, str, int, int, float, Topics, About]
"""A whole batch in a chunk: its first offset and count, where its lines start and stop in the chunk, its publisher and
sequence number, the checksum of its lines, its time, its topics, what else its header says of it."""


class Flaw(Enum):
    """What is wrong with the first batch that is not whole and in its place."""

    SHORT = "the bytes end before the batch does"
    HEADER = "the header cannot be read"
    CHECKSUM = "the checksum is wrong"
    PLACE = "the checksum is right, what it covers is not"


@dataclass(frozen=True, slots=True)
class Broken:
    """Why a walk ended before the bytes did. `need` is the size of a SHORT batch, 0 if its header is cut already."""

    flaw: Flaw
    why: str
    need: int = 0


@dataclass(slots=True)
class Walk:
    """How far a walk has come.

    Attributes:
        offset: the next one.
        crc: of the batch before, as its header has it; None when it is not known.
        size_max: bytes of records that a batch can have.
    """

    offset: int
    crc: str | None
    size_max: int

    def over(self, chunk: bytes, start: int, seen: list[Seen], count_max: int = -1) -> tuple[int, Broken | None]:
        """Goes over the whole batches of `chunk` from `start`, adds them to `seen`, and says where it stopped and why.

        One loop with everything in it: a call or an object per batch would halve its speed on batches of one record.
        """
        offset, crc, size_max, end, view = self.offset, self.crc, self.size_max, len(chunk), memoryview(chunk)
        find, begins, loads, broken = chunk.find, chunk.startswith, orjson.loads, None
        while start < end and len(seen) != count_max:
            newline = find(b"\n", start, start + HEADER_BYTES_MAX)
            if newline < 0:
                too_long = end - start >= HEADER_BYTES_MAX
                broken = Broken(Flaw.HEADER, "a header line without end") if too_long else Broken(Flaw.SHORT, "a header is cut")
                break
            lines = newline + 1
            try:
                fields = loads(view[start:newline])
                first, count, size, at = fields["batch"], fields["count"], fields["bytes"], fields["at"]
                publisher, sequence, prev, own = fields["publisher"], fields["seq"], fields["prev"], fields["crc"]
                topics, about = fields.get("topics"), fields.get("about")
            except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
                broken = Broken(Flaw.HEADER, "a header that cannot be read")
                break
            if type(size) is not int or not 0 <= size <= size_max:
                broken = Broken(Flaw.HEADER, f"a header that claims {shown(size)} bytes of records")
                break
            stop = lines + size
            if stop > end:
                broken = Broken(Flaw.SHORT, f"a batch of {size} bytes is cut", stop - start)
                break
            checksum = crc32(view[lines:stop])
            computed = crc32(view[start : newline - _TO_SUFFIX], checksum)
            if not begins(b',"crc":"%08x"}\n' % computed, newline - _TO_SUFFIX):
                broken = Broken(Flaw.CHECKSUM, f"the checksum {shown(own)} over bytes that have {computed:08x}")
                break
            if not (
                first == offset
                and (prev == crc or crc is None)
                and type(first) is type(count) is type(sequence) is int
                and type(publisher) is type(prev) is str
                and type(at) is float
                and sequence >= 0
                and count_lines(chunk[lines:stop]) == count > 0
                and chunk[stop - 1] == 10
            ):
                broken = Broken(
                    Flaw.PLACE, f"a whole batch that does not belong here, after offset {offset} and {crc}: {outlined(fields)}"
                )
                break
            named = None if topics is None else _named(topics)
            if about is not None and type(about) is not dict:
                about = None
            seen.append((first, count, lines, stop, publisher, sequence, checksum, at, named, about))
            start, offset, crc = stop, offset + count, own
        self.offset, self.crc = offset, crc
        return start, broken


def _named(topics: object) -> tuple[str, ...]:
    """The topics of a header; what is no list of text says as little as `*` does."""
    if type(topics) is list and all(type(topic) is str for topic in topics):
        return tuple(topics)
    return ("*",)


def scan(
    files: Files,
    fd: int,
    path: Path,
    position: int,
    size: int,
    walk: Walk,
    visit: Callable[[bytes, list[Seen]], None] | None,
) -> tuple[int, Broken | None]:
    """Walks over a file from `position` to `size`; `visit` gets each chunk and the batches in it.

    Returns where it stopped, `size` if all is whole. Raises OSError; LogError when the file shrinks meanwhile.
    """
    need = 0
    while position < size:
        asked = min(max(_CHUNK_BYTES, need), size - position)
        chunk = files.pread(fd, asked, position)
        if len(chunk) < asked:
            raise LogError(f"{path} shrank to less than {position + asked} bytes while it was read")
        seen: list[Seen] = []
        taken, broken = walk.over(chunk, 0, seen)
        if visit is not None:
            visit(chunk, seen)
        position += taken
        if broken is not None:
            if broken.flaw is not Flaw.SHORT or position + asked - taken == size:
                return position, broken
            need = broken.need
    return position, None


def has_hole(tail: bytes, position: int) -> bool:
    """True if a whole sector, or what of one lies in the tail, is NUL: what a power cut leaves of a write.

    dq writes no NUL byte, so a hole was never part of a batch. `position` is where in its file the tail begins.
    """
    cuts = [0, *range(_SECTOR_BYTES - position % _SECTOR_BYTES, len(tail), _SECTOR_BYTES), len(tail)]
    return any(not tail[begin:stop].strip(b"\0") for begin, stop in pairwise(cuts))


def confirmed_after(tail: bytes, offset: int, size_max: int) -> int | None:
    """First offset of a whole batch in `tail` that was written after `offset` was on disk; None if there is none."""
    for first, synced in _whole_batches(tail, size_max):
        if synced > offset:
            return first
    return None


def _whole_batches(tail: bytes, size_max: int) -> Iterator[tuple[int, int]]:
    """(first offset, synced offset) of every batch that is whole by itself, wherever it stands."""
    for match in _ANY_BATCH.finditer(tail):
        start = match.end()
        try:
            fields = orjson.loads(tail[start : tail.find(b"\n", start, start + HEADER_BYTES_MAX)])
        except orjson.JSONDecodeError:
            continue
        first = fields["batch"]
        if type(first) is not int:
            continue
        seen: list[Seen] = []
        Walk(first, None, size_max).over(tail, start, seen, count_max=1)
        synced = fields.get("synced", first)
        if seen and type(synced) is int:
            yield seen[0][0], synced


def has_all_lines(tail: bytes) -> bool:
    """True if the batch that `tail` begins with has all its lines, although it is SHORT: then its size is what is wrong.

    Of a batch whose bytes end too early the last newline is missing.
    """
    header, _, lines = tail.partition(b"\n")
    try:
        count = orjson.loads(header)["count"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return False
    return type(count) is int and 0 < count <= count_lines(lines)


def begins_like(tail: bytes, start: bytes = BATCH_START) -> bool:
    """True if `tail` is the beginning of something that begins with `start`, or of `start` itself."""
    return tail.startswith(start) or start.startswith(tail)
