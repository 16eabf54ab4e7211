"""The log of one bucket, written: batches are staged, then committed with one write, all or nothing.

With durability "sync" the commit also flushes. With others that is left to `sync()`, or to the system; but a segment is
on disk before the next one is begun, so that only the last one can lose anything.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn, Self
from zlib import crc32

from dq.config import LIMITS, Limits
from dq.errors import Damaged, DiskFull, DqError, LogError, ProtocolError, RecordTooLarge, StreamReadOnly, SyncFailed
from dq.log.files import NO_ROOM, Files, mapped
from dq.log.format import (
    HEADER_BYTES_MAX,
    Identity,
    SegmentHeader,
    check_publisher,
    count_lines,
    encode_about,
    encode_batch,
    encode_segment,
    encode_topics,
    has_header_like,
)
from dq.log.layout import segment_path
from dq.log.open_files import KeptFile
from dq.log.quarantine import Quarantine
from dq.log.recovery import Recovered, Recovery, clean_end
from dq.log.retention import SegmentStats
from dq.log.storage import Batch, End, StorageStats, Stored
from dq.model.about import is_counted


def recover(
    files: Files,
    directory: Path,
    identity: Identity,
    segment_bytes: int,
    limits: Limits,
    quarantine: Quarantine,
    durability: str,
) -> Recovered:
    """Checks all of a bucket's log and mends what may be mended. Raises as `BucketLog.open`."""
    size_max = max(limits.kept_bytes_max, limits.batch_bytes_max)
    tail_bytes_max = limits.commit_bytes_max + HEADER_BYTES_MAX + size_max
    if durability != "sync":  # a power cut can take all of a segment that is not flushed at every commit
        tail_bytes_max += segment_bytes
    return Recovery(files, directory, identity, quarantine, limits, size_max, tail_bytes_max).run()


