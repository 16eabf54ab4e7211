"""The BrokerManager's process: registry, router, supervisor, and the one door for clients. It carries no records."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dq.broker import consumer_broker, publisher_broker
from dq.broker.clients import Registry
from dq.broker.directory import Directory
from dq.broker.entrance import Entrance
from dq.broker.figures import Figures
from dq.broker.life import ExitCode, Setup, raise_descriptor_limit
from dq.broker.reception import Reception
from dq.broker.supervised import Supervised
from dq.broker.watchers import Watchers
from dq.config import LIMITS, MIB
from dq.errors import LogError
from dq.log import memory
from dq.log.files import Files
from dq.model.event import Event, EventOwner, EventType
from dq.model.told import about, words_of, words_told
from dq.settings.setting import Part
from dq.settings.values import PLAIN, Settings
from dq.transport.poller import Poller

log = logging.getLogger("dq")
_OWNER = EventOwner.MANAGER


class Manager:
    """The manager of one data directory.

    Args:
        root: the data directory; made if it is not there.
        log_level: of the brokers' processes, as `log_format`.
        linger: leave so many seconds after the last client; None: stay.
        settings: of the directory, as they are from now on; default: all as dq has it.
    """

    def __init__(
        self,
        root: Path,
        log_level: int = logging.WARNING,
        linger: float | None = None,
        log_format: str = "auto",
        settings: Settings = PLAIN,
    ) -> None:
        self.root = root
        self._linger = linger
        self._files = Files()
        self._poller = Poller()
        self._watchers = watchers = Watchers(self._poller)
        setup = Setup(
            os.fspath(root),
            log_level,
            log_format=log_format,
            stream_defaults=settings.wished(Part.STREAM),
            sink_defaults=settings.wished(Part.SINK),
        )
        self._settings = settings.told()
        self.publisher_broker = Supervised(
            EventOwner.PUBLISHER_BROKER, publisher_broker.main, setup, self._poller, self._on_event, self._on_death, watchers
        )
        self.consumer_broker = Supervised(
            EventOwner.CONSUMER_BROKER, consumer_broker.main, setup, self._poller, self._on_event, self._on_death, watchers
        )
        self._brokers = (self.publisher_broker, self.consumer_broker)
        self._directory = Directory(root, self._files)
        self._registry = Registry()
        self._requests: dict[int, tuple[Supervised, Event, Callable[[Event], None]]] = {}
        self._figures = Figures(self._brokers, self._ask, self._own_figures)
        self._reception = Reception(
            root,
            self._poller,
            self.publisher_broker,
            self.consumer_broker,
            self._registry,
            self._ask,
            self._figures,
            self._leave,
            watchers,
        )
        self._entrance = Entrance(root, self._poller, self._reception.let_in)
        self._next_request = 0
        self._stopping = False
        self._stop_seconds = LIMITS.stop_seconds
        self._was_ready = False
        self._empty_since: float | None = None
        self._watch_at = 0.0
        self.on_ready: Callable[[], None] = lambda: None
        self.exit_code = ExitCode.DONE
        self.failure: Event | None = None

    # --- life ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Takes the directory, opens the door, starts both brokers.

        Raises:
            BrokerRunning: another manager has it; the message names its pid.
            NewerFormat, Damaged, LogError: the directory is not ours to serve, or cannot be used.
        """
        _settle_environment()
        self._directory.take()
        for broker in self._brokers:
            broker.start()
        self._join_brokers()
        self._entrance.open()

    def run(self) -> ExitCode:
        """Serves until it is told to stop."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.ask_to_stop_from_elsewhere())
        while not self._stopping:
            self._poller.run_once(self._wait_seconds())
            self._tend(time.monotonic())
            if self._watchers.said:
                self._watchers.flush()
        self._stop()
        return self.exit_code

    def ask_to_stop(self) -> None:
        """Stops after this turn."""
        self._stopping = True

    def _leave(self, seconds: float) -> None:
        """A client asks it to stop, within so many seconds."""
        self._stop_seconds = min(seconds, LIMITS.stop_seconds)
        self.ask_to_stop()

    def ask_to_stop_from_elsewhere(self) -> None:
        """The same from another thread or a signal handler."""
        self._poller.call(self.ask_to_stop)

    def _wait_seconds(self) -> float:
        moments = [self._watch_at, *(broker.restart_at for broker in self._brokers if broker.restart_at is not None)]
        moments += [] if self._figures.due is None else [self._figures.due]
        moments += [] if self._reception.due is None else [self._reception.due]
        if self._linger is not None and self._empty_since is not None:
            moments.append(self._empty_since + self._linger)
        now = time.monotonic()
        if any(broker.hands_waiting for broker in self._brokers):
            moments.append(now + 0.01)
        if self._entrance.reopens_at is not None:
            moments.append(self._entrance.reopens_at)
        return max(min(moments) - now, 0.0)

    def _tend(self, now: float) -> None:
        """What is due by time."""
        for broker in self._brokers:
            broker.hand_waiting()
            if broker.restart_at is not None and broker.restart_at <= now:
                self._start_again(broker, now)
        self._entrance.tend(now)
        if now >= self._watch_at:
            self._watch_at = now + LIMITS.watch_seconds
            self._watch()
        self._figures.tend(now)
        self._reception.tend(now)
        if self._reception.attached or self._registry.count or not self._was_ready:
            self._empty_since = None
        elif self._empty_since is None:
            self._empty_since = now
        elif self._linger is not None and now >= self._empty_since + self._linger:
            self.ask_to_stop()

    def _stop(self) -> None:
        """The door first, then the consumers' broker, then the publishers', within one limit of time."""
        deadline = time.monotonic() + self._stop_seconds
        self._entrance.close()
        self._reception.close()
        for broker in (self.consumer_broker, self.publisher_broker):
            broker.stop(deadline - time.monotonic())
        if self._directory.lost() is None:
            with contextlib.suppress(LogError):
                memory.remove(self._files, self.root)
        self._directory.release()

    # --- the brokers -----------------------------------------------------------------------------------------------

    def _join_brokers(self) -> None:
        """A new pipe between the brokers, whenever one of them is new."""
        first, second = socket.socketpair()
        hello = Event(EventType.REGISTER, _OWNER).encode()
        self.publisher_broker.hand(hello, first)
        self.consumer_broker.hand(hello, second)

    def _start_again(self, broker: Supervised, now: float) -> None:
        try:
            broker.start()
        except OSError as error:  # out of descriptors or of processes: as if it had died at its start
            log.error(
                "%s cannot be started: %s; it is tried again",
                broker.owner,
                error.strerror,
                extra=about(error, broker=broker.owner),
            )
            broker.schedule_restart(now)
            return
        self._join_brokers()

    def _watch(self) -> None:
        """Looks whether what is served is still there."""
        lost = self._directory.lost()
        if lost is None:
            self._entrance.mend()
            return
        log.error(
            "the data directory %s: %s. Nothing more can be stored in it, so its broker stops at once",
            words_of(str(self.root)),
            lost,
        )
        self.exit_code = ExitCode.IO
        for broker in self._brokers:
            broker.kill()  # it must not confirm what goes into files that nobody finds again
        self.ask_to_stop()

    def _on_death(self, broker: Supervised) -> None:
        if self._stopping:
            return
        if not self._was_ready:
            self.failure, self.exit_code = broker.last_error, ExitCode.SOFTWARE
            if broker.exit_code in {int(code) for code in ExitCode}:
                self.exit_code = ExitCode(broker.exit_code or 0)
            self.ask_to_stop()
            return
        last = broker.last_error
        why = "" if last is None else words_told(last["error"], last["message"])
        extra = about(None if last is None else last["error"], broker=broker.owner)
        log.warning("%s ended: %s %s; it is started again", broker.owner, broker.exit_reason(), why, extra=extra)
        self._registry.forget_all(broker.owner)
        broker.schedule_restart(time.monotonic())

    def _on_event(self, broker: Supervised, event: Event) -> None:
        """The router."""
        if event.type is EventType.REGISTER:
            broker.set_ready()
            self._resend_requests(broker)
            if not self._was_ready and all(part.ready for part in self._brokers):
                self._was_ready = True
                self.on_ready()
        elif event.type is EventType.CLOSE:
            self._registry.forget(event["id"])
        elif "request" in event.fields:
            self._answered(event)
        elif broker is self.consumer_broker and event.type in (EventType.WRITE, EventType.TRIM):
            # For a publisher broker that is not there it is lost: the consumer broker sends it again to the next one.
            forward = Event(event.type, _OWNER, event.fields) if event.type is EventType.TRIM else event
            self.publisher_broker.send(forward)
        elif broker is self.publisher_broker and "publisher" in event.fields:
            self.consumer_broker.send(event)

    def _ask(self, broker: Supervised, kind: EventType, fields: dict[str, Any], then: Callable[[Event], None]) -> None:
        """Asks a broker; `then` gets its answer, also when the broker has to be started again first."""
        self._next_request += 1
        event = Event(kind, _OWNER, {"request": self._next_request, **fields})
        self._requests[self._next_request] = (broker, event, then)
        broker.send(event)

    def _resend_requests(self, broker: Supervised) -> None:
        for asked, event, _ in list(self._requests.values()):
            if asked is broker:
                broker.send(event)

    def _answered(self, event: Event) -> None:
        asked = self._requests.pop(event["request"], None)
        if asked is not None:
            asked[2](event)

    def _own_figures(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "root": os.fspath(self.root),
            "clients": self._reception.attached,
            "registered": self._registry.to_list(),
            "settings": self._settings,
        }


def _settle_environment() -> None:
    """What the brokers' processes, started from here, find in their environment, however this one was started."""
    os.umask(0o077)
    raise_descriptor_limit()
    # glibc gives memory over 128 KiB back at once and faults it in again for the next buffer, a page at a time. The
    # brokers' buffers are up to 1 MiB and always needed again.
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(4 * MIB))
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(16 * MIB))
    # Python's tracker of semaphores cleans up after a killed manager, as it should, and need not say so on standard error.
    sys.warnoptions.append("ignore:resource_tracker")
