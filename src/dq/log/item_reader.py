"""The items of an embedded queue, read by its owner: batch after batch, a quarter of a MiB in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self
from zlib import crc32

import orjson

from dq.config import KIB
from dq.errors import Damaged
from dq.log.files import mapped
from dq.log.format import Malformed
from dq.log.item_lines import cut, decode, decode_sizes, is_raw
from dq.log.item_log import LARGE_BYTES_MIN, ItemLog, raw_path
from dq.log.journal import BATCH_BYTES_MAX
from dq.log.layout import repair_hint, segment_path
from dq.log.recovery import damaged, read_segment_header
from dq.log.scan import Flaw, Seen, Walk

_READ_BYTES = 256 * KIB


class ItemReader:
    """Reads the batches of an item log, one after the other; whoever holds the log's lock may use it.

    Args:
        log: what is read, up to its end.
        offset: where it begins: before the batch that has it.
    """

    __slots__ = ("_base", "_chunk", "_index", "_log", "_position", "_seen", "_segment", "_walk")

    def __init__(self, log: ItemLog, offset: int | None = None) -> None:
        self._log = log
        self._walk = Walk(0, None, BATCH_BYTES_MAX)
        self._segment = self._position = self._base = self._index = 0
        self._chunk = b""
        self._seen: list[Seen] = []
        if offset is not None:
            self.seek(offset)

    @classmethod
    def at(cls, log: ItemLog, segment: int, position: int, offset: int) -> Self:
        """Stands before the batch that begins at `position` of a segment, 0 for its first, and has `offset` as its first."""
        made = cls(log)
        made._place(segment)
        made._walk.offset, made._position = offset, position
        return made

    def seek(self, offset: int) -> int:
        """Stands before the batch that has `offset`, or at the end. Returns the bytes of items before it in its segment.

        Raises:
            Damaged, LogError: as `peek`.
        """
        self._place(max((first for first in self._log.sizes if first <= offset), default=self._log.first))
        passed = 0
        while (batch := self.peek()) is not None and batch[0] + batch[1] <= offset:
            passed += self.payload()
            self.step()
        return passed

    def _place(self, segment: int) -> None:
        self._walk.offset, self._walk.crc = segment, None
        self._segment, self._position, self._base = segment, 0, 0
        self._chunk, self._seen, self._index = b"", [], 0

    @property
    def place(self) -> tuple[int, int, int]:
        """Where it stands, as `at` takes it; no batch that `peek` has not given yet is before it."""
        if self._index == len(self._seen):
            return self._segment, self._position, self._walk.offset
        before = self._seen[self._index - 1][3] if self._index else 0
        return self._segment, self._base + before, self._seen[self._index][0]

    @property
    def segment(self) -> int:
        """The segment that it reads."""
        return self._segment

    def peek(self) -> Seen | None:
        """The next batch; None at the end.

        Raises:
            Damaged: the bytes are not what was written. LogError: they cannot be read.
        """
        if self._index == len(self._seen) and not self._fill():
            return None
        return self._seen[self._index]

    def step(self) -> None:
        """Goes over the batch that `peek` gave."""
        self._index += 1

    def payload(self) -> int:
        """Bytes of the items of the batch that `peek` gave."""
        return int(self._fields()["payload"])

    def items(self) -> list[bytes]:
        """The items of the batch that `peek` gave. Raises Damaged, LogError."""
        _first, _count, start, stop, *_ = self._seen[self._index]
        lines = self._chunk[start:stop]
        try:
            return self._raw_items(lines) if is_raw(lines) else decode(lines)
        except Malformed as error:
            raise damaged(segment_path(self._log.directory, self._segment), 0, f"lines that are whole, but {error}") from error

    def several(self, count_max: int) -> list[bytes]:
        """As `items`, and those of the batches after it in memory, if they are as short; steps over all of them.

        One call decodes many batches of one item each.
        """
        seen, begin, kind = self._seen, self._index, self._chunk[self._seen[self._index][2]]
        until, left = begin + 1, count_max - seen[begin][1]
        while until < len(seen) and left > 0 and self._chunk[seen[until][2]] == kind:
            left -= seen[until][1]
            until += 1
        if until == begin + 1 or kind not in b'"{':
            items = self.items()
            self._index += 1
            return items
        lines = b"".join([self._chunk[batch[2] : batch[3]] for batch in seen[begin:until]])
        try:
            items = decode(lines)
        except Malformed as error:
            raise damaged(segment_path(self._log.directory, self._segment), 0, f"lines that are whole, but {error}") from error
        self._index = until
        return items

    def _fields(self) -> dict[str, Any]:
        start = self._seen[self._index - 1][3] if self._index else 0
        fields: dict[str, Any] = orjson.loads(self._chunk[start : self._seen[self._index][2]])
        return fields

    def _raw_items(self, lines: bytes) -> list[bytes]:
        sizes, (position, checksum) = decode_sizes(lines), self._fields()["raw"]
        path, size = raw_path(self._log.directory, self._segment), sum(sizes)
        if size < LARGE_BYTES_MIN * len(sizes):
            content = self._pread(path, size, position)
            items, found = cut(content, sizes), crc32(content)
        else:
            items, found = self._large_items(path, sizes, position)
        if sum(map(len, items)) != size or f"{found:08x}" != checksum:
            raise damaged_raw(path, position, size, self.place[1])
        return items

    def _large_items(self, path: Path, sizes: list[int], position: int) -> tuple[list[bytes], int]:
        """Each by a read of its own: to cut them out of one would copy them."""
        items, found, pread = [], 0, self._log.files.pread
        with mapped(path, "read"), self._log.kept(path) as fd:
            for size in sizes:
                item = pread(fd, size, position)
                found = crc32(item, found)
                items.append(item)
                position += size
        return items, found

    def _pread(self, path: Path, size: int, position: int) -> bytes:
        with mapped(path, "read"), self._log.kept(path) as fd:
            return self._log.files.pread(fd, size, position)

    def _fill(self) -> bool:
        """Reads the next chunk that has a batch; False at the end of the log."""
        log, need = self._log, 0
        self._seen, self._index = [], 0
        if self._segment not in log.sizes:
            self._place(log.first)  # where it stood was deleted, and what it goes on with is the first that is left
        while not self._seen:
            size = log.position if self._segment == log.segment else log.sizes.get(self._segment, 0)
            if self._position >= size and self._position:
                if self._segment == log.segment:
                    self._chunk = b""
                    return False
                self._segment, self._position = self._walk.offset, 0
                continue
            if not size:
                return False
            need = self._read_chunk(size, need)
        return True

    def _read_chunk(self, size: int, need: int) -> int:
        path = segment_path(self._log.directory, self._segment)
        if not self._position:
            self._position = self._header_bytes(path, size)
        asked = min(max(_READ_BYTES, need), size - self._position)
        chunk = self._pread(path, asked, self._position)
        if len(chunk) < asked:
            raise damaged(path, self._position + len(chunk), f"the file ends here, and {size} bytes of it were written")
        taken, broken = self._walk.over(chunk, 0, self._seen)
        if not self._seen and broken is not None and (broken.flaw is not Flaw.SHORT or self._position + asked == size):
            raise damaged(path, self._position + taken, broken.why)
        self._chunk, self._base = chunk, self._position
        self._position += taken
        return broken.need or 2 * asked if broken is not None else 0

    def _header_bytes(self, path: Path, size: int) -> int:
        with mapped(path, "read"), self._log.kept(path) as fd:
            try:
                return read_segment_header(self._log.files, fd, size, path)[1]
            except Malformed as error:
                raise damaged(path, 0, f"the segment header is not what was written: {error}") from error


def damaged_raw(path: Path, position: int, size: int, header: int) -> Damaged:
    """The error for wrong bytes in a file of raw items, of the batch whose header is at byte `header` of the segment."""
    return Damaged(
        f"{path}, byte {position}: the {size} bytes of a batch of items are not what was written. Nothing was changed; only "
        f"this queue is closed. {repair_hint(path.with_suffix('.jsonl'), header)}"
    )
