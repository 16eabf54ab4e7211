"""Reading what is committed: in order, in pieces, from old places, while the log grows and is trimmed."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from log_rig import Rig, read_all, record, records
from sim_files import FaultyFiles

from dq.config import LIMITS
from dq.errors import Damaged, LogError, RecordsTrimmed
from dq.log.files import Files
from dq.log.format import HEADER_BYTES_MAX
from dq.log.reader import BucketReader
from dq.log.storage import Batch, End

SMALL = replace(LIMITS, read_bytes=1000, index_bytes=2000)


class CountedFiles(Files):
    """Counts what is read from segments."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[tuple[int, int]] = []

    def pread(self, fd: int, size: int, position: int) -> bytes:
        self.reads.append((size, position))
        return super().pread(fd, size, position)


@pytest.fixture
def counted(rig: Rig) -> CountedFiles:
    rig.files = files = CountedFiles()
    return files


def batches_of(sizes: Sequence[int], rig: Rig, segment_bytes: int = 1 << 20) -> End:
    log = rig.open(segment_bytes)
    for sequence, count in enumerate(sizes):
        log.append(Batch(f"p{sequence // 2}", sequence % 2, count, records(log.end.offset, count)))
        log.commit()
    return log.end


# --- pieces --------------------------------------------------------------------------------------------------------------
def test_a_read_may_span_small_batches_and_stop_inside_one(rig: Rig) -> None:
    reader = rig.reader(batches_of([2, 3, 10, 1], rig))
    taken = reader.read(0, 8, 1 << 20)
    assert (taken.first, taken.count, len(taken.parts)) == (0, 8, 3)
    assert b"".join(taken.parts) == records(0, 8)
    assert taken.publishers == [(5, "p0"), (3, "p1")]
    taken = reader.read(8, 100, 1 << 20)
    assert b"".join(taken.parts) == records(8, 8)
    assert taken.publishers == [(8, "p1")]
    assert reader.read(16, 100, 1 << 20).count == 0


def test_whole_batches_are_handed_out_without_a_copy(rig: Rig) -> None:
    reader = rig.reader(batches_of([5, 5], rig))
    first, second = reader.read(0, 10, 1 << 20).parts
    assert first.obj is second.obj
    assert len(first.obj) > len(first) + len(second)


@pytest.mark.parametrize("bytes_max", [0, 1, 38, 39, 77, 78, 79, 400])
def test_bytes_are_bounded_but_for_the_first_record(rig: Rig, bytes_max: int) -> None:
    reader, first = rig.reader(batches_of([3, 1, 6], rig)), 0
    while first < 10:
        taken = reader.read(first, 100, bytes_max)
        assert taken.size == len(records(first, taken.count))
        assert taken.count == 1 or taken.size <= bytes_max
        assert first + taken.count == 10 or taken.size + len(record(first + taken.count)) > bytes_max or taken.count >= 1
        first += taken.count


def test_lines_that_are_not_json_are_served_as_they_are(rig: Rig) -> None:
    log = rig.open()
    lines = [b"\n", b"\r\n", b"not json\r\xff\n", b" \n", b'{"batch"\n']
    log.append(Batch("p", 0, len(lines), b"".join(lines)))
    end = log.commit()
    assert [b"".join(rig.reader(end).read(n, 1, 1000).parts) for n in range(5)] == lines


# --- sequence ------------------------------------------------------------------------------------------------------------
def test_a_sequential_read_reads_each_byte_about_once(rig: Rig, counted: CountedFiles) -> None:
    end = batches_of([1] * 200, rig, 4000)
    reader = rig.reader(end, replace(SMALL, read_bytes=2000))
    counted.reads.clear()
    read_all(reader, 0, 200, bytes_max=300)
    size = sum(path.stat().st_size for path in rig.segments())
    assert sum(size for size, _ in counted.reads) < 3 * size


