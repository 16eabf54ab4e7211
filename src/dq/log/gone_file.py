"""What is gone of a stream by its users' wish: kept beside `stream.json`, since it cannot be computed anew.

::

    {"format":1,"name":"orders","uuid":"…","marks":[512,0],"removed":[[0,600,602],[1,7,8]],"trimmed":512,"taken":3,"crc":"…"}⏎

`marks` has by bucket the first offset that `trim` left; `removed` the ranges [bucket, first, stop] that `remove` took out above
them; `trimmed` and `taken` count the records of both. What limits drop is computed from the settings and is not in here. One
who does not know this file sees what is gone again, as long as it is on disk.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson

from dq.config import MIB
from dq.errors import DiskFull, LogError, SyncFailed
from dq.log.files import NO_ROOM, Files, mapped
from dq.log.format import COUNT_MAX, FORMAT, Malformed, seal, want, want_count
from dq.log.layout import Layout
from dq.log.sealed import blamed, read_sealed
from dq.log.stream_file import StreamDescription
from dq.model.shown import shown

_BYTES_MAX = 8 * MIB
Ranges = tuple[tuple[int, int], ...]
"""Of offsets: each from its first up to, not with, its stop; ascending, and none touches the next."""


@dataclass(frozen=True, slots=True)
class Gone:
    """What is gone of one stream.

    Attributes:
        marks: by bucket, the first offset that trims left.
        removed: by bucket, what was taken out.
        trimmed, taken: how many records were given up by trims, and taken out.
    """

    marks: tuple[int, ...]
    removed: tuple[Ranges, ...]
    trimmed: int = 0
    taken: int = 0

    @classmethod
    def nothing(cls, buckets: int) -> Gone:
        """Of a stream that has everything still."""
        return cls((0,) * buckets, ((),) * buckets)

    @property
    def ranges(self) -> int:
        """How many ranges were taken out."""
        return sum(map(len, self.removed))

    def with_trim(self, marks: Sequence[int], lost: int) -> Gone:
        """The same after a trim, by which `lost` records were given up. A mark never goes back."""
        return replace(self, marks=tuple(map(max, self.marks, marks)), trimmed=self.trimmed + lost)

    def with_removed(self, offsets: Sequence[Iterable[int]]) -> Gone:
        """The same without these records as well, by bucket; those that are taken out already count once."""
        removed = tuple(_merged(old, new) for old, new in zip(self.removed, offsets, strict=True))
        return replace(self, removed=removed, taken=self.taken + _size(removed) - _size(self.removed))

    def from_firsts(self, firsts: Sequence[int]) -> Gone:
        """The same without what lies below these offsets, by bucket: that is gone anyway."""
        return replace(
            self, removed=tuple(_between(old, low, COUNT_MAX) for old, low in zip(self.removed, firsts, strict=True))
        )

    def up_to(self, ends: Sequence[int]) -> Gone:
        """The same of a stream that lost its end: what comes to stand there is not gone."""
        removed = tuple(_between(old, 0, end) for old, end in zip(self.removed, ends, strict=True))
        return replace(self, marks=tuple(map(min, self.marks, ends)), removed=removed)

    def count(self, bucket: int, first: int) -> int:
        """How many records are taken out of a bucket from an offset on."""
        ranges = self.removed[bucket]
        return _size((_between(ranges, first, COUNT_MAX),)) if ranges else 0

    def has(self, bucket: int, offset: int) -> bool:
        """Whether a record is taken out."""
        ranges = self.removed[bucket]
        at = bisect_right(ranges, (offset, COUNT_MAX)) - 1
        return at >= 0 and offset < ranges[at][1]

    def listed(self) -> list[list[int]]:
        """The ranges that were taken out, as [bucket, first, stop]."""
        return [[bucket, first, stop] for bucket, ranges in enumerate(self.removed) for first, stop in ranges]


def _size(removed: Iterable[Ranges]) -> int:
    return sum(stop - first for ranges in removed for first, stop in ranges)


def _between(ranges: Ranges, low: int, high: int) -> Ranges:
    """What of the ranges lies in low..high-1. The usual case, all of it, costs two comparisons."""
    if not ranges or (ranges[0][0] >= low and ranges[-1][1] <= high):
        return ranges
    begin = bisect_right(ranges, low, key=lambda each: each[1])
    stop = bisect_left(ranges, high, key=lambda each: each[0])
    return tuple((max(first, low), min(last, high)) for first, last in ranges[begin:stop])


def _merged(ranges: Ranges, offsets: Iterable[int]) -> Ranges:
    new = [(offset, offset + 1) for offset in offsets]
    if not new:
        return ranges
    merged: list[tuple[int, int]] = []
    for first, stop in sorted([*ranges, *new]):
        if merged and first <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(stop, merged[-1][1])
        else:
            merged.append((first, stop))
    return tuple(merged)


# --- the file --------------------------------------------------------------------------------------------------------
def read_gone(files: Files, root: Path, described: StreamDescription) -> Gone:
    """What is gone of a stream; nothing, where it has no such file. For any process.

    Raises:
        Damaged, NewerFormat, LogError: the file cannot be used.
    """
    path, buckets = Layout(root).gone_file(described.name), described.settings.bucket_count
    with blamed(path, "restore it from a backup; without it, records that were trimmed or removed are seen again"):
        try:
            fields = read_sealed(files, path, _BYTES_MAX)
        except FileNotFoundError:
            return Gone.nothing(buckets)
        if (fields.get("name"), fields.get("uuid")) != (described.name, described.uuid):
            raise Malformed(f"it is of the stream {shown(fields.get('name'))} with the uuid {shown(fields.get('uuid'))}")
        marks = want(fields, "marks", list)
        if len(marks) != buckets or not all(_is_offset(mark) for mark in marks):
            raise Malformed(f"its marks are {shown(marks)}")
        removed = _ranges(want(fields, "removed", list), buckets)
        return Gone(tuple(marks), removed, want_count(fields, "trimmed"), want_count(fields, "taken"))


def _is_offset(value: Any) -> bool:
    return type(value) is int and 0 <= value <= COUNT_MAX


def _ranges(values: list[Any], buckets: int) -> tuple[Ranges, ...]:
    removed: list[list[tuple[int, int]]] = [[] for _ in range(buckets)]
    with contextlib.suppress(TypeError, ValueError, IndexError):
        for bucket, first, stop in values:
            if not all(map(_is_offset, (bucket, first, stop))) or first >= stop:
                raise ValueError
            removed[bucket].append((first, stop))
        if all(before[1] < after[0] for ranges in removed for before, after in pairwise(ranges)):
            return tuple(map(tuple, removed))
    raise Malformed(f"what it says is removed is {shown(values)}")


def _encode(described: StreamDescription, gone: Gone) -> bytes:
    fields = {"format": FORMAT, "name": described.name, "uuid": described.uuid, "marks": gone.marks, "removed": gone.listed()}
    return seal(orjson.dumps({**fields, "trimmed": gone.trimmed, "taken": gone.taken})[:-1])[0]


def write_gone(files: Files, root: Path, described: StreamDescription, gone: Gone) -> None:
    """Keeps what is gone of a stream: all of it or, after any error, what the file had.

    Raises:
        DiskFull: there is no room for it. SyncFailed: the disk did not confirm it; what it has shows at the next start.
    """
    path, content = Layout(root).gone_file(described.name), _encode(described, gone)
    try:
        files.write_atomically(path, content)
    except OSError as error:
        if error.errno in NO_ROOM and not _stands(files, path, content):
            raise DiskFull(f"no room for {path} ({error.strerror}): nothing was trimmed or removed; free some space") from error
        raise SyncFailed(
            f"the disk did not confirm {path}: {error.strerror}; what it has shows when the broker has started again"
        ) from error


def _stands(files: Files, path: Path, content: bytes) -> bool:
    """Whether a file was replaced, though not all of that was confirmed."""
    with contextlib.suppress(OSError, LogError):
        return files.read_whole(path, _BYTES_MAX) == content
    return False


def open_gone(files: Files, root: Path, described: StreamDescription, ends: Sequence[int]) -> Gone:
    """What is gone of a stream that is being opened, and ends there: for its one writer.

    A stream may have lost its end, as its durability allows. Records will come to stand where others were gone, so that is
    forgotten before the first of them comes.

    Raises:
        Damaged, NewerFormat: as `read_gone`. LogError: it cannot be read or written.
    """
    path = Layout(root).gone_file(described.name)
    with mapped(path, "delete"):
        files.drop_unfinished(path)
    kept = read_gone(files, root, described)
    gone = kept.up_to(ends)
    if gone != kept:
        with mapped(path, "write"):
            files.write_atomically(path, _encode(described, gone))
    return gone
