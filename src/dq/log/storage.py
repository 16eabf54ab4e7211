"""The contract between dq and what stores a bucket: the values that pass, a writing side and a reading side.

One process writes a bucket through a `StorageWriter`, another reads what is committed through a `StorageReader`. The
suite in `tests/log/backend_conformance.py` runs over every backend.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from dq.config import LIMITS, Limits
from dq.log.files import Files
from dq.log.format import Identity
from dq.log.retention import SegmentStats
from dq.model.about import About


@dataclass(frozen=True, slots=True)
class End:
    """Where a log ends: everything before it is committed.

    Attributes:
        offset: the next record's.
        segment: first offset of the last segment.
        position: bytes in that segment.
    """

    offset: int
    segment: int
    position: int


class Batch:
    """What one publisher hands in for one bucket.

    Attributes:
        publisher: its id, `[A-Za-z0-9._:-]{1,160}`.
        sequence: number of the batch, from 0, per publisher and bucket; of one whose `about` has a key for `once` it is a
            number to be seen, and nothing is known by it.
        count: lines in `lines`.
        lines: the record lines, each ending in a newline.
        topics: the topics in it, each once; empty when no record has one.
        again: True when it may have been sent before.
        about: what its header says of all its records.
    """

    __slots__ = ("about", "again", "count", "lines", "publisher", "sequence", "topics")

    def __init__(
        self,
        publisher: str,
        sequence: int,
        count: int,
        lines: bytes | bytearray,
        topics: tuple[str, ...] = (),
        again: bool = False,
        about: About = None,
    ) -> None:
        self.publisher, self.sequence, self.count, self.lines = publisher, sequence, count, lines
        self.topics, self.again, self.about = topics, again, about


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a batch stands: offsets `first` to `first + count - 1`. `duplicate`: it stood there already."""

    first: int
    count: int
    duplicate: bool


@dataclass(frozen=True, slots=True)
class Slice:
    """Contiguous records.

    Attributes:
        first: offset of the first.
        count: how many.
        size: bytes of all parts together.
        parts: record lines as they stand in the log; a line never crosses from one part to the next.
        publishers: who published them, in their order, as (records, publisher) for each run of one publisher's.
        counts: records in each part. A part is a batch, or of one batch.
        topics: of each part, the topics that its batch names: ("*",) where they were too many, "" among them where it has
            records without one; None where no record of the batch has a topic.
        abouts: of each part, what else the header of its batch says; empty where no batch says anything.
    """

    first: int
    count: int
    size: int
    parts: list[memoryview]
    publishers: list[tuple[int, str]]
    counts: list[int] = field(default_factory=list)
    topics: list[tuple[str, ...] | None] = field(default_factory=list)
    abouts: list[About] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class StorageStats:
    """What a bucket holds: offsets from `first_offset` up to `end_offset` (not with it), in `segments` files of `bytes`."""

    first_offset: int
    end_offset: int
    segments: int
    bytes: int


@dataclass(frozen=True, slots=True)
class RecoveryReport:
    """What opening a log found: bytes that were read, bytes that were taken out and where to, and if it was clean."""

    bytes_checked: int
    torn_bytes: int
    quarantined: Path | None
    clean: bool


