"""Commits are all or nothing, whatever the disk does, and nothing is announced that was not flushed."""

from __future__ import annotations

import errno
import os
from dataclasses import replace

import orjson
import pytest
from log_rig import Rig, record, records
from sim_files import FaultyFiles

from dq.config import LIMITS
from dq.errors import Damaged, DiskFull, LogError, OutcomeUnknown, SequenceError, StreamReadOnly, SyncFailed
from dq.log.bucket_log import BucketLog
from dq.log.files import Files
from dq.log.storage import Batch, End, Stored

NO_ROOM = [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS]


@pytest.fixture
def faulty(rig: Rig) -> FaultyFiles:
    files = rig.files = FaultyFiles()
    return files


def stage(log: BucketLog, sequence: int, count: int = 2, publisher: str = "ada") -> Stored:
    return log.append(Batch(publisher, sequence, count, records(log._next, count)))


# --- what is written -----------------------------------------------------------------------------------------------------
def test_a_commit_is_one_write_and_one_flush(rig: Rig, faulty: FaultyFiles) -> None:
    log = rig.open()
    rig.fill(log, 1)
    faulty.calls.clear()
    for sequence in range(400):
        stage(log, sequence)
    log.commit()
    assert faulty.calls == {"write_some": 1, "fdatasync": 1}


def test_a_commit_without_a_batch_touches_nothing(rig: Rig, faulty: FaultyFiles) -> None:
    log = rig.open()
    faulty.calls.clear()
    assert log.commit() == End(0, 0, 0)
    assert not faulty.calls
    assert rig.segments() == []


def test_a_new_segment_is_followed_by_a_flush_of_its_directory(rig: Rig, faulty: FaultyFiles) -> None:
    log = rig.open(segment_bytes=1)
    for sequence in range(3):
        faulty.calls.clear()
        stage(log, sequence)
        log.commit()
        assert faulty.calls == {"create": 1, "write_some": 1, "fdatasync": 1, "sync_directory": 1}
    assert len(rig.segments()) == 3


def test_more_batches_than_one_system_call_takes_are_all_written(rig: Rig) -> None:
    log = rig.open(1 << 30)
    for sequence in range(3000):
        stage(log, sequence, 1)
    log.commit()
    assert rig.read_all(log.end) == records(0, 3000)


def test_every_line_is_json_and_headers_tell_themselves_apart(rig: Rig) -> None:
    log = rig.open(segment_bytes=1500)
    rig.fill(log, 30, commit_every=3)
    lines = [orjson.loads(line) for path in rig.segments() for line in path.read_bytes().splitlines()]
    assert sum("segment" in line for line in lines) == len(rig.segments()) > 1
    assert sum("batch" in line for line in lines) == 30
    assert [line["payload"]["n"] for line in lines if "payload" in line] == list(range(60))
    assert list(lines[1]) == ["batch", "count", "bytes", "at", "publisher", "seq", "prev", "crc"]
    assert list(lines[4]) == ["batch", "count", "bytes", "at", "publisher", "seq", "synced", "prev", "crc"]


def test_files_and_directories_are_for_their_owner_alone(rig: Rig) -> None:
    log = rig.open()
    rig.fill(log, 1)
    assert rig.segments()[0].stat().st_mode & 0o777 == 0o600
    assert rig.directory.stat().st_mode & 0o777 == 0o700


def test_topics_stand_in_the_header(rig: Rig) -> None:
    log = rig.open()
    log.append(Batch("ada", 0, 1, record(0), topics=("b", "a")))
    log.append(Batch("ada", 1, 1, record(1), topics=tuple(f"t{n}" for n in range(LIMITS.batch_topics_max + 1))))
    log.append(Batch("ada", 2, 1, record(2)))
    log.commit()
    headers = [orjson.loads(line) for line in rig.segments()[0].read_bytes().splitlines() if line.startswith(b'{"batch"')]
    assert [header.get("topics") for header in headers] == [["b", "a"], ["*"], None]