def test_retries_of_old_records_do_not_disturb_the_sequence(rig: Rig, counted: CountedFiles) -> None:
    end = batches_of([1] * 300, rig, 8000)
    reader = rig.reader(end)
    reader.read(0, 150, 1 << 20)
    before = reader._ahead
    for old in (5, 3, 140, 60, 5):
        assert b"".join(reader.read(old, 1, 1000).parts) == record(old)
    counted.reads.clear()
    assert reader.read(150, 1, 1 << 20).count == 1
    assert counted.reads == []
    assert reader._ahead is before
    for old in (5, 6, 7, 8):
        reader.read(old, 1, 1000)
    assert len(counted.reads) <= 2


def test_a_jump_ahead_makes_that_the_sequence(rig: Rig, counted: CountedFiles) -> None:
    reader = rig.reader(batches_of([1] * 300, rig, 8000))
    reader.read(0, 10, 1 << 20)
    reader.read(250, 10, 1 << 20)
    reader.read(5, 1, 1 << 20)
    counted.reads.clear()
    assert reader.read(260, 1, 1 << 20).count == 1
    assert counted.reads == []


def test_it_follows_the_end_and_never_passes_it(rig: Rig) -> None:
    log, reader = rig.open(segment_bytes=1500), BucketReader(rig.files, rig.directory)
    assert reader.read(0, 10, 1000).count == 0
    for round_ in range(60):
        log.append(Batch("p", round_, 2, records(2 * round_, 2)))
        end = log.commit()
        log.append(Batch("q", 0, 1, record(9)))  # staged only
        assert reader.read(2 * round_, 10, 1000).count == 0
        if round_ % 3 == 0:
            log._drop_staged()
            reader.advance(end)
            assert b"".join(reader.read(2 * round_, 10, 1000).parts) == records(2 * round_, 2)
        else:
            log._drop_staged()
            reader.advance(end)
            assert reader.read(2 * round_, 10, 1000).count == 2
    reader.advance(End(4, 0, 300))
    assert reader.stats().end_offset == 120


def test_ends_that_were_skipped_over_segments_do_no_harm(rig: Rig) -> None:
    log, reader = rig.open(segment_bytes=600), BucketReader(rig.files, rig.directory)
    first = 0
    for round_ in range(10):
        rig.fill(log, 9)
        reader.advance(log.end)
        while first < log.end.offset - (round_ < 9):
            first += reader.read(first, 5, 300).count
    assert read_all(reader, 0, 180) == records(0, 180)


# --- memory --------------------------------------------------------------------------------------------------------------
def test_memory_is_flat_over_a_backlog(rig: Rig) -> None:
    end = batches_of([10] * 400, rig, 30_000)
    reader = rig.reader(end, SMALL)
    most = first = 0
    while first < end.offset:
        first += reader.read(first, 7, 1000).count
        most = max(most, len(reader._ahead.chunk) + len(reader._aside.chunk))
    size = sum(path.stat().st_size for path in rig.segments())
    assert most <= 2 * SMALL.read_bytes
    assert len(reader._index_offsets) <= size / SMALL.index_bytes + 1
    assert len(reader._ahead.batches) < 10


def test_old_places_are_found_by_the_index(rig: Rig, counted: CountedFiles) -> None:
    end = batches_of([10] * 400, rig, 60_000)
    reader = rig.reader(end, SMALL)
    first = 0
    while first < end.offset:
        first += reader.read(first, 100, 10_000).count
    for old in range(0, 4000, 397):
        counted.reads.clear()
        assert b"".join(reader.read(old, 1, 1000).parts) == record(old)
        assert sum(size for size, _ in counted.reads) <= SMALL.index_bytes + 3 * SMALL.read_bytes + HEADER_BYTES_MAX


def test_files_of_old_segments_are_closed(rig: Rig) -> None:
    reader = rig.reader(batches_of([10] * 100, rig, 2000))
    opened = len(os.listdir("/proc/self/fd"))
    read = 0
    while read < 1000:
        read += reader.read(read, 10, 1000).count
        assert len(os.listdir("/proc/self/fd")) <= opened + 2
    reader.close()
    assert len(rig.files.opened) == 1  # the writer's


