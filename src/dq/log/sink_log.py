"""The log of one sink: leases, settles, retries and intents as notes, one JSON line each, framed as a stream's log.

Notes are written at once, so that they survive a kill, and flushed by a thread now and then: a power cut costs
redeliveries. A segment begins with a snapshot; the one before it is deleted when that snapshot is on disk.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, Self
from zlib import crc32

import orjson

from dq.config import LIMITS, MIB, Limits
from dq.errors import DiskFull, LogError, SyncFailed
from dq.log.directories import make_directory
from dq.log.files import NO_ROOM, Files, mapped
from dq.log.format import Identity, SegmentHeader, count_lines, encode_batch, encode_segment
from dq.log.layout import segment_path
from dq.log.quarantine import Quarantine
from dq.log.recovery import Recovered, Recovery, damaged
from dq.log.reserve import Reserve
from dq.log.scan import Seen
from dq.log.storage import RecoveryReport

_NOTES_BYTES_MAX = 1024 * MIB
"""One write of notes. A snapshot of a sink with many ranges is the largest."""


class SinkLog:
    """One thread appends, writes and rolls; `sync()` may go on in another meanwhile.

    Attributes:
        report: what opening found.
    """

    def __init__(self, files: Files, directory: Path, identity: Identity, limits: Limits, wall: Callable[[], float]) -> None:
        self._files, self._directory, self._identity, self._limits, self._wall = (
            files,
            directory,
            identity,
            limits,
            wall,
        )
        self._reserve = Reserve(files, directory.parent / "reserve", limits.reserve_bytes)
        self._staged: list[bytes] = []
        self._syncing = threading.Lock()  # between a sync and the change of files; never taken by write()
        self._failed: str | None = None
        self._fd = -1
        self._segment = self._position = self._next = self._synced = self._crc = 0
        self._full_at = limits.sink_segment_bytes
        self.report = RecoveryReport(0, 0, None, clean=False)

    @classmethod
    def open(
        cls,
        files: Files,
        directory: Path,
        sink: str,
        limits: Limits = LIMITS,
        wall: Callable[[], float] = time.time,
        quarantine: Path | None = None,
    ) -> tuple[Self, list[dict[str, Any]]]:
        """Opens or begins the log of a sink: `(log, notes)`, the notes from the last whole snapshot on.

        Raises:
            Damaged, NewerFormat, LogError, SyncFailed: as for a bucket. DiskFull: no room to begin it.
        """
        log = cls(files, directory, sink_identity(sink), limits, wall)
        make_directory(files, directory)
        notes = log._recover(Quarantine(files, quarantine or directory.parents[1] / "quarantine"))
        log._reserve.fill()
        return log, notes

    def _recover(self, quarantine: Quarantine) -> list[dict[str, Any]]:
        recovered, replay = recover_sink(self._files, self._directory, self._identity, quarantine, self._limits)
        self.report, self._crc = recovered.report, recovered.crc
        self._next = self._synced = recovered.end.offset
        sizes = recovered.sizes
        with mapped(self._directory, "mend"):
            if not sizes:
                self._begin([])
                return []
            # The last segment may end before its snapshot: then the one before it still counts, and is gone on with.
            keep = replay.segment if replay.segment in sizes else next(reversed(sizes))
            for segment in (*(s for s in sizes if s > keep), *(s for s in sizes if s < keep)):
                self._files.unlink(segment_path(self._directory, segment))
                self._files.sync_directory(self._directory)
            self._fd = self._files.open_write(segment_path(self._directory, keep))
        self._segment, self._position = keep, sizes[keep]
        return replay.notes

    # --- writing -----------------------------------------------------------------------------------------------------
    def append(self, notes: list[bytes]) -> None:
        """Stages notes, each a JSON line with its newline, for the next `write()`."""
        self._staged += notes

    def write(self) -> None:
        """Writes what is staged with one write, unflushed. It stays staged when this raises.

        Raises:
            DiskFull: no room, and the reserve is used up. SyncFailed: the disk failed, now or before.
        """
        self._check_usable()
        if not self._staged:
            return
        batch, crc = self._encode(self._staged)
        self._write_all(self._fd, [batch], self._position)
        self._position += len(batch)
        self._next, self._crc = self._next + len(self._staged), crc
        self._staged = []

    def _encode(self, notes: list[bytes]) -> tuple[bytes, int]:
        lines = b"".join(notes)
        if count_lines(lines) != len(notes) or not lines.endswith(b"\n"):
            raise ValueError("a note must be one line that ends in a newline")
        extra = b"" if self._synced == self._next else b',"synced":%d' % self._synced
        publisher = f"sink:{self._identity.stream}"
        header, crc = encode_batch(
            self._next, len(notes), len(lines), self._wall(), publisher, self._next, extra, self._crc, crc32(lines)
        )
        return header + lines, crc

    def _write_all(self, fd: int, parts: list[bytes], position: int) -> None:
        """Writes all or nothing; once more after the reserve was given up."""
        while True:
            try:
                return self._files.pwritev(fd, parts, position)
            except OSError as error:
                if error.errno not in NO_ROOM:
                    self._fail(f"cannot write {self._directory}: {error.strerror}", error)
                try:
                    self._files.truncate(fd, position)
                except OSError as second:
                    self._fail(f"cannot take back half-written notes in {self._directory}: {second.strerror}", second)
                if not self._reserve.release():
                    raise DiskFull(f"no room for notes in {self._directory} ({error.strerror}): free some space") from error

    def sync(self) -> None:
        """Flushes what was written before the call. In any thread.

        Raises:
            SyncFailed: the disk did not confirm, now or before. Never retried.
        """
        with self._syncing:
            self._check_usable()
            target = self._next
            if target == self._synced:
                return
            try:
                self._files.fdatasync(self._fd)
            except OSError as error:
                self._fail(f"the disk did not confirm a flush of {self._directory}: {error.strerror}", error)
            self._synced = target
        self._reserve.fill()

    # --- rolling -----------------------------------------------------------------------------------------------------
    @property
    def full(self) -> bool:
        """True when it is time to `roll()`."""
        return self._position >= self._full_at

    def roll(self, snapshot: list[bytes]) -> None:
        """Begins a new segment with `snapshot` (notes, at least one), flushes it, and deletes the segments before.

        Raises:
            DiskFull: all notes are written, and the old segment goes on; it is `full` again a while later. SyncFailed: as
                `write()`, or the old segment cannot be deleted.
        """
        self.write()
        self.sync()  # what lies before a segment is whole: recovery relies on it
        old_fd, old = self._fd, self._segment
        try:
            with self._syncing:
                self._begin(snapshot)
        except DiskFull:
            self._full_at = self._position + self._limits.sink_segment_bytes // 16
            self._reserve.fill()  # the notes may need what the snapshot could not use
            raise
        # A snapshot that is larger than a segment is not written again with every note.
        self._full_at = max(self._limits.sink_segment_bytes, 2 * self._position)
        self._files.close(old_fd)
        self._remove(segment_path(self._directory, old))

    def _begin(self, snapshot: list[bytes]) -> None:
        """A new segment, on disk when this returns; the first one of a log has no snapshot."""
        path = segment_path(self._directory, self._next)
        parts = [encode_segment(SegmentHeader(self._next, self._identity, self._wall(), self._crc, {}))]
        crc = self._crc
        if snapshot:
            batch, crc = self._encode(snapshot)
            parts.append(batch)
        fd = self._create(path)
        try:
            self._write_all(fd, parts, 0)
        except LogError:
            self._files.close(fd)
            raise
        except DiskFull:
            self._files.close(fd)
            # For good: the old segment goes on, and after a power cut this one would stand in the middle of it.
            self._remove(path)
            raise
        try:
            self._files.fdatasync(fd)
            self._files.sync_directory(self._directory)
        except OSError as error:
            self._files.close(fd)
            self._fail(f"the disk did not confirm a flush of {self._directory}: {error.strerror}", error)
        self._fd, self._segment, self._position, self._crc = fd, self._next, sum(map(len, parts)), crc
        self._next += len(snapshot)
        self._synced = self._next

    def _remove(self, path: Path) -> None:
        try:
            self._files.unlink(path)
            self._files.sync_directory(self._directory)
        except OSError as error:
            self._fail(f"cannot delete {path}: {error.strerror}", error)

    def _create(self, path: Path) -> int:
        while True:
            try:
                return self._files.create(path)
            except OSError as error:
                if error.errno not in NO_ROOM:
                    self._fail(f"cannot make {path}: {error.strerror}", error)
                if not self._reserve.release():
                    raise DiskFull(f"no room for {path} ({error.strerror}): free some space") from error

    # --- the rest ----------------------------------------------------------------------------------------------------
    def _fail(self, why: str, cause: OSError) -> NoReturn:
        self._failed = why
        raise SyncFailed(f"{why}. {self._identity} takes no more notes until the broker has started again") from cause

    def _check_usable(self) -> None:
        if self._failed is not None:
            raise SyncFailed(f"{self._identity} takes no notes: {self._failed}")

    def close(self) -> None:
        """Closes the file without a flush; safe twice. What is staged is lost."""
        with self._syncing:
            if self._fd >= 0:
                self._files.close(self._fd)
                self._fd = -1


def sink_identity(sink: str) -> Identity:
    """Whose log the log of a sink is."""
    return Identity(sink, 0, "", 0, kind="sink")


def recover_sink(
    files: Files, directory: Path, identity: Identity, quarantine: Quarantine, limits: Limits
) -> tuple[Recovered, Replay]:
    """Checks all of a sink's log and mends what may be mended. Raises as `SinkLog.open`."""
    replay = Replay(directory)
    tail_bytes_max = limits.sink_segment_bytes + _NOTES_BYTES_MAX
    recovery = Recovery(files, directory, identity, quarantine, limits, _NOTES_BYTES_MAX, tail_bytes_max, replay.visit)
    return recovery.run(), replay


class Replay:
    """Gathers the notes of the last segment that has any.

    Attributes:
        segment: which one that is; -1 if there is none.
        notes: its notes.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.segment = -1
        self.notes: list[dict[str, Any]] = []

    def visit(self, segment: int, chunk: bytes, seen: list[Seen]) -> None:
        if seen and segment != self.segment:
            self.segment, self.notes = segment, []
        for first, _count, start, stop, *_ in seen:
            try:
                notes = orjson.loads(b"[%s]" % chunk[start : stop - 1].replace(b"\n", b","))
            except orjson.JSONDecodeError as error:
                path = segment_path(self._directory, segment)
                raise damaged(path, 0, f"the notes from {first} on are whole, but not JSON: {error}") from error
            self.notes += notes
