"""What users do with streams and sinks as a whole, on a disk of which each call fails once, or that ends at each call.

Trims, removals, streams and sinks that are made, taken off each other and destroyed: what was confirmed is so after a kill and
a power cut, nothing half-done stays, and all that is left is served at the next start.
"""

from __future__ import annotations

import contextlib
import errno
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from faulty_memory import FaultyMemory
from play import litter
from sim_files import MemoryFiles
from two_brokers import LAYOUT, ROOT, SMALL, line_of

from dq.broker.opened import describe
from dq.broker.sinks import Sinks
from dq.clock import FakeClock
from dq.errors import DiskFull, DqError, LogError, SyncFailed
from dq.log.catalog import Catalog
from dq.log.directories import make_directory
from dq.log.storage import Batch
from dq.model.settings import SinkSettings, StreamSettings
from stage import announce

METHODS = ("write_some", "fdatasync", "sync_directory", "create", "unlink", "rename", "make_directory", "state")
CODES = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO}


class Killed(BaseException):
    """The process ends here."""


class Directory:
    """Both brokers' hold on one directory, and what they have confirmed.

    Attributes:
        confirmed: names of the steps that were.
        errors: how often a step was refused.
    """

    def __init__(self, files: FaultyMemory) -> None:
        self.files, self.confirmed, self.errors = files, set[str](), 0
        self.uuid = ""
        self.open()

    def open(self) -> None:
        make_directory(self.files, LAYOUT.streams)
        make_directory(self.files, LAYOUT.sinks)
        self.catalog = Catalog(self.files, ROOT, SMALL)
        self.catalog.open()
        life = SimpleNamespace(root=ROOT, files=self.files, limits=SMALL, clock=FakeClock(), sink_defaults={})
        self.sinks = Sinks(life)  # type: ignore[arg-type]
        self.sinks.open()

    def _open_again(self) -> None:
        """As a supervisor does, until the disk lets it."""
        for _ in range(4):
            self.files.new_life()
            with contextlib.suppress(DqError, OSError):
                self.open()
                return
        raise AssertionError("it does not start again")

    def play(self) -> None:
        for name, step in STEPS.items():
            for _ in range(3):
                try:
                    step(self)
                    self.confirmed.add(name)
                except SyncFailed:
                    self.errors += 1
                    self._open_again()
                    continue  # the manager asks the next broker
                except (DiskFull, LogError):
                    self.errors += 1
                    continue  # the user tries again
                break

    # --- steps -------------------------------------------------------------------------------------------------------

    def make_stream(self, name: str) -> None:
        stream = self.catalog.reopen(name) or self.catalog.get(name) or self.catalog.create(name, StreamSettings())
        if stream.writers[0].end.offset < 6:
            for number in range(stream.writers[0].end.offset // 2, 3):
                stream.writers[0].append(Batch("p", number, 2, line_of(number) * 2))
                stream.writers[0].commit()
        if name == "b":
            self.uuid = self.uuid or stream.uuid

    def trim(self) -> None:
        stream = self.catalog.streams["a"]
        self.catalog.keep_gone(stream, stream.gone.with_trim([2], 2))

    def remove(self) -> None:
        stream = self.catalog.streams["a"]
        self.catalog.keep_gone(stream, stream.gone.with_removed([{3}]))

    def make_sink(self, name: str) -> None:
        opened = [describe(self.catalog.streams[stream]) for stream in ("a", "b") if stream in self.catalog.streams]
        run = self.sinks.get_or_make(name, SinkSettings(max_attempts=2).to_dict(), opened)
        for each in opened:
            self.sinks.put_over(run, each)
        run.write_notes()
        run.sync()

    def take_off(self) -> None:
        run = self.sinks.get("s")
        self.sinks.take_off(run, "b", destroy=False)
        run.write_notes()
        run.sync()


STEPS: dict[str, Callable[[Directory], None]] = {
    "make a": lambda it: it.make_stream("a"),
    "make b": lambda it: it.make_stream("b"),
    "make s": lambda it: it.make_sink("s"),
    "make t": lambda it: it.make_sink("t"),
    "trim": Directory.trim,
    "remove": Directory.remove,
    "take off": Directory.take_off,
    "destroy t": lambda it: it.sinks.destroy("t"),
    "destroy b": lambda it: it.catalog.destroy("b"),
    "make b anew": lambda it: it.make_stream("b"),
}


def check(disk: MemoryFiles, confirmed: set[str], uuid: str) -> None:
    """Starts on what is left of a directory."""
    files = FaultyMemory.over(disk)
    left = Directory(files)
    assert (left.catalog.errors, left.sinks.closed) == ({}, {})
    assert litter(files) == []
    streams, sinks = left.catalog.streams, left.sinks.runs
    assert not {"make a"} & confirmed or streams["a"].writers[0].end.offset == 6
    if "make b" in confirmed and "destroy b" not in confirmed and "b" in streams and streams["b"].uuid == uuid:
        assert streams["b"].writers[0].end.offset == 6, "a stream is destroyed as a whole"
    if "destroy b" in confirmed:
        assert "b" not in streams or streams["b"].uuid != uuid, "what was destroyed came back"
    if "make b anew" in confirmed:
        assert streams["b"].writers[0].end.offset == 6
    if "trim" in confirmed:
        assert streams["a"].marks == [2]
    if "remove" in confirmed:
        assert streams["a"].gone.has(0, 3)
    if "make s" in confirmed:
        assert sinks["s"].settings.max_attempts == 2
        assert ("b" in sinks["s"].shards.detached) or "take off" not in confirmed or "b" not in sinks["s"].shards.streams
    if "destroy t" in confirmed:
        assert "t" not in sinks, "what was destroyed came back"
    elif "make t" in confirmed and "t" in sinks:
        assert sinks["t"].shards.streams >= {"a"}, "a sink is destroyed as a whole"


def check_all(files: FaultyMemory, it: Directory | None, chance: random.Random) -> None:
    confirmed, uuid = (it.confirmed, it.uuid) if it is not None else (set[str](), "")
    for disk in (files.killed(), files.power_cut(chance), files.power_cut(chance)):
        check(disk, confirmed, uuid)


def new_files(seed: int) -> FaultyMemory:
    files = FaultyMemory(random.Random(seed))
    files.add(Path("/q"), None)
    return files


@pytest.mark.parametrize("code", CODES.values(), ids=CODES)
@pytest.mark.parametrize("method", METHODS)
def test_a_call_that_fails_leaves_nothing_half_done(method, code, capsys):
    runs = errors = 0
    for number in range(1, 10_000):
        files = new_files(number)
        it = Directory(files)
        before = files.calls[method]
        files.fail_next(method, code, after=number - 1)
        try:
            it.play()
            assert it.confirmed == STEPS.keys(), "one failed call, and it is done when it is asked for again"
            check_all(files, it, random.Random(number))
        except Exception as error:
            raise AssertionError(f"{method} {number} fails: {type(error).__name__}: {error}") from error
        runs, errors = runs + 1, errors + it.errors
        if files.calls[method] < before + number:
            break
    announce(capsys, f"\n{method}: {runs} runs, {errors} steps refused\n")
    assert runs > 1


def test_an_end_at_any_call_leaves_nothing_half_done(capsys):
    """Killed before each call that the disk gets, of any kind; and the power cut there."""
    for number in range(1, 10_000):
        files, calls = new_files(number), 0
        it = Directory(files)

        def on_call(_: str, number: int = number) -> None:
            nonlocal calls
            calls += 1
            if calls >= number:
                raise Killed

        files.on_call = on_call
        with contextlib.suppress(Killed):
            it.play()
        files.on_call = lambda _: None
        try:
            check_all(files, it, random.Random(number))
            it._open_again()
            it.play()  # the manager asks the next broker
            check_all(files, it, random.Random(number))
        except Exception as error:
            raise AssertionError(f"killed before call {number}: {type(error).__name__}: {error}") from error
        if calls < number:
            break
    announce(capsys, f"\nkilled before each of {number - 1} calls, cut there twice\n")
    assert number > 100
