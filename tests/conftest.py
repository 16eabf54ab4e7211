"""Options and fixtures of the whole suite."""

from __future__ import annotations

import compileall
import contextlib
import fcntl
import itertools
import os
import signal
import sys
import sysconfig
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

from dq import BrokerManager
from dq.testing import dq_broker
from stage import ANNOUNCED

__all__ = ["dq_broker"]
_NUMBERS = itertools.count()
_HERE = Path(__file__)
_WRITES_NO_BYTECODE = sys.dont_write_bytecode

# An example may take long on a busy machine, and that says nothing of what is tested.
hypothesis.settings.register_profile("dq", deadline=None)
hypothesis.settings.load_profile("dq")


def pytest_addoption(parser) -> None:
    group = parser.getgroup("dq")
    group.addoption("--crash-cycles", type=int, default=50, help="kills of the crash test (default 50)")
    group.addoption("--connections", type=int, default=10_000, help="publishers of the crowd (default 10,000)")
    group.addoption("--crash-seed", type=int, default=None, help="seed of the crash test (default: a new one, printed)")
    group.addoption("--mutants", action="store_true", help="tests/mutants: run the tests on broken copies of dq")
    group.addoption("--every-fault", action="store_true", help="a fault at every place and in every bit, not at a sample")
    group.addoption("--simulations", type=int, default=150, help="tests/simulation: worlds that are played (default 150)")
    group.addoption("--simulation-seed", type=int, default=0, help="tests/simulation: seed of the first one (default 0)")
    group.addoption("--machine-examples", type=int, default=200, help="tests/simulation: examples of the sink on its disk")
    group.addoption("--damages", type=int, default=2_000, help="damages done to a log at random (default 2000)")
    group.addoption("--damage-seed", type=int, default=None, help="seed of the damages (default: a new one, printed)")
    group.addoption("--kill-rounds", type=int, default=2, help="rounds of killed crowds and of killed managers (default 2)")
    group.addoption("--race-rounds", type=int, default=1, help="rounds of 20 managers that race for a directory (default 1)")
    group.addoption("--queue-kills", type=int, default=15, help="tests/embedded: kills of a process with a queue (default 15)")
    group.addoption("--queue-seed", type=int, default=None, help="seed of those kills (default: a new one, printed)")
    group.addoption("--stop-seconds", type=float, default=1.0, help="how long each process is stopped under load (default 1)")


def pytest_configure(config: pytest.Config) -> None:
    """Compiles what the processes of a run import, once; and has Ctrl-C mean to them what it means in a terminal.

    Where `PYTHONDONTWRITEBYTECODE` is set, as in many containers, each of the hundreds of processes that the tests start would
    compile dq and its dependencies anew: a broker took 0.75 s of the processor to start and stop instead of 0.40. And nothing
    is written then while a test counts or breaks system calls. The tests themselves are compiled while they are collected.
    """
    if not hasattr(config, "workerinput"):
        for directory in (_HERE.parents[1] / "src", sysconfig.get_path("purelib")):
            compileall.compile_dir(directory, quiet=2)
    sys.dont_write_bytecode = False
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's job in the background: its children would ignore it too
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """From here on what the machine says about bytecode holds again."""
    sys.dont_write_bytecode = _WRITES_NO_BYTECODE


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """The whole suite runs in one process more than there are cores, three at most: a third of its time is waiting, for other
    processes, for the disk, for a moment. What is asked for by name runs in this one, where `-s` and `--pdb` work."""
    whole = set(config.option.file_or_dir) <= {"tests", "tests/"}
    return min(3, (os.cpu_count() or 1) + 1) if whole else 0


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """A test marked `alone` waits until the other processes have ended their tests, and they then wait for it.

    Two locks that end with the process: every test holds the second one while it runs, shared, or for itself if it is `alone`;
    and takes the first one for as long as it waits for the second, so that a test that waits to be alone is the next one.
    """
    if not hasattr(item.config, "workerinput"):
        return (yield)  # there is no other process
    mode = fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH
    with contextlib.ExitStack() as held:
        with _locked(_HERE.with_name("stage.py"), fcntl.LOCK_EX):
            held.enter_context(_locked(_HERE, mode))
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test has announced travels with its report: another process has the terminal."""
    report = yield
    if call.when == "call":
        report.user_properties += [("announced", text) for text in ANNOUNCED]
        ANNOUNCED.clear()
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Shows what was announced in other processes."""
    for report in itertools.chain.from_iterable(terminalreporter.stats.values()):
        for name, text in getattr(report, "user_properties", ()):
            if name == "announced":
                terminalreporter.write_line(str(text).strip())


@contextlib.contextmanager
def _locked(path: Path, mode: int) -> Iterator[None]:
    with path.open() as file:
        fcntl.flock(file, mode)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # for itself: a test may have forked, and a copy of the descriptor would keep it


@pytest.fixture(scope="module")
def broker(tmp_path_factory) -> Iterator[BrokerManager]:
    """A broker that the tests of a module share, as long as they leave its processes alone."""
    with BrokerManager(tmp_path_factory.mktemp("dq") / "queue_data") as shared:
        yield shared


@pytest.fixture
def name() -> str:
    """A name for a stream or a sink that no other test uses."""
    return f"s{next(_NUMBERS)}"
