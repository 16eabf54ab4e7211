"""The worker processes as the demonstration sees them: started, told, listened to, killed, replaced, sent home."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import TypeVar

from dq.demo.failed import DemoFailed
from dq.demo.orders import Failed, Order, Quit, Ready, Report
from dq.demo.workers import consumer_process, publisher_process

_START_SECONDS = 60.0
_QUIT_SECONDS = 5.0
ReportT = TypeVar("ReportT", bound=Report)


@dataclass(slots=True, eq=False)
class Worker:
    """One process.

    Attributes:
        kind: "publisher" or "consumer".
        number: counted from 1 for each kind.
        killed: whether we killed it.
        reports: what it said and nobody has taken yet.
    """

    kind: str
    number: int
    process: BaseProcess
    pipe: Connection
    ready: bool = False
    killed: bool = False
    gone: bool = False
    reports: list[Report] = field(default_factory=list)

    @property
    def pid(self) -> int:
        """Its process."""
        return self.process.pid or 0

    @property
    def label(self) -> str:
        """As the page names it."""
        return f"{self.kind} {self.number}"


class Crew:
    """All worker processes of a run."""

    def __init__(self, root: Path) -> None:
        self._root = os.fspath(root)
        self._context = multiprocessing.get_context("spawn")
        resource_tracker.ensure_running()  # its start, at the first process otherwise, would let Ctrl-C through to that one
        self.publishers: list[Worker] = []
        self.consumers: list[Worker] = []

    # --- in and out ------------------------------------------------------------------------------------------------

    def add_publisher(self) -> Worker:
        """Starts one more."""
        worker = self._start("publisher", len(self.publishers) + 1, publisher_process)
        self.publishers.append(worker)
        return worker

    def add_consumer(self) -> Worker:
        """Starts one more."""
        worker = self._start("consumer", len(self.consumers) + 1, consumer_process)
        self.consumers.append(worker)
        return worker

    def _start(self, kind: str, number: int, main: Callable[[str, int, Connection], None]) -> Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=main, args=(self._root, number, theirs), name=f"dq-demo-{kind}-{number}")
        process.daemon = True
        with _undisturbed():
            process.start()
        theirs.close()  # so that its death is the end of the pipe
        return Worker(kind, number, process, ours)

    def kill(self, worker: Worker) -> float:
        """`kill -9`; returns when, in seconds since 1970."""
        worker.killed = True
        at = time.time()
        os.kill(worker.pid, signal.SIGKILL)
        return at

    def send_home(self) -> None:
        """Ends all of them: first asked, then made to. Safe twice."""
        workers = [worker for worker in [*self.publishers, *self.consumers] if not worker.pipe.closed]
        for worker in workers:
            if not worker.ready:
                worker.process.kill()  # it is still starting, hears nothing yet and holds nothing
            with contextlib.suppress(OSError):
                worker.pipe.send(Quit())
        deadline = time.monotonic() + _QUIT_SECONDS
        for worker in workers:
            worker.process.join(max(deadline - time.monotonic(), 0.0))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.pipe.close()

    # --- orders and reports ------------------------------------------------------------------------------------------

    @property
    def living(self) -> list[Worker]:
        """The consumers that were not killed."""
        return [worker for worker in self.consumers if not worker.killed]

    def tell(self, workers: Sequence[Worker], order: Order) -> None:
        """Sends an order to each.

        Raises:
            DemoFailed: one of them is not there to hear it.
        """
        for worker in workers:
            try:
                worker.pipe.send(order)
            except OSError as error:
                self.listen()
                raise DemoFailed(f"{worker.label} (pid {worker.pid}) is gone") from error

    def listen(self, seconds: float = 0.0) -> None:
        """Takes in what has been reported, waiting so long for something.

        Raises:
            DemoFailed: a process cannot go on, or has ended by itself.
        """
        workers = [*self.publishers, *self.consumers]
        pipes: dict[object, Worker] = {w.pipe: w for w in workers if not (w.gone or w.pipe.closed)}
        for pipe in wait([worker.pipe for worker in pipes.values()], seconds):
            worker = pipes[pipe]
            try:
                report = worker.pipe.recv()
            except (EOFError, OSError):
                worker.gone = True
                if not worker.killed:
                    raise DemoFailed(f"{worker.label} (pid {worker.pid}) ended by itself") from None
                continue
            if isinstance(report, Ready):
                worker.ready = True
            elif isinstance(report, Failed):
                raise DemoFailed(f"{worker.label} (pid {worker.pid}): {report.reason}")
            else:
                worker.reports.append(report)

    def wait_ready(self, tick: Callable[[], object]) -> None:
        """Waits until every process waits for orders; `tick` is called meanwhile.

        Raises:
            DemoFailed: one ended, or takes too long.
        """
        deadline = time.monotonic() + _START_SECONDS
        while not all(worker.ready for worker in [*self.publishers, *self.living]):
            if time.monotonic() > deadline:
                raise DemoFailed(f"the worker processes were not ready within {_START_SECONDS:g} s")
            self.listen(0.1)
            tick()

    @staticmethod
    def reported(workers: Sequence[Worker]) -> bool:
        """Whether each of them has a report that nobody has taken."""
        return all(worker.reports for worker in workers)

    @staticmethod
    def take(workers: Sequence[Worker], kind: type[ReportT]) -> list[ReportT]:
        """Takes the report of each."""
        taken = [worker.reports.pop(0) for worker in workers]
        return [report for report in taken if isinstance(report, kind)]


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until a process is started whole, and Ctrl-C, which goes to the whole group, never reaches it.

    The mask is for the new process, which inherits it. It does not protect this one: another thread would take the signal.
    """
    noted: list[tuple[int, FrameType | None]] = []
    before = {number: signal.signal(number, lambda *told: noted.append(told)) for number in (signal.SIGINT, signal.SIGTERM)}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler)
    for told in noted:
        handler = before[signal.Signals(told[0])]
        if callable(handler):
            handler(*told)
