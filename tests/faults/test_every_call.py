"""Every call of the file layer fails once, or from some moment on: nothing that was confirmed is lost, whatever fails.

`pytest tests/faults --every-fault` takes every call with either error; by default each call that changes the disk fails with
one of the two, and some of the others.
"""

from __future__ import annotations

import errno
import itertools
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from faulty_memory import FaultyMemory
from play import check, litter, one_turn, play
from two_brokers import ROOT, Brokers, Said

from stage import announce

WRITING = ("write_some", "fdatasync", "sync_directory", "create", "unlink", "rename", "make_directory", "allocate")
LOOKING = ("open", "pread", "list_directory", "state")
CODES = (errno.ENOSPC, errno.EIO)
KIND = {errno.ENOSPC: "ENOSPC", errno.EIO: "EIO"}


def brokers_on(files: FaultyMemory) -> Brokers:
    files.add(ROOT, None)
    return Brokers(files, Said())


def play_and_check(files: FaultyMemory, chance: random.Random) -> Brokers:
    """Plays the script on a disk that fails, then goes on from there: as it is, after a kill, and after a power cut."""
    brokers = brokers_on(files)
    play(brokers)
    killed, cut, said = files.killed(), files.power_cut(chance), brokers.said.now()
    check(killed, said, power_cut=False)
    check(cut, said, power_cut=True)
    brokers.finish()
    brokers.stop()
    assert not files.open_count, "a file was left open"
    return brokers


class Scan:
    """Runs of the script, one a fault; what failed is told at the end, all of it."""

    def __init__(self) -> None:
        self.runs, self.errors = 0, Counter()
        self.failures: list[str] = []
        self.began = time.monotonic()

    def run(self, what: str, files: FaultyMemory) -> None:
        self.runs += 1
        try:
            self.errors += play_and_check(files, random.Random(what)).errors
        except Exception as error:
            self.failures.append(f"{what}: {type(error).__name__}: {str(error)[:300]}")

    def report(self, capsys: pytest.CaptureFixture[str], title: str) -> None:
        seconds, kinds = time.monotonic() - self.began, ", ".join(f"{n} {kind}" for kind, n in sorted(self.errors.items()))
        announce(
            capsys, f"\n{title}: {self.runs} runs, each gone on with, killed and cut; {kinds or 'no error'}; {seconds:.1f} s\n"
        )
        assert not self.failures, f"{len(self.failures)} of {self.runs}:\n" + "\n".join(self.failures[:20])


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "for ever"])
@pytest.mark.parametrize("code", CODES, ids=KIND.values())
@pytest.mark.parametrize("method", [*WRITING, *LOOKING])
def test_a_call_that_fails_costs_nothing_that_was_confirmed(method, code, lasting, every_fault, capsys):
    """T3, T4; "fsync failure", "ENOSPC", "Directory fsync": the Nth call of each method, for every N that there is."""
    scan = Scan()
    first, step = 1, 1 if every_fault else 5
    if (
        method in WRITING and not lasting and not every_fault
    ):  # after some, every second call has one error, and the others the other
        first, step = 11 + CODES.index(code), 2
    # A run in which something failed makes more calls than a healthy one: the scan ends when the Nth call is never made.
    for number in itertools.chain(range(1, min(first, 11)), range(first, 10_000, step)):
        files = FaultyMemory(random.Random(number))
        if lasting:
            files.lasting[method] = (number, code)
        else:
            files.fail_next(method, code, after=number - 1)
        scan.run(f"{method} {number} {KIND[code]}", files)
        if files.calls[method] < number:
            break
    scan.report(capsys, f"{method}, {KIND[code]}, {'for ever' if lasting else 'once'}")
    assert scan.runs > 1


class ShortWrites(FaultyMemory):
    """The Nth write takes a part of what it is given, and the one after it fails."""

    def __init__(self, number: int, part: Callable[[int], int], code: int, chance: random.Random) -> None:
        super().__init__(chance)
        self._number, self._part, self._code = number, part, code

    def write_some(self, fd: int, group: Sequence[bytes | bytearray | memoryview], position: int) -> int:
        content = b"".join(group)
        if self.calls["write_some"] + 1 == self._number and len(content) > 1:
            if self._code:
                self.fail_next("write_some", self._code, after=1)
            content = content[: self._part(len(content))]
        return super().write_some(fd, [content], position)


