"""What is done about the items of an embedded queue on opening it: as `recovery`, and the same for those that stand raw.

A raw batch is whole when its header, its lines and its items are. After a power cut its header may be on disk and its
items not: where nothing was confirmed after it, it is cut off like any torn batch, and kept in quarantine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import orjson

from dq.config import LIMITS
from dq.log.files import Files, mapped
from dq.log.format import Identity, Malformed, want, want_count, want_crc
from dq.log.item_log import SEGMENT_BYTES, SegmentInfo, raw_path
from dq.log.item_reader import damaged_raw
from dq.log.journal import BATCH_BYTES_MAX, recover_journal
from dq.log.layout import segment_path, segments_among
from dq.log.quarantine import Quarantine
from dq.log.queue_file import RAW_SUFFIX
from dq.log.recovery import Recovered, confirmed_in, damaged, read_segment_header
from dq.log.scan import Seen, Walk, has_hole


@dataclass(frozen=True, slots=True)
class RawExtent:
    """Where the items of a raw batch stand: of the batch at offset `first`, whose header is at byte `header` of `segment`."""

    segment: int
    first: int
    header: int
    position: int
    size: int
    checksum: int


class Gathering:
    """Gathers, while a log of items is recovered, what its batches say."""

    def __init__(self, files: Files, directory: Path) -> None:
        self._files, self._directory = files, directory
        self._segment, self._position = -1, 0
        self.infos: dict[int, SegmentInfo] = {}
        self.extents: dict[int, list[RawExtent]] = {}
        self.synced: dict[int, int] = {}

    def visit(self, segment: int, chunk: bytes, seen: list[Seen]) -> None:
        """As `recovery.Visit`."""
        if segment != self._segment:
            self._segment, self._position = segment, self._header_bytes(segment)
            self.infos[segment] = SegmentInfo()
        start, info = 0, self.infos[segment]
        for batch in seen:
            try:
                fields = orjson.loads(chunk[start : batch[2]])
                info.payload += want_count(fields, "payload")
                self.synced[segment] = want_count({"synced": fields.get("synced", batch[0])}, "synced")
                if "raw" in fields:
                    extent = self._extent(fields, self._position + start)
                    self.extents.setdefault(segment, []).append(extent)
            except (Malformed, ValueError, TypeError) as error:
                path = segment_path(self._directory, segment)
                raise damaged(path, self._position + start, f"a batch of no queue: {error}") from error
            start, info.at = batch[3], max(info.at, int(batch[7] * 1000 + 0.5))
        self._position += start

    def _extent(self, fields: dict[str, Any], header: int) -> RawExtent:
        raw = want(fields, "raw", list)
        if len(raw) != 2:
            raise Malformed("it does not say where its items are")
        place = {"position": raw[0], "crc": raw[1]}
        return RawExtent(
            self._segment, fields["batch"], header, want_count(place, "position"), fields["payload"], want_crc(place, "crc")
        )

    def _header_bytes(self, segment: int) -> int:
        path = segment_path(self._directory, segment)
        fd = self._files.open_read(path)
        try:
            return read_segment_header(self._files, fd, self._files.size(fd), path)[1]
        finally:
            self._files.close(fd)

    def first_torn(self, recovered: Recovered) -> RawExtent | int:
        """The first raw batch that is to be cut off; where there is none, the bytes beside the last segment. Raises Damaged."""
        raw_bytes = 0
        for segment in recovered.sizes:
            bad, raw_bytes = self.first_bad(segment)
            if bad is not None:
                later = [first for first in recovered.sizes if first > segment]
                walk = Walk(bad.first, None, BATCH_BYTES_MAX)
                self.judge(segment, bad, last=not confirmed_in(self._files, self._directory, later, walk))
                return bad
        return raw_bytes

    def first_bad(self, segment: int) -> tuple[RawExtent | None, int]:
        """The first raw batch of a segment whose items are not what was written, and the bytes that those before it have."""
        extents, whole = self.extents.get(segment, []), 0
        if not extents:
            return None, 0
        path = raw_path(self._directory, segment)
        with mapped(path, "read"):
            try:
                fd = self._files.open_read(path)
            except FileNotFoundError:
                return extents[0], 0
            try:
                for extent in extents:
                    content = self._files.pread(fd, extent.size, extent.position)
                    if len(content) < extent.size or crc32(content) != extent.checksum:
                        return extent, whole
                    whole = extent.position + extent.size
            finally:
                self._files.close(fd)
        return None, whole

    def judge(self, segment: int, bad: RawExtent, *, last: bool) -> None:
        """Raises Damaged unless the items of a raw batch are what a power cut leaves of a push that was not confirmed."""
        path = raw_path(self._directory, segment)
        try:
            content = self._files.read_whole(path, bad.position + (1 << 40))[bad.position : bad.position + bad.size]
        except FileNotFoundError:
            content = b""
        torn = len(content) < bad.size or has_hole(content, bad.position)
        if not last or not torn or self.synced.get(segment, 0) > bad.first:
            raise damaged_raw(path, bad.position, bad.size, bad.header)


class RecoveredItems(NamedTuple):
    """What opening found: the journal, what each segment holds, and the bytes beside the last one."""

    journal: Recovered
    infos: dict[int, SegmentInfo]
    raw_bytes: int


def recover_items(
    files: Files, directory: Path, identity: Identity, quarantine: Quarantine, *, mend: bool = True
) -> RecoveredItems:
    """Checks all items and mends what may be mended.

    Args:
        mend: False where files are only looked at: what would be cut is in the report as torn.

    Raises:
        Damaged, NewerFormat, LogError, SyncFailed: see `recovery`.
    """
    while True:
        gathering = Gathering(files, directory)
        recovered = recover_journal(files, directory, identity, quarantine, LIMITS, SEGMENT_BYTES, gathering.visit)
        found = gathering.first_torn(recovered)
        if isinstance(found, int):
            if recovered.sizes and mend:
                _cut_rest(files, quarantine, raw_path(directory, next(reversed(recovered.sizes))), found, identity.stream)
            return RecoveredItems(recovered, gathering.infos, found)
        if not mend:
            report = replace(recovered.report, torn_bytes=recovered.report.torn_bytes + found.size)
            return RecoveredItems(replace(recovered, report=report), gathering.infos, found.position)
        for first in reversed([first for first in recovered.sizes if first > found.segment]):
            quarantine.take_file(f"{identity.stream}.{first}.0", segment_path(directory, first))
        _cut(files, quarantine, segment_path(directory, found.segment), found.header, identity.stream)


def _cut_rest(files: Files, quarantine: Quarantine, path: Path, size: int, log: str) -> None:
    """What stands beside the last segment and belongs to no batch."""
    with mapped(path, "look at"):
        try:
            if files.state(path).st_size <= size:
                return
        except FileNotFoundError:
            return
    _cut(files, quarantine, path, size, log)


def _cut(files: Files, quarantine: Quarantine, path: Path, position: int, log: str) -> None:
    with mapped(path, "cut"):
        fd = files.open_write(path)
        try:
            quarantine.keep_bytes(f"{log}.{path.name}.{position}", files.pread(fd, files.size(fd) - position, position))
            files.truncate(fd, position)
            files.fdatasync(fd)
        finally:
            files.close(fd)


def drop_consumed(files: Files, directory: Path, floor: int) -> None:
    """Deletes, unread, the segments whose items are all gone, and what a deletion that did not end has left.

    Raises:
        LogError: they cannot be deleted.
    """
    with mapped(directory, "list"):
        names = files.list_directory(directory)
        firsts = segments_among(names)
        gone = {first for first, following in pairwise(firsts) if following <= floor}
        for first in sorted(gone):
            files.unlink(segment_path(directory, first))
        kept = {raw_path(directory, first).name for first in firsts if first not in gone}
        for name in names:
            if name.endswith(RAW_SUFFIX) and name not in kept:
                files.unlink(directory / name)