# --- a full disk ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("code", NO_ROOM)
@pytest.mark.parametrize("short", [None, 1, 100, 300])
@pytest.mark.parametrize("segment_bytes", [1, 1 << 20])
def test_a_full_disk_leaves_nothing_half_written(
    rig: Rig, faulty: FaultyFiles, code: int, short: int | None, segment_bytes: int
) -> None:
    log = rig.open(segment_bytes)
    rig.fill(log, 3)
    before, mark = {path: path.read_bytes() for path in rig.segments()}, log.clean_mark()
    if short is not None:
        faulty.short_next(short)
    faulty.fail_next("write_some", code, after=short is not None)
    stage(log, 0)
    stage(log, 1)
    with pytest.raises(DiskFull):
        log.commit()
    assert {path: path.read_bytes() for path in rig.segments()} == before
    assert log.clean_mark() == mark
    assert log.staged_bytes == 0
    assert log.commit() == log.end
    # and it goes on with the same numbers, by itself
    assert stage(log, 0) == Stored(6, 2, duplicate=False)
    log.commit()
    assert rig.read_all(log.end) == records(0, 8)
    log.close()
    assert rig.open().end == log.end


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EMFILE])
def test_no_room_for_a_new_file_leaves_the_old_one_in_use(rig: Rig, faulty: FaultyFiles, code: int) -> None:
    log = rig.open(segment_bytes=1)
    rig.fill(log, 1)
    faulty.fail_next("create", code)
    stage(log, 0)
    with pytest.raises(DiskFull):
        log.commit()
    assert len(rig.segments()) == 1
    rig.fill(log, 2)
    assert rig.read_all(log.end) == records(0, 6)


def test_a_short_write_is_finished(rig: Rig, faulty: FaultyFiles) -> None:
    log = rig.open()
    for sequence, size in enumerate((1, 2, 50, 100, 200)):
        faulty.short_next(size)
        stage(log, sequence)
        log.commit()
    assert rig.read_all(log.end) == records(0, 10)


# --- a disk that fails ---------------------------------------------------------------------------------------------------
def refuses_everything(log: BucketLog, faulty: FaultyFiles, end: End) -> None:
    calls = faulty.calls.copy()
    assert log.end == end
    for act in (lambda: stage(log, 0), log.commit):
        with pytest.raises(StreamReadOnly):
            act()
    assert faulty.calls == calls
    assert log.clean_mark() is None


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("nth", range(4))
def test_a_failed_flush_is_never_tried_again_and_announces_nothing(rig: Rig, faulty: FaultyFiles, code: int, nth: int) -> None:
    log = rig.open(segment_bytes=1200)
    faulty.fail_next("fdatasync", code, after=nth)
    for sequence in range(nth):
        stage(log, sequence)
        log.commit()
    end, flushes = log.end, faulty.calls["fdatasync"]
    stage(log, nth)
    with pytest.raises(SyncFailed):
        log.commit()
    assert faulty.calls["fdatasync"] == flushes + 1
    refuses_everything(log, faulty, end)


def test_a_failed_flush_of_the_directory_is_the_same(rig: Rig, faulty: FaultyFiles) -> None:
    log = rig.open(segment_bytes=1)
    rig.fill(log, 2)
    end = log.end
    faulty.fail_next("sync_directory", errno.EIO)
    stage(log, 0)
    with pytest.raises(SyncFailed):
        log.commit()
    refuses_everything(log, faulty, end)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENXIO])
def test_a_write_that_fails_for_another_reason_is_the_same(rig: Rig, faulty: FaultyFiles, code: int) -> None:
    log = rig.open()
    rig.fill(log, 2)
    end = log.end
    faulty.fail_next("write_some", code)
    stage(log, 0)
    with pytest.raises(SyncFailed):
        log.commit()
    refuses_everything(log, faulty, end)


@pytest.mark.parametrize(("segment_bytes", "method"), [(1 << 20, "truncate"), (1, "unlink")])
def test_half_a_batch_that_cannot_be_taken_back_is_the_same(
    rig: Rig, faulty: FaultyFiles, segment_bytes: int, method: str
) -> None:
    log = rig.open(segment_bytes)
    rig.fill(log, 2)
    end = log.end
    faulty.short_next(10)
    faulty.fail_next("write_some", errno.ENOSPC, after=1)
    faulty.fail_next(method, errno.EIO)
    stage(log, 0)
    with pytest.raises(SyncFailed):
        log.commit()
    refuses_everything(log, faulty, end)
    log.close()
    assert rig.open().end == end


def test_after_a_failed_flush_a_new_start_knows_what_is_there(rig: Rig, faulty: FaultyFiles) -> None:
    log = rig.open()
    rig.fill(log, 2)
    stage(log, 0)
    faulty.fail_next("fdatasync", errno.EIO)
    with pytest.raises(SyncFailed):
        log.commit()
    log.close()
    again = rig.open()
    assert again.end.offset in (4, 6)
    assert rig.read_all(again.end) == records(0, again.end.offset)


# --- dedupe windows over restarts ----------------------------------------------------------------------------------------
def reopened(rig: Rig, log: BucketLog, how: str) -> BucketLog:
    mark = log.clean_mark() if how == "clean" else None
    log.close()
    again = rig.open(segment_bytes=1200, clean=mark)
    assert again.report.clean is (how == "clean")
    return again


