"""`ReaderStream`: a stream as one reader has it. It takes in what the broker tells of it, also that it lost its end."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dq.client.bucket_cursor import BucketCursor, Filter
from dq.client.fetcher import Fetcher
from dq.config import LIMITS
from dq.errors import Damaged
from dq.log.backend import BucketPlace, End, StorageReader, backend_of
from dq.log.fetched import FetchedReader
from dq.log.files import Files
from dq.log.gone_file import read_gone
from dq.log.layout import REPAIR, Layout
from dq.log.stream_file import read_stream
from dq.model.epoch import EpochStart
from dq.model.settings import BY_CLASS, StreamSettings
from dq.model.start import Start

Choose = Callable[[str, int], list[int]]


@dataclass(frozen=True, slots=True)
class Told:
    """What is known of a stream at a moment: as its broker describes it, or as its directory has it."""

    name: str
    uuid: str
    epoch: int
    starts: tuple[EpochStart, ...]
    settings: StreamSettings
    firsts: Sequence[int]
    ends: Sequence[End]
    removed: Mapping[int, Sequence[tuple[int, int]]]

    @classmethod
    def by_broker(cls, opened: dict[str, Any]) -> Told:
        """What the publisher broker tells."""
        removed: dict[int, list[tuple[int, int]]] = {}
        for bucket, first, stop in opened.get("removed", ()):
            removed.setdefault(bucket, []).append((first, stop))
        return cls(
            opened["stream"],
            opened["uuid"],
            opened["epoch"],
            tuple(EpochStart(epoch, tuple(ends), accepted) for epoch, ends, accepted in opened["starts"]),
            StreamSettings.from_dict(opened["settings"]),
            opened["firsts"],
            [End(*end) for end in opened["ends"]],
            removed,
        )


class Shelf:
    """Where a reader's logs are, and what it wants of them."""

    def __init__(self, root: Path, wanted: Filter, choose: Choose) -> None:
        self.root, self.wanted, self.choose = root, wanted, choose
        self._fetcher = Fetcher(root)
        self._files, self._layout = Files(_OPEN_FILES_MAX), Layout(root)

    def log(self, stream: str, bucket: int, settings: StreamSettings) -> StorageReader:
        """Opens the log of a bucket. Raises InvalidSetting, BackendFailed: its backend cannot be read from here."""
        if settings.durability == BY_CLASS:
            return FetchedReader(partial(self._fetcher.fetch, stream, bucket))
        place = BucketPlace(self._files, self._layout.bucket(stream, bucket), options=settings.options, limits=LIMITS)
        return backend_of(settings).open_reader(place)

    def close(self) -> None:
        """Gives up the connection that it may have to the publisher broker."""
        self._fetcher.close()

    def look(self, name: str) -> Told:
        """What the directory has of a stream.

        Raises:
            FileNotFoundError: no such stream. Damaged, LogError.
        """
        found = read_stream(self._files, self.root, name)
        gone = read_gone(self._files, self.root, found)
        firsts, ends = [], []
        for bucket in range(found.settings.bucket_count):
            log = self.log(name, bucket, found.settings)
            try:
                ends.append(log.look())
                log.advance(ends[-1])
                firsts.append(max(log.stats().first_offset, gone.marks[bucket]))
            finally:
                log.close()
        return Told(name, found.uuid, found.epoch, found.starts, found.settings, firsts, ends, dict(enumerate(gone.removed)))

    def place(self, stream: str) -> str:
        """The directory of a stream, for a command line."""
        return shlex.quote(str(self._layout.stream(stream)))


_OPEN_FILES_MAX = 128


