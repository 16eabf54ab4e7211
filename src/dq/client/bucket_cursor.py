"""`BucketCursor`: where a reader stands in one bucket. It reads the log, passes over what is not wanted, and decodes.

A batch that is wanted whole is decoded as one JSON array and handed out in parts; only a mixed one is opened line by line.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import repeat
from operator import itemgetter, length_hint
from typing import Any, NamedTuple

import orjson

from dq.config import KIB, LIMITS
from dq.core.matching import UNKNOWN_TOPICS, Matcher, Taken
from dq.errors import DqError, RecordsTrimmed
from dq.log.backend import End, StorageReader
from dq.log.format import count_lines
from dq.model.record import Record, record_of

Match = Callable[[Record], object]
_READ_BYTES = LIMITS.task_bytes
_PAYLOAD = itemgetter("payload")
_DECODE_BYTES = 32 * KIB


@dataclass(frozen=True, slots=True)
class Lines:
    """Records as they stand in the log.

    Attributes:
        stream, bucket, first: the place of the first of them; the others follow it.
        count: how many.
        lines: a line of JSON each, with its newline; valid for as long as it is held.
    """

    stream: str
    bucket: int
    first: int
    count: int
    lines: memoryview


class Hand:
    """Records of one bucket that an iteration has taken. Each is made when it is asked for: most are dropped before the next.

    Attributes:
        cursor: of the bucket; it stands behind them.
        records: an iterator; safe to share between threads.
    """

    __slots__ = ("_kept", "_offsets", "_stop", "cursor", "records")

    def __init__(self, cursor: BucketCursor, records: Iterator[Record], offsets: Iterator[int], stop: int) -> None:
        self.cursor, self.records, self._offsets, self._stop = cursor, records, offsets, stop
        self._kept = 0

    @property
    def left(self) -> int:
        """How many were not handed out."""
        return self._kept or length_hint(self._offsets)

    @property
    def offset(self) -> int:
        """Of the next one."""
        return self._stop - self.left if self.left else self.cursor.offset

    def take_back(self, again: int) -> None:
        """The cursor stands before what was not handed out, and before so many that were; nothing more comes from here."""
        offset = self._stop - self.left - again
        if self.left or again:
            self.cursor.stand(offset)
        self.drop()

    def halt(self) -> None:
        """Nothing more comes from here, also for an iteration that is in the middle of it; what is left is known. It needs no
        lock: a signal handler may be in the middle of anything."""
        self._kept = length_hint(self._offsets) or self._kept
        deque(self._offsets, 0)

    def drop(self) -> None:
        """As `halt`, and nothing is left."""
        deque(self._offsets, 0)
        self._kept = 0


class Filter(NamedTuple):
    """Which records a reader wants."""

    matcher: Matcher
    match: Match | None


class BucketCursor:
    """One bucket of a reader. Not safe to share: its reader has a lock.

    Attributes:
        stream, bucket: which one it is.
        offset: of the next record.
        began: where it began, for `reset`.
        end: the first offset that is not committed, as far as it is known.
        first: the first offset that may be read.
        epoch: of the stream, when the offset was known to be right.
        broken: why it cannot go on.
        taken_bytes: of record lines, so far.
    """

    __slots__ = (
        "_fields", "_fields_first", "_filter", "_log", "_place", "_removed", "_removed_stops", "_runs", "_text", "_text_place",
        "_through", "began", "broken", "bucket", "end", "epoch", "first", "offset", "stream", "taken_bytes",
    )  # fmt: skip

    def __init__(self, stream: str, bucket: int, log: StorageReader, wanted: Filter, epoch: int) -> None:
        self.stream, self.bucket, self._log, self._filter, self.epoch = stream, bucket, log, wanted, epoch
        self.offset = self.began = self.end = self.first = self.taken_bytes = 0
        self.broken: DqError | None = None
        self._removed: list[int] = []
        self._removed_stops: list[int] = []
        self._runs: deque[Lines] = deque()
        self._text, self._text_place = b"", 0  # the run that is being decoded
        self._fields: list[Any] = []
        self._fields_first = self._place = self._through = 0

    # --- what is told ------------------------------------------------------------------------------------------------

    def tell(self, end: End) -> None:
        """More is committed."""
        self._log.advance(end)
        self.end = max(self.end, end.offset)

    def gone(self, first: int, removed: Sequence[tuple[int, int]]) -> None:
        """All below `first` may not be read any more, nor these ranges."""
        ordered = sorted(removed)
        starts, stops = [start for start, _ in ordered], [stop for _, stop in ordered]
        if starts != self._removed or stops != self._removed_stops:
            self._removed, self._removed_stops = starts, stops
            self._drop()
        if self.offset < first:
            self._drop()
        self.first = max(self.first, first)

    def look(self) -> End:
        """The end, where no broker tells it."""
        return self._log.look()

    def find(self, at: float) -> int:
        """The first record published at or after an instant that may be read."""
        return max(self._log.find(at), self.first)

    def begin_epoch(self, log: StorageReader) -> None:
        """The stream was opened anew: how far it goes is told next."""
        self._log.close()
        self._log, self.end = log, 0
        self._drop()

    def stand(self, offset: int) -> None:
        """Goes on with the record at `offset`."""
        self.offset = offset
        self._drop()

    def _drop(self) -> None:
        self._runs.clear()
        self._text, self._text_place = b"", 0
        self._fields, self._place = [], 0

    @property
    def behind(self) -> bool:
        """Whether there is something to be taken, or to be told of."""
        return self.offset < self.end or self.broken is not None

    def close(self) -> None:
        self._log.close()

    # --- taking ------------------------------------------------------------------------------------------------------

    def records(self, count_max: int) -> list[Record]:
        """The next records, decoded; it may be none although there are more, where those that were read are not wanted.

        Raises:
            RecordsTrimmed: records are gone; it stands behind them now. Damaged, LogError; what `match` raises.
        """
        if self._place == len(self._fields) and not self._decode_next():
            return []
        place, match = self._place, self._filter.match
        fields = self._fields[place : place + count_max]
        first = self._fields_first + place
        try:
            found = list(self._made(range(first, first + len(fields)), fields))
        except (KeyError, TypeError, ValueError, IndexError):
            found = [self._record(offset, each) for offset, each in enumerate(fields, first)]
        if match is not None:
            found = [record for record in found if match(record)]
        self._handed(len(fields))
        return found

    def hand(self) -> Hand | None:
        """The records that are decoded now, to be made one by one; None as `records` gives none. Raises as `records`."""
        if self._place == len(self._fields) and not self._decode_next():
            return None
        fields = self._fields[self._place :]
        first, stop = self._fields_first + self._place, self._fields_first + len(self._fields)
        offsets = iter(range(first, stop))
        try:
            records = self._made(offsets, fields)
        except (KeyError, TypeError, ValueError, IndexError):  # bytes among them, or what is no record
            made = [self._record(offset, each) for offset, each in enumerate(fields, first)]
            records = map(_second, offsets, made)
        if self._filter.match is not None:
            records = filter(self._filter.match, records)
        self._handed(len(fields))
        return Hand(self, records, offsets, stop)

    def _made(self, offsets: Iterable[int], fields: list[Any]) -> Iterator[Record]:
        """Records with a payload that is JSON, as most have, made by loops in C. Raises KeyError and more for others."""
        payloads = list(map(_PAYLOAD, fields))
        return map(Record, zip(repeat(self.stream), repeat(self.bucket), offsets, payloads, fields, strict=False))

    def _handed(self, count: int) -> None:
        """So many of those that are decoded are handed out."""
        self._place += count
        done = self._place == len(self._fields) and self._text_place == len(self._text) and not self._runs
        self.offset = self._through if done else self._fields_first + self._place

    def lines(self, count_max: int) -> list[Lines]:
        """The next records as they stand in the log. Raises as `records`."""
        self._drop()
        runs = list(self._read(count_max, LIMITS.read_bytes, matched=True))
        self.offset = self._through
        self.taken_bytes += sum(len(run.lines) for run in runs)
        return runs

    def _decode_next(self) -> bool:
        """Decodes the next part of a run; False when nothing of what was read is wanted.

        A part at a time: `gc` looks at everything after 700 new containers, and what has been handed out and dropped by then
        costs nothing. A batch of 500 at once takes half as long again.
        """
        if self._text_place == len(self._text):
            if not self._runs:
                self._runs.extend(self._read(LIMITS.batch_records_max, _READ_BYTES, matched=False))
                if not self._runs:
                    self.offset = self._through
                    return False
            run = self._runs.popleft()
            self._text, self._text_place, self._fields_first = bytes(run.lines), 0, run.first
            self.taken_bytes += len(self._text)
        else:
            self._fields_first += len(self._fields)
        end = self._text.find(b"\n", self._text_place + _DECODE_BYTES) + 1 or len(self._text)
        self._fields, self._place = _decoded(self._text[self._text_place : end - 1]), 0
        self._text_place = end
        return True

    def _record(self, offset: int, fields: Any) -> Record:
        """What is no record of dq, but was published as one, comes as it stands."""
        try:
            return record_of(self.stream, self.bucket, offset, fields)
        except (KeyError, TypeError, ValueError):
            return record_of(self.stream, self.bucket, offset, {"at": 0.0, "payload": fields})

    def _read(self, count_max: int, bytes_max: int, *, matched: bool) -> Iterator[Lines]:
        """Reads on, and gives what is wanted of that; `matched`: asks the user's own function as well."""
        if self.broken is not None:
            raise self.broken
        if self.offset < self.first:
            raise self._trimmed(self.first)
        try:
            found = self._log.read(self.offset, count_max, bytes_max)
        except RecordsTrimmed as error:
            raise self._trimmed(max(error.first, self.first)) from None
        self._through = max(found.first + found.count, self.offset)
        runs: list[Lines] = []
        first = found.first
        counts = found.counts or map(count_lines, map(bytes, found.parts))  # a backend of the user's own may not say
        headers = zip(found.topics or repeat(UNKNOWN_TOPICS), found.abouts or repeat(None), strict=False)
        for part, count, (topics, about) in zip(found.parts, counts, headers, strict=False):
            run = Lines(self.stream, self.bucket, first, count, part)
            taken = self._filter.matcher.of_batch(topics)
            # What is for one sink alone comes there once more: a reader has seen it when it came first.
            if taken is not Taken.NONE and not (about and "for" in about):
                if taken is Taken.ALL and not (matched and self._filter.match) and not self._has_removed(first, first + count):
                    runs.append(run)
                else:
                    runs += self._opened(run, taken, matched=matched)
            first += count
        return iter(runs)

    def _trimmed(self, first: int) -> RecordsTrimmed:
        missed, begin = first - self.offset, self.offset
        self.stand(first)
        error = RecordsTrimmed(
            f"{missed:,} records of {self.stream}/{self.bucket} from offset {begin} on are gone, by a limit of the stream or a "
            f"trim: this reader goes on with offset {first}; read more often, or let the stream keep more"
        )
        error.missed = missed
        error.first = first
        return error

    # --- opening -----------------------------------------------------------------------------------------------------

    def _has_removed(self, first: int, stop: int) -> bool:
        place = bisect_right(self._removed_stops, first)
        return place < len(self._removed) and self._removed[place] < stop

    def _opened(self, run: Lines, taken: Taken, *, matched: bool) -> list[Lines]:
        """What is wanted of a batch, as runs of lines that stand together."""
        runs: list[Lines] = []
        begin = place = 0
        count = 0
        for offset, line in enumerate(BytesIO(run.lines).readlines(), run.first):
            if self._wanted(offset, line, taken, matched=matched):
                if not count:
                    begin = place
                count += 1
            elif count:
                runs.append(replace(run, first=offset - count, count=count, lines=run.lines[begin:place]))
                count = 0
            place += len(line)
        if count:
            runs.append(replace(run, first=run.first + run.count - count, count=count, lines=run.lines[begin:place]))
        return runs

    def _wanted(self, offset: int, line: bytes, taken: Taken, *, matched: bool) -> bool:
        if self._has_removed(offset, offset + 1):
            return False
        match = self._filter.match if matched else None
        if taken is Taken.ALL and match is None:
            return True
        fields = _fields_of(line)
        if taken is Taken.SOME and not self._filter.matcher.takes(_topic_of(fields)):
            return False
        return match is None or bool(match(self._record(offset, fields)))


def _second(_: int, record: Record) -> Record:
    return record


def _decoded(lines: bytes) -> list[Any]:
    """Lines, without the last newline, decoded at once as one JSON array."""
    try:
        fields: list[Any] = orjson.loads(b"[%b]" % lines.replace(b"\n", b","))
    except orjson.JSONDecodeError:
        fields = []
    if len(fields) != count_lines(lines) + 1:  # a line that is not JSON, or more than one value
        fields = [_fields_of(line) for line in lines.split(b"\n")]
    return fields


def _fields_of(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return {"at": 0.0, "payload": line}


def _topic_of(fields: Any) -> str | None:
    topic = fields.get("topic") if isinstance(fields, dict) else None
    return topic if isinstance(topic, str) else None
