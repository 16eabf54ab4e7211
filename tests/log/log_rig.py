"""A bucket's log to play with: opens it, fills it with records that can be recognised, reads it back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

from dq.config import LIMITS, Limits
from dq.log.bucket_log import BucketLog
from dq.log.files import Files
from dq.log.format import Identity, encode_batch, seal
from dq.log.reader import BucketReader
from dq.log.storage import Batch, End

UUID = "5b1d0c9e-0000-4000-8000-000000000001"


def record(number: int, padding: int = 0) -> bytes:
    return b'{"at":1.5,"payload":{"n":%d,"pad":"%s"}}\n' % (number, b"x" * padding)


def records(first: int, count: int, padding: int = 0) -> bytes:
    return b"".join(record(number, padding) for number in range(first, first + count))


class Rig:
    """Stream "emails", bucket 0, below `root`."""

    def __init__(self, root: Path, files: Files | None = None, limits: Limits = LIMITS) -> None:
        self.root, self.limits = root, limits
        self.files = files or Files()
        self.directory = root / "streams" / "emails" / "0"
        self.quarantine = root / "quarantine"
        self.wall: Callable[[], float] = lambda: 1_700_000_000.0
        path = root
        for part in ("streams", "emails", "0"):
            path = path / part
            self.files.make_directory(path)

    def open(
        self, segment_bytes: int = 4096, clean: dict[str, Any] | None = None, epoch: int = 1, durability: str = "sync"
    ) -> BucketLog:
        identity = Identity("emails", 0, UUID, epoch)
        return BucketLog.open(
            self.files, self.directory, identity, segment_bytes, clean, self.limits, self.wall, durability=durability
        )

    def fill(self, log: BucketLog, batches: int, count: int = 2, padding: int = 0, commit_every: int = 1) -> None:
        """Batches of one publisher, numbered on from where the log ends."""
        for number in range(batches):
            first = log._next
            log.append(Batch("filler", first // count, count, records(first, count, padding)))
            if number % commit_every == commit_every - 1:
                log.commit()
        log.commit()

    def reader(self, end: End, limits: Limits | None = None) -> BucketReader:
        reader = BucketReader(self.files, self.directory, limits or self.limits)
        reader.advance(end)
        return reader

    def read_all(self, end: End, first: int = 0) -> bytes:
        return read_all(self.reader(end), first, end.offset)

    def segments(self) -> list[Path]:
        return [self.directory / name for name in self.files.list_directory(self.directory) if name.endswith(".jsonl")]

    def kept_away(self) -> list[bytes]:
        """What is in quarantine."""
        try:
            names = self.files.list_directory(self.quarantine)
        except FileNotFoundError:
            return []
        return [self.files.read_whole(self.quarantine / name, 1 << 30) for name in names]


def three_segments(rig: Rig) -> Rig:
    """Fills the log with three segments, 60 records in batches of two."""
    log = rig.open(segment_bytes=2600)
    rig.fill(log, 30)
    log.close()
    assert len(rig.segments()) == 3
    return rig


def read_all(reader: BucketReader, first: int, end: int, count_max: int = 10_000, bytes_max: int = 1 << 20) -> bytes:
    """All records from `first` to `end`, joined; closes the reader."""
    found = []
    while first < end:
        taken = reader.read(first, count_max, bytes_max)
        assert taken.first == first
        assert taken.count >= 1
        assert taken.size == sum(map(len, taken.parts))
        assert sum(count for count, _ in taken.publishers) == taken.count
        found += taken.parts
        first += taken.count
    reader.close()
    return b"".join(found)


def batch_bytes(first: int, lines: bytes, prev: int = 0, publisher: str = "p", sequence: int = 0, extra: bytes = b"") -> bytes:
    """A whole batch as it stands in a file."""
    header, _ = encode_batch(first, lines.count(b"\n"), len(lines), 1.5, publisher, sequence, extra, prev, crc32(lines))
    return header + lines


def sealed(head: bytes, lines: bytes = b"") -> bytes:
    """A batch with any header at all, under a right checksum."""
    return seal(head, crc32(lines))[0] + lines
