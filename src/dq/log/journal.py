"""A log with one owner, which writes it and reads it: what an embedded queue stands on.

The same segments, batches and checksums as a bucket's, by less code between the caller and the disk: a batch is one
write, there are no publishers to tell apart, and nobody in another process waits for an end.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

from dq.config import MIB, Limits
from dq.errors import DiskFull, StreamReadOnly, SyncFailed
from dq.log.files import NO_ROOM, Files, mapped
from dq.log.format import HEADER_BYTES_MAX, Identity, SegmentHeader, encode_own_batch, encode_segment
from dq.log.layout import segment_path
from dq.log.open_files import KeptFile
from dq.log.quarantine import Quarantine
from dq.log.recovery import Recovered, Recovery, Visit

BATCH_BYTES_MAX = 64 * MIB
"""Record lines of one batch: a push is stored whole or not at all, whatever its size up to this."""


def recover_journal(
    files: Files, directory: Path, identity: Identity, quarantine: Quarantine, limits: Limits, segment_bytes: int, visit: Visit
) -> Recovered:
    """Checks all of a journal and mends what may be mended.

    Raises:
        Damaged, NewerFormat, LogError, SyncFailed: see `recovery`.
    """
    # Without a flush a power cut can take all of the last segment, and a batch that was being written.
    tail_bytes_max = segment_bytes + 2 * (BATCH_BYTES_MAX + HEADER_BYTES_MAX)
    size_max = BATCH_BYTES_MAX
    return Recovery(files, directory, identity, quarantine, limits, size_max, tail_bytes_max, visit, flushes_late=True).run()


class Journal:
    """Batches, written one by one. Its owner holds a lock around each call.

    Args:
        segment_bytes: at this size a segment is closed.
        flushes: whether each batch is on disk when `append` returns; else the system flushes when it likes, and `sync` does.

    Attributes:
        next: offset of the next record.
        crc: of the last batch, as in its header.
        segment, position: first offset of the last segment, and the bytes in it; -1 while there is none.
        sizes: bytes of each segment, by its first offset; of the last one see `position`.
        second: where the second segment begins, below which nothing can be deleted; greater than any offset while there is one.
        beside: bytes that belong to the last segment and stand in another file.
        at: wall time of the last batch, in milliseconds; it never falls.
    """

    def __init__(
        self,
        files: Files,
        directory: Path,
        identity: Identity,
        recovered: Recovered,
        segment_bytes: int,
        *,
        flushes: bool,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.files, self.directory, self._identity = files, directory, identity
        self._segment_bytes, self._flushes, self._wall = segment_bytes, flushes, wall
        self.next, self.crc, self.sizes = recovered.end.offset, f"{recovered.crc:08x}", recovered.sizes
        self.segment, self.position = next(reversed(self.sizes.items()), (-1, 0))
        self.beside = 0
        self.second = self._second()
        self.at, self._at_text = 0, "0.000"
        # All before it is on disk. Of several segments only the last was flushed on opening.
        self._synced = self.next if flushes or len(self.sizes) < 2 else self.first
        self._unflushed: list[int] = [] if flushes else [*self.sizes][:-1]  # segments before the last that may not be on disk
        self._kept: dict[Path, KeptFile] = {}
        self._failed: str | None = None
        self._guard: Callable[[], None] | None = None
        self._fd = -1
        if self.sizes:
            self._fd = files.open_write(segment_path(directory, self.segment))
            files.move(self._fd, self.position)
        self._full_at = segment_bytes if self.sizes else -1  # at this position it is to be prepared for a batch
        self._write_on = files.write_on

    # --- writing -----------------------------------------------------------------------------------------------------
    def append(self, lines: bytes, count: int, extra: str = "") -> None:
        """Stores a batch, all or nothing.

        Args:
            lines: its record lines; none begins as a header does, none has a NUL byte.
            count: how many.
            extra: further fields of its header, each with a comma before it.

        Raises:
            DiskFull: no room; nothing of it is stored. SyncFailed: the disk failed. StreamReadOnly: it did before.
        """
        # Hot: names instead of attributes, and one comparison for all that is rare, save a third of a push of one item.
        if self.position >= self._full_at:
            self._prepare()
        position, first, now = self.position, self.next, int(self._wall() * 1000)
        if now > self.at:
            self.at, self._at_text = now, f"{now // 1000}.{now % 1000:03d}"
        batch, crc = encode_own_batch(first, count, lines, self._at_text, extra, self._synced, self.crc)
        size = len(batch)
        try:
            if self._write_on(self._fd, batch) != size:
                self._write_rest(batch)
        except OSError as error:
            self._give_up(error)
        self.position, self.crc, self.next = position + size, crc, first + count
        if self._flushes:
            self._flush(self._fd)
            self._synced = self.next

    def _write_rest(self, batch: bytes) -> None:
        """After a short write, which is rare, and mostly the last sign before ENOSPC: all of it once more."""
        self.files.pwritev(self._fd, (batch,), self.position)
        self.files.move(self._fd, self.position + len(batch))

    def _prepare(self) -> None:
        """Before a batch, where it cannot simply follow the last one."""
        if self._failed is not None:
            raise StreamReadOnly(f"the queue takes nothing: {self._failed}; close it and open it again")
        if self._guard is not None:
            self._guard()
            self._guard, self._full_at = None, self._segment_bytes - self.beside
        if self._fd < 0 or self.position >= self._full_at:
            self.begin()

    def guard(self, check: Callable[[], None]) -> None:
        """Has `check` asked before the next batch, which is refused as long as that raises."""
        self._guard, self._full_at = check, -1

    @property
    def guarded(self) -> bool:
        """Whether a check stands before the next batch."""
        return self._guard is not None

    def begin(self, lines: bytes = b"", count: int = 0, *, flush: bool = False) -> None:
        """Begins a segment, with a first batch where there are lines.

        Args:
            flush: the segment before, and this one, are on disk when it returns; always where each batch is.

        Raises:
            As `append`; after DiskFull the old segment goes on.
        """
        if self._failed is not None:
            self._prepare()
        flush = flush or self._flushes
        if flush:
            self.sync()
        elif self._fd >= 0:
            self._unflushed.append(self.segment)
        path, at = segment_path(self.directory, self.next), self._wall()
        content = encode_segment(SegmentHeader(self.next, self._identity, at, int(self.crc, 16), {}))
        crc = self.crc
        if lines:
            batch, crc = encode_own_batch(self.next, count, lines, f"{at:.3f}", "", self._synced, crc)
            content += batch
        fd = self._create(path, content, flush=flush)
        if self._fd >= 0:
            self.sizes[self.segment] = self.position
            self.files.close(self._fd)
        self._fd, self.segment, self.position, self.crc = fd, self.next, len(content), crc
        self.sizes[self.segment], self._full_at = self.position, self._segment_bytes
        self.next += count
        if flush:
            self._synced = self.next
        self.second = self._second()

    def _create(self, path: Path, content: bytes, *, flush: bool) -> int:
        try:
            fd = self.files.create(path)
        except OSError as error:
            self._blame(error)
        try:
            self.files.pwritev(fd, [content], 0)
            self.files.move(fd, len(content))
        except OSError as error:
            self.files.close(fd)
            with contextlib.suppress(OSError):
                self.files.unlink(path)
            self._blame(error)
        if flush:
            self._flush(fd)
            with self._flushing():
                self.files.sync_directory(self.directory)
        return fd

    # --- the disk ----------------------------------------------------------------------------------------------------
    @property
    def failed(self) -> bool:
        """Whether the disk failed, so that nothing more is written or flushed."""
        return self._failed is not None

    @property
    def unsynced(self) -> bool:
        """Whether something was written that is not known to be on disk."""
        return self._synced != self.next

    def sync(self) -> None:
        """Flushes what was written. Raises SyncFailed."""
        if self.unsynced and self._fd >= 0:
            for first in self._unflushed:
                self._flush_closed(first)
            self._unflushed.clear()
            self._flush(self._fd)
            with self._flushing():
                self.files.sync_directory(self.directory)
            self._synced = self.next

    def _flush_closed(self, first: int) -> None:
        for path in self._paths(first):
            with self._flushing(), contextlib.suppress(FileNotFoundError):
                fd = self.files.open_write(path)
                try:
                    self.files.fdatasync(fd)
                finally:
                    self.files.close(fd)

    def _flush(self, fd: int) -> None:
        with self._flushing():
            self.files.fdatasync(fd)

    @contextlib.contextmanager
    def _flushing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # Never again: the kernel forgets what it could not write, and a second flush would say that all is well.
            self._fail(f"the disk did not confirm a flush of {self.directory}: {error.strerror}", error)

    def _give_up(self, error: OSError) -> NoReturn:
        """Puts the log back to its end and raises DiskFull; SyncFailed when that failed, or the disk did."""
        if error.errno in NO_ROOM:
            try:
                self._put_back()
            except OSError as second:
                self._fail(f"cannot take back a half-written batch in {self.directory}: {second.strerror}", second)
        self._blame(error)

    def _put_back(self) -> None:
        if self.files.size(self._fd) > self.position:
            self.files.truncate(self._fd, self.position)
        self.files.move(self._fd, self.position)

    def _blame(self, error: OSError) -> NoReturn:
        if error.errno not in NO_ROOM:
            self._fail(f"cannot write {self.directory}: {error.strerror}", error)
        raise DiskFull(f"no room in {self.directory} ({error.strerror}): nothing of it was stored; free some space") from error

    def _fail(self, why: str, cause: OSError) -> NoReturn:
        self._failed, self._full_at = why, -1
        raise SyncFailed(f"{why}. The queue takes nothing more until it has been opened again") from cause

    # --- segments ----------------------------------------------------------------------------------------------------
    @property
    def first(self) -> int:
        """The first offset that is kept."""
        return next(iter(self.sizes), self.next)

    def disk_bytes(self) -> int:
        """Bytes of its segments, without what stands beside."""
        return sum(self.sizes.values()) - self.sizes.get(self.segment, 0) + self.position

    def kept(self, path: Path) -> KeptFile:
        """A file of it, opened to be read, and shared by all who read it."""
        if path not in self._kept:
            self._kept[path] = KeptFile(self.files.opened, path, self.files.open_read)
        return self._kept[path]

    def drop_below(self, offset: int) -> list[int]:
        """Deletes the segments that lie wholly below `offset`, but the last, oldest first. Returns which.

        Raises:
            LogError: one cannot be deleted.
        """
        gone = [first for first, following in pairwise(self.sizes) if following <= offset]
        for first in gone:
            self._remove(self._paths(first))
            del self.sizes[first]
            if first in self._unflushed:
                self._unflushed.remove(first)
            if self._flushes:
                with self._flushing():
                    self.files.sync_directory(self.directory)
        self.second = self._second()
        return gone

    def _second(self) -> int:
        return next((following for _, following in pairwise(self.sizes)), 1 << 62)

    def _paths(self, first: int) -> Sequence[Path]:
        """The files of a segment, in the order in which they go."""
        return [segment_path(self.directory, first)]

    def _remove(self, paths: Sequence[Path]) -> None:
        for path in paths:
            kept = self._kept.pop(path, None)
            if kept is not None:
                kept.close()  # an open file cannot be deleted everywhere
            with mapped(path, "delete"), contextlib.suppress(FileNotFoundError):
                self.files.unlink(path)

    def close(self) -> None:
        """Closes its files; safe twice."""
        for kept in self._kept.values():
            kept.close()
        self._kept.clear()
        if self._fd >= 0:
            self.files.close(self._fd)
            self._fd = -1