class ReaderStream:
    """One stream of a reader.

    Attributes:
        name: of the stream.
        cursors: of the buckets that are read.
    """

    def __init__(self, shelf: Shelf, told: Told, start: Start | None) -> None:
        self.name, self._shelf, self.cursors = told.name, shelf, list[BucketCursor]()
        self._make(told, start)

    def _make(self, told: Told, start: Start | None) -> None:
        """Stands in each bucket where `start` says; None: at the first record."""
        self.uuid = told.uuid
        chosen = self._shelf.choose(self.name, told.settings.bucket_count)
        if start is not None:
            start.check_over({self.name: chosen})
        for cursor in self.cursors:
            cursor.close()
        self.cursors = []
        for bucket in chosen:
            log = self._shelf.log(self.name, bucket, told.settings)
            self.cursors.append(BucketCursor(self.name, bucket, log, self._shelf.wanted, told.epoch))
        self._take_in(told)
        for cursor in self.cursors:
            cursor.began = cursor.first if start is None else self._offset(cursor, start)
            cursor.stand(cursor.began)

    def _offset(self, cursor: BucketCursor, start: Start) -> int:
        return start.offset(self.name, cursor.bucket, cursor.first, cursor.end, cursor.find)

    def tell(self, told: Told) -> int:
        """Takes in what is known now. Returns how many records are gone that had been read, as the durability allows."""
        if told.uuid != self.uuid:  # it was destroyed and made anew
            self._make(told, None)
            return 0
        lost = sum(self._begin_epoch(cursor, told) for cursor in self.cursors if told.epoch > cursor.epoch)
        self._take_in(told)
        return lost

    def _take_in(self, told: Told) -> None:
        self._told = told
        for cursor in self.cursors:
            if cursor.epoch == told.epoch:
                cursor.gone(told.firsts[cursor.bucket], told.removed.get(cursor.bucket, ()))
                cursor.tell(told.ends[cursor.bucket])

    def _begin_epoch(self, cursor: BucketCursor, told: Told) -> int:
        """The stream was opened anew after an unclean stop: did it lose what was read?"""
        lossy, offset = told.settings.durability != "sync", cursor.offset
        for start in sorted(told.starts):
            end = start.ends[cursor.bucket]
            if start.epoch > cursor.epoch and end < offset:
                if not (lossy or start.accepted):
                    cursor.broken = Damaged(
                        f"stream {self.name!r}, bucket {cursor.bucket} ended at offset {end} when it was opened, and this "
                        f"reader stood at {offset}: its log lost its end; restore it from a backup, or accept the loss: "
                        f"{REPAIR} {self._shelf.place(self.name)} --accept-loss, or seek() to another place"
                    )
                    return 0
                offset = end
        lost = cursor.offset - offset
        self._renew(cursor, told)
        cursor.stand(offset)
        return lost

    def _renew(self, cursor: BucketCursor, told: Told) -> None:
        """What was read ahead may not be there any more."""
        cursor.epoch, cursor.broken = told.epoch, None
        cursor.begin_epoch(self._shelf.log(self.name, cursor.bucket, told.settings))

    def committed(self, bucket: int, end: End, epoch: int) -> BucketCursor | None:
        """More of a bucket is committed. Returns its cursor, if it is read."""
        for cursor in self.cursors:
            if cursor.bucket == bucket and cursor.epoch == epoch:
                cursor.tell(end)
                return cursor
        return None

    def seek(self, start: Start) -> None:
        """Stands where `start` says; also what could not go on does."""
        for cursor in self.cursors:
            if cursor.broken is not None:
                self._renew(cursor, self._told)
        self._take_in(self._told)
        offsets = [self._offset(cursor, start) for cursor in self.cursors]  # all, or none where one of them cannot be found
        for cursor, offset in zip(self.cursors, offsets, strict=True):
            cursor.stand(offset)

    def offsets(self) -> list[int]:
        """The next offset of each bucket of the stream; 0 for those that are not read."""
        by_bucket = {cursor.bucket: cursor.offset for cursor in self.cursors}
        return [by_bucket.get(bucket, 0) for bucket in range(self._told.settings.bucket_count)]

    def close(self) -> None:
        """Closes its logs."""
        for cursor in self.cursors:
            cursor.close()
