"""The one life that every broker process lives: start, started, stop, stopped.

::

    NEW ──start──► STARTING ──started──► RUNNING ──stop──► STOPPING ──stopped──► STOPPED
                       └────────────────failed───────────────┴──────failed─────────┘

Signal handlers only ask for a stop. A broker stops when the manager says SHUTDOWN, at SIGTERM, and when the manager is gone;
in each case it finishes the turn it is in, so that what was synced is also answered.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import queue
import resource
import signal
import socket
import threading
from collections.abc import Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dq import operator_logs
from dq.broker.watchers import Watchers
from dq.clock import Clock
from dq.config import LIMITS
from dq.errors import BrokerRunning, Damaged, DiskFull, DqError, InUse, LogError, NewerFormat, ProtocolError
from dq.log.files import Files
from dq.log.locks import HeldLock, hold
from dq.model.event import Event, EventOwner, EventType, decode
from dq.model.told import about, words_of
from dq.transport.door import take_over
from dq.transport.poller import Poller

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

log = logging.getLogger("dq")
_OTHER_DESCRIPTORS = 512


class ExitCode(IntEnum):
    """How a broker or the manager ended."""

    DONE = 0
    SOFTWARE = 70
    DAMAGED = 65
    IO = 74
    IN_USE = 75
    NOT_PERMITTED = 77


class State(StrEnum):
    """Where in its life a process is."""

    NEW = "new"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"


_STEPS: dict[State, frozenset[State]] = {
    State.NEW: frozenset({State.STARTING, State.STOPPED}),
    State.STARTING: frozenset({State.RUNNING, State.STOPPED}),
    State.RUNNING: frozenset({State.STOPPING}),
    State.STOPPING: frozenset({State.STOPPED}),
    State.STOPPED: frozenset(),
}


def exit_code_of(error: BaseException) -> ExitCode:
    """The exit code by which an error at start or at work is told."""
    if isinstance(error, (InUse, BrokerRunning)):
        return ExitCode.IN_USE
    if isinstance(error, (Damaged, NewerFormat)):
        return ExitCode.DAMAGED
    if isinstance(error, PermissionError) or isinstance(error.__cause__, PermissionError):
        return ExitCode.NOT_PERMITTED
    if isinstance(error, (LogError, DiskFull, OSError)):
        return ExitCode.IO
    return ExitCode.SOFTWARE


class Service(Protocol):
    """What a broker does in its life."""

    owner: EventOwner

    def start(self) -> dict[str, object]:
        """Takes its lock and opens its files; what it returns is told to the manager."""

    def on_event(self, event: Event) -> None:
        """Something came from the manager's queue."""

    def on_client(self, event: Event, sock: socket.socket) -> None:
        """A client was handed over with its REGISTER event."""

    def on_neighbour(self, sock: socket.socket) -> None:
        """The pipe to the other broker, a new one whenever one of the two was replaced."""

    def turn(self) -> None:
        """All that was ready has been read: commit, dispatch, answer."""

    def wait_seconds(self) -> float | None:
        """How long the next turn may wait for something to happen; None: for ever."""

    def stop(self) -> None:
        """Finishes and closes; called once."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a broker process is started with."""

    root: str
    log_level: int
    fresh: bool = True
    """False for a broker that is started in place of one that died."""
    log_format: str = "auto"
    log_process: str = "broker"
    stream_defaults: Mapping[str, Any] = field(default_factory=dict)
    """What the settings of the directory say of new streams, as it was read when the manager started."""
    sink_defaults: Mapping[str, Any] = field(default_factory=dict)
    """The same of new sinks."""


