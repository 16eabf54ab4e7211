"""A large log, windows of neighbouring segments out of it, and a judge who knows what was written.

Recovery accepts a log that begins later than at 0, and one that was written no further: so any neighbouring segments of a
log are a log themselves. By that a damage costs the reading of three segments and not of sixteen mebibytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import orjson
import pytest
from log_rig import Rig, read_all
from sim_files import MemoryFiles

import dq.log.scan
from dq.config import LIMITS
from dq.errors import Damaged, LogError, NewerFormat, RecordsTrimmed
from dq.log.format import segment_name
from dq.log.reader import BucketReader
from dq.log.storage import Batch, End

ROOT = Path("/disk")
SEGMENT_BYTES = 64 << 10
SMALL_CHUNK_BYTES = 20_000
"""Batches lie across chunks of this size; the real ones are larger than a window."""
SMALL_READS = replace(LIMITS, read_bytes=8_000, index_bytes=16_000)


@dataclass(frozen=True, slots=True)
class Written:
    """A batch: its offsets, its bytes in its segment, and up to which offset the log was on disk when it was written."""

    first: int
    count: int
    begin: int
    lines: int
    stop: int
    synced: int


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment as it was written."""

    first: int
    content: bytes
    batches: list[Written]

    @property
    def name(self) -> str:
        return segment_name(self.first)

    @property
    def head(self) -> bytes:
        """Its first line."""
        return self.content[: self.batches[0].begin]

    @property
    def end(self) -> int:
        return self.batches[-1].first + self.batches[-1].count


def parsed(first: int, content: bytes) -> Segment:
    """Goes over a segment by what its headers say, without any code of dq."""
    batches, begin = [], content.index(b"\n") + 1
    while begin < len(content):
        lines = content.index(b"\n", begin) + 1
        fields = orjson.loads(content[begin:lines])
        stop = lines + fields["bytes"]
        offset = fields["batch"]
        batches.append(Written(offset, fields["count"], begin, lines, stop, fields.get("synced", offset)))
        begin = stop
    return Segment(first, content, batches)


def write_log(chance: Random, size: int) -> list[Segment]:
    """A log of `size` bytes at least: batches of 1 to 500 records by five publishers, one to four of them in a commit."""
    files = MemoryFiles()
    files.add(ROOT, None)
    rig = Rig(ROOT, files)
    log = rig.open(SEGMENT_BYTES)
    numbers, written = dict.fromkeys("abcde", 0), 0
    while written < size:
        for _ in range(chance.choice((1, 1, 1, 2, 4))):
            publisher, first = chance.choice("abcde"), log._next
            count = chance.choice((1, 2, 10, 60, 250, 500, chance.randint(1, 500)))
            width = chance.randint(0, 12)
            lines = b"".join(
                b'{"at":1.5,"payload":{"n":%d,"pad":"%s"}}\n' % (n, b"x" * width) for n in range(first, first + count)
            )
            topics = ("red",) if chance.random() < 0.2 else ()
            log.append(Batch(publisher, numbers[publisher], count, lines, topics))
            numbers[publisher] += 1
            written += len(lines)
        log.commit()
    return [parsed(int(path.stem), files.content(path)) for path in rig.segments()]


class Window:
    """Neighbouring segments of a log, as a log of their own."""

    def __init__(self, segments: list[Segment]) -> None:
        self.segments = segments
        self.first, self.end = segments[0].first, segments[-1].end
        self.files = {segment.name: segment.content for segment in segments}
        self.truth = b"".join(s.content[b.lines : b.stop] for s in segments for b in s.batches)
        # Where in `truth` each batch begins, by its first offset; and where the last one ends.
        self.places, place = {}, 0
        for segment in segments:
            for batch in segment.batches:
                self.places[batch.first] = place
                place += batch.stop - batch.lines
        self.places[self.end] = place

    @property
    def last(self) -> Segment:
        return self.segments[-1]


def fresh(files: dict[str, bytes]) -> Rig:
    """A log in memory that has these files."""
    disk = MemoryFiles()
    disk.add(ROOT, None)
    rig = Rig(ROOT, disk)
    for name, content in files.items():
        disk.add(rig.directory / name, content)
    return rig


