"""The segments of a data directory: how much of each is still needed, and by whom. It only reads."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from dq.config import KIB
from dq.core.later import Later
from dq.core.ranges import RangeSet
from dq.errors import Damaged, LogError
from dq.log.files import Files, mapped
from dq.log.format import HEADER_BYTES_MAX, Malformed
from dq.log.gone_file import read_gone
from dq.log.recovery import damaged, read_segment_header
from dq.log.stream_file import StreamDescription, read_stream
from dq.mend.ends import BucketEnd, clean_marks, find_end
from dq.mend.sinks import SinkOnDisk, read_later, unsettled
from dq.model.names import LATER_SUFFIX, base_stream

_PROBE_BYTES = 256 * KIB
NOBODY = "(delayed)"
_TRIES = 3
"""Under a running broker a segment may be deleted while it is looked at."""
_BATCH = re.compile(rb'\n(\{"batch":[^\n]*)\n')  # no record line begins like this


@dataclass(frozen=True, slots=True)
class Pin:
    """Why a sink needs a segment.

    Attributes:
        sink: which one; `NOBODY` for records that wait for their time.
        record: the id of the first record in it that it has not settled.
        records: how many those are.
        state: what the record is doing there.
        consumer: who has it in hand; None: nobody.
    """

    sink: str
    record: str
    records: int
    state: str
    consumer: str | None


@dataclass(frozen=True, slots=True)
class Segment:
    """One file of a stream.

    Attributes:
        file: its path.
        bucket: whose it is.
        first, stop: its first offset, and the one after its last.
        bytes: its size.
        first_at, last_at: when its first and its last batch were committed; None where it has none.
        live: how many of its records some sink has not settled; None where there is no sink, or one that cannot be read.
        pins: which sinks these are.
        kept: why it is there, in words.
    """

    file: Path
    bucket: int
    first: int
    stop: int
    bytes: int
    first_at: float | None
    last_at: float | None
    live: int | None
    pins: tuple[Pin, ...]
    kept: str

    @property
    def records(self) -> int:
        """How many it has, those included that cannot be read any more."""
        return self.stop - self.first


@dataclass(slots=True)
class StreamSegments:
    """The segments of one stream.

    Attributes:
        name: of the stream.
        segments: oldest first, bucket by bucket.
        failures: what could not be looked at.
    """

    name: str
    segments: list[Segment] = field(default_factory=list)
    failures: list[LogError] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """On disk."""
        return sum(each.bytes for each in self.segments)

    @property
    def records(self) -> int:
        """In all of them."""
        return sum(each.records for each in self.segments)

    @property
    def live(self) -> int | None:
        """Records that some sink has not settled; None where that is not known of one segment."""
        counts = [each.live for each in self.segments]
        return None if None in counts else sum(count for count in counts if count is not None)


def look_at_segments(root: Path, name: str, sinks: Sequence[SinkOnDisk], *, all_sinks: bool = True) -> StreamSegments:
    """The segments of a stream.

    Args:
        sinks: of the data directory.
        all_sinks: whether these are all of them: where one cannot be read, nobody knows what it needs.

    Raises:
        FileNotFoundError: there is no such stream.
    """
    told, files = StreamSegments(name), Files()
    try:
        found = read_stream(files, root, name)
        gone = read_gone(files, root, found)
    except LogError as error:
        told.failures.append(error)
        return told
    if found.settings.durability == "backend":
        told.failures.append(LogError(f"stream {name!r} is kept by its class: dq knows of no files"))
        return told
    marks, over = clean_marks(files, root, found), [sink for sink in sinks if sink.ledgers(name)]
    later = None
    if name.endswith(LATER_SUFFIX):
        try:
            later = read_later(root, base_stream(name) or "")
        except LogError as error:
            told.failures.append(error)
            return told
    for bucket in range(found.settings.bucket_count):
        for left in reversed(range(_TRIES)):
            try:
                end = find_end(files, root, found, bucket, marks)
                needed = _Needed(found, bucket, over, gone.marks[bucket], RangeSet.of(gone.removed[bucket]), known=all_sinks)
                needed.later = later
                segments = list(_segments(files, end, needed))
            except (LogError, FileNotFoundError) as error:
                if not left:
                    told.failures.append(error if isinstance(error, LogError) else Damaged(f"{error.filename} is missing"))
                continue
            told.segments += segments
            told.failures += [] if end.damage is None else [end.damage]
            break
    return told


class _Needed:
    """What sinks need of one bucket."""

    def __init__(
        self, found: StreamDescription, bucket: int, sinks: Sequence[SinkOnDisk], mark: int, removed: RangeSet, *, known: bool
    ) -> None:
        self.bucket, self._found, self._mark, self._removed, self._known = bucket, found, mark, removed, known
        self.later: Later | None = None
        self._ledgers = [
            (sink.name, ledger) for sink in sinks for ledger in sink.ledgers(found.name) if ledger.shard[1] == bucket
        ]

    def of(self, first: int, stop: int) -> tuple[int | None, tuple[Pin, ...]]:
        """Of the records from `first` up to `stop`: how many some sink has not settled, and which sinks."""
        first, live, pins = max(first, self._mark), RangeSet(), []
        if self.later is not None:
            waiting = [offset for offset in range(first, stop) if not self.later.is_over(offset)]
            record = f"{self._found.name}/{self.bucket}/{waiting[0] if waiting else 0}"
            return len(waiting), (Pin(NOBODY, record, len(waiting), "delayed", None),) if waiting else ()
        for sink, ledger in self._ledgers:
            # One that knew another stream of this name has settled nothing of this one.
            mine = [(first, stop)] if ledger.uuid not in ("", self._found.uuid) else list(unsettled(ledger, first, stop))
            left = RangeSet.of(mine)
            for gone in self._removed.within(first, stop):
                left.discard(*gone)
            lowest = left.first()
            if lowest is not None:
                record, holder = f"{self._found.name}/{self.bucket}/{lowest[0]}", ledger.holder(lowest[0])
                state, consumer = ledger.state_of(lowest[0]).value, None if holder is None else holder.hand.name
                pins.append(Pin(sink, record, left.count, state, consumer))
            for part in left:
                live.add(*part)
        pins.sort(key=lambda pin: int(pin.record.rpartition("/")[2]))
        return (live.count if self._known and self._ledgers else None), tuple(pins)

    def why(self, live: int | None, last_at: float | None, *, active: bool, older_is_kept: bool) -> str:
        """Why a segment is there."""
        settings = self._found.settings
        if active:
            return "it is written"
        if settings.retention != "settled":
            return "retention " + settings.retention
        if live:
            return "not settled"
        if live is None:
            return "no sink is over it" if self._known else "not known: a sink cannot be read"
        if older_is_kept:
            return "an older one is kept"
        left = 0.0 if last_at is None else last_at + settings.keep_seconds - time.time()
        return f"settled, kept for {left:.0f} s more" if left > 0 else "settled, goes soon"


def _segments(files: Files, end: BucketEnd, needed: _Needed) -> Iterator[Segment]:
    older = False
    for place, first in enumerate(end.segments, 1):
        path, active = end.path(first), place == len(end.segments)
        size, first_at, last_at, seen = _times(files, path, end.end.position if active else None, first)
        stop = end.segments[place] if not active else end.end.offset if end.damage is None else seen
        live, pins = needed.of(first, stop)
        kept = needed.why(live, last_at, active=active, older_is_kept=older)
        older = older or live != 0
        yield Segment(path, needed.bucket, first, stop, size, first_at, last_at, live, pins, kept)


def _times(files: Files, path: Path, stop: int | None, first: int) -> tuple[int, float | None, float | None, int]:
    """Of a segment its size, when its first and its last batch were committed, and the offset after that.

    Args:
        stop: where what is whole ends, in bytes; None: where the file does.
        first: its first offset.
    """
    with mapped(path, "read"):
        fd = files.open_read(path)
        try:
            size = files.size(fd)
            try:
                _, begin = read_segment_header(files, fd, size, path)
            except Malformed as error:
                raise damaged(path, 0, f"the segment header is not what was written: {error}") from error
            end, begin = size if stop is None else min(stop, size), begin - 1  # with the newline before the first batch
            start = _headers(files.pread(fd, min(HEADER_BYTES_MAX + 1, max(end - begin, 0)), begin))
            last, probe = list[dict[str, Any]](), _PROBE_BYTES
            while start and not last:
                position = max(end - probe, begin)
                last = _headers(files.pread(fd, end - position, position))
                probe *= 8
        finally:
            files.close(fd)
    if not last:
        return size, None, None, first
    return size, start[0]["at"], last[-1]["at"], last[-1]["batch"] + last[-1]["count"]


def _headers(chunk: bytes) -> list[dict[str, Any]]:
    """The batch headers that can be read in some bytes."""
    found = []
    for match in _BATCH.finditer(chunk):
        try:
            fields = orjson.loads(match[1])
            if type(fields["at"]) is float and type(fields["batch"]) is type(fields["count"]) is int:
                found.append(fields)
        except (orjson.JSONDecodeError, KeyError):
            continue
    return found
