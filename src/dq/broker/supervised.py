"""One broker process as the manager sees it: its two queues, the pipe for descriptors, its death and its next start.

A process killed while it holds a `multiprocessing.Queue` can leave it locked for ever. So a queue has one writer and one
reader, and both queues of a broker go with it: a new process gets new ones, and the thread that read the old one ends.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING

from dq.broker.life import ExitCode, Setup
from dq.broker.watchers import Watchers
from dq.config import LIMITS
from dq.model.event import Event, EventOwner, EventType, decode
from dq.model.told import about
from dq.transport.door import hand_over, handover_pair
from dq.transport.poller import Poller

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

log = logging.getLogger("dq")
_CALM_SECONDS = LIMITS.restart_backoff_seconds_max
Main = Callable[[Setup, "Queue[bytes]", "Queue[bytes]", socket.socket], None]


class Supervised:
    """A broker process that is started again when it dies.

    Args:
        owner: which broker it is.
        main: what the process runs.
        setup: what it is started with.
        poller: the manager's loop.
        on_event: called in the loop for each event from the broker.
        on_death: called in the loop when the process has ended.
        watchers: of the manager's process.
    """

    def __init__(
        self,
        owner: EventOwner,
        main: Main,
        setup: Setup,
        poller: Poller,
        on_event: Callable[[Supervised, Event], None],
        on_death: Callable[[Supervised], None],
        watchers: Watchers,
    ) -> None:
        self.owner, self._main, self._setup, self._poller = owner, main, setup, poller
        self._on_event, self._on_death, self._watchers = on_event, on_death, watchers
        self._context = multiprocessing.get_context("spawn")
        self.process: SpawnProcess | None = None
        self.ready = False
        self.restarts = 0
        self.restart_at: float | None = None
        self.last_error: Event | None = None
        self._failures = 0
        self._ready_at = 0.0
        self._waiting: deque[tuple[bytes, socket.socket]] = deque()

    @property
    def pid(self) -> int | None:
        """The process's pid while it lives."""
        return self.process.pid if self.process is not None and self.process.is_alive() else None

    def start(self) -> None:
        """Starts the process, with queues of its own. Must be called from the main thread.

        Raises:
            OSError: the system has no descriptor or no process to give; `schedule_restart` tries it again.
        """
        self.ready, self.restart_at, self.last_error = False, None, None
        try:
            self.process = self._spawn()
        except OSError:
            self._failures += 1
            raise
        self._poller.add(self.process.sentinel, self._died)
        name = f"dq-from-{self.process.name}"
        self._reader = threading.Thread(target=self._read, args=(self._outbox,), daemon=True, name=name)
        self._reader.start()

    def _spawn(self) -> SpawnProcess:
        self._inbox: Queue[bytes] = self._context.Queue()
        self._outbox: Queue[bytes] = self._context.Queue()
        self._handover, theirs = handover_pair()
        self._handover.setblocking(False)
        name = self.owner.lower().replace("_", "-")
        setup = replace(self._setup, fresh=not self.restarts, log_process=name.replace("-", " "))
        arguments = (setup, self._inbox, self._outbox, theirs)
        process = self._context.Process(target=self._main, args=arguments, name=f"dq-{name}", daemon=True)
        try:
            process.start()
        finally:
            theirs.close()  # the end of the pipe comes only when every copy is closed
        return process

    def _read(self, outbox: Queue[bytes]) -> None:
        """The one reader of this queue."""
        while True:
            try:
                event = decode(outbox.get())
            except (EOFError, OSError, TypeError):  # TypeError: closed under a waiting read
                return
            if event.type is EventType.NACK and not self.ready and not event.get("publisher"):
                self.last_error = event
            self._poller.call(lambda event=event: self._hear(event))  # type: ignore[misc]

    def _hear(self, event: Event) -> None:
        if self._watchers.on:
            self._watchers.saw("in", event, self.owner)
        self._on_event(self, event)

    def send(self, event: Event) -> bool:
        """Puts an event on the broker's queue; False when there is no broker to read it."""
        if not self.ready:
            return False
        if self._watchers.on:
            self._watchers.saw("out", event, self.owner)
        self._inbox.put(event.encode())
        return True

    def hand(self, event: bytes, sock: socket.socket) -> None:
        """Hands a client over, as soon as the broker takes it; the manager's copy is closed then."""
        self._waiting.append((event, sock))
        self.hand_waiting()

    def hand_waiting(self) -> None:
        """Hands over who waits."""
        while self._waiting and self.process is not None and (self.ready or self._is_neighbour(self._waiting[0][0])):
            event, sock = self._waiting[0]
            at = time.time()
            try:
                hand_over(self._handover, event, sock.fileno())
            except BlockingIOError:
                return  # its buffer is full; the loop comes here again
            except OSError:
                return  # it is dying; who waits is handed to the next one
            if self._watchers.on:
                self._watchers.saw("out", decode(event), self.owner, at)
            self._waiting.popleft()
            sock.close()

    @staticmethod
    def _is_neighbour(event: bytes) -> bool:
        return b'"owner":"MANAGER"' in event

    @property
    def hands_waiting(self) -> bool:
        """Whether somebody still waits to be handed over to a broker that runs."""
        return bool(self._waiting) and self.ready

    def set_ready(self) -> None:
        """The broker has said that it runs."""
        self.ready, self._ready_at = True, time.monotonic()
        self.hand_waiting()

    def _died(self) -> None:
        process = self.process
        if process is None:
            return
        self._poller.remove(process.sentinel)
        process.join()
        was_ready, self.ready = self.ready, False
        # Killed, or at work for a while before it ended: that says nothing of the next one. Else the next may end as it did.
        calm = was_ready and ((process.exitcode or 0) < 0 or time.monotonic() - self._ready_at >= _CALM_SECONDS)
        self._failures = 0 if calm else self._failures + 1
        self._handover.close()
        # What it said last is read before its queue is given up: the end of the pipe shows once our copy is closed.
        self._inbox.cancel_join_thread()
        self._inbox.close()
        self._outbox._writer.close()  # type: ignore[attr-defined]
        self._reader.join(1.0)
        self._waiting = deque(item for item in self._waiting if not self._is_neighbour(item[0]))
        self._on_death(self)

    @property
    def exit_code(self) -> int | None:
        """How the process ended: an `ExitCode`, or minus the signal that killed it."""
        return self.process.exitcode if self.process is not None else None

    def exit_reason(self) -> str:
        """How the process ended, for people."""
        code = self.exit_code
        if code is not None and code < 0:
            return f"killed by signal {-code}"
        with contextlib.suppress(ValueError):
            return f"exit {code} ({ExitCode(code or 0).name})"
        return f"exit {code}"

    def schedule_restart(self, now: float) -> None:
        """After a kill the restart is at once; one that ends by itself again and again waits longer each time."""
        self.restarts += 1
        wait = 0.0
        if self._failures:
            wait = min(LIMITS.restart_backoff_seconds * 2 ** (self._failures - 1), LIMITS.restart_backoff_seconds_max)
        self.restart_at = now + wait

    def kill(self) -> None:
        """Ends it at once, whatever it does."""
        if self.process is not None:
            self.process.kill()

    def stop(self, seconds: float) -> bool:
        """Asks it to finish, waits, and kills what has not ended; returns whether it ended by itself."""
        process = self.process
        if process is None:
            return True
        self._poller.remove(process.sentinel)
        if process.is_alive():
            if not self.send(Event(EventType.SHUTDOWN, EventOwner.MANAGER)):
                process.terminate()
            process.join(max(seconds, 0.0))
        well = process.exitcode is not None
        if not well:
            log.error("%s did not stop within %.1f s and is killed", self.owner, seconds, extra=about(broker=self.owner))
            process.kill()
            process.join()
        self._inbox.cancel_join_thread()
        return well
