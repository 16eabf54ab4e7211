"""`ReaderCore`: the cursors of one reader, served in turn, and the records that an iteration has in hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

from dq.client.bucket_cursor import BucketCursor, Hand, Lines
from dq.client.reader_stream import ReaderStream, Shelf, Told
from dq.config import LIMITS
from dq.errors import RecordsTrimmed
from dq.log.backend import End
from dq.model.record import Record
from dq.model.start import Start, position_text

T = TypeVar("T", Record, Lines, Hand)
_SHARE_MIN = 32
"""Records that a bucket gives in its turn at least, while others wait: a batch is read and checked as a whole."""


class ReaderCore:
    """What a reader reads. All methods are to be called with the reader's lock held.

    Attributes:
        streams: by name.
        hand: what an iteration is at.
        missed, lost: records that were gone before they were read; records that were read and are gone since.
    """

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self.streams: dict[str, ReaderStream] = {}
        self.hand: Hand | None = None
        self.missed = self.lost = 0
        self._ready: dict[BucketCursor, None] = {}  # who has something, in the order of their turns
        self._late: RecordsTrimmed | None = None

    @property
    def ready(self) -> bool:
        """Whether there is something to be taken."""
        return bool(self._ready) or self._late is not None

    # --- what is told ------------------------------------------------------------------------------------------------

    def tell(self, tolds: Iterable[Told], starts: Mapping[str, Start]) -> None:
        """Takes in what is known of streams; one that is new here begins where `starts` says. Others are passed over."""
        for told in tolds:
            stream = self.streams.get(told.name)
            if stream is not None:
                if self.hand is not None and any(cursor.epoch != told.epoch for cursor in stream.cursors):
                    self.put_back()
                self.lost += stream.tell(told)
            elif told.name in starts:
                stream = self.streams[told.name] = ReaderStream(self._shelf, told, starts[told.name])
            else:
                continue
            self._look(stream)

    def _look(self, stream: ReaderStream) -> None:
        """Has the cursors of a stream take part if they have something, in their old places if they had one."""
        for cursor in [cursor for cursor in self._ready if cursor.stream == stream.name and cursor not in stream.cursors]:
            del self._ready[cursor]
        for cursor in stream.cursors:
            if cursor.behind:
                self._ready.setdefault(cursor)

    def committed(self, ends: Sequence[Sequence[Any]]) -> None:
        """More is committed in these buckets."""
        for name, bucket, offset, segment, position, epoch in ends:
            stream = self.streams.get(name)
            cursor = stream.committed(bucket, End(offset, segment, position), epoch) if stream is not None else None
            if cursor is not None and cursor.behind:
                self._ready.setdefault(cursor)

    def forget(self, name: str) -> None:
        """A stream is read no more."""
        stream = self.streams.pop(name)
        if self.hand is not None and self.hand.cursor.stream == name:
            self._drop_hand()
        for cursor in stream.cursors:
            self._ready.pop(cursor, None)
        stream.close()

    # --- taking ------------------------------------------------------------------------------------------------------

    def records(self, limit: int) -> list[Record]:
        """The next records, those in hand first. Raises as `BucketCursor.records`."""
        found = list(islice(self.hand.records, limit)) if self.hand is not None else []
        return found or self._collect(limit, BucketCursor.records, len)

    def next_hand(self) -> list[Hand]:
        """What an iteration goes on with: the next records of one bucket; none where there are none. Raises as `records`."""
        if self.hand is None or not self.hand.left:
            hands = self._collect(1, _hand_of, lambda _: 1)
            self.hand = hands[0] if hands else None
        return [] if self.hand is None else [self.hand]

    def lines(self, limit: int) -> list[Lines]:
        """The next records as lines. Raises as `BucketCursor.lines`."""
        self.put_back()
        return self._collect(limit, BucketCursor.lines, lambda runs: sum(run.count for run in runs))

    def _collect(self, limit: int, take: Callable[[BucketCursor, int], list[T]], count: Callable[[list[T]], int]) -> list[T]:
        """Takes from each bucket in its turn, so that a busy one does not starve the others.

        An error waits until what was taken before it is handed out.
        """
        if self._late is not None:
            late, self._late = self._late, None
            raise late
        found: list[T] = []
        left, room = limit, LIMITS.prefetch_bytes_max
        share = max(-(-limit // max(len(self._ready), 1)), _SHARE_MIN)
        while self._ready and left > 0 and room > 0:
            cursor = next(iter(self._ready))
            before, stood = cursor.taken_bytes, cursor.offset
            try:
                part = take(cursor, min(share, left))
            except Exception as error:
                if not isinstance(error, RecordsTrimmed):
                    if not found:
                        self._to_the_end(cursor)
                        raise
                    break
                self.missed += error.missed
                self._to_the_end(cursor)
                if not found:
                    raise
                self._late = error
                break
            self._to_the_end(cursor)
            found += part
            left -= count(part) if part else 0
            room -= cursor.taken_bytes - before
            if not part and (not found or cursor.offset == stood):
                break  # it read what is not wanted, or what is gone: whoever waits may have been told to stop meanwhile
        return found

    def _to_the_end(self, cursor: BucketCursor) -> None:
        del self._ready[cursor]
        if cursor.behind:
            self._ready[cursor] = None

    # --- places ------------------------------------------------------------------------------------------------------

    def put_back(self, again: int = 0) -> None:
        """What an iteration has in hand is to be taken again, and so many that it had."""
        hand, self.hand = self.hand, None
        if hand is not None:
            hand.take_back(again)
            if hand.cursor.behind:
                self._ready.setdefault(hand.cursor)

    def give_back(self, records: Sequence[Record]) -> None:
        """These are to be taken again, and what follows them in their buckets."""
        self.put_back()
        for record in reversed(records):
            stream = self.streams.get(record.stream)
            for cursor in stream.cursors if stream is not None else ():
                if cursor.bucket == record.bucket:
                    cursor.stand(record.offset)
                    self._ready.setdefault(cursor)

    def _drop_hand(self) -> None:
        if self.hand is not None:
            self.hand.drop()
            self.hand = None

    def position(self) -> str:
        """The next offset of each bucket, as a text."""
        offsets = {name: stream.offsets() for name, stream in self.streams.items()}
        if self.hand is not None:
            cursor = self.hand.cursor
            offsets[cursor.stream][cursor.bucket] = self.hand.offset
        return position_text(offsets)

    def check(self, start: Start) -> None:
        """Raises InvalidSetting where this cannot be meant: an id is a place in one bucket, and that of one stream."""
        start.check_over({name: [cursor.bucket for cursor in stream.cursors] for name, stream in self.streams.items()})

    def seek(self, start: Start) -> None:
        """Stands where `start` says, in all streams. Raises InvalidSetting."""
        self.check(start)
        self._drop_hand()
        for stream in self.streams.values():
            stream.seek(start)
            self._moved(stream)

    def reset(self) -> None:
        """Stands where it began."""
        self._drop_hand()
        for stream in self.streams.values():
            for cursor in stream.cursors:
                cursor.stand(cursor.began)
            self._moved(stream)

    def _moved(self, stream: ReaderStream) -> None:
        for cursor in stream.cursors:
            if cursor.behind:
                self._ready.setdefault(cursor)
            else:
                self._ready.pop(cursor, None)

    def close(self) -> None:
        """Closes the logs."""
        for stream in self.streams.values():
            stream.close()


def _hand_of(cursor: BucketCursor, _: int) -> list[Hand]:
    hand = cursor.hand()
    return [] if hand is None else [hand]
