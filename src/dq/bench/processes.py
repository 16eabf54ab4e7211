"""Processes of a benchmark and their end, what they count, and the broker under test. `benchmarks/` uses these too."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import RawArray
from pathlib import Path
from typing import Any

from dq.client.manager import BrokerManager

LATEST_SECONDS = 120.0
_LEAVE_SECONDS = 3.0
_SLOT = 16  # counters of different processes stand 128 bytes apart, on cache lines of their own
_CONTEXT = multiprocessing.get_context("spawn")


@contextlib.contextmanager
def running(path: Path, log_level: int | None = None) -> Iterator[BrokerManager]:
    """A broker over a directory; what is left of its processes is ended by pid."""
    broker = BrokerManager(path, log_level=log_level)
    pids = [broker.manager_pid]
    try:
        pids = broker_pids(broker)
        yield broker
    finally:
        with contextlib.suppress(Exception):
            broker.stop()
        kill(pids)


def broker_pids(broker: BrokerManager) -> list[int]:
    """Manager, publisher broker, consumer broker."""
    stats = broker.stats()
    return [broker.manager_pid, stats["publisher_broker"]["pid"], stats["consumer_broker"]["pid"]]


def kill(pids: Sequence[int]) -> None:
    """Ends these processes and returns when they are gone; those that are gone already do not matter."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while any(map(_lives, pids)) and time.monotonic() < deadline:
        time.sleep(0.002)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (OSError, IndexError):
        return False


def percentile(values: Sequence[float], part: float) -> float:
    """The value below which `part` of them are."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * part), len(ordered) - 1)]


class Counters:
    """A count a process, which only that process writes: a store into shared memory, and no lock."""

    def __init__(self, processes: int) -> None:
        self.array = RawArray("Q", processes * _SLOT)

    def view(self) -> memoryview:
        return memoryview(self.array).cast("B").cast("Q")

    def reach(self, wanted: int, seconds: float = LATEST_SECONDS, *, exactly: bool = True) -> float:
        """Waits until so many are counted; returns the time (perf_counter) at which they were, to 2 ms.

        Raises:
            TimeoutError: they were not within `seconds`, or there were more.
        """
        deadline = time.monotonic() + seconds
        while (total := sum(self.array)) < wanted:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{total} of {wanted} records were handled within {seconds:g} s")
            time.sleep(0.002)
        if exactly and total > wanted:
            raise TimeoutError(f"{total} records were handled, and only {wanted} were published")
        return time.perf_counter()


def slot(process: int) -> int:
    """The place of a process's count in the view."""
    return process * _SLOT


class Worker:
    """A process of the benchmark: runs `target(pipe, *args)`, and is ended by `close()`, whatever it does then."""

    def __init__(self, target: Callable[..., None], *args: Any) -> None:
        self.pipe, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_run, args=(target, theirs, args), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        return self._process.pid or 0

    def tell(self, *words: Any) -> None:
        """Sends a command."""
        self.pipe.send(words)

    def hear(self, seconds: float = LATEST_SECONDS) -> Any:
        """What it answers.

        Raises:
            TimeoutError, RuntimeError: nothing within `seconds`; it failed, with its traceback.
        """
        if not self.pipe.poll(seconds):
            raise TimeoutError(f"a process of the benchmark did not answer within {seconds:g} s")
        answer = self.pipe.recv()
        if isinstance(answer, _Failure):
            raise RuntimeError(f"a process of the benchmark failed:\n{answer.text}")
        return answer

    def ask(self, *words: Any) -> Any:
        """Sends a command and waits for its answer."""
        self.tell(*words)
        return self.hear()

    def leave(self) -> None:
        """Has it leave in order: `recv` raises EOFError there, and a consumer hears SIGTERM."""
        self.pipe.close()
        self._process.terminate()

    def kill(self) -> None:
        """Ends it at once."""
        self._process.kill()

    def close(self) -> None:
        """Waits for its end, and ends it by pid where that takes too long."""
        self._process.join(_LEAVE_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


@dataclass(frozen=True, slots=True)
class _Failure:
    text: str


def _run(target: Callable[..., None], pipe: Connection, args: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for run.py, which ends its processes
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # consumers have a handler of their own
    try:
        target(pipe, *args)
    except EOFError:
        pass
    except Exception:
        with contextlib.suppress(OSError):
            pipe.send(_Failure(traceback.format_exc()))


@contextlib.contextmanager
def workers(*made: Worker) -> Iterator[tuple[Worker, ...]]:
    """Waits until each has said that it is ready; ends them all."""
    try:
        for worker in made:
            worker.hear()
        yield made
    finally:
        for worker in made:
            worker.leave()
        for worker in made:
            worker.close()