# --- trim ----------------------------------------------------------------------------------------------------------------
def test_below_the_start_it_says_where_the_log_begins(rig: Rig) -> None:
    log = rig.open(segment_bytes=1000)
    rig.fill(log, 30)
    reader = rig.reader(log.end)
    reader.read(0, 1, 1000)
    log.trim(30)
    first = log.stats().first_offset
    with pytest.raises(RecordsTrimmed) as caught:
        reader.read(first - 1, 10, 1000)
    assert caught.value.first == first
    assert reader.read(first, 10, 1000).count == 10
    assert reader.stats() == log.stats()


def test_a_segment_that_goes_while_it_is_read_is_trimmed_too(rig: Rig) -> None:
    log = rig.open(segment_bytes=1000)
    rig.fill(log, 30)
    reader = rig.reader(log.end, replace(LIMITS, read_bytes=300))
    found = reader.read(0, 1, 1000).count
    log.trim(40)
    with pytest.raises(RecordsTrimmed) as caught:
        read_all(reader, found, 60)
    assert caught.value.first == log.stats().first_offset


# --- damage --------------------------------------------------------------------------------------------------------------
def spoil(path: Path, old: bytes, new: bytes) -> int:
    content = path.read_bytes()
    place = content.index(old)
    path.write_bytes(content.replace(old, new, 1))
    return place


def test_what_lies_before_damage_is_served_and_damage_is_named(rig: Rig) -> None:
    end = batches_of([2] * 10, rig)
    place = spoil(rig.segments()[0], b'"n":11', b'"n":91')
    start = rig.segments()[0].read_bytes().rindex(b'{"batch":', 0, place)
    reader = rig.reader(end)
    taken = reader.read(0, 100, 1 << 20)
    assert b"".join(taken.parts) == records(0, 10)
    for _ in range(2):
        with pytest.raises(Damaged, match=f"{rig.segments()[0]}, byte {start}: .*--truncate-at {start}"):
            reader.read(10, 100, 1 << 20)
    assert reader.read(3, 4, 1 << 20).count == 4
    with pytest.raises(Damaged):
        reader.read(15, 1, 1000)


def test_a_missing_segment_is_damage(rig: Rig) -> None:
    end = batches_of([2] * 20, rig, 1000)
    rig.segments()[1].unlink()
    reader = rig.reader(end)
    first = reader.read(0, 1000, 1 << 20).count
    with pytest.raises(Damaged, match="missing"):
        reader.read(first, 1, 1000)


def test_a_file_that_shrinks_or_is_replaced_is_noticed(rig: Rig) -> None:
    log = rig.open(1 << 20)
    rig.fill(log, 10)
    reader = rig.reader(log.end)
    reader.read(0, 2, 1000)
    path = rig.segments()[0]
    content = path.read_bytes()
    rig.fill(log, 1)
    path.rename(path.with_suffix(".old"))
    path.write_bytes(content)
    reader.close()
    reader.advance(log.end)
    with pytest.raises(Damaged, match="the file ends here"):
        read_all(reader, 0, log.end.offset)


def test_a_segment_of_another_log_is_not_read(rig: Rig, tmp_path: Path) -> None:
    end = batches_of([2] * 20, rig, 1000)
    second = rig.segments()[1]
    spoil(second, b'"uuid":"5b', b'"uuid":"6b')
    with pytest.raises(Damaged):
        read_all(rig.reader(end), 0, end.offset)


def test_an_error_of_the_disk_is_a_log_error_and_may_pass(rig: Rig) -> None:
    end = batches_of([2] * 20, rig)
    files = rig.files = FaultyFiles()
    reader = rig.reader(end)
    files.fail_next("pread", errno.EIO)
    with pytest.raises(LogError, match="Input/output error") as caught:
        reader.read(0, 1, 1000)
    assert not isinstance(caught.value, Damaged)
    assert read_all(reader, 0, 40) == records(0, 40)


def test_a_fifo_in_place_of_a_segment_does_not_hang(rig: Rig) -> None:
    end = batches_of([2], rig)
    rig.segments()[0].unlink()
    os.mkfifo(rig.directory / f"{0:020d}.jsonl")
    with pytest.raises(Damaged, match="not a plain file"):
        rig.reader(end).read(0, 1, 1000)
