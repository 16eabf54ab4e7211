"""A storage backend in its simplest form: a bucket is one JSON file, and each commit writes all of it anew.

It keeps the whole contract of a backend, as `tests/log/backend_conformance.py` has it, for as long as nobody dies. A batch
counts as a segment here.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any
from zlib import crc32

from dq import BucketPlace, StorageBackend
from dq.config import Limits
from dq.errors import Damaged, ProtocolError, RecordsTrimmed, RecordTooLarge
from dq.log.format import Identity, encode_topics, has_header_like
from dq.log.retention import SegmentStats
from dq.log.storage import Batch, End, RecoveryReport, Slice, StorageStats, Stored
from dq.log.window import Windows

TRIES, PAUSE_SECONDS = 50, 0.01
HEADER_BYTES_MAX = 16_384


class OneFile(StorageBackend):
    """`streams/<stream>/<bucket>/records.json`"""

    @classmethod
    def open_writer(cls, place: BucketPlace, identity: Identity, clean: dict[str, Any] | None) -> OneFileWriter:
        """See `StorageBackend.open_writer`."""
        return OneFileWriter(place.directory / "records.json", identity, clean, place.limits)

    @classmethod
    def open_reader(cls, place: BucketPlace) -> OneFileReader:
        """See `StorageBackend.open_reader`."""
        return OneFileReader(place.directory / "records.json")


def load(path: Path, tries: int) -> dict[str, Any]:
    """What the file has: `{"batches": [{"first", "lines", "publisher", "topics", "at"}, ...], "publishers": {...}}`."""
    for _ in range(tries):
        try:
            found: dict[str, Any] = json.loads(path.read_text())
            return found
        except FileNotFoundError:
            return {"batches": [], "publishers": {}}
        except ValueError:
            time.sleep(PAUSE_SECONDS)  # half of it is there: it is being written, or was when its writer died; who knows?
    raise Damaged(f"{path} is half written, and nobody is writing it: all that it had is lost")


def stats_of(batches: list[dict[str, Any]]) -> StorageStats:
    """Both sides count what the file has."""
    first = batches[0]["first"] if batches else 0
    return StorageStats(first, end_of(batches).offset, len(batches), sum(map(size_of, batches)))


def end_of(batches: list[dict[str, Any]]) -> End:
    """Where the last batch ends."""
    if not batches:
        return End(0, 0, 0)
    last = batches[-1]
    return End(last["first"] + len(last["lines"]), last["first"], size_of(last))


def size_of(batch: dict[str, Any]) -> int:
    """The bytes of its lines."""
    return sum(map(len, batch["lines"]))


class OneFileWriter:
    """The writing side."""

    def __init__(self, path: Path, identity: Identity, clean: dict[str, Any] | None, limits: Limits) -> None:
        self._path, self.identity, self._limits = path, identity, limits
        found = load(path, tries=1)  # nobody else writes it
        self._batches, self._staged = found["batches"], list[dict[str, Any]]()
        self._windows = Windows.decode(found["publishers"], limits)
        self.end, self.staged_bytes, self.unsynced = end_of(self._batches), 0, False
        self.report = RecoveryReport(0, 0, None, clean=clean == {"end": self.end.offset})

    def append(self, batch: Batch) -> Stored:
        """See `StorageWriter.append`."""
        self._check(batch)
        checksum, now = crc32(batch.lines), time.time()
        known = self._windows.find(batch.publisher, batch.sequence, checksum, batch.count, batch.again)
        if known is not None:
            return known
        first = end_of(self._staged or self._batches).offset
        self._windows.stage(batch.publisher, batch.sequence, checksum, first, batch.count, now)
        lines = batch.lines.decode(errors="surrogateescape").splitlines(keepends=True)
        kept = {"first": first, "lines": lines, "publisher": batch.publisher, "topics": list(batch.topics), "at": now}
        self._staged.append(kept)
        self.staged_bytes += len(batch.lines)
        return Stored(first, batch.count, duplicate=False)

    def _check(self, batch: Batch) -> None:
        limits, size = self._limits, len(batch.lines)
        if type(batch.sequence) is not int or batch.sequence < 0:
            raise ProtocolError(f"{batch.sequence!r} is no sequence number")
        if batch.count == 1 and size > limits.kept_bytes_max:
            raise RecordTooLarge(f"a record of {size:,} bytes; {limits.kept_bytes_max:,} are the most")
        if not batch.lines.endswith(b"\n") or batch.lines.count(b"\n") != batch.count or b"\0" in batch.lines:
            raise ProtocolError(f"a batch that says it has {batch.count!r} lines")
        if batch.count > limits.batch_records_max or (size > limits.batch_bytes_max and batch.count > 1):
            raise ProtocolError(f"a batch of {batch.count} records and {size:,} bytes is too large")
        if has_header_like(batch.lines) or len(encode_topics(batch.topics, limits.batch_topics_max)) > HEADER_BYTES_MAX:
            raise ProtocolError("a line that begins as a header does, or too many topics")

    def commit(self) -> End:
        """See `StorageWriter.commit`."""
        if self._staged:
            self._windows.keep(time.time())
            self._batches, self._staged, self.staged_bytes = self._batches + self._staged, [], 0
            self._write()
            self.end = end_of(self._batches)
        return self.end

    def _write(self) -> None:
        """The fault: from the moment in which the file is opened until it is closed, what stood in it is nowhere."""
        with self._path.open("w") as file:
            json.dump({"batches": self._batches, "publishers": self._windows.encode()}, file)

    def trim(self, offset: int) -> int:
        """See `StorageWriter.trim`."""
        before = len(self._batches)
        kept = [batch for batch in self._batches[:-1] if batch["first"] + len(batch["lines"]) > offset]
        self._batches = kept + self._batches[-1:]
        self._write()
        return before - len(self._batches)

    def segments(self) -> list[SegmentStats]:
        """See `StorageWriter.segments`."""
        return [SegmentStats(b["first"], b["first"] + len(b["lines"]), size_of(b), b["at"]) for b in self._batches]

    @property
    def synced(self) -> int:
        """See `StorageWriter.synced`. It says so, and does not even flush."""
        return self.end.offset

    def sync(self) -> None:
        """As if there were nothing to do."""

    def clean_mark(self) -> dict[str, Any]:
        """See `StorageWriter.clean_mark`."""
        return {"end": self.end.offset}

    def stats(self) -> StorageStats:
        """See `StorageWriter.stats`."""
        return stats_of(self._batches)

    def close(self) -> None:
        """Nothing is open between two commits."""


class OneFileReader:
    """The reading side: another process, which reads the whole file anew whenever there is more."""

    def __init__(self, path: Path) -> None:
        self._path, self._end, self._loaded_end = path, End(0, 0, 0), End(0, 0, 0)
        self._loaded: list[dict[str, Any]] = []

    def advance(self, end: End) -> None:
        """See `StorageReader.advance`."""
        if end.offset > self._end.offset:
            self._end = end

    @property
    def _batches(self) -> list[dict[str, Any]]:
        if self._loaded_end != self._end:
            self._loaded, self._loaded_end = load(self._path, tries=TRIES)["batches"], self._end
        return self._loaded

    def read(self, first: int, count_max: int, bytes_max: int) -> Slice:
        """See `StorageReader.read`."""
        start = self._batches[0]["first"] if self._batches else 0
        if first < start:
            trimmed = RecordsTrimmed(f"records before offset {start} are gone")
            trimmed.first = start
            raise trimmed
        taken, size = list[tuple[dict[str, Any], bytes]](), 0
        for batch, line in self._lines_from(first):
            if taken and (len(taken) == count_max or size + len(line) > bytes_max):
                break
            taken.append((batch, line))
            size += len(line)
        found = Slice(first, len(taken), size, [], [])
        for batch, group in groupby(taken, key=itemgetter(0)):
            lines = [line for _, line in group]
            found.parts.append(memoryview(b"".join(lines)))
            found.publishers.append((len(lines), batch["publisher"]))
            found.counts.append(len(lines))
            found.topics.append(tuple(batch["topics"]) or None)
        return found

    def _lines_from(self, first: int) -> Iterator[tuple[dict[str, Any], bytes]]:
        """Up to the end that was told: the file may have more."""
        for batch in self._batches:
            stop = self._end.offset - batch["first"]
            for line in batch["lines"][max(first - batch["first"], 0) : max(stop, 0)]:
                yield batch, line.encode(errors="surrogateescape")

    def look(self) -> End:
        """See `StorageReader.look`."""
        return end_of(load(self._path, tries=TRIES)["batches"])

    def find(self, at: float) -> int:
        """See `StorageReader.find`."""
        for batch in self._batches:
            for place, line in enumerate(batch["lines"]):
                if json.loads(line)["at"] >= at:
                    return int(batch["first"]) + place
        return self._end.offset

    def stats(self) -> StorageStats:
        """See `StorageReader.stats`."""
        return stats_of(self._batches)

    def close(self) -> None:
        """Nothing is open."""
