"""The script of both brokers, cut at every call it makes: whatever the disk has then, nothing that was said was a lie.

`pytest tests/faults --every-fault` takes many more states, of runs whose writes are torn elsewhere each time.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

import pytest
from faulty_memory import FaultyMemory
from play import check, play
from sim_files import FileNode, MemoryFiles
from two_brokers import ROOT, Brokers, Said

from dq import DqError
from stage import announce

SEEDS, SEEDS_OF_A_LONG_RUN = 2, 25


class TornFiles(FaultyMemory):
    """Writes are short by chance, so that a cut between two of them leaves half a batch."""

    def write_some(self, fd: int, group: Sequence[bytes | bytearray | memoryview], position: int) -> int:
        content = b"".join(group)
        size = self._chance.choice((1, len(content) // 2, len(content) - 1, *[len(content)] * 5))
        return super().write_some(fd, [content[: max(size, 1)]], position)


def moments(files: FaultyMemory, chance: random.Random) -> list[tuple[Said, MemoryFiles, bool]]:
    """Before every call of a run, what was said by then, and what a power cut and a kill would leave."""
    found = []
    files.add(ROOT, None)
    brokers = Brokers(files, Said())

    def look(_: str) -> None:
        said = brokers.said.now()
        found.append((said, files.power_cut(chance), True))
        found.append((said, files.killed(), False))

    files.on_call = look
    play(brokers)
    return found


def fingerprint(disk: MemoryFiles, said: Said, power_cut: bool) -> int:
    """Of all that `check` looks at, and of what is not flushed yet."""
    print_of = crc32(repr((said.asked, said.receipts, sorted(said.received), said.acked, said.flushed, power_cut)).encode())
    for path in sorted(disk.walk()):
        node = disk._find(path)
        if isinstance(node, FileNode):
            known = repr((path, sorted(node.dirty))).encode() + node.seen + b"|" + node.disk
        else:
            known = repr((path, sorted(node.disk), sorted(node.since))).encode()
        print_of = crc32(known, print_of)
    return print_of


def check_all(files: FaultyMemory, seed: int, states: set[int], *, backwards: bool = False) -> int:
    """Starts from every state of a run, from the first one or from the last; returns how many there were.

    Args:
        states: those that were started from already; the new ones are added.
    """
    found = list(enumerate(moments(files, random.Random(seed))))
    for number, (said, disk, power_cut) in reversed(found) if backwards else found:
        print_of = fingerprint(disk, said, power_cut)
        if print_of in states:
            continue  # a call that only reads leaves what there was before it
        states.add(print_of)
        try:
            check(disk, said, power_cut=power_cut)
        except Exception as error:
            what = "power cut" if power_cut else "kill"
            raise AssertionError(f"seed {seed}, {what} before call {number // 2 + 1}: {error}") from error
    return len(found)


def test_any_power_cut_or_kill_leaves_all_that_was_said(every_fault, capsys):
    """T8; crash B2, B3, B6a, B6b, B6c, B7, B8, C3, C4, C5, C7, G2: rolls, deletions, the sink's roll, dead letters, stops."""
    began, states, count = time.monotonic(), set(), 0
    for seed in range(SEEDS_OF_A_LONG_RUN if every_fault else SEEDS):
        count += check_all(TornFiles(random.Random(seed)) if seed else FaultyMemory(), seed, states)
    seconds = time.monotonic() - began
    announce(capsys, f"\npower cuts and kills: {count} states, {len(states)} of them different; lost 0; {seconds:.1f} s\n")
    assert len(states) > (5_000 if every_fault else 400)


# --- that the check would see it -----------------------------------------------------------------------------------------


class Skipping(FaultyMemory):
    """Leaves out the flushes that one place of dq asks for."""

    def __init__(self, method: str, caller: str) -> None:
        super().__init__()
        self._skipped, self._skipped_caller = method, caller
        self.skips = 0

    def _skip(self, method: str) -> bool:
        frame = sys._getframe(2)
        while "lambda" in frame.f_code.co_name or frame.f_code.co_name == "_flush":
            frame = frame.f_back
        skip = (method, frame.f_code.co_name) == (self._skipped, self._skipped_caller)
        self.skips += skip
        return skip

    def fdatasync(self, fd: int) -> None:
        if not self._skip("fdatasync"):
            super().fdatasync(fd)

    def sync_directory(self, path: Path) -> None:
        if not self._skip("sync_directory"):
            super().sync_directory(path)


@pytest.mark.parametrize(
    ("method", "caller"),
    [
        ("fdatasync", "_commit_to"),
        ("sync_directory", "_commit_to"),
        ("sync_directory", "make_directory"),
        ("sync_directory", "_make"),
        ("fdatasync", "write_new"),
        ("sync_directory", "write_atomically"),
        ("fdatasync", "sync"),
        ("fdatasync", "_begin"),
        ("sync_directory", "_begin"),
    ],
)
def test_a_flush_that_is_left_out_is_found(method, caller):
    """T24: each flush of dq is needed, and this suite would see that one of them is gone."""
    found = None
    backwards = caller == "write_atomically"  # at the clean end of a run: it is found soonest from there
    for seed in range(1, 13):
        files = Skipping(method, caller)
        try:
            check_all(files, seed, set(), backwards=backwards)
        except AssertionError as error:
            found = error
            break
    assert files.skips, f"{caller} does not call {method} any more"
    assert found is not None, f"without the {method} in {caller} everything still passes"


def test_a_flush_that_is_tried_again_is_found():
    """T24: the kernel says that all is well the second time."""

    class Stubborn(FaultyMemory):
        def fdatasync(self, fd: int) -> None:
            try:
                super().fdatasync(fd)
            except OSError:
                self._fds[fd].flush()

    lost: list[Exception] = []
    for number in range(1, 40):
        files = Stubborn(random.Random(number))
        files.fail_next("fdatasync", 5, after=number)
        files.add(ROOT, None)
        brokers = Brokers(files, Said())
        try:
            play(brokers)
            check(files.power_cut(random.Random(number)), brokers.said, power_cut=True)
        except (AssertionError, DqError) as error:
            lost.append(error)
    assert lost