PARTS = {"one byte": lambda size: 1, "half": lambda size: size // 2, "all but one": lambda size: size - 1}


@pytest.mark.parametrize("code", [0, *CODES], ids=["then the rest", "then ENOSPC", "then EIO"])
@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_a_short_write_leaves_nothing_half_written(part, code, every_fault, capsys):
    """T5; "ENOSPC: a write may be short first": at every write that there is."""
    scan = Scan()
    kinds = [(each, error) for each in PARTS.values() for error in (0, *CODES)]
    first, step = (1, 1) if every_fault else (1 + kinds.index((part, code)), len(kinds))  # every write is short in one way
    for number in range(first, 10_000, step):
        files = ShortWrites(number, part, code, random.Random(number))
        scan.run(f"short write {number}", files)
        if files.calls["write_some"] < number:
            break
    scan.report(capsys, "short writes")
    assert scan.runs > 5


@pytest.mark.parametrize("method", ["truncate", "unlink"])
@pytest.mark.parametrize("code", CODES, ids=KIND.values())
def test_what_cannot_be_put_back_after_a_full_disk_ends_its_broker(method, code, every_fault, capsys):
    """T4: half a batch is written, there is no room for the rest, and taking it back fails too."""
    scan = Scan()
    for number in range(1, 10_000, 1 if every_fault else 3):
        files = ShortWrites(number, PARTS["half"], errno.ENOSPC, random.Random(number))
        files.lasting[method] = (1, code) if method == "truncate" else (files.calls["unlink"] + number, code)
        scan.run(f"{method} after write {number}, {KIND[code]}", files)
        if files.calls["write_some"] < number:
            break
    scan.report(capsys, f"{method} after a short write, {KIND[code]}")
    assert scan.errors["SyncFailed"], "it was never asked to put anything back"


class SmallDisk(FaultyMemory):
    """A disk that is full from its Nth write on: a write takes what fits, and what is deleted makes room again."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number, self._room = number, 1 << 40

    def _take(self, size: int) -> int:
        if self.calls["write_some"] == self._number:
            self._room = 700
        if size and not self._room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = min(size, self._room)
        self._room -= taken
        return taken

    def write_some(self, fd: int, group: Sequence[bytes | bytearray | memoryview], position: int) -> int:
        content = b"".join(group)
        return super().write_some(fd, [content[: self._take(len(content))]], position)

    def allocate(self, fd: int, size: int) -> None:
        if size > self._room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._room -= size
        super().allocate(fd, size)

    def truncate(self, fd: int, size: int) -> None:
        self._room += max(self.size(fd) - size, 0)
        super().truncate(fd, size)

    def unlink(self, path: Path) -> None:
        self._room += len(self.content(path))
        super().unlink(path)

    def heal(self) -> None:
        super().heal()
        self._room, self._number = 1 << 40, -1


def test_a_full_disk_kills_nobody_and_publishing_goes_on_by_itself(every_fault, capsys):
    """T4; "ENOSPC": DiskFull, acks go on, no litter, and success once there is room, without a start of anything."""
    runs, refused = 0, 0
    for number in range(3, 60, 1 if every_fault else 3):
        disk = SmallDisk(number)
        brokers = brokers_on(disk)
        brokers.start()
        numbers = itertools.count()
        for turn in range(10):
            one_turn(brokers, turn, numbers)
        brokers.consume()
        stored = len(brokers.said.receipts)
        assert len(brokers.said.acked) >= stored * 3 // 4 - 6, "what is stored is consumed and acked on a full disk"
        assert set(brokers.errors) <= {"DiskFull", "SequenceError"}, number
        refused += brokers.errors["DiskFull"]
        brokers.finish()
        assert (brokers.deaths, brokers.waiting) == (0, 0), number
        assert litter(disk) == []
        check(disk.power_cut(random.Random(number)), brokers.said.now(), power_cut=True)
        brokers.stop()
        runs += 1
    announce(capsys, f"\na disk that is full from some write on: {runs} runs, {refused} times DiskFull, nobody died\n")
    assert refused > runs
