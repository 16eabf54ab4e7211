"""The streams of a directory, read as readers do: what is committed, without a broker and without changing a byte."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from dq.config import LIMITS, MIB
from dq.errors import LogError, RecordsTrimmed, UnknownStream
from dq.history.events import Place
from dq.log.backend import BucketPlace, StorageReader, backend_of
from dq.log.files import Files, mapped
from dq.log.gone_file import read_gone
from dq.log.layout import Layout
from dq.log.reader import BucketReader
from dq.log.stream_file import read_stream
from dq.mend.look import LookingFiles, look_at_bucket
from dq.model.about import About
from dq.model.names import near_names
from dq.model.settings import BY_CLASS

JSON = "json"
_PIECE_BYTES = 4 * MIB
_PIECE_RECORDS = 10_000
_AHEAD_BYTES = MIB // 4
_CLOCKS_SECONDS = 1.0
"""By so much the clocks of a publisher and of the broker, or one and the same a little later, are taken to differ."""


TRIES = 5
"""A broker may delete a segment while it is read; then all is looked at once more."""


def trimmed_meanwhile(root: Path) -> LogError:
    """The error where that happens each time."""
    return LogError(f"{root}: segments go faster than they are read; try again")


class Batch(NamedTuple):
    """What a batch says of its records; `at`: when it was committed, None where its backend does not tell."""

    first: int
    records: int
    publisher: str
    at: float | None
    about: About


class Found(NamedTuple):
    """A record that was found; `fields` is empty for a line that is no JSON object."""

    place: Place
    fields: dict[str, Any]
    batch: Batch

    @property
    def at(self) -> float | None:
        """When it was published, as it says itself."""
        at = self.fields.get("at")
        return at if type(at) in (int, float) else None

    @property
    def due(self) -> float | None:
        """When it was to come, where it was delayed."""
        due = self.fields.get("due")
        return due if type(due) in (int, float) else None


class StreamLook:
    """One stream.

    Attributes:
        name: of the stream.
        buckets: how many it has, those of its priorities with them; `lane_buckets`: of each priority.
        uuid: which one of its name it is.
        tells: whether its records can be read from here: not where a class of the user's own keeps them for the broker alone.
    """

    def __init__(self, files: Files, root: Path, name: str) -> None:
        self._files, self._root, self.name = files, root, name
        self._found = read_stream(files, root, name)
        self._gone = read_gone(files, root, self._found)
        self.buckets = self._found.settings.bucket_count
        self.uuid, self.lane_buckets = self._found.uuid, self._found.settings.buckets
        self.tells = self._found.settings.durability != BY_CLASS
        self._readers: dict[int, StorageReader] = {}
        self._ends: dict[int, int] = {}

    def _reader(self, bucket: int) -> StorageReader:
        reader = self._readers.get(bucket)
        if reader is None:
            directory = Layout(self._root).bucket(self.name, bucket)
            place = BucketPlace(self._files, directory, options=self._found.settings.options, limits=LIMITS)
            reader = backend_of(self._found.settings).open_reader(place)
            end = reader.look()
            reader.advance(end)
            self._readers[bucket], self._ends[bucket] = reader, end.offset
        return reader

    def end(self, bucket: int) -> int:
        """The first offset that is not committed."""
        self._reader(bucket)
        return self._ends[bucket]

    def check_end(self, bucket: int) -> None:
        """Whether the log really ends where readers take it to end: a reader stops before a last batch that is not whole.

        Raises:
            Damaged, NewerFormat, LogError: it goes on, and what follows is damaged; as a start of the broker would say.
        """
        if self._found.settings.backend == JSON:
            look_at_bucket(LookingFiles(), self._root, self._found, bucket)

    def first(self, bucket: int) -> int:
        """The first record that may be read."""
        return max(self._reader(bucket).stats().first_offset, self._gone.marks[bucket])

    def is_removed(self, place: Place) -> bool:
        """Whether a record was taken out."""
        return self._gone.has(place[1], place[2])

    def record(self, bucket: int, offset: int) -> Found | None:
        """One record, also if it was taken out and stands there still; None where it is gone, or not there yet."""
        if not self.tells or not 0 <= bucket < self.buckets or offset < self._gone.marks[bucket]:
            return None
        reader = self._reader(bucket)
        try:
            found = reader.read(offset, 1, _PIECE_BYTES)
        except RecordsTrimmed:
            return None
        if not found.count or found.first != offset:
            return None
        fields = _fields(b"".join(found.parts))
        about = found.abouts[0] if found.abouts else None
        plain = Found((self.name, bucket, offset), fields, Batch(offset, 1, found.publishers[0][1], None, about))
        return plain._replace(batch=plain.batch._replace(at=self._committed(reader, plain)))

    def ahead(self, bucket: int, first: int, stop: int) -> Iterator[Found]:
        """The records of a range that are there and were not taken out; of each batch nothing is told but what it says of them.

        Raises:
            Damaged, LogError: it cannot be read.
        """
        offset = max(first, self.first(bucket)) if self.tells and 0 <= bucket < self.buckets else stop
        while offset < stop:
            reader = self._reader(bucket)
            try:
                found = reader.read(offset, min(stop - offset, _PIECE_RECORDS), _AHEAD_BYTES)
            except RecordsTrimmed as error:
                offset = max(error.first, offset + 1)
                continue
            if not found.count:
                return
            for part, about, count in zip(found.parts, found.abouts or repeat(None), found.counts, strict=False):
                for line in bytes(part).split(b"\n")[:count]:
                    if not self._gone.has(bucket, offset):
                        yield Found((self.name, bucket, offset), _fields(line), Batch(offset, 1, "", None, about))
                    offset += 1

    def _committed(self, reader: StorageReader, found: Found) -> float | None:
        """When the batch that has a record was committed."""
        if not isinstance(reader, BucketReader):
            return None
        offset, since = found.place[2], max(found.at or 0.0, found.due or 0.0) - _CLOCKS_SECONDS
        for begin in (since, 0.0):  # the latter, where a clock was far off
            for batch in self._batches(reader, begin):
                if batch.first <= offset < batch.first + batch.records:
                    return batch.at
                if batch.first > offset:
                    break
        return None

    def batches(self, bucket: int, since: float | None) -> Iterator[Batch]:
        """The batches that were committed at `since` or later, and some before; all, where it is None."""
        if self.tells:
            yield from self._batches(self._reader(bucket), 0.0 if since is None else since - _CLOCKS_SECONDS)

    @staticmethod
    def _batches(reader: StorageReader, since: float) -> Iterator[Batch]:
        if isinstance(reader, BucketReader):
            for seen in reader.batches_since(since):
                for first, count, _start, _stop, publisher, _sequence, _checksum, at, _topics, about in seen:
                    yield Batch(first, count, publisher, at, about)
            return
        first = max(reader.find(since), reader.stats().first_offset)
        while (found := reader.read(first, _PIECE_RECORDS, _PIECE_BYTES)).count:
            for place, (count, publisher) in enumerate(_runs(found.counts, found.publishers)):
                yield Batch(first, count, publisher, None, found.abouts[place] if found.abouts else None)
                first += count

    def records(self, bucket: int, batch: Batch) -> Iterator[Found]:
        """The records of a batch."""
        reader, offset, stop = self._reader(bucket), batch.first, batch.first + batch.records
        while offset < stop:
            found = reader.read(offset, stop - offset, _PIECE_BYTES)
            if not found.count:
                return
            for line in b"".join(found.parts).split(b"\n")[: found.count]:
                yield Found((self.name, bucket, offset), _fields(line), batch)
                offset += 1

    def end_at(self, bucket: int, at: float) -> int | None:
        """The first offset that was not committed at a moment; None where that is not kept any more."""
        if not self.tells:
            return None
        reader, end = self._reader(bucket), self._ends[bucket]
        if isinstance(reader, BucketReader):
            later = (batch.first for batch in self._batches(reader, at) if batch.at is not None and batch.at > at)
            then = next(later, None)
        else:
            then = reader.find(at)
        if then is None or then == end:
            return end
        return then if then > reader.stats().first_offset or not then else None

    def close(self) -> None:
        """Closes its files."""
        for reader in self._readers.values():
            reader.close()


def _runs(counts: list[int], publishers: list[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Records and publisher of each part of a slice. No part is of two publishers."""
    runs = iter(publishers)
    left, publisher = next(runs)
    for count in counts:
        while not left:
            left, publisher = next(runs)
        yield count, publisher
        left -= count