class Judge:
    """Says what became of a damaged log, and fails where anything was served or cut that may not be."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def verdict(self, window: Window, files: dict[str, bytes], *, small: bool) -> str:
        """One of "refused", "cut", "shorter" (by whole batches or segments that are missing at an end) or "whole"."""
        self._monkeypatch.setattr(dq.log.scan, "_CHUNK_BYTES", SMALL_CHUNK_BYTES if small else 4 << 20)
        rig = fresh(files)
        self._read_on_its_own(rig, window, small=small)
        try:
            log = rig.open(SEGMENT_BYTES)
        except (Damaged, NewerFormat) as error:
            self._check_refusal(rig, files, str(error))
            return "refused"
        log.close()
        first, end = log.stats().first_offset, log.end
        if end.offset != first:
            limits = SMALL_READS if small else LIMITS
            served = read_all(rig.reader(end, limits), first, end.offset)
            assert served == window.truth[window.places[first] : window.places[end.offset]]
        self._check_what_is_left(rig, window, files, end)
        if log.report.quarantined is None:
            assert left_over(rig) == files
            return "whole" if (first, end.offset) == (window.first, window.end) else "shorter"
        self._check_cut(rig, window, files, end)
        return "cut"

    @staticmethod
    def _read_on_its_own(rig: Rig, window: Window, *, small: bool) -> None:
        """A reader that was told the true end serves true records until it refuses."""
        reader = BucketReader(rig.files, rig.directory, SMALL_READS if small else LIMITS)
        reader.advance(End(window.end, window.last.first, len(window.last.content)))
        offset, place = window.first, 0
        try:
            while offset < window.end:
                taken = reader.read(offset, 10_000, 1 << 20)
                served = b"".join(taken.parts)
                assert served == window.truth[place : place + len(served)]
                assert taken.count == served.count(b"\n") > 0
                offset, place = offset + taken.count, place + len(served)
        except (LogError, RecordsTrimmed):
            pass
        reader.close()

    @staticmethod
    def _check_refusal(rig: Rig, files: dict[str, bytes], message: str) -> None:
        """The message names a file and is no longer than people read; nothing has changed."""
        assert f"{rig.directory}/" in message
        assert len(message) < 2_000
        assert left_over(rig) == files
        assert rig.kept_away() == []

    @staticmethod
    def _check_what_is_left(rig: Rig, window: Window, files: dict[str, bytes], end: End) -> None:
        """Every segment that is left is as it was written, the last one up to a batch; one that came from elsewhere is not
        among them."""
        originals = {segment.name: segment.content for segment in window.segments}
        left = left_over(rig)
        for name, content in left.items():
            if name == segment_name(end.segment):
                assert originals[name].startswith(content)
                assert len(content) == end.position
            else:
                assert content == originals[name]

    @staticmethod
    def _check_cut(rig: Rig, window: Window, files: dict[str, bytes], end: End) -> None:
        """What was cut is kept to the byte, nothing of it was confirmed, and a second opening finds nothing to do."""
        left, [kept] = left_over(rig), rig.kept_away()
        [name] = [name for name, content in files.items() if left.get(name) != content]
        assert name == max(files)
        assert left.get(name, b"") + kept == files[name]
        for segment in window.segments:
            for batch in segment.batches:
                if batch.synced > end.offset:
                    assert segment.content[batch.begin : batch.stop] not in kept, f"{batch} was written after {end} was on disk"
        again = rig.open(SEGMENT_BYTES)
        assert (again.end, again.report.torn_bytes) == (end, 0)


def left_over(rig: Rig) -> dict[str, bytes]:
    """The segments as they stand now."""
    files = rig.files
    assert isinstance(files, MemoryFiles)
    return {path.name: files.content(path) for path in rig.segments()}


def table(rows: Iterable[tuple[str, dict[str, int]]], columns: list[str]) -> str:
    """Figures by row and column, for people."""
    lines = [f"{'':24}" + "".join(f"{column:>10}" for column in columns)]
    lines += [f"{row:24}" + "".join(f"{figures.get(column, 0):>10,}" for column in columns) for row, figures in rows]
    return "\n".join(lines)
