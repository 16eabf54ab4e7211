"""Streams that are not flushed at every commit: what they may lose, and what they may not."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import orjson
import pytest
from log_rig import Rig, record, records
from sim_files import FaultyFiles, FileNode, MemoryFiles

from dq.errors import Damaged, StreamReadOnly, SyncFailed
from dq.log.storage import Batch

LAX = pytest.mark.parametrize("durability", ["interval", "os"])


@LAX
def test_a_commit_does_not_flush_and_a_sync_does(tmp_path: Path, durability: str) -> None:
    files = FaultyFiles()
    log = Rig(tmp_path, files).open(durability=durability)
    log.append(Batch("ada", 0, 1, record(0)))
    log.commit()  # the first one begins a segment, which is on disk
    assert not log.unsynced
    before = files.calls["fdatasync"]
    for sequence in range(1, 6):
        log.append(Batch("ada", sequence, 1, record(sequence)))
        log.commit()
    assert (files.calls["fdatasync"], log.unsynced, log.clean_mark()) == (before, True, None)
    log.sync()
    log.sync()
    assert (files.calls["fdatasync"], log.unsynced) == (before + 1, False)
    assert log.clean_mark() is not None


def test_with_sync_every_commit_flushes_and_nothing_is_left_for_later(tmp_path: Path) -> None:
    files = FaultyFiles()
    log = Rig(tmp_path, files).open()
    for sequence in range(3):
        log.append(Batch("ada", sequence, 1, record(sequence)))
        log.commit()
        assert not log.unsynced
    assert files.calls["fdatasync"] == 3


@LAX
def test_a_segment_is_on_disk_before_the_next_one_begins(tmp_path: Path, durability: str) -> None:
    files = MemoryFiles()
    for path in (tmp_path, tmp_path / "streams", tmp_path / "streams/emails", tmp_path / "streams/emails/0"):
        files.add(path, None)
    rig = Rig(tmp_path, files)
    log = rig.open(segment_bytes=500, durability=durability)
    rig.fill(log, 60)
    segments = rig.segments()
    assert len(segments) > 5
    for path in segments[:-1]:
        assert files.power_cut(random.Random(0)).content(path) == files.content(path)
        node = files._find(path)
        assert isinstance(node, FileNode)
        assert not node.dirty


@LAX
def test_a_batch_says_up_to_where_the_log_was_on_disk(tmp_path: Path, durability: str) -> None:
    rig = Rig(tmp_path)
    log = rig.open(durability=durability)
    for sequence in range(4):
        log.append(Batch("ada", sequence, 1, record(sequence)))
        log.commit()
        if sequence == 1:
            log.sync()
    headers = [orjson.loads(line) for line in rig.segments()[0].read_bytes().splitlines() if line.startswith(b'{"batch"')]
    assert [header.get("synced", header["batch"]) for header in headers] == [0, 1, 2, 2]


@LAX
def test_any_power_cut_leaves_whole_batches_and_at_least_what_was_flushed(tmp_path: Path, durability: str) -> None:
    """400 seeds: sectors and directory entries that were not flushed come or go by chance; the log always opens."""
    cut_back = 0
    for seed in range(400):
        chance = random.Random(seed)
        files = MemoryFiles()
        for path in (tmp_path, tmp_path / "streams", tmp_path / "streams/emails", tmp_path / "streams/emails/0"):
            files.add(path, None)
        written: list[bytes] = []
        flushed, ends = 0, {0}
        for life in range(4):
            rig = Rig(tmp_path, files)
            log = rig.open(segment_bytes=2500, epoch=life + 1, durability=durability)
            assert flushed <= log.end.offset <= len(written), seed
            assert log.end.offset in ends, seed
            cut_back += len(written) - log.end.offset
            del written[log.end.offset :]
            assert rig.read_all(log.end) == b"".join(written), seed
            for commit in range(chance.randint(1, 10)):
                for batch in range(chance.randint(1, 4)):
                    lines = [record(chance.getrandbits(40), chance.choice((0, 30, 700))) for _ in range(chance.randint(1, 4))]
                    log.append(Batch(f"p{life}.{commit}.{batch}", 0, len(lines), b"".join(lines)))
                    written += lines
                    ends.add(len(written))
                log.commit()
                if chance.random() < 0.25:
                    log.sync()
                if not log.unsynced:
                    flushed = log.end.offset
            files = files.power_cut(chance)
    assert cut_back > 100, "the power cuts cut nothing, so nothing was shown"


@LAX
def test_a_failed_flush_is_never_tried_again(tmp_path: Path, durability: str) -> None:
    files = FaultyFiles()
    log = Rig(tmp_path, files).open(durability=durability)
    for sequence in range(2):
        log.append(Batch("ada", sequence, 1, record(sequence)))
        log.commit()
    files.fail_next("fdatasync", errno.EIO)
    with pytest.raises(SyncFailed):
        log.sync()
    calls = files.calls["fdatasync"]
    with pytest.raises(StreamReadOnly):
        log.sync()
    with pytest.raises(StreamReadOnly):
        log.append(Batch("ada", 2, 1, record(2)))
    assert files.calls["fdatasync"] == calls


@LAX
def test_a_hole_in_what_was_flushed_is_damage_all_the_same(tmp_path: Path, durability: str) -> None:
    rig = Rig(tmp_path)
    log = rig.open(segment_bytes=1 << 20, durability=durability)
    rig.fill(log, 40, padding=300)
    log.sync()
    log.append(Batch("late", 0, 1, record(1)))
    log.commit()
    log.close()
    [segment] = rig.segments()
    content = bytearray(segment.read_bytes())
    content[2048:4096] = bytes(2048)
    segment.write_bytes(content)
    with pytest.raises(Damaged, match="was written after it was on disk"):
        rig.open(epoch=2, durability=durability)
    assert segment.read_bytes() == content


@LAX
def test_a_kill_alone_costs_nothing(tmp_path: Path, durability: str) -> None:
    rig = Rig(tmp_path)
    rig.fill(rig.open(durability=durability), 30)
    again = rig.open(epoch=2, durability=durability)
    assert again.end.offset == 60
    assert rig.read_all(again.end) == records(0, 60)
    assert not again.unsynced