def _fields(line: bytes) -> dict[str, Any]:
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError:
        return {}
    return fields if isinstance(fields, dict) else {}


class Shelf:
    """All streams of a directory, each opened when it is asked for; a context manager."""

    def __init__(self, files: Files, root: Path) -> None:
        self.files, self.root = files, root
        self._looks: dict[str, StreamLook | None] = {}

    def look(self, name: str) -> StreamLook | None:
        """A stream; None where there is none. Raises Damaged, NewerFormat, LogError."""
        if name not in self._looks:
            try:
                self._looks[name] = StreamLook(self.files, self.root, name)
            except (FileNotFoundError, NotADirectoryError):
                self._looks[name] = None
        return self._looks[name]

    def stream(self, name: str) -> StreamLook:
        """A stream that is there. Raises UnknownStream."""
        look = self.look(name)
        if look is None:
            known = [] if not self.root.is_dir() else self._names()
            where = f"in {self.root}" if self.root.is_dir() else f"and no directory {self.root}"
            raise UnknownStream(f"there is no stream {name!r} {where}: {near_names(name, known, 'streams')}")
        return look

    def _names(self) -> list[str]:
        layout = Layout(self.root)
        try:
            with mapped(layout.streams, "list"):
                names = self.files.list_directory(layout.streams)
        except LogError:
            return []
        return [name for name in names if layout.stream_file(name).is_file()]

    def __enter__(self) -> Shelf:
        return self

    def __exit__(self, *_: object) -> None:
        for look in self._looks.values():
            if look is not None:
                look.close()
