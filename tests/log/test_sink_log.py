"""A sink's own log: notes come back in order, snapshots replace what was before, a full disk does not stop acks."""

from __future__ import annotations

import errno
import os
import random
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from sim_files import FaultyFiles, MemoryFiles, UnsyncedFiles

from dq.config import KIB, LIMITS
from dq.errors import Damaged, DiskFull, LogError, SyncFailed
from dq.log.directories import make_directory
from dq.log.files import Files
from dq.log.sink_log import SinkLog

SMALL = replace(LIMITS, sink_segment_bytes=2000, reserve_bytes=64 * KIB)


class Desk:
    """The log of the sink "mailers" below `root`."""

    def __init__(self, root: Path, files: Files | None = None) -> None:
        self.root, self.files = root, files or Files()
        self.directory = root / "sinks" / "mailers"
        make_directory(self.files, root / "sinks")

    def open(self) -> tuple[SinkLog, list[dict[str, Any]]]:
        return SinkLog.open(self.files, self.directory, "mailers", SMALL)

    def numbers(self) -> list[int]:
        log, notes = self.open()
        log.close()
        return [note["n"] for note in notes]

    def segments(self) -> list[Path]:
        return [self.directory / name for name in self.files.list_directory(self.directory) if name.endswith(".jsonl")]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def note(number: int) -> bytes:
    return b'{"n":%d}\n' % number


def write(log: SinkLog, *numbers: int) -> None:
    log.append([note(number) for number in numbers])
    log.write()


# --- notes ---------------------------------------------------------------------------------------------------------------
def test_a_new_log_has_no_notes(desk: Desk) -> None:
    assert desk.numbers() == []
    assert desk.numbers() == []


def test_notes_come_back_in_order_without_a_flush(desk: Desk) -> None:
    log, _ = desk.open()
    write(log, 0, 1)
    write(log)
    log.append([note(2)])
    write(log, 3)
    assert desk.numbers() == [0, 1, 2, 3]
    log.close()
    log, notes = desk.open()
    write(log, len(notes))
    assert desk.numbers() == [0, 1, 2, 3, 4]


def test_the_log_is_json_lines_that_name_their_sink(desk: Desk) -> None:
    log, _ = desk.open()
    write(log, 0, 1)
    lines = [orjson.loads(line) for line in desk.segments()[0].read_bytes().splitlines()]
    assert lines[0]["sink"] == "mailers"
    assert "stream" not in lines[0]
    assert lines[1]["publisher"] == "sink:mailers"
    assert lines[2:] == [{"n": 0}, {"n": 1}]


@pytest.mark.parametrize("notes", [[b"{}"], [b"{}\n{}\n"], [b"{}\n", b""]])
def test_a_note_must_be_one_line(desk: Desk, notes: list[bytes]) -> None:
    log, _ = desk.open()
    log.append(notes)
    with pytest.raises(ValueError):
        log.write()


def test_writing_goes_on_while_another_thread_flushes(desk: Desk) -> None:
    begun, go = threading.Event(), threading.Event()

    class SlowFiles(Files):
        def fdatasync(self, fd: int) -> None:
            begun.set()
            assert go.wait(10)
            super().fdatasync(fd)

    log, _ = desk.open()
    log._files = SlowFiles()
    write(log, 0)
    thread = threading.Thread(target=log.sync)
    thread.start()
    assert begun.wait(10)
    write(log, 1, 2)
    assert log._synced == 0
    go.set()
    thread.join()
    assert log._synced == 1
    assert desk.numbers() == [0, 1, 2]


# --- rolling -------------------------------------------------------------------------------------------------------------
def test_a_snapshot_replaces_all_before_it(desk: Desk) -> None:
    log, _ = desk.open()
    write(log, *range(1000))
    assert log.full
    log.append([note(7)])
    log.roll([note(-1), note(-2)])
    assert not log.full
    assert len(desk.segments()) == 1
    write(log, 5)
    assert desk.numbers() == [-1, -2, 5]
    log.roll([note(-3)])
    assert desk.numbers() == [-3]


@pytest.mark.parametrize("method", ["unlink", "sync_directory"])
def test_old_segments_go_only_after_the_snapshot_is_on_disk(desk: Desk, method: str) -> None:
    files = desk.files = FaultyFiles()
    log, _ = desk.open()
    write(log, 1, 2)
    calls: list[str] = []
    for name in ("create", "write_some", "fdatasync", "sync_directory", "unlink"):
        original = getattr(files, name)
        setattr(files, name, lambda *a, name=name, original=original: (calls.append(name), original(*a))[1])  # type: ignore[misc]
    log.roll([note(3)])
    assert calls == ["fdatasync", "create", "write_some", "fdatasync", "sync_directory", "unlink", "sync_directory"]


def test_a_segment_without_its_snapshot_does_not_count(desk: Desk) -> None:
    desk.files = UnsyncedFiles()
    log, _ = desk.open()
    write(log, 1, 2)
    log.sync()
    before = desk.segments()[0].read_bytes()
    log.roll([note(3), note(4)])
    log.close()
    [path] = desk.segments()
    whole = path.read_bytes()
    old = desk.directory / f"{0:020d}.jsonl"
    for size in range(len(whole)):
        old.write_bytes(before)
        path.write_bytes(whole[:size])
        os.chmod(old, 0o600)
        os.chmod(path, 0o600)
        assert desk.numbers() == [1, 2], size
        log, _ = desk.open()
        write(log, 9)
        log.close()
        assert desk.numbers() == [1, 2, 9], size
    old.write_bytes(before)
    path.write_bytes(whole)
    os.chmod(path, 0o600)
    assert desk.numbers() == [3, 4]
    assert desk.segments() == [path]