class BucketLog:
    """The `StorageWriter` of the `json` backend. One thread at a time; several logs may commit in several threads.

    Attributes:
        identity: whose log it is; its epoch is what new segments get.
        end: the committed end. Nothing beyond it is ever announced.
        report: what opening found.
    """

    def __init__(
        self,
        files: Files,
        directory: Path,
        identity: Identity,
        segment_bytes: int,
        recovered: Recovered,
        limits: Limits = LIMITS,
        wall: Callable[[], float] = time.time,
        durability: str = "sync",
    ) -> None:
        self._files, self._directory, self.identity = files, directory, identity
        self._segment_bytes, self._limits, self._wall = segment_bytes, limits, wall
        self._flushes = durability == "sync"
        self.end, self.report = recovered.end, recovered.report
        self._sizes, self._windows = recovered.sizes, recovered.windows
        self._active = KeptFile(files.opened, segment_path(directory, self.end.segment), self._open_again)
        self._failed: str | None = None
        self._committed_crc = recovered.crc
        self._synced = recovered.end.offset  # all before it is on disk
        self._syncing = threading.Lock()  # between a flush in another thread and the change of files
        # What is staged, and the end as it will be once that is committed. A commit goes into one segment.
        self._parts: list[bytes | bytearray] = []
        self.staged_bytes, self._begins_segment = 0, False
        self._next, self._crc = recovered.end.offset, recovered.crc

    @classmethod
    def open(
        cls,
        files: Files,
        directory: Path,
        identity: Identity,
        segment_bytes: int,
        clean: dict[str, Any] | None,
        limits: Limits = LIMITS,
        wall: Callable[[], float] = time.time,
        quarantine: Path | None = None,
        durability: str = "sync",
    ) -> Self:
        """Opens the log in `directory`, which exists, after checking all of it unless the mark of a clean stop fits.

        Args:
            segment_bytes: size at which a segment is closed.
            clean: what `clean_mark()` gave at the last stop; None checks everything.
            quarantine: where torn bytes go; by default beside `streams/`.
            durability: as in `StreamSettings`.

        Raises:
            Damaged, NewerFormat, LogError, SyncFailed: see `recovery`.
        """
        recovered = clean_end(files, directory, clean, limits) if clean is not None else None
        if recovered is None:
            place = Quarantine(files, quarantine or directory.parents[2] / "quarantine")
            recovered = recover(files, directory, identity, segment_bytes, limits, place, durability)
        return cls(files, directory, identity, segment_bytes, recovered, limits, wall, durability)

    # --- appending ---------------------------------------------------------------------------------------------------
    def append(self, batch: Batch) -> Stored:
        """See `StorageWriter.append`."""
        self._check_usable()
        lines, publisher, sequence, count = batch.lines, batch.publisher, batch.sequence, batch.count
        self._check(sequence, count, lines)
        checksum = crc32(lines)
        counted = is_counted(batch.about)
        if counted:
            known = self._windows.find(publisher, sequence, checksum, count, batch.again)
            if known is not None:
                return known
        else:
            check_publisher(publisher)
        first, now = self._next, self._wall()
        extra = encode_topics(batch.topics, self._limits.batch_topics_max) if batch.topics else b""
        if batch.about:
            extra += encode_about(batch.about)
        if self._synced != first:
            extra += b',"synced":%d' % self._synced
        header, crc = encode_batch(first, count, len(lines), now, publisher, sequence, extra, self._crc, checksum)
        if len(header) > HEADER_BYTES_MAX:
            raise ProtocolError(
                f"the topics and the rest of a batch header take {len(header)} bytes; {HEADER_BYTES_MAX} are the most"
            )
        if not self._parts:
            self._begin_commit(now)
        if counted:
            self._windows.stage(publisher, sequence, checksum, first, count, now)
        self._parts += (header, lines)
        self.staged_bytes += len(header) + len(lines)
        self._next, self._crc = first + count, crc
        return Stored(first, count, duplicate=False)

    def _begin_commit(self, now: float) -> None:
        """Before the first batch of a commit: does it begin a segment? Its header has the windows as on disk."""
        end = self.end
        # A segment without a batch takes one, whatever its size: the next one would have the same name.
        self._begins_segment = not self._sizes or (end.position >= self._segment_bytes and end.offset > end.segment)
        if self._begins_segment:
            header = SegmentHeader(end.offset, self.identity, now, self._committed_crc, self._windows.encode())
            self._parts.append(encode_segment(header))
            self.staged_bytes = len(self._parts[0])

    def _check(self, sequence: int, count: int, lines: bytes | bytearray) -> None:
        limits, size = self._limits, len(lines)
        if type(sequence) is not int or sequence < 0:
            raise ProtocolError(f"{sequence!r} is no sequence number: they count from 0")
        if size > limits.batch_bytes_max and (count != 1 or size > limits.kept_bytes_max):
            if count == 1:
                raise RecordTooLarge(f"a record of {size:,} bytes; {limits.kept_bytes_max:,} are the most: keep it in a file")
            raise ProtocolError(f"a batch of {size:,} bytes; {limits.batch_bytes_max:,} are the most")
        if not lines.endswith(b"\n"):
            raise ProtocolError("a batch that is empty or does not end in a newline")
        if type(count) is not int or count > limits.batch_records_max or count_lines(lines) != count:
            raise ProtocolError(f"a batch of {count_lines(lines)} lines that says it has {count!r}")
        if b"\0" in lines or has_header_like(lines):
            raise ProtocolError("a record line that has a NUL byte or begins as a batch header does")

    # --- committing --------------------------------------------------------------------------------------------------
    def commit(self) -> End:
        """See `StorageWriter.commit`."""
        self._check_usable()
        if not self._parts:
            return self.end
        try:
            if self._begins_segment:
                self._commit_to_new()
            else:
                self._commit_to(self._active, self.end.segment, self.end.position, flush=self._flushes)
        except DqError:
            self._drop_staged()
            raise
        self._windows.keep(self._wall())
        self._committed_crc = self._crc
        self._clear_staged()
        return self.end

    def _commit_to_new(self) -> None:
        """A segment begins on disk, whatever the durability, and so does all that lies before it."""
        self.sync()
        first = self.end.offset
        active = KeptFile(self._files.opened, segment_path(self._directory, first), self._files.create)
        with self._syncing:
            try:
                self._commit_to(active, first, 0, flush=True)
            except DqError:
                active.close()
                raise
            self._active.close()
            self._active = active

    def _commit_to(self, active: KeptFile, segment: int, position: int, *, flush: bool) -> None:
        opened = self._files.opened
        try:
            fd = opened.take(active)
        except OSError as error:
            self._give_up(error, lambda: None)
        except Damaged as error:
            self._fail(str(error), Damaged, error)
        active.opener = self._open_again
        try:
            self._write(fd, active.path, position)
            if flush:
                self._flush(lambda: self._files.fdatasync(fd))
            if not position:  # a new name
                self._flush(lambda: self._files.sync_directory(self._directory))
        finally:
            opened.put(active)
        self._sizes[segment] = position + self.staged_bytes
        self.end = End(self._next, segment, position + self.staged_bytes)
        if flush:
            self._synced = self._next

    def _write(self, fd: int, path: Path, position: int) -> None:
        try:
            self._files.pwritev(fd, self._parts, position)
        except OSError as error:
            # Not flushed: should a power cut bring back what was written, it is whole, or it is cut at the next start.
            self._give_up(error, lambda: self._put_back(fd, path, position))

    def _put_back(self, fd: int, path: Path, position: int) -> None:
        if not position:
            self._files.unlink(path)
        elif self._files.size(fd) != position:  # a disk that is read-only has taken nothing, and lets nothing be cut
            self._files.truncate(fd, position)

    def sync(self) -> None:
        """See `StorageWriter.sync`."""
        with self._syncing:
            self._check_usable()
            target, active, opened = self.end.offset, self._active, self._files.opened
            if target == self._synced:
                return
            try:
                fd = opened.take(active)
            except (OSError, Damaged) as error:
                self._fail(f"cannot flush {active.path}: {error}", SyncFailed, error)
            try:
                self._flush(lambda: self._files.fdatasync(fd))
            finally:
                opened.put(active)
            self._synced = target

    @property
    def unsynced(self) -> bool:
        """See `StorageWriter.unsynced`."""
        return self._synced != self.end.offset

    @property
    def synced(self) -> int:
        """See `StorageWriter.synced`."""
        return self._synced

    def _flush(self, act: Callable[[], None]) -> None:
        try:
            act()
        except OSError as error:
            # Never again: the kernel forgets what it could not write, and a second flush would say that all is well.
            self._fail(f"the disk did not confirm a flush of {self._directory}: {error.strerror}", SyncFailed, error)

    # --- when it does not work ---------------------------------------------------------------------------------------
    def _give_up(self, error: OSError, put_back: Callable[[], None]) -> NoReturn:
        """Puts the log back to its committed end and raises DiskFull; SyncFailed when that failed, or the disk did."""
        if error.errno not in NO_ROOM:
            self._fail(f"cannot write {self._directory}: {error.strerror}", SyncFailed, error)
        try:
            put_back()
        except OSError as second:
            self._fail(f"cannot take back a half-written batch in {self._directory}: {second.strerror}", SyncFailed, second)
        raise DiskFull(
            f"no room in {self._directory} ({error.strerror}): nothing of the batch was stored; free some space"
        ) from error

    def _fail(self, why: str, kind: type[LogError], cause: Exception) -> NoReturn:
        self._failed = why
        raise kind(f"{why}. {self.identity} takes no more records until the broker has started again") from cause

    def _drop_staged(self) -> None:
        self._windows.drop()
        self._next, self._crc = self.end.offset, self._committed_crc
        self._clear_staged()

    def _clear_staged(self) -> None:
        self._parts, self.staged_bytes, self._begins_segment = [], 0, False

    def _check_usable(self) -> None:
        if self._failed is not None:
            raise StreamReadOnly(f"{self.identity} takes no records: {self._failed}")

    # --- the rest ----------------------------------------------------------------------------------------------------
    def _open_again(self, path: Path) -> int:
        fd = self._files.open_write(path)
        size = self._files.size(fd)
        if size != self.end.position:
            self._files.close(fd)
            raise Damaged(f"{path} has {size} bytes where dq left {self.end.position}: another program wrote to it")
        return fd

    def trim(self, offset: int) -> int:
        """See `StorageWriter.trim`."""
        firsts = list(self._sizes)
        gone = [first for first, following in pairwise(firsts) if following <= offset]
        for first in gone:
            path = segment_path(self._directory, first)
            with mapped(path, "delete"):
                self._files.unlink(path)
            del self._sizes[first]
            # One at a time: were two deletions to reach the disk in the other order, the log would have a gap.
            self._flush(lambda: self._files.sync_directory(self._directory))
        return len(gone)

    def segments(self) -> list[SegmentStats]:
        """See `StorageWriter.segments`."""
        firsts = [*self._sizes, self.end.offset]
        stats = []
        for first, following in pairwise(firsts):
            path = segment_path(self._directory, first)
            with mapped(path, "look at"):
                stats.append(SegmentStats(first, following, self._sizes[first], self._files.state(path).st_mtime))
        return stats

    def clean_mark(self) -> dict[str, Any] | None:
        """See `StorageWriter.clean_mark`."""
        if self._failed is not None or self._parts or self.unsynced:
            return None
        return {
            "segment": self.end.segment,
            "position": self.end.position,
            "offset": self.end.offset,
            "crc": f"{self._committed_crc:08x}",
            "bytes": sum(self._sizes.values()),
            "publishers": self._windows.encode(),
        }

    def stats(self) -> StorageStats:
        """What the log holds."""
        first = next(iter(self._sizes), self.end.offset)
        return StorageStats(first, self.end.offset, len(self._sizes), sum(self._sizes.values()))

    def close(self) -> None:
        """Closes the file. What is staged is lost; it was never confirmed."""
        self._active.close()