@pytest.mark.parametrize("how", ["clean", "crash"])
@pytest.mark.parametrize("batches", [1, 5, 40])
def test_a_resend_gets_its_first_receipt_over_restarts_and_segments(rig: Rig, how: str, batches: int) -> None:
    log = rig.open(segment_bytes=1200)
    for sequence in range(batches):
        stage(log, sequence)
        stage(log, sequence, 1, publisher="bob")
        log.commit()
    log = reopened(rig, log, how)
    for sequence in range(max(0, batches - LIMITS.dedupe_batches), batches):
        first = 3 * sequence
        assert log.append(Batch("ada", sequence, 2, records(first, 2), again=True)) == Stored(first, 2, duplicate=True)
        assert log.append(Batch("bob", sequence, 1, record(first + 2), again=True)) == Stored(first + 2, 1, duplicate=True)
    with pytest.raises(SequenceError):
        stage(log, batches + 1)
    if batches > LIMITS.dedupe_batches:
        with pytest.raises(OutcomeUnknown):
            log.append(Batch("ada", 0, 2, records(0, 2), again=True))
    assert log.staged_bytes == 0
    assert stage(log, batches).first == 3 * batches
    log.commit()
    log = reopened(rig, log, how)
    assert log._windows.encode().keys() == {"ada", "bob"}


def test_the_windows_are_the_same_by_mark_and_by_reading(rig: Rig) -> None:
    rig.limits = replace(LIMITS, dedupe_batches=3)
    log = rig.open(segment_bytes=1200)
    for number in range(60):
        stage(log, number // 7, 1, publisher=f"p{number % 7}")
        if number % 3 == 0:
            log.commit()
    log.commit()
    mark = log.clean_mark()
    log.close()
    assert mark is not None
    read = rig.open().clean_mark()
    assert read is not None
    assert {name: window[1:] for name, window in read["publishers"].items()} == {
        name: window[1:] for name, window in mark["publishers"].items()
    }
    assert {key: value for key, value in read.items() if key != "publishers"} == {
        key: value for key, value in mark.items() if key != "publishers"
    }


# --- the clean mark ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "change",
    [
        {"segment": 1}, {"position": 7}, {"bytes": 7}, {"crc": "xyz"}, {"offset": -1}, {"publishers": {"a": 1}},
        {"publishers": None},
        {"position": "9"},
    ],
)  # fmt: skip
def test_a_mark_that_does_not_fit_is_not_believed(rig: Rig, change: dict[str, object]) -> None:
    log = rig.open()
    rig.fill(log, 3)
    mark = log.clean_mark()
    assert mark is not None
    log.close()
    again = rig.open(clean={**mark, **change})
    assert not again.report.clean
    assert again.end == log.end


def test_a_clean_start_reads_nothing(rig: Rig) -> None:
    log = rig.open(segment_bytes=1200)
    rig.fill(log, 30)
    mark = log.clean_mark()
    log.close()
    files = rig.files = FaultyFiles()
    again = rig.open(clean=mark)
    assert again.report.clean
    assert set(files.calls) == {"list_directory", "state"}
    assert again.stats() == log.stats()
    rig.fill(again, 3)
    assert rig.read_all(again.end) == records(0, 66)


def test_what_is_staged_is_in_no_mark(rig: Rig) -> None:
    log = rig.open()
    stage(log, 0)
    assert log.clean_mark() is None


# --- the rest ------------------------------------------------------------------------------------------------------------
def test_each_deletion_is_flushed_before_the_next(rig: Rig, faulty: FaultyFiles) -> None:
    log = rig.open(segment_bytes=1)
    rig.fill(log, 6)
    faulty.fail_next("unlink", errno.EIO, after=2)
    with pytest.raises(LogError):
        log.trim(12)
    assert faulty.calls["unlink"] == 3
    assert log.stats().first_offset == 4
    assert log.trim(12) == 3


def test_a_segment_that_another_program_wrote_to_is_not_written_to(rig: Rig) -> None:
    rig.files = Files(open_files_max=1)
    log = rig.open()
    rig.fill(log, 2)
    log.close()
    with open(rig.segments()[0], "ab") as file:
        file.write(b"x")
    stage(log, 0)
    with pytest.raises(Damaged, match="another program"):
        log.commit()
    with pytest.raises(StreamReadOnly):
        stage(log, 0)


def test_many_logs_keep_few_files_open(tmp_path: object, rig: Rig) -> None:
    rig.files = Files(open_files_max=3)
    logs = []
    for number in range(10):
        rig.directory = rig.root / "streams" / "emails" / str(number)
        rig.directory.mkdir(exist_ok=True, mode=0o700)
        logs.append(rig.open())
    for sequence in range(3):
        for log in logs:
            stage(log, sequence)
            log.commit()
            assert len(rig.files.opened) <= 3
    opened = {int(fd) for fd in os.listdir("/proc/self/fd")}
    for log in logs:
        log.close()
    assert len(rig.files.opened) == 0
    assert len(opened) - len(os.listdir("/proc/self/fd")) == 3
