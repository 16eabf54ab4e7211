"""Every byte cut, every bit turned, every sector zeroed: what is served is always what was written."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from log_rig import Rig, read_all, records
from sim_files import MemoryFiles

from dq.errors import LogError, RecordsTrimmed
from dq.log.reader import BucketReader
from dq.log.storage import End

ROOT = Path("/disk")


def new_rig(contents: dict[Path, bytes]) -> Rig:
    files = MemoryFiles()
    files.add(ROOT, None)
    rig = Rig(ROOT, files)
    for path, content in contents.items():
        files.add(path, content)
    return rig


def written(batches: int, count: int, padding: int, segment_bytes: int) -> tuple[dict[Path, bytes], list[End]]:
    """A log and the end after each of its batches."""
    rig = new_rig({})
    log = rig.open(segment_bytes)
    ends = [log.end]
    for _ in range(batches):
        rig.fill(log, 1, count, padding)
        ends.append(log.end)
    files = rig.files
    assert isinstance(files, MemoryFiles)
    return {path: files.content(path) for path in rig.segments()}, ends


def test_a_log_cut_at_any_byte_keeps_its_whole_batches_and_the_bytes_that_were_cut() -> None:
    """Bad input 4, T6, R1: three segments, every byte; a second opening finds nothing to do."""
    contents, ends = written(batches=21, count=2, padding=8, segment_bytes=2000)
    paths = list(contents)
    assert len(paths) == 3
    for number, path in enumerate(paths):
        before = {kept: contents[kept] for kept in paths[:number]}
        for size in range(len(contents[path])):
            rig = new_rig(before | {path: contents[path][:size]})
            log = rig.open()
            whole = max(end.offset for end in ends if (end.segment, end.position) <= (int(path.stem), size))
            assert log.end.offset == whole, size
            assert rig.read_all(log.end) == records(0, whole, 8)
            kept = rig.files.read_whole(path, 1 << 20) if path in rig.segments() else b""
            assert kept + b"".join(rig.kept_away()) == contents[path][:size]
            log.close()
            again = rig.open()
            assert (again.end, again.report.torn_bytes) == (log.end, 0)


def served_by_reader(rig: Rig, end: End) -> bytes:
    """What a reader on its own gives until it refuses."""
    reader, found = BucketReader(rig.files, rig.directory, rig.limits), b""
    reader.advance(end)
    first = 0
    while first < end.offset:
        try:
            taken = reader.read(first, 10_000, 1 << 20)
        except (LogError, RecordsTrimmed):
            break
        found += b"".join(taken.parts)
        first += taken.count
    return found


class Bench:
    """One whole log, of which one file at a time is spoiled."""

    def __init__(self, batches: int, count: int, padding: int, segment_bytes: int) -> None:
        self.contents, self.ends = written(batches, count, padding, segment_bytes)
        self.truth = records(0, batches * count, padding)
        self.rig = new_rig(self.contents)

    def offset_left_by(self, path: Path, spoiled: bytes) -> int:
        """Asserts that nothing wrong is served, neither by a reader on its own nor after a start.

        Returns where the log ends after that; where it did before if the start was refused.
        """
        rig, end = self.rig, self.ends[-1]
        assert isinstance(rig.files, MemoryFiles)
        rig.files.add(path, spoiled)
        assert self.truth.startswith(served_by_reader(rig, end))
        try:
            log = rig.open()
        except LogError:
            rig.files.add(path, self.contents[path])
            return end.offset
        self.rig = new_rig(self.contents)
        assert sum(map(len, rig.kept_away())) == log.report.torn_bytes > 0
        assert self.truth.startswith(read_all(rig.reader(log.end), 0, log.end.offset))
        return log.end.offset


def bits_to_turn(line: bytes, place: int, every: bool) -> Iterable[int]:
    """Of a header all, and of a record every one in turn: what a checksum alone guards is guarded alike."""
    return range(8) if every or not line.startswith(b'{"at"') else (place % 8, (place + 4) % 8)


@pytest.mark.parametrize("part", range(4))
def test_no_turned_bit_is_served_and_none_costs_more_than_the_last_batch(part: int, request: pytest.FixtureRequest) -> None:
    """Bad input 5, T7, R3: 16 KiB; every bit of the headers, and of every byte of a record two, with `--every-fault` all."""
    every = request.config.getoption("--every-fault")
    bench = Bench(batches=6, count=8, padding=290, segment_bytes=9000)
    assert 16_000 < sum(map(len, bench.contents.values())) < 19_000
    assert len(bench.contents) == 2
    for path, content in bench.contents.items():
        spoiled, begin = bytearray(content), 0
        for line in content.splitlines(keepends=True):
            for place in range(begin + (part - begin) % 4, begin + len(line), 4):
                for bit in bits_to_turn(line, place // 4, every):
                    spoiled[place] ^= 1 << bit
                    assert bench.offset_left_by(path, bytes(spoiled)) >= bench.ends[-2].offset
                    spoiled[place] ^= 1 << bit
            begin += len(line)


@pytest.mark.parametrize("sector", [512, 4096])
def test_no_zeroed_sector_is_served(sector: int) -> None:
    """Bad input 6, R1: sectors of 512 and 4096 bytes, each of them."""
    bench = Bench(batches=40, count=2, padding=200, segment_bytes=9000)
    last = list(bench.contents)[-1]
    for path, content in bench.contents.items():
        for begin in range(0, len(content), sector):
            stop = min(begin + sector, len(content))
            left = bench.offset_left_by(path, content[:begin] + bytes(stop - begin) + content[stop:])
            # Zeroes at the very end are what a power cut leaves of a commit; anywhere else they are refused.
            assert left == 80 or (path == last and begin >= len(content) - sector - 600)


def test_a_reader_that_was_told_an_end_beyond_the_file_says_so() -> None:
    contents, ends = written(batches=3, count=2, padding=0, segment_bytes=9000)
    [(path, content)] = contents.items()
    rig = new_rig({path: content[:-50]})
    reader = rig.reader(ends[-1])
    with pytest.raises(LogError, match="the file ends here"):
        read_all(reader, 0, 6)
