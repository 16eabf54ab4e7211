"""What all figures share: the record, processes and their end, the broker under test, rows of the table."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import RawArray
from pathlib import Path
from typing import Any, Literal

import orjson

from dq import BrokerManager

RECORD_BYTES = 210
BODY = "x" * 139  # makes the stored line of a record 210 bytes, its newline included
LINE = orjson.OPT_APPEND_NEWLINE
LATEST_SECONDS = 120.0
_LEAVE_SECONDS = 3.0
_SLOT = 16  # counters of different processes stand 128 bytes apart, on cache lines of their own
_CONTEXT = multiprocessing.get_context("spawn")


def payload(n: int) -> dict[str, Any]:
    """The payload of record `n`."""
    return {"to": "a@b.c", "n": n, "body": BODY}


def handle(payload: dict[str, Any]) -> int:
    """The user's code of every figure, of dq and of the floor."""
    return payload["n"]


# --- figures -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of the table.

    Attributes:
        name: for `--only`; several rows may have the same.
        what, unit: for people.
        runs, reference_runs: what was measured, alternating; each is shown by its median.
        reference: what the reference is; "" where the target is a value by itself.
        sense: whether the target is a floor or a ceiling.
        target: for the ratio to the reference, or for the value where there is none.
        notes: more that was seen.
    """

    name: str
    what: str
    unit: str
    runs: Sequence[float]
    sense: Literal[">=", "<="]
    target: float
    reference: str = ""
    reference_runs: Sequence[float] = ()
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def measured(self) -> float:
        return statistics.median(self.runs)

    @property
    def beside(self) -> float | None:
        return statistics.median(self.reference_runs) if self.reference_runs else None

    @property
    def ratio(self) -> float | None:
        return self.measured / self.beside if self.beside else None

    @property
    def judged(self) -> float:
        return self.measured if self.ratio is None else self.ratio

    @property
    def met(self) -> bool:
        return self.judged >= self.target if self.sense == ">=" else self.judged <= self.target

    @property
    def missed_by(self) -> float:
        """By which part of the target it is missed; 0 where it is met."""
        return 0.0 if self.met else abs(self.judged / self.target - 1)

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name, "what": self.what, "unit": self.unit, "measured": self.measured, "runs": list(self.runs),
            "reference": self.reference, "reference_value": self.beside, "reference_runs": list(self.reference_runs),
            "ratio": self.ratio, "target": self.target, "sense": self.sense, "met": self.met, "missed_by": self.missed_by,
            "notes": self.notes,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bench:
    """How a run is to be done: where, how often, how large."""

    root: Path
    runs: int = 5
    scale: float = 1.0

    def records(self, full: int, least: int = 500) -> int:
        """A number of records, scaled, in whole batches of 500."""
        return max(int(full * self.scale) // 500 * 500, least)

    def seconds(self, full: float) -> float:
        """A duration, scaled; not so short that nothing happens in it."""
        return max(full * min(self.scale, 1.0), 0.2)

    @contextlib.contextmanager
    def directory(self, name: str) -> Iterator[Path]:
        """An empty directory, gone afterwards."""
        path = self.root / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    @property
    def callers(self) -> int:
        """How many wait at the same time; a smoke test does with fewer."""
        return 64 if self.scale >= 0.1 else 8

    def remove(self) -> None:
        """The root, unless somebody else's files are in it."""
        with contextlib.suppress(OSError):
            self.root.rmdir()

    @contextlib.contextmanager
    def broker(self, name: str = "dq") -> Iterator[BrokerManager]:
        """A broker of its own in an empty directory; its three processes are ended, and the directory is gone, afterwards."""
        with self.directory(name) as path, running(path) as broker:
            yield broker


@contextlib.contextmanager
def running(path: Path) -> Iterator[BrokerManager]:
    """A broker over a directory; what is left of its processes is ended by pid."""
    broker = BrokerManager(path)
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


def memory_mb(pid: int) -> dict[str, float]:
    """Resident now, at its peak, and its proportional share, in MB (10^6 bytes)."""
    wanted = {"VmRSS": "rss", "VmHWM": "peak", "Pss": "pss"}
    found: dict[str, float] = {}
    for file in ("status", "smaps_rollup"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
                name, _, size = line.partition(":")
                if name in wanted:
                    found[wanted[name]] = int(size.split()[0]) * 1024 / 1e6
    return found


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used, in user code and in the kernel."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def percentile(values: Sequence[float], part: float) -> float:
    """The value below which `part` of them are."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * part), len(ordered) - 1)]


# --- processes ---------------------------------------------------------------------------------------------------------


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


def say(text: str) -> None:
    """Progress, for people."""
    print(text, file=sys.stderr, flush=True)
