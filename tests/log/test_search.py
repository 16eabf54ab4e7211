"""A time is found in a log of any length, in few reads, and where clocks jumped."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_rig import Rig

from dq.errors import Damaged
from dq.log.bucket_log import BucketLog
from dq.log.files import Files
from dq.log.format import HEADER_BYTES_MAX
from dq.log.reader import BucketReader
from dq.log.storage import Batch

START = 1_700_000_000.0


class CountedFiles(Files):
    """Counts what is read."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes_read = 0

    def pread(self, fd: int, size: int, position: int) -> bytes:
        self.bytes_read += size
        return super().pread(fd, size, position)


def write(rig: Rig, times: Sequence[tuple[float, Sequence[float]]], segment_bytes: int = 4096) -> BucketLog:
    """One batch for each (time of commit, times of records)."""
    log = rig.open(segment_bytes=segment_bytes)
    for sequence, (committed, published) in enumerate(times):
        rig.wall = log._wall = lambda at=committed: at
        log.append(Batch("p", sequence, len(published), b"".join(b'{"at":%.3f,"payload":0}\n' % at for at in published)))
        log.commit()
    return log


def test_the_first_record_published_then_or_later_is_found_at_every_instant(rig: Rig) -> None:
    # Given batches of three, a second apart, each committed half a second after its first record
    log = write(rig, [(START + n + 0.5, [START + n, START + n + 0.1, START + n + 0.2]) for n in range(300)])
    assert len(rig.segments()) > 5
    reader = rig.reader(log.end)
    for place in (0, 1, 2, 3, 4, 5, 150, 400, 898, 899):
        at = START + place // 3 + place % 3 / 10
        assert reader.find(at) == place
        assert reader.find(at + 0.05) == place + 1
    assert reader.find(START - 100) == 0
    assert reader.find(START + 1000) == 900


def test_a_header_that_rounds_its_time_down_hides_no_record(rig: Rig) -> None:
    # Given records that were committed within the millisecond in which they were published
    moments = [START + n + 0.0003 for n in range(300)]
    log = rig.open(segment_bytes=4096)
    for sequence, moment in enumerate(moments):
        rig.wall = log._wall = lambda at=moment + 0.0001: at
        log.append(Batch("p", sequence, 1, b'{"at":%.6f,"payload":0}\n' % moment))
        log.commit()
    # When the very instant of one is looked for, it is that one
    reader = rig.reader(log.end)
    assert [reader.find(round(moments[place], 6)) for place in (0, 1, 150, 299)] == [0, 1, 150, 299]
    assert [reader.find(moments[place] + 0.0001) for place in (0, 150)] == [1, 151]


def test_a_batch_that_waited_for_its_commit_does_not_hide_what_came_later(rig: Rig) -> None:
    # Given records that were published long before they were committed, and then one that was not
    log = write(
        rig, [(START, [START]), (START + 60, [START + 1, START + 2]), (START + 61, [START + 3]), (START + 62, [START + 62])]
    )
    assert rig.reader(log.end).find(START + 50) == 4
    assert rig.reader(log.end).find(START + 62.5) == 5


def test_a_publisher_whose_clock_is_far_behind_is_not_read_to_the_end(rig: Rig) -> None:
    limits = replace(rig.limits, commit_bytes_max=1000, read_bytes=500)
    log = write(rig, [(START + n, [1.0]) for n in range(200)], segment_bytes=1 << 20)
    # Where no record says that it is as young, the first batch that was committed then is the place
    assert rig.reader(log.end, limits).find(START + 50) == 50


def test_a_record_without_a_time_counts_with_its_batch(rig: Rig) -> None:
    log = rig.open()
    log.append(Batch("p", 0, 3, b'not json\n{"payload":1}\n{"at":"x","payload":1}\n'))
    log.commit()
    assert rig.reader(log.end).find(START) == 0
    assert rig.reader(log.end).find(START + 1) == 3


def test_a_clock_that_jumped_for_a_moment_is_passed_over(rig: Rig) -> None:
    times = [START + n for n in range(200)]
    times[50] += 7 * 86_400
    log = write(rig, [(at, [at]) for at in times], segment_bytes=1 << 20)
    assert rig.reader(log.end).find(START + 100) == 100


@given(st.lists(st.sampled_from([1.0, 5.0, 600.0, -300.0, -7200.0, 86_400.0, -86_400.0]), min_size=1, max_size=60), st.data())
def test_whatever_the_clock_did_a_place_is_found(
    tmp_path_factory: pytest.TempPathFactory, steps: list[float], data: st.DataObject
) -> None:
    rig, at, times = Rig(tmp_path_factory.mktemp("log")), START, list[float]()
    for step in steps:
        at += step
        times.append(at)
    log = write(rig, [(at, [at]) for at in times], segment_bytes=600)
    wanted = data.draw(st.sampled_from(times)) + data.draw(st.sampled_from([-0.5, 0.0, 0.5]))
    found = rig.reader(log.end).find(wanted)
    assert 0 <= found <= len(times)
    if times == sorted(times):
        assert found == sum(at < wanted for at in times)
    elif found < len(times):
        assert times[found] >= wanted


def test_few_bytes_are_read_in_a_long_log(rig: Rig) -> None:
    log = rig.open(segment_bytes=1 << 20)
    line = b'{"at":%.3f,"payload":"' + b"x" * 180 + b'"}\n'
    for batch in range(400):
        at = START + batch
        log._wall = lambda at=at: at
        log.append(Batch("p", batch, 50, b"".join(line % (at - 0.5) for _ in range(50))))
        log.commit()
    files = CountedFiles()
    for batch in (0, 1, 57, 200, 399):
        reader = BucketReader(files, rig.directory, replace(rig.limits, read_bytes=100_000))
        reader.advance(log.end)
        files.bytes_read = 0
        assert reader.find(START + batch - 0.5) == 50 * batch
        assert files.bytes_read < 1_200_000 + 8 * HEADER_BYTES_MAX
        reader.close()


def test_damage_where_it_looks_is_named(rig: Rig) -> None:
    log = write(rig, [(START + n, [START + n]) for n in range(20)])
    path = rig.segments()[0]
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"payload":0}', b'"payload":1}', 1))
    with pytest.raises(Damaged, match="the checksum"):
        rig.reader(log.end).find(START)


def test_it_ends_soon_while_segments_go(rig: Rig) -> None:
    log = write(rig, [(START + n, [START + n]) for n in range(300)])
    reader = rig.reader(log.end)
    reader.read(0, 1, 1000)
    log.trim(200)
    began = time.monotonic()
    assert reader.find(START) == log.stats().first_offset
    assert time.monotonic() - began < 5