class Life:
    """Runs a service in this process, between the manager's two queues and the pipe by which clients are handed over."""

    def __init__(self, setup: Setup, inbox: Queue[bytes], outbox: Queue[bytes], handover: socket.socket) -> None:
        self.root, self.fresh = Path(setup.root), setup.fresh
        self.stream_defaults, self.sink_defaults = setup.stream_defaults, setup.sink_defaults
        self.limits = LIMITS
        self.files = Files()
        self.clock = Clock()
        self.poller = Poller()
        self.watchers = Watchers(self.poller)
        self.state = State.NEW
        self.exit_code = ExitCode.DONE
        self._inbox, self._outbox, self._handover = inbox, outbox, handover
        self._service: Service | None = None

    def lock(self, path: Path, what: str) -> HeldLock:
        """Takes a lock file for this process; a dying predecessor is waited for. Raises InUse and LogError as `hold`."""
        return hold(path, self.limits.lock_wait_seconds, what)

    def threads(self, count: int) -> Executor:
        """So many threads, for what would keep the loop waiting for the disk."""
        return ThreadPoolExecutor(max_workers=count, thread_name_prefix="dq-sync")

    def tell(self, event: Event) -> None:
        """Puts an event on the queue to the manager; never blocks."""
        if self.watchers.on:
            self.watchers.saw("out", event, EventOwner.MANAGER)
        self._outbox.put(event.encode())

    def fail(self, error: BaseException) -> None:
        """Asks for a stop with the exit code of `error`."""
        self.exit_code = exit_code_of(error)
        log.error("%s stops: %s", self._service.owner if self._service else "a broker", words_of(error), extra=about(error))
        self.ask_to_stop()

    def ask_to_stop(self) -> None:
        """Stops after this turn; safe twice and from signal handlers."""
        self._asked = True

    def run(self, service: Service) -> ExitCode:
        """Lives the whole life; returns how it ended."""
        self._service, self._asked, self.watchers.owner = service, False, service.owner
        self._step(State.STARTING)
        try:
            status = service.start()
        except (DqError, OSError) as error:
            self._step(State.STOPPED)
            self.tell(Event(EventType.NACK, service.owner, {"error": type(error).__name__, "message": str(error)}))
            self._outbox.close()
            self._outbox.join_thread()
            return exit_code_of(error)
        self._step(State.RUNNING)
        self._listen(service)
        self.tell(Event(EventType.REGISTER, service.owner, {"pid": os.getpid(), "status": status}))
        try:
            while not self._asked:
                self.poller.run_once(service.wait_seconds())
                service.turn()
                if self.watchers.said:
                    self.watchers.flush()
        except Exception:
            # A fault of ours. What it touched is not known, so nothing is finished: recovery knows how to go on from here.
            log.exception("%s met an error of its own", service.owner)
            os._exit(ExitCode.SOFTWARE)
        self._step(State.STOPPING)
        try:
            service.stop()
        except (DqError, OSError) as error:
            # What was confirmed is on disk. The next start reads all of it, as after a kill.
            log.error("%s could not finish: %s", service.owner, words_of(error), extra=about(error))
            self.exit_code = exit_code_of(error) if self.exit_code is ExitCode.DONE else self.exit_code
        self._step(State.STOPPED)
        self._outbox.cancel_join_thread()  # the manager may be gone, and nobody reads
        return self.exit_code

    def _step(self, state: State) -> None:
        if state not in _STEPS[self.state]:
            raise RuntimeError(f"a process that is {self.state} cannot become {state}")
        self.state = state

    def _listen(self, service: Service) -> None:
        self._handover.setblocking(False)
        self.poller.add(self._handover, lambda: self._take_over(service))
        manager = multiprocessing.parent_process()
        if manager is not None:
            self.poller.add(manager.sentinel, self._manager_gone)
        signal.signal(signal.SIGTERM, lambda *_: self.poller.call(self.ask_to_stop))
        threading.Thread(target=self._read_queue, args=(service,), daemon=True, name="dq-queue").start()

    def _manager_gone(self) -> None:
        log.warning("the manager is gone; %s finishes and leaves", self._service.owner if self._service else "")
        self.ask_to_stop()

    def _read_queue(self, service: Service) -> None:
        """The one reader of the queue from the manager; the loop's thread handles what it reads."""
        while True:
            try:
                event = decode(self._inbox.get())
            except (EOFError, OSError, queue.Empty):
                return
            self.poller.call(lambda event=event: self._on_event(service, event))  # type: ignore[misc]

    def _on_event(self, service: Service, event: Event) -> None:
        if self.watchers.on:
            self.watchers.saw("in", event, EventOwner.MANAGER)
        if event.type is EventType.SHUTDOWN:
            self.ask_to_stop()
        else:
            service.on_event(event)

    def _take_over(self, service: Service) -> None:
        try:
            while (taken := take_over(self._handover)) is not None:
                raw, sock = taken
                event = decode(raw)
                if self.watchers.on:
                    self.watchers.saw("in", event, EventOwner.MANAGER)
                if event.owner is EventOwner.WATCHER:
                    self.watchers.admit(sock)
                elif event.owner is EventOwner.MANAGER:
                    service.on_neighbour(sock)
                else:
                    service.on_client(event, sock)
        except EOFError:
            self.poller.remove(self._handover)
            self._manager_gone()
        except ProtocolError as error:
            log.error("the manager handed over what is no event: %s", words_of(error), extra=about(error))


def open_missing_streams() -> None:
    """Puts `/dev/null` where standard input, output or error was closed; to be called before anything else is opened.

    Else a log or a socket would get one of their numbers, and what somebody prints would go into it.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
            os.set_inheritable(descriptor, True)


def prepare(setup: Setup) -> None:
    """What every broker process does first: Ctrl-C is the manager's to decide, files are the owner's alone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.umask(0o077)
    operator_logs.begin(setup.log_process, operator_logs.of_broker(setup.log_level, setup.log_format))
    operator_logs.dump_stacks_at_signal()


def raise_descriptor_limit() -> None:
    """Lets this process, and those it starts, have as many clients as one broker may, as far as the system lets it."""
    wanted = LIMITS.clients_max + LIMITS.open_files_max + _OTHER_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # macOS has a limit below the one it tells of
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