class StorageWriter(Protocol):
    """The writing side; used by one thread at a time.

    Attributes:
        identity: whose log it is; the epoch is set after opening, when the start was not clean.
        end: the committed end.
        report: what opening found.
        staged_bytes: what the next commit will write.
    """

    identity: Identity

    @property
    def end(self) -> End: ...

    @property
    def report(self) -> RecoveryReport: ...

    @property
    def staged_bytes(self) -> int: ...

    def append(self, batch: Batch) -> Stored:
        """Stages a batch for the next commit and says where it will stand. Changes nothing when it raises.

        Raises:
            ProtocolError: lines other than `count`, one that begins as a header does, a NUL byte, an impossible field.
            RecordTooLarge: a single record over `kept_bytes_max`.
            SequenceError: a gap, or a number that is known with other bytes.
            OutcomeUnknown: sent again, and too old to be known.
            StreamReadOnly: a flush failed before.
        """

    def commit(self) -> End:
        """Stores all that is staged with one write, all or nothing; on disk when it returns, if the durability is "sync".

        Raises:
            DiskFull: no room; nothing of it is stored, the numbers can be used again.
            SyncFailed: the disk did not confirm; the outcome is unknown and this writer takes nothing more.
        """

    @property
    def unsynced(self) -> bool:
        """Whether `sync()` has anything to do; never after a commit with durability "sync"."""

    @property
    def synced(self) -> int:
        """All before this offset is flushed."""

    def sync(self) -> None:
        """Flushes what was committed before the call. In any thread, while another one appends and commits.

        Raises:
            SyncFailed: the disk did not confirm, now or before. Never retried.
        """

    def trim(self, offset: int) -> int:
        """Deletes the segments that lie wholly below `offset`, but the last; returns how many. Raises LogError."""

    def segments(self) -> list[SegmentStats]:
        """Its segments, oldest first."""

    def clean_mark(self) -> dict[str, Any] | None:
        """What the next opening needs to skip the check, asked for at a clean stop; None if it must not be skipped."""

    def stats(self) -> StorageStats: ...

    def close(self) -> None: ...


class StorageReader(Protocol):
    """The reading side, in another process than the writer's. Nothing beyond the end it was told is ever read."""

    def advance(self, end: End) -> None:
        """Tells the committed end. One that is older than the last is ignored."""

    def read(self, first: int, count_max: int, bytes_max: int) -> Slice:
        """Records from `first` on: at least one, and no more than fit; none (`count` 0) at the end.

        Raises:
            RecordsTrimmed: `first` lies below the log's start, which is its `.first`.
            Damaged: the bytes are not what was written. LogError: they cannot be read.
        """

    def find(self, at: float) -> int:
        """The offset of the first record that was published at or after an instant; the end if there is none.

        Where clocks jumped the answer is one of the places where the time passes `at`, found in the same number of steps.

        Args:
            at: wall time in seconds since 1970.

        Raises:
            Damaged, LogError: as `read`, of the few places that are read.
        """

    def look(self) -> End:
        """The end of what is whole, found in the log itself: for a reader where no broker tells it. Changes nothing.

        Raises:
            Damaged, LogError: as `read`.
        """

    def stats(self) -> StorageStats: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class BucketPlace:
    """Where a bucket is to be kept, and how.

    Attributes:
        files: what its files are read and written by; a backend may have its own ways.
        directory: the bucket's in the data directory; it exists, and goes with the stream.
        segment_bytes, durability: as the stream's settings have them.
        options: the stream's `backend_options`.
        limits: see `dq.config`.
    """

    files: Files
    directory: Path
    segment_bytes: int = LIMITS.segment_bytes
    durability: str = "sync"
    options: Mapping[str, Any] = field(default_factory=dict)
    limits: Limits = LIMITS


class StorageBackend:
    """One way to store buckets. A subclass is never instantiated: its class methods make what does the work.

    The writing side is opened in the publisher broker's process, the reading side in those of the consumer broker and of
    readers. What it raises, besides the errors that are named there, is a `BackendFailed` to the stream's users.
    """

    @classmethod
    def open_writer(cls, place: BucketPlace, identity: Identity, clean: dict[str, Any] | None) -> StorageWriter:
        """Opens the writing side; the bucket may be new.

        Args:
            identity: whose bucket it is.
            clean: what its `clean_mark()` gave when it was last closed, None if that is not known.

        Raises:
            Damaged, LogError, SyncFailed: it cannot be opened; the stream is closed, with the reason.
        """
        raise NotImplementedError(f"{cls.__name__} has no open_writer")

    @classmethod
    def open_reader(cls, place: BucketPlace) -> StorageReader:
        """Opens the reading side. Nothing is committed yet, until `advance()` says so. Raises LogError."""
        raise NotImplementedError(f"{cls.__name__} has no open_reader")

    @classmethod
    def destroy(cls, place: BucketPlace) -> None:
        """Removes what is kept outside the bucket's directory; by default nothing. Raises OSError."""
