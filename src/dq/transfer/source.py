"""Where an export reads: a stream through its reader, with or without a broker; of a damaged one what can be read."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from dq.client.bucket_cursor import Filter, Lines
from dq.client.reader import Reader, StartAt
from dq.client.reader_core import ReaderCore
from dq.client.reader_stream import Shelf, Told
from dq.core.matching import Matcher
from dq.errors import Damaged, DqError, LogError, RecordsTrimmed, UnknownStream
from dq.log.files import Files
from dq.log.gone_file import read_gone
from dq.log.layout import Layout
from dq.log.locks import is_held
from dq.log.stream_file import read_stream
from dq.mend.ends import clean_marks, find_end
from dq.model.start import parse_position, start_of

_RECORDS_AT_ONCE = 5_000


class Source(Protocol):
    """What both kinds of source do; see `Reader`."""

    def seek(self, start: StartAt) -> None:
        """Stands at a place."""

    def lines(self, limit: int) -> list[Lines]:
        """The next records. Raises LogError of a bucket that cannot be read; the others go on."""

    @property
    def position(self) -> str:
        """Where it stands."""

    def close(self) -> None:
        """Leaves."""


def source_of(root: Path, stream: str, notes: list[str]) -> Source:
    """The records of a stream, through the broker or, where none runs or it has closed the stream, from the disk.

    Args:
        notes: gets what is left out and is no damage, in words.

    Raises:
        UnknownStream, BrokerNotRunning: there is none. Damaged, NewerFormat, LogError: not even its own file can be read.
        InvalidSetting: the class that keeps it can be read through the broker alone.
    """
    if is_held(Layout(root).streams_lock):
        with suppress(Damaged):
            return Reader(root, stream, start="oldest", follow=False)
    return _OnDisk(root, stream, notes)


class _OnDisk:
    """A stream as its files have it: each of its buckets up to its end, or up to damage."""

    def __init__(self, root: Path, stream: str, notes: list[str]) -> None:
        self._shelf = Shelf(root, Filter(Matcher(None, None), None), lambda _, count: list(range(count)))
        self._core = ReaderCore(self._shelf)
        self._core.tell([_told(root, self._shelf, stream, notes)], {stream: start_of("oldest", time.time())})

    def seek(self, start: StartAt) -> None:
        """See `Source`."""
        self._core.seek(start_of(start, time.time()))

    def lines(self, limit: int) -> list[Lines]:
        """See `Source`."""
        return self._core.lines(limit)

    @property
    def position(self) -> str:
        """See `Source`."""
        return self._core.position()

    def close(self) -> None:
        """See `Source`."""
        self._core.close()
        self._shelf.close()


def _told(root: Path, shelf: Shelf, name: str, notes: list[str]) -> Told:
    files = Files()
    try:
        found = read_stream(files, root, name)
    except FileNotFoundError:
        raise UnknownStream(f"there is no stream {name!r} in {root} any more") from None
    marks, removed = [0] * found.settings.bucket_count, dict[int, tuple[tuple[int, int], ...]]()
    try:
        gone = read_gone(files, root, found)
        marks, removed = list(gone.marks), dict(enumerate(gone.removed))
    except LogError as error:
        notes.append(str(error))
    firsts, ends, clean = [], [], clean_marks(files, root, found)
    for bucket, mark in enumerate(marks):
        with closing(shelf.log(name, bucket, found.settings)) as log:
            at = find_end(files, root, found, bucket, clean, log.look)
        if at.torn_bytes:
            path = at.path(at.segments[-1])
            notes.append(f"{path}: the last {at.torn_bytes:,} bytes are of a batch that was not confirmed, and are left out")
        ends.append(at.end)
        firsts.append(max(at.segments[0] if at.segments else 0, mark))
    return Told(name, found.uuid, found.epoch, found.starts, found.settings, firsts, ends, removed)


class Extent:
    """What of a stream is to be read: by bucket, from an offset up to another.

    Args:
        start: where it begins; None: with the oldest.
        stop: where it ends; None: where the stream ends now.

    Attributes:
        first, stop: by bucket, the first offset, and the one after the last.
        missed: records that were trimmed before they were read.

    Raises:
        InvalidSetting: one of these cannot be meant for this stream.
    """

    def __init__(self, source: Source, stream: str, start: StartAt | None, stop: StartAt | None) -> None:
        self._source, self._stream, self.missed = source, stream, 0
        self.stop = self._at("newest")
        if stop is not None:
            self.stop = tuple(map(min, self.stop, self._at(stop)))
        oldest = self._at("oldest")
        self.first = oldest if start is None else tuple(map(max, oldest, self._at(start)))
        source.seek(f"{stream}={','.join(map(str, self.first))}")

    def _at(self, place: StartAt) -> tuple[int, ...]:
        self._source.seek(place)
        return self._place()

    def _place(self) -> tuple[int, ...]:
        return parse_position(self._source.position)[self._stream]

    def runs(self, failures: list[DqError]) -> Iterator[Lines]:
        """The records in it, as runs of lines, from each bucket in turn.

        Args:
            failures: gets what keeps a bucket from being read to its end, once for each; the others are read all the same.
        """
        fruitless, stood = 0, self.first
        while any(map(int.__lt__, stood, self.stop)):
            try:
                runs = self._source.lines(_RECORDS_AT_ONCE)
            except RecordsTrimmed as error:
                self.missed += error.missed
                runs = []
            except LogError as error:
                if str(error) not in map(str, failures):
                    failures.append(error)
                runs = []
            for run in runs:
                yield from _cut(run, self.stop[run.bucket])
            before, stood = stood, self._place()
            # A damaged bucket has its turn again and again: once all have had one, and none has moved on, that was all.
            fruitless = 0 if stood != before else fruitless + 1
            if fruitless > len(self.stop):
                return


def _cut(run: Lines, stop: int) -> Iterator[Lines]:
    """What of a run lies before an offset."""
    if run.first + run.count <= stop:
        yield run
    elif run.first < stop:
        count = stop - run.first
        size = sum(len(line) + 1 for line in bytes(run.lines).split(b"\n", count)[:count])
        yield replace(run, count=count, lines=run.lines[:size])
