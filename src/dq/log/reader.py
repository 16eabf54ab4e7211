"""The log of one bucket, read: what is committed, in order, checked once before it is served.

It reads ahead in chunks and hands out pieces of them without copying. Memory does not grow with the backlog: a chunk
for each of two cursors, the line places of the batch that is handed out in parts, and one (offset, position) a MiB.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from io import BytesIO
from itertools import accumulate
from operator import itemgetter
from pathlib import Path

from dq.config import LIMITS, Limits
from dq.errors import LogError, RecordsTrimmed
from dq.log.files import Files, mapped
from dq.log.format import HEADER_BYTES_MAX, Malformed
from dq.log.layout import segment_path, segments_among
from dq.log.open_files import KeptFile
from dq.log.recovery import damaged, read_segment_header
from dq.log.scan import Flaw, Seen, Topics, Walk
from dq.log.search import first_since, place_before
from dq.log.storage import End, Slice, StorageStats
from dq.log.unserved import end_of
from dq.model.about import About

_TRIES = 5


class _Cursor:
    """A place in the log and what was read ahead of it: `batches[index]` has the next record."""

    __slots__ = ("batches", "chunk", "file", "index", "lines", "offset", "position", "segment", "walk")

    def __init__(self, size_max: int) -> None:
        self.walk = Walk(0, None, size_max)
        self.offset = -1  # of the next record; nowhere yet
        self.segment = self.position = 0  # where the next chunk is read
        self.file: KeptFile | None = None
        self.chunk = memoryview(b"")
        self.batches: list[Seen] = []
        self.index = 0
        self.lines: list[
            int
        ] = []  # where the lines of the batch at `index` begin, and its end; empty until it is taken in parts

    def place(self, offset: int, segment: int, position: int, file: KeptFile) -> None:
        """Stands before the batch at `position`, whose first offset is `offset`."""
        self.close()
        self.walk.offset, self.walk.crc = offset, None
        self.segment, self.position, self.file = segment, position, file
        self.chunk, self.index, self.lines = memoryview(b""), 0, []

    def move_to(self, offset: int) -> bool:
        """Moves within what is read already; False if `offset` is not in it."""
        batches = self.batches
        if not batches or not batches[0][0] <= offset < batches[-1][0] + batches[-1][1]:
            return False
        self.index = bisect_right(batches, offset, key=itemgetter(0)) - 1
        self.offset, self.lines = offset, []
        return True

    def close(self) -> None:
        self.offset, self.batches = -1, []
        if self.file is not None:
            self.file.close()
            self.file = None


class BucketReader:
    """The `StorageReader` of the `json` backend. For one thread.

    Args:
        directory: of the bucket; it may be empty or missing while nothing is committed.
    """

    def __init__(self, files: Files, directory: Path, limits: Limits = LIMITS) -> None:
        self._files, self._directory, self._limits = files, directory, limits
        self._end = End(0, 0, 0)
        self._segments: list[int] = []
        self._stale = True
        self._uuid: str | None = None
        size_max = max(limits.kept_bytes_max, limits.batch_bytes_max)
        # The one further ahead reads in sequence; the other fetches old records: a retry costs the first one nothing.
        self._ahead, self._aside = _Cursor(size_max), _Cursor(size_max)
        self._index_offsets, self._index_positions = array("Q"), array("Q")

    def advance(self, end: End) -> None:
        """See `StorageReader.advance`."""
        if end.offset > self._end.offset:
            self._stale = self._stale or end.segment != self._end.segment
            self._end = end

    def read(self, first: int, count_max: int, bytes_max: int) -> Slice:
        """See `StorageReader.read`."""
        if first >= self._end.offset or count_max < 1:
            return Slice(first, 0, 0, [], [])
        cursor = self._cursor_at(first)
        try:
            taken = self._take(cursor, count_max, bytes_max)
        except BaseException:
            cursor.close()
            raise
        if self._aside.offset > self._ahead.offset:
            self._ahead, self._aside = self._aside, self._ahead
        return taken

    def _take(self, cursor: _Cursor, count_max: int, bytes_max: int) -> Slice:
        first, size, end = cursor.offset, 0, self._end.offset
        last = first + count_max
        parts: list[memoryview] = []
        publishers: list[tuple[int, str]] = []
        counts: list[int] = []
        topics: list[Topics] = []
        abouts: list[About] = []
        told = False
        publisher, publisher_from = "", first
        while cursor.offset < last and (size < bytes_max or not parts) and cursor.offset < end:
            if cursor.index == len(cursor.batches) and not self._filled(cursor, forced=not parts):
                break
            batch = cursor.batches[cursor.index]
            start, stop = batch[2], batch[3]
            following = batch_end = batch[0] + batch[1]
            if parts and size + stop - start > bytes_max:
                break  # a batch that is begun only to fill up costs its line places
            if cursor.offset != batch[0] or following > last or size + stop - start > bytes_max:
                start, stop, following = self._part(cursor, batch, last, bytes_max - size, forced=not parts)
                if start == stop:
                    break
            if batch[4] != publisher:
                if parts:
                    publishers.append((cursor.offset - publisher_from, publisher))
                publisher, publisher_from = batch[4], cursor.offset
            parts.append(cursor.chunk[start:stop])
            counts.append(following - cursor.offset)
            topics.append(batch[8])
            abouts.append(batch[9])
            told = told or batch[9] is not None
            size += stop - start
            cursor.offset = following
            if following == batch_end:
                cursor.index += 1
                if cursor.lines:
                    cursor.lines = []
        publishers.append((cursor.offset - publisher_from, publisher))
        return Slice(first, cursor.offset - first, size, parts, publishers, counts, topics, abouts if told else [])

    def _filled(self, cursor: _Cursor, *, forced: bool) -> bool:
        """Reads on. An error is raised by a read that has nothing to give: what lies before damage is served."""
        try:
            self._fill(cursor)
        except (LogError, RecordsTrimmed):
            if forced:
                raise
            return False
        return True

    @staticmethod
    def _part(cursor: _Cursor, batch: Seen, last: int, room: int, *, forced: bool) -> tuple[int, int, int]:
        """What fits of a batch, from the cursor on: (start, stop, next offset). At least one record if `forced`."""
        first, count, start, stop = batch[:4]
        if not cursor.lines:
            # readlines finds newlines alone (splitlines would take \\r too), ten times as fast as a loop over find.
            cursor.lines = list(accumulate(map(len, BytesIO(cursor.chunk[start:stop]).readlines()), initial=start))
        begin = cursor.offset - first
        fits = bisect_right(cursor.lines, cursor.lines[begin] + room) - 1
        until = max(min(fits, last - first, count), begin + forced)
        return cursor.lines[begin], cursor.lines[until], first + until

    # --- finding -----------------------------------------------------------------------------------------------------
    def find(self, at: float) -> int:
        """See `StorageReader.find`."""
        if not self._end.position:
            return self._end.offset
        for _ in range(_TRIES):
            self._list_segments()
            cursor = _Cursor(self._ahead.walk.size_max)
            try:
                return self._find(cursor, at)
            except (RecordsTrimmed, FileNotFoundError):
                continue  # what was looked at is gone by now: what is left begins later
            finally:
                cursor.close()
        raise LogError(f"{self._directory}: segments go faster than a time is found in them; try again")

    def _find(self, cursor: _Cursor, at: float) -> int:
        """Stands before the last batch that is known to be older, then reads on."""
        end = self._end
        segment, offset, position = place_before(self._files, self._directory, self._segments, end, at)
        cursor.place(offset, segment, position, self._file(segment))
        found, read = -1, 0
        while cursor.walk.offset < end.offset:
            self._fill(cursor)
            since, exact = first_since(cursor.chunk, cursor.batches, at)
            if exact:
                return since
            found = since if found < 0 else found
            read += len(cursor.chunk) if found >= 0 else 0
            if read >= self._limits.commit_bytes_max:
                return found  # published before and committed after, all of it: somebody's clock is wrong
        return end.offset

    def _cursor_at(self, first: int) -> _Cursor:
        for cursor in (self._ahead, self._aside):
            if cursor.offset == first:
                return cursor
        cursor = self._aside if self._ahead.offset >= 0 else self._ahead
        if not cursor.move_to(first):
            self._seek(cursor, first)
        return cursor

    def _seek(self, cursor: _Cursor, first: int) -> None:
        """Reads from the last known place before `first` up to the chunk that has it."""
        segment = self._segment_of(first)
        offset, position = segment, 0
        known = bisect_right(self._index_offsets, first) - 1
        if known >= 0 and self._index_offsets[known] >= segment:
            offset, position = self._index_offsets[known], self._index_positions[known]
        cursor.place(offset, segment, position, self._file(segment))
        while not cursor.move_to(first):
            self._fill(cursor)

    def _segment_of(self, offset: int) -> int:
        """The segment that has `offset`. Raises RecordsTrimmed."""
        if self._stale or offset < self._segments[0]:
            self._list_segments()
        if offset < self._segments[0]:
            raise self._trimmed(offset)
        return self._segments[bisect_right(self._segments, offset) - 1]

    def _list_segments(self) -> None:
        with mapped(self._directory, "list"):
            names = self._files.list_directory(self._directory)
        self._segments = [first for first in segments_among(names) if first <= self._end.segment]
        if not self._segments:
            raise damaged(segment_path(self._directory, self._end.segment), 0, "the segment is missing")
        self._stale = False
        trimmed = bisect_left(self._index_offsets, self._segments[0])
        del self._index_offsets[:trimmed], self._index_positions[:trimmed]

    def _trimmed(self, offset: int) -> RecordsTrimmed:
        first = self._segments[0]
        error = RecordsTrimmed(f"{self._directory}: offset {offset} is gone, the first that is kept is {first}")
        error.first = first
        return error

    def _note_place(self, segment: int, offset: int, position: int) -> None:
        """Adds a place to the index, unless there is one near."""
        offsets, positions, near = self._index_offsets, self._index_positions, self._limits.index_bytes
        at = bisect_left(offsets, offset)
        before = positions[at - 1] if at and offsets[at - 1] >= segment else 0
        after_is_near = at < len(offsets) and 0 <= positions[at] - position < near
        if position - before >= near and not after_is_near:
            offsets.insert(at, offset)
            positions.insert(at, position)

    # --- reading -----------------------------------------------------------------------------------------------------
    def _file(self, segment: int) -> KeptFile:
        return KeptFile(self._files.opened, segment_path(self._directory, segment), self._files.open_read)

    def _fill(self, cursor: _Cursor) -> None:
        """Reads the next chunk that has a batch; the cursor stands before it."""
        cursor.batches, cursor.index = [], 0
        need = 0
        while not cursor.batches:
            file = cursor.file or self._file(cursor.segment)
            try:
                with file as fd:
                    need = self._read_chunk(cursor, fd, file.path, need)
            except FileNotFoundError as error:
                raise self._missing(cursor, file.path) from error
            except OSError as error:
                raise LogError(f"cannot read {file.path}: {error.strerror}") from error

    def _read_chunk(self, cursor: _Cursor, fd: int, path: Path, need: int) -> int:
        """One read. Without a batch it has come to the segment's end, or returns how much the next read needs."""
        end, walk = self._end, cursor.walk
        size = end.position if cursor.segment == end.segment else self._files.size(fd)
        if not cursor.position:
            self._read_header(cursor, fd, size, path)
        position = cursor.position
        if position >= size:
            self._next_segment(cursor, path)
            return 0
        asked = min(max(self._limits.read_bytes, need), size - position)
        chunk = self._files.pread(fd, asked, position)
        if len(chunk) < asked:
            raise damaged(path, position + len(chunk), f"the file ends here, and {size} bytes of it were written")
        self._note_place(cursor.segment, walk.offset, position)
        taken, broken = walk.over(chunk, 0, cursor.batches)
        if not cursor.batches and broken is not None and (broken.flaw is not Flaw.SHORT or position + asked == size):
            raise damaged(path, position + taken, broken.why)
        cursor.chunk, cursor.position = memoryview(chunk), position + taken
        return broken.need or asked + HEADER_BYTES_MAX if broken is not None else 0

    def _read_header(self, cursor: _Cursor, fd: int, size: int, path: Path) -> None:
        walk = cursor.walk
        try:
            header, length = read_segment_header(self._files, fd, size, path)
        except Malformed as error:
            raise damaged(path, 0, f"the segment header is not what was written: {error}") from error
        self._uuid = self._uuid or header.identity.uuid
        prev = f"{header.prev:08x}"
        if header.first != cursor.segment or header.identity.uuid != self._uuid or walk.crc not in (None, prev):
            raise damaged(path, 0, f"the segment does not belong here: it is {header.first} of {header.identity}, after {prev}")
        walk.crc, cursor.position = prev, length

    def _next_segment(self, cursor: _Cursor, path: Path) -> None:
        following = cursor.walk.offset
        if not cursor.segment < following <= self._end.segment:
            raise damaged(path, cursor.position, f"the segment ends at offset {following}, before what was committed")
        if cursor.file is not None:
            cursor.file.close()
        cursor.segment, cursor.position, cursor.file = following, 0, self._file(following)

    def _missing(self, cursor: _Cursor, path: Path) -> LogError | RecordsTrimmed:
        self._list_segments()
        if cursor.walk.offset < self._segments[0]:
            return self._trimmed(cursor.walk.offset)
        return damaged(path, 0, "the segment is missing")

    def batches_since(self, at: float) -> Iterator[list[Seen]]:
        """The batches that were committed at or after an instant, and some that were before, in pieces that are read in turn.

        Raises:
            Damaged, LogError: as `read`. RecordsTrimmed: what was to be read next is gone.
        """
        end = self._end
        if not end.position:
            return
        self._list_segments()
        cursor = _Cursor(self._ahead.walk.size_max)
        try:
            segment, offset, position = place_before(self._files, self._directory, self._segments, end, at)
            cursor.place(offset, segment, position, self._file(segment))
            while cursor.walk.offset < end.offset:
                self._fill(cursor)
                yield cursor.batches
        except FileNotFoundError as error:
            raise self._trimmed(cursor.walk.offset) from error
        finally:
            cursor.close()

    # --- the rest ----------------------------------------------------------------------------------------------------
    def look(self) -> End:
        """See `StorageReader.look`."""
        return end_of(self._files, self._directory, self._limits)

    def stats(self) -> StorageStats:
        """What is committed and still kept."""
        end = self._end
        if not end.position:
            return StorageStats(end.offset, end.offset, 0, 0)
        self._list_segments()
        with mapped(self._directory, "look at"):
            sizes = [
                self._files.state(segment_path(self._directory, first)).st_size
                for first in self._segments
                if first < end.segment
            ]
        return StorageStats(self._segments[0], end.offset, len(self._segments), sum(sizes) + end.position)

    def close(self) -> None:
        """Closes its files."""
        self._ahead.close()
        self._aside.close()
