"""What is done about a log on opening it. Nothing is announced, answered or written before it has ended.

After a clean stop, when the mark fits the files' sizes, nothing is read. Otherwise:

==  ======================================================  ==========================================================
 1  a left-over `*.tmp`                                     to quarantine. Safe: it was never renamed to be used
 2  the last segment and the directory                      flushed, and dropped from the cache: what a killed process
                                                            wrote may not be on disk, and after a failed flush the
                                                            cache shows what the disk does not have
 3  every segment: header, identity, epoch, `prev`,         read and checked; the first that is wrong ends the walk
    offsets, every batch
 4  wrong in a segment that is not the last                 Damaged. It was on disk before the next one was begun
 5  the last segment's header is torn, its name is the      to quarantine. Safe: a segment holds nothing confirmed
    next offset, nothing in it was confirmed                before its header is on disk
 6  its last batches are torn: too short, or with a hole,   cut, copy in quarantine. Safe: a batch is confirmed only
    and nothing after them was written later                when all of it is on disk
 7  the tail is longer than what can be unconfirmed         Damaged. No write of dq is that long
 8  anything else: a wrong checksum over whole bytes, a     Damaged. It may have been confirmed, and nobody but a
    size that is not that of its lines, a whole batch in    person decides to lose that
    the wrong place, bytes nobody wrote
==  ======================================================  ==========================================================

Reading the log again after any of these finds nothing more to do. An error of the disk is never taken for the end of a file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dq.config import MIB, Limits
from dq.errors import Damaged, LogError, NewerFormat, SyncFailed
from dq.log.files import Files, mapped
from dq.log.format import (
    HEADER_BYTES_MAX,
    SEGMENT_HEADER_BYTES_MAX,
    Identity,
    Malformed,
    SegmentHeader,
    decode_segment,
    want,
    want_count,
    want_crc,
)
from dq.log.layout import TMP_SUFFIX, repair_hint, segment_path, segments_among
from dq.log.quarantine import Quarantine
from dq.log.scan import Broken, Flaw, Seen, Walk, begins_like, confirmed_after, has_all_lines, has_hole, scan
from dq.log.storage import End, RecoveryReport
from dq.log.window import Windows
from dq.model.about import is_counted

SEGMENT_START = b'{"segment":'
SEGMENT_BYTES_MAX = 1024 * MIB
"""What is read of a segment at once, where it is looked through for what was confirmed."""
Visit = Callable[[int, bytes, list[Seen]], None]


@dataclass(frozen=True, slots=True)
class Recovered:
    """A log that can be written to. `sizes` has every segment by its first offset; `crc` is that of the last batch."""

    end: End
    crc: int
    sizes: dict[int, int]
    windows: Windows
    report: RecoveryReport


def damaged(path: Path, position: int, why: str) -> Damaged:
    """The error for wrong bytes in a log."""
    return Damaged(
        f"{path}, byte {position}: {why}. Nothing was changed; only this log is closed. {repair_hint(path, position)}"
    )


def read_segment_header(files: Files, fd: int, size: int, path: Path) -> tuple[SegmentHeader, int]:
    """The header of an open segment and its length. Raises Malformed, NewerFormat (with path) or OSError."""
    line = files.pread(fd, min(size, HEADER_BYTES_MAX), 0)
    if b"\n" not in line:
        line = files.pread(fd, min(size, SEGMENT_HEADER_BYTES_MAX), 0)
    length = line.find(b"\n") + 1
    if not length:
        raise Malformed("its first line has no end")
    try:
        return decode_segment(line[:length]), length
    except NewerFormat as error:
        raise NewerFormat(f"{path}: {error}") from None


def clean_end(files: Files, directory: Path, mark: dict[str, Any], limits: Limits) -> Recovered | None:
    """What the mark of a clean stop says, if the files have the sizes it names; else None, and the log is to be read."""
    try:
        end = End(want_count(mark, "offset"), want_count(mark, "segment"), want_count(mark, "position"))
        crc, windows = want_crc(mark, "crc"), Windows.decode(want(mark, "publishers", dict), limits)
        total = want_count(mark, "bytes")
    except Malformed:
        return None
    if not end.segment <= end.offset <= end.segment + end.position:  # a record has a byte at least
        return None
    with mapped(directory, "look at"):
        names = files.list_directory(directory)
        sizes = {first: files.state(segment_path(directory, first)).st_size for first in segments_among(names)}
    last = next(reversed(sizes.items()), (0, 0))
    if last != (end.segment, end.position) or sum(sizes.values()) != total or any(n.endswith(TMP_SUFFIX) for n in names):
        return None
    return Recovered(end, crc, sizes, windows, RecoveryReport(0, 0, None, clean=True))


def confirmed_in(files: Files, directory: Path, segments: list[int], walk: Walk) -> bool:
    """Whether a batch in one of these segments was written after the place that a walk has come to was on disk."""
    for first in segments:
        content = files.read_whole(segment_path(directory, first), SEGMENT_BYTES_MAX)
        if confirmed_after(content, walk.offset, walk.size_max) is not None:
            return True
    return False


@dataclass(frozen=True, slots=True)
class _Segment:
    """A segment while it is read."""

    first: int
    path: Path
    fd: int
    size: int
    last: bool


class Recovery:
    """One reading of a whole log.

    Args:
        size_max: bytes of records that a batch can have.
        tail_bytes_max: what can be unconfirmed at the end of the log at most.
        visit: gets (segment, chunk, batches in it) of every segment; without it the dedupe windows are gathered.
        flushes_late: a segment may have been begun before the one before it was on disk, as an embedded queue does. Where
            nothing later was confirmed after a tear, rows 5 and 6 hold for any segment, and all later ones go to quarantine.
    """

    def __init__(
        self,
        files: Files,
        directory: Path,
        identity: Identity,
        quarantine: Quarantine,
        limits: Limits,
        size_max: int,
        tail_bytes_max: int,
        visit: Visit | None = None,
        *,
        flushes_late: bool = False,
    ) -> None:
        self._flushes_late = flushes_late
        self._firsts: list[int] = []
        self._place = 0  # of the segment that is read, among them
        self._files, self._directory, self._identity, self._quarantine = files, directory, identity, quarantine
        self._limits, self._tail_bytes_max, self._visit = limits, tail_bytes_max, visit
        self._walk = Walk(0, None, size_max)
        self._epoch = 0
        self._windows = Windows(limits)
        self._sizes: dict[int, int] = {}
        self._checked = self._torn_bytes = 0
        self._quarantined: Path | None = None
        self._cut_off = False

    def run(self) -> Recovered:
        """Reads, mends what may be mended, and says where the log ends.

        Raises:
            Damaged, NewerFormat: rows 4, 7, 8. LogError: the disk refused to read. SyncFailed: it refused to flush.
        """
        with mapped(self._directory, "read"):
            names = self._files.list_directory(self._directory)
        for name in names:
            if name.endswith(TMP_SUFFIX):
                self._quarantined = self._quarantine.take_file(f"{self._origin()}.{name}", self._directory / name)
        firsts = self._firsts = segments_among(names)
        if firsts:
            self._flush_last(segment_path(self._directory, firsts[-1]))
        for place, first in enumerate(firsts):
            self._place = place
            # The last segment alone would do for the windows, but it may be one that was only being begun.
            visit = self._visitor(first) if self._visit is not None or first in firsts[-2:] else None
            self._read_segment(first, visit, last=first == firsts[-1])
            if self._cut_off:
                break
        segment, position = next(reversed(self._sizes.items()), (0, 0))
        report = RecoveryReport(self._checked, self._torn_bytes, self._quarantined, clean=False)
        crc = int(self._walk.crc or "0", 16)
        return Recovered(End(self._walk.offset, segment, position), crc, self._sizes, self._windows, report)

    @property
    def _later(self) -> list[int]:
        """The segments after the one that is read."""
        return self._firsts[self._place + 1 :]

    def _origin(self) -> str:
        identity = self._identity
        if identity.kind == "sink":
            return f"sink:{identity.stream}"
        return identity.stream if identity.kind == "queue" else f"{identity.stream}.{identity.bucket}"

    def _flush_last(self, path: Path) -> None:
        with mapped(path, "open"):
            fd = self._files.open_write(path)
            try:
                self._flush(fd, path)
                self._files.drop_cache(fd)
            finally:
                self._files.close(fd)

    def _flush(self, fd: int, path: Path) -> None:
        try:
            self._files.fdatasync(fd)
            self._files.sync_directory(self._directory)
        except OSError as error:
            why = f"the disk did not confirm a flush ({error.strerror}); what it has is not known"
            raise SyncFailed(f"{path}: {why}") from error

    # --- one segment -------------------------------------------------------------------------------------------------
    def _read_segment(self, first: int, visit: Callable[[bytes, list[Seen]], None] | None, *, last: bool) -> None:
        path = segment_path(self._directory, first)
        with mapped(path, "read"):
            may_be_cut = last or self._flushes_late
            fd = self._files.open_write(path) if may_be_cut else self._files.open_read(path)
            try:
                segment = _Segment(first, path, fd, self._files.size(fd), last)
                good_end = self._check_segment(segment, visit)
                if good_end is not None:
                    self._sizes[first] = good_end
                self._checked += segment.size
            finally:
                self._files.close(fd)

    def _check_segment(self, segment: _Segment, visit: Callable[[bytes, list[Seen]], None] | None) -> int | None:
        """Where the segment ends, after what had to be cut; None when all of it went to quarantine."""
        path, size = segment.path, segment.size
        try:
            header, length = read_segment_header(self._files, segment.fd, size, path)
        except Malformed as error:
            self._judge_header(segment, str(error))
            return None
        self._check_place(header, segment)
        try:
            self._windows = Windows.decode(header.publishers, self._limits)
        except Malformed as error:
            raise damaged(path, 0, f"the segment header is not what was written: {error}") from error
        good_end, broken = scan(self._files, segment.fd, path, length, size, self._walk, visit)
        if broken is not None:
            self._judge_tail(segment, good_end, broken)
        return good_end

    def _visitor(self, first: int) -> Callable[[bytes, list[Seen]], None]:
        visit = self._visit
        if visit is None:
            return self._gather
        return lambda chunk, seen: visit(first, chunk, seen)

    def _gather(self, _: bytes, seen: list[Seen]) -> None:
        windows, at = self._windows, 0.0
        for first, count, _lines, _stop, publisher, sequence, checksum, at, _topics, about in seen:
            if about is None or is_counted(about):
                windows.stage(publisher, sequence, checksum, first, count, at)
        windows.keep(at)

    def _check_place(self, header: SegmentHeader, segment: _Segment) -> None:
        """The header is whole: is it the one that belongs here? Sets the walk to its first batch."""
        ours, found, path, first = self._identity, header.identity, segment.path, segment.first
        walk, prev = self._walk, f"{header.prev:08x}"
        if (found.kind, found.stream, found.bucket, found.uuid) != (ours.kind, ours.stream, ours.bucket, ours.uuid):
            why = f"the segment is of {found!s:.200} with uuid {found.uuid:.100}, not of {ours} with uuid {ours.uuid}"
        elif header.first != first:
            why = f"the segment says that it begins at offset {header.first}"
        elif self._sizes and first != walk.offset:
            before = segment_path(self._directory, next(reversed(self._sizes)))
            why = f"the segment begins at offset {first}, and {before.name} before it ends at {walk.offset}"
        elif prev != walk.crc and walk.crc is not None:
            why = f"the segment follows a batch with crc {prev}, and the one before it has {walk.crc}"
        elif not self._epoch <= found.epoch <= ours.epoch:
            why = f"the segment has epoch {found.epoch}, the one before it {self._epoch}, and now is {ours.epoch}"
        else:
            self._epoch, walk.offset, walk.crc = found.epoch, first, prev
            return
        raise damaged(path, 0, why)

    # --- what is wrong -----------------------------------------------------------------------------------------------
    def _judge_header(self, segment: _Segment, why: str) -> None:
        """Row 5: moves a segment that was being begun, or raises."""
        path, first, size = segment.path, segment.first, segment.size
        wrong = damaged(path, 0, f"the segment header is not what was written: {why}")
        if not self._may_end(segment) or first != self._walk.offset or size > SEGMENT_HEADER_BYTES_MAX + self._tail_bytes_max:
            raise wrong
        content = self._files.pread(segment.fd, size, 0)
        cut = b"\n" not in content and begins_like(content, SEGMENT_START)
        if not (cut or has_hole(content, 0)) or confirmed_after(content, first, self._walk.size_max) is not None:
            raise wrong
        self._take_later()
        self._quarantined = self._quarantine.take_file(f"{self._origin()}.{first}.0", path)
        self._torn_bytes += size

    def _judge_tail(self, segment: _Segment, good_end: int, broken: Broken) -> None:
        """Rows 4 and 6 to 8: cuts the tail of the last segment, or raises."""
        path, length = segment.path, segment.size - good_end
        if not self._may_end(segment) or broken.flaw is Flaw.PLACE:
            raise damaged(path, good_end, broken.why)
        if length > self._tail_bytes_max:
            raise damaged(path, good_end, f"{broken.why}, and {length} bytes follow: more than can be unconfirmed")
        tail = self._files.pread(segment.fd, length, good_end)
        if len(tail) < length:
            raise LogError(f"{path} shrank while it was read")
        later = confirmed_after(tail, self._walk.offset, self._walk.size_max)
        if later is not None:
            why = f"{broken.why}, and the batch at offset {later} was written after it was on disk"
            raise damaged(path, good_end, why)
        cut = broken.flaw is Flaw.SHORT and begins_like(tail) and not has_all_lines(tail)
        if not cut and not has_hole(tail, good_end):
            raise damaged(path, good_end, broken.why)
        self._cut(segment, good_end, tail)

    def _may_end(self, segment: _Segment) -> bool:
        """Whether the log can end in this segment without the loss of anything that was confirmed."""
        return segment.last or (self._flushes_late and not confirmed_in(self._files, self._directory, self._later, self._walk))

    def _take_later(self) -> None:
        """What was begun after a tear, the newest first: at every moment what is left is a log, longer than wished."""
        for first in reversed(self._later):
            path = segment_path(self._directory, first)
            self._torn_bytes += self._files.state(path).st_size
            self._quarantined = self._quarantine.take_file(f"{self._origin()}.{first}.0", path)
            self._cut_off = True

    def _cut(self, segment: _Segment, good_end: int, tail: bytes) -> None:
        self._take_later()
        self._quarantined = self._quarantine.keep_bytes(f"{self._origin()}.{segment.first}.{good_end}", tail)
        self._torn_bytes += len(tail)
        self._files.truncate(segment.fd, good_end)
        self._flush(segment.fd, segment.path)
