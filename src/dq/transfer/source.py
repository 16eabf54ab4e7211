"""Where an export reads: a stream through its reader, with or without a broker; of a damaged one what can be read."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from dq.client.bucket_cursor import Filter, Lines
from dq.client.reader import Reader, StartAt
from dq.client.reader_core import ReaderCore
from dq.client.reader_stream import Shelf, Told
from dq.config import LIMITS, MIB
from dq.core.matching import Matcher
from dq.errors import Damaged, LogError, RecordsTrimmed, UnknownStream
from dq.log.backend import End, StorageReader
from dq.log.files import Files, mapped
from dq.log.format import COUNT_MAX, Malformed
from dq.log.gone_file import read_gone
from dq.log.layout import Layout, segment_path, segments_among
from dq.log.locks import is_held
from dq.log.memory import place_of as memory_place
from dq.log.recovery import clean_end
from dq.log.sealed import read_sealed
from dq.log.stream_file import StreamDescription, read_stream
from dq.model.settings import MEMORY
from dq.model.start import parse_position, start_of

_RECORDS_AT_ONCE = 5_000
_CLEAN_MARK_BYTES_MAX = 1024 * MIB


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
    firsts, ends, clean = [], [], _clean_marks(files, root, found)
    for bucket, mark in enumerate(marks):
        directory = bucket_directory(root, found, bucket)
        segments = _segments(files, directory)
        with closing(shelf.log(name, bucket, found.settings)) as log:
            ends.append(_end(files, directory, segments, log, clean.get(bucket), notes))
        firsts.append(max(segments[0] if segments else 0, mark))
    return Told(name, found.uuid, found.epoch, found.starts, found.settings, firsts, ends, removed)


def bucket_directory(root: Path, found: StreamDescription, bucket: int) -> Path:
    """Where the segments of a bucket are, those of a stream in memory too."""
    if found.settings.backend == MEMORY:
        return memory_place(root) / found.name / str(bucket)
    return Layout(root).bucket(found.name, bucket)


def _segments(files: Files, directory: Path) -> list[int]:
    try:
        with mapped(directory, "list"):
            return segments_among(files.list_directory(directory))
    except LogError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return []
        raise


def _clean_marks(files: Files, root: Path, found: StreamDescription) -> dict[int, Any]:
    """What the last clean stop left of a stream, by bucket; nothing where a broker has started since."""
    try:
        told = read_sealed(files, Layout(root).clean_mark, _CLEAN_MARK_BYTES_MAX)["streams"][found.name]
        return dict(enumerate(told["buckets"])) if told["uuid"] == found.uuid else {}
    except (OSError, LogError, Malformed, KeyError, TypeError):
        return {}  # it is a hint


def _end(
    files: Files, directory: Path, segments: list[int], log: StorageReader, mark: dict[str, Any] | None, notes: list[str]
) -> End:
    """Where a bucket ends: as it was left, or as far as it is whole. Of a damaged one, where its file does: reading it up to
    there ends with what is wrong."""
    clean = None if mark is None else clean_end(files, directory, mark, LIMITS)
    if clean is not None:
        return clean.end
    try:
        end = log.look()
    except Damaged:
        end = None
    if not segments:
        return end or End(0, 0, 0)
    path = segment_path(directory, segments[-1])
    size = files.state(path).st_size
    if end is None:
        return End(COUNT_MAX, segments[-1], size)
    left = size - end.position if end.segment == segments[-1] else size
    if left:
        notes.append(f"{path}: the last {left:,} bytes are of a batch that was not confirmed, and are left out")
    return end


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

    def runs(self, failures: list[LogError]) -> Iterator[Lines]:
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