# --- torn and damaged ----------------------------------------------------------------------------------------------------
def test_a_torn_tail_costs_the_last_notes_and_nothing_else(desk: Desk) -> None:
    """R10, T6, bad input 4: every byte of a sink's log."""
    desk.files = UnsyncedFiles()
    log, _ = desk.open()
    ends = []
    for number in range(20):
        write(log, number)
        ends.append(log._position)
    log.close()
    whole = desk.segments()[0].read_bytes()
    first = whole.index(b"\n") + 1
    for size in range(first, len(whole)):
        desk.segments()[0].write_bytes(whole[:size])
        assert desk.numbers() == list(range(sum(end <= size for end in ends)))
    kept = os.listdir(desk.root / "quarantine")
    assert all(name.startswith("sink:mailers.0.") for name in kept)


def test_damage_is_refused(desk: Desk) -> None:
    log, _ = desk.open()
    write(log, 1, 2)
    write(log, 3)
    path = desk.segments()[0]
    path.write_bytes(path.read_bytes().replace(b'"n":2', b'"n":7'))
    with pytest.raises(Damaged, match="--truncate-at"):
        desk.open()


def test_whole_notes_that_are_not_json_are_damage(desk: Desk) -> None:
    log, _ = desk.open()
    log.append([b"{}\n", b"nothing\n"])
    log.write()
    with pytest.raises(Damaged, match="not JSON"):
        desk.open()


def test_the_log_of_another_sink_is_refused(desk: Desk) -> None:
    log, _ = desk.open()
    write(log, 1)
    with pytest.raises(Damaged, match="sink 'mailers'"):
        SinkLog.open(desk.files, desk.directory, "others", SMALL)


# --- the disk ------------------------------------------------------------------------------------------------------------
def test_a_full_disk_takes_the_reserve_and_goes_on(desk: Desk) -> None:
    files = desk.files = FaultyFiles()
    log, _ = desk.open()
    reserve = desk.root / "sinks" / "reserve"
    assert reserve.stat().st_size == SMALL.reserve_bytes
    write(log, 0)
    files.short_next(30)
    files.fail_next("write_some", errno.ENOSPC, after=1)
    write(log, 1, 2)
    assert not reserve.exists()
    assert desk.numbers() == [0, 1, 2]
    log.sync()
    assert reserve.exists()  # there is room again


def test_without_a_reserve_a_full_disk_is_said_and_nothing_is_lost(desk: Desk) -> None:
    files = desk.files = FaultyFiles()
    log, _ = desk.open()
    write(log, 0)
    (desk.root / "sinks" / "reserve").unlink()
    size = desk.segments()[0].stat().st_size
    files.short_next(30)
    files.fail_next("write_some", errno.ENOSPC, after=1)
    with pytest.raises(DiskFull):
        write(log, 1)
    assert desk.segments()[0].stat().st_size == size
    log.write()
    assert desk.numbers() == [0, 1]


@pytest.mark.parametrize("method", ["create", "write_some"])
def test_a_roll_without_room_leaves_the_old_segment_in_use(desk: Desk, method: str) -> None:
    files = desk.files = FaultyFiles()
    log, _ = desk.open()
    write(log, 0)
    (desk.root / "sinks" / "reserve").unlink()
    files.fail_next(method, errno.ENOSPC)
    files.fail_next(method, errno.ENOSPC, after=1)
    with pytest.raises(DiskFull):
        log.roll([note(5)])
    files.faults.clear()
    write(log, 1)
    assert desk.numbers() == [0, 1]
    log.roll([note(5)])
    assert desk.numbers() == [5]


@pytest.mark.parametrize("method", ["fdatasync", "write_some"])
def test_a_disk_that_fails_is_not_asked_again(desk: Desk, method: str) -> None:
    files = desk.files = FaultyFiles()
    log, _ = desk.open()
    write(log, 0)
    log.append([note(1)])
    files.fail_next(method, errno.EIO)
    with pytest.raises(SyncFailed):
        log.sync() if method == "fdatasync" else log.write()
    calls = files.calls.copy()
    for act in (log.sync, log.write, lambda: log.roll([note(2)])):
        with pytest.raises(SyncFailed):
            act()
    assert files.calls == calls


@pytest.mark.parametrize("nth", range(2))
@pytest.mark.parametrize("method", ["fdatasync", "sync_directory"])
def test_a_roll_on_a_failing_disk_keeps_the_notes(desk: Desk, method: str, nth: int) -> None:
    files = desk.files = FaultyFiles()
    log, _ = desk.open()
    write(log, 0, 1)
    files.fail_next(method, errno.EIO, after=nth)
    with pytest.raises(LogError):
        log.roll([note(5)])
    log.close()
    assert desk.numbers() in ([0, 1], [5])


def test_any_power_cut_leaves_the_notes_up_to_the_last_flush_and_perhaps_more(tmp_path: Path) -> None:
    for seed in range(150):
        chance = random.Random(seed)
        files = MemoryFiles()
        files.add(tmp_path, None)
        written: list[int] = []
        flushed = number = 0
        for _ in range(4):
            desk = Desk(tmp_path, files)
            log, notes = desk.open()
            found = [note["n"] for note in notes]
            assert found == written[: len(found)], seed
            assert len(found) >= flushed, seed
            written = found
            for _ in range(chance.randint(0, 12)):
                numbers = list(range(number, number + chance.randint(1, 30)))
                number += len(numbers)
                write(log, *numbers)
                written = written + numbers
                if log.full:
                    written = [-number, -number]
                    log.roll([note(-number)] * 2)
                    flushed = 2
                elif chance.random() < 0.3:
                    log.sync()
                    flushed = len(written)
            flushed = min(flushed, len(written))
            files = files.power_cut(chance)
