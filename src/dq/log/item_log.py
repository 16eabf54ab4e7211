"""The items of an embedded queue: a journal, and beside each of its segments a file for items that stand raw."""

from __future__ import annotations

import contextlib
from binascii import b2a_base64
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

from dq.config import KIB, MIB
from dq.errors import DiskFull, RecordTooLarge
from dq.log.format import encode_own_batch
from dq.log.item_lines import LOOKED_AT, NO_TEXT, RAW_BYTES_MIN, encode, sizes_of
from dq.log.journal import BATCH_BYTES_MAX, Journal
from dq.log.layout import segment_path
from dq.log.queue_file import RAW_SUFFIX

SEGMENT_BYTES = 16 * MIB
"""Disk comes back by the segment: with larger ones a short queue would keep more of it."""
LARGE_BYTES_MIN = 16 * KIB
"""Mean size from which raw items are written and read one by one."""
_PUSH_BYTES_MAX = BATCH_BYTES_MAX // 4
"""Items of so many bytes fit into a batch, however they are written."""


def raw_path(directory: Path, first: int) -> Path:
    """The file beside the segment whose first record has offset `first`."""
    return segment_path(directory, first).with_suffix(RAW_SUFFIX)


@dataclass(slots=True)
class SegmentInfo:
    """What a segment holds: bytes of items, and when its last batch was written (ms since 1970)."""

    payload: int = 0
    at: int = 0


class ItemLog(Journal):
    """Adds items; gives `infos`, a SegmentInfo for each segment by its first offset."""

    infos: dict[int, SegmentInfo]
    _raw_fd = -1

    def use(self, infos: dict[int, SegmentInfo], raw_bytes: int) -> None:
        """What recovery found: of each segment, and the bytes beside the last one."""
        self.infos = {first: infos.get(first, SegmentInfo()) for first in self.sizes}
        self._set_beside(raw_bytes)
        self._info = self.infos.get(self.segment, SegmentInfo())
        self.at = max((info.at for info in self.infos.values()), default=0)
        self._at_text = f"{self.at // 1000}.{self.at % 1000:03d}"

    def add(self, items: list[bytes], size: int) -> None:
        """Stores items, all or nothing; `size` is that of all of them. Raises as `append`, and RecordTooLarge."""
        lines = encode(items, size)
        if size > _PUSH_BYTES_MAX:
            self._check_size(size, lines)
        if lines is None:
            self._add_raw(items, size)
        else:
            self.append(lines, len(items), f',"payload":{size}')
        info = self._info
        info.payload += size
        info.at = self.at

    def add_one(self, item: bytes, size: int) -> None:
        """As `add` of one item: `encode` and `append` without the calls, which are a tenth of a push of one item."""
        if size >= RAW_BYTES_MIN or item.isascii() or not NO_TEXT.search(item, 0, LOOKED_AT):
            self.add([item], size)
            return
        if self.position >= self._full_at:
            self._prepare()
        lines, first, now = b'{"base64":"%b"}\n' % b2a_base64(item, newline=False), self.next, int(self._wall() * 1000)
        if now > self.at:
            self.at, self._at_text = now, f"{now // 1000}.{now % 1000:03d}"
        batch, crc = encode_own_batch(first, 1, lines, self._at_text, f',"payload":{size}', self._synced, self.crc)
        length = len(batch)
        try:
            if self._write_on(self._fd, batch) != length:
                self._write_rest(batch)
        except OSError as error:
            self._give_up(error)
        self.position += length
        self.crc, self.next = crc, first + 1
        if self._flushes:
            self._flush(self._fd)
            self._synced = self.next
        info = self._info
        info.payload += size
        info.at = self.at

    @staticmethod
    def _check_size(size: int, lines: bytes | None) -> None:
        if (size if lines is None else len(lines)) > BATCH_BYTES_MAX:
            raise RecordTooLarge(
                f"{size:,} bytes at once, and {_PUSH_BYTES_MAX:,} always fit: hand them in in parts, or keep it in a file"
            )

    def _add_raw(self, items: list[bytes], size: int) -> None:
        if self.position >= self._full_at:
            self._prepare()
        checksum = self._write_raw(items, size)
        if self._flushes:
            self._flush_raw()
        extra = f',"payload":{size},"raw":[{self.beside},"{checksum:08x}"]'
        try:
            self.append(sizes_of(items), len(items), extra)
        except DiskFull:
            with contextlib.suppress(OSError):
                self._put_back()
            raise
        self._set_beside(self.beside + size)

    def _write_raw(self, items: list[bytes], size: int) -> int:
        """Writes items beside the segment; returns their checksum."""
        files, checksum, position = self.files, 0, self.beside
        # Large ones one by one, each while the processor has it at hand: to join or to sum up a MiB first costs a third more.
        parts = items if size >= LARGE_BYTES_MIN * len(items) else [b"".join(items)]
        try:
            if self._raw_fd < 0:
                self._raw_fd = self._open_raw()
            for part in parts:
                checksum = crc32(part, checksum)
                files.pwritev(self._raw_fd, (part,), position)
                position += len(part)
        except OSError as error:
            self._give_up(error)
        return checksum

    def _set_beside(self, size: int) -> None:
        self.beside = size
        if self._full_at >= 0:
            self._full_at = max(self._segment_bytes - size, 0)

    def _open_raw(self) -> int:
        path = raw_path(self.directory, self.segment)
        if self.beside:
            return self.files.open_write(path)
        with contextlib.suppress(FileNotFoundError):
            self.files.unlink(path)  # of a push that did not come to its end
        return self.files.create(path)

    def _put_back(self) -> None:
        super()._put_back()
        if self._raw_fd >= 0 and self.files.size(self._raw_fd) > self.beside:
            self.files.truncate(self._raw_fd, self.beside)

    def _flush_raw(self) -> None:
        self._flush(self._raw_fd)
        if not self.beside:
            with self._flushing():
                self.files.sync_directory(self.directory)

    def begin(self, lines: bytes = b"", count: int = 0, *, flush: bool = False) -> None:
        """See `Journal.begin`."""
        super().begin(lines, count, flush=flush)
        self._close_raw()
        self._set_beside(0)
        self._info = self.infos[self.segment] = SegmentInfo(at=self.at)

    def sync(self) -> None:
        """See `Journal.sync`."""
        if self.unsynced and self._raw_fd >= 0:
            self._flush_raw()
        super().sync()

    def drop_below(self, offset: int) -> list[int]:
        """See `Journal.drop_below`."""
        gone = super().drop_below(offset)
        for first in gone:
            del self.infos[first]
        return gone

    def _paths(self, first: int) -> list[Path]:
        return [segment_path(self.directory, first), raw_path(self.directory, first)]

    def _close_raw(self) -> None:
        if self._raw_fd >= 0:
            self.files.close(self._raw_fd)
            self._raw_fd = -1

    def close(self) -> None:
        """See `Journal.close`."""
        super().close()
        self._close_raw()
