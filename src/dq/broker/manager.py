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
from dq.broker.clients import Control, Registered, Registry
from dq.broker.desk import nack
from dq.broker.directory import Directory
from dq.broker.entrance import Entrance
from dq.broker.figures import Figures
from dq.broker.life import ExitCode, Setup, raise_descriptor_limit
from dq.broker.supervised import Supervised
from dq.config import LIMITS, MIB
from dq.errors import LogError, ProtocolError
from dq.log import memory
from dq.log.files import Files
from dq.model.event import Event, EventOwner, EventType, decode
from dq.transport.pipe import Pipe, PipeError
from dq.transport.poller import Poller

log = logging.getLogger("dq")
_OWNER = EventOwner.MANAGER


class Manager:
    """The manager of one data directory.

    Args:
        root: the data directory; made if it is not there.
        log_level: of this process and of the brokers.
        linger: leave so many seconds after the last client; None: stay.
    """

    def __init__(self, root: Path, log_level: int = logging.WARNING, linger: float | None = None) -> None:
        self.root = root
        self._linger = linger
        self._files = Files()
        self._poller = Poller()
        setup = Setup(os.fspath(root), log_level)
        self.publisher_broker = Supervised(
            EventOwner.PUBLISHER_BROKER, publisher_broker.main, setup, self._poller, self._on_event, self._on_death
        )
        self.consumer_broker = Supervised(
            EventOwner.CONSUMER_BROKER, consumer_broker.main, setup, self._poller, self._on_event, self._on_death
        )
        self._brokers = (self.publisher_broker, self.consumer_broker)
        self._directory = Directory(root, self._files)
        self._entrance = Entrance(root, self._poller, self._let_in)
        self._registry = Registry()
        self._strangers: dict[Pipe, float] = {}
        self._controls: dict[Pipe, Control] = {}
        self._requests: dict[int, tuple[Supervised, Event, Callable[[Event], None]]] = {}
        self._figures = Figures(self._brokers, self._ask, self._own_figures)
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
        self._stop()
        return self.exit_code

    def ask_to_stop(self) -> None:
        """Stops after this turn."""
        self._stopping = True

    def ask_to_stop_from_elsewhere(self) -> None:
        """The same from another thread or a signal handler."""
        self._poller.call(self.ask_to_stop)

    def _wait_seconds(self) -> float:
        moments = [self._watch_at, *(broker.restart_at for broker in self._brokers if broker.restart_at is not None)]
        moments += [] if self._figures.due is None else [self._figures.due]
        moments += [since + LIMITS.hello_seconds for since in self._strangers.values()]
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
        for pipe in [pipe for pipe, since in self._strangers.items() if since + LIMITS.hello_seconds <= now]:
            log.info("a connection that did not say who it is was closed")
            self._forget(pipe)
        if self._controls or self._registry.count or not self._was_ready:
            self._empty_since = None
        elif self._empty_since is None:
            self._empty_since = now
        elif self._linger is not None and now >= self._empty_since + self._linger:
            self.ask_to_stop()

    def _stop(self) -> None:
        """The door first, then the consumers' broker, then the publishers', within one limit of time."""
        deadline = time.monotonic() + self._stop_seconds
        self._entrance.close()
        for pipe in [*self._strangers, *self._controls]:
            self._forget(pipe)
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
            log.error("%s cannot be started: %s; it is tried again", broker.owner, error.strerror)
            broker.schedule_restart(now)
            return
        self._join_brokers()

    def _watch(self) -> None:
        """Looks whether what is served is still there."""
        lost = self._directory.lost()
        if lost is None:
            self._entrance.mend()
            return
        log.error("the data directory %s: %s. Nothing more can be stored in it, so its broker stops at once", self.root, lost)
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
        why = broker.last_error["message"] if broker.last_error is not None else ""
        log.warning("%s ended: %s %s; it is started again", broker.owner, broker.exit_reason(), why)
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

    # --- the door --------------------------------------------------------------------------------------------------

    def _let_in(self, sock: socket.socket) -> None:
        pipe = Pipe(sock, self._poller.scratch)
        self._strangers[pipe] = time.monotonic()
        self._poller.add(pipe, lambda: self._read(pipe))

    def _read(self, pipe: Pipe) -> None:
        try:
            frames = list(pipe.receive())
            if pipe in self._strangers and frames and (len(frames) > 1 or pipe.inbox.waiting_bytes):
                raise ProtocolError("a client waits for the answer to its REGISTER; what came with it would be lost")
            for frame in frames:
                event = decode(frame)
                if pipe in self._strangers:
                    self._welcome(pipe, event)
                elif pipe in self._controls:
                    self._on_request(self._controls[pipe], event)
        except ProtocolError as error:
            self._reply(pipe, nack(_OWNER, error))
            self._forget(pipe)
        except PipeError:
            self._forget(pipe)

    def _welcome(self, pipe: Pipe, event: Event) -> None:
        """Somebody said who it is."""
        if event.type is not EventType.REGISTER or event.owner not in _WELCOME:
            raise ProtocolError(f"a client begins with REGISTER, not with {event.type} of {event.owner}")
        del self._strangers[pipe]
        _WELCOME[event.owner](self, pipe, event)

    def _welcome_client(self, pipe: Pipe, event: Event) -> None:
        self._controls[pipe] = Control(pipe, event["id"], event["pid"])
        self._reply(pipe, Event(EventType.ACK, _OWNER, {"status": {"pid": os.getpid(), "root": os.fspath(self.root)}}))

    def _welcome_publisher(self, pipe: Pipe, event: Event) -> None:
        self._registry.add(Registered(event["id"], EventOwner.PUBLISHER_BROKER, event["pid"], event["stream"]))
        self._hand_over(self.publisher_broker, pipe, event)

    def _welcome_consumer(self, pipe: Pipe, event: Event) -> None:
        """The publisher broker opens the streams first, for it alone makes them; then the consumer broker gets the client."""
        streams = event["streams"]
        if len(streams) > LIMITS.streams_max:
            raise ProtocolError(f"a consumer of {len(streams):,} streams; {LIMITS.streams_max:,} are the most")
        self._poller.remove(pipe)
        opened: list[Any] = []

        def next_stream(answer: Event | None) -> None:
            if answer is not None and answer.type is EventType.NACK:
                self._reply(pipe, Event(EventType.NACK, _OWNER, {k: answer[k] for k in ("error", "message")}))
                pipe.close()
                return
            if answer is not None:
                opened.append(answer["opened"])
            if len(opened) < len(streams):
                fields = {"stream": str(streams[len(opened)]), "create": event.get("create", False), "settings": {}}
                self._ask(self.publisher_broker, EventType.OPEN, fields, next_stream)
                return
            self._registry.add(Registered(event["id"], EventOwner.CONSUMER_BROKER, event["pid"], event["sink"]))
            told = Event(event.type, event.owner, {**event.fields, "opened": opened})
            self._hand_over(self.consumer_broker, pipe, told)

        next_stream(None)

    def _hand_over(self, broker: Supervised, pipe: Pipe, event: Event) -> None:
        self._poller.remove(pipe)
        broker.hand(event.encode(), pipe.sock)

    # --- requests --------------------------------------------------------------------------------------------------

    def _on_request(self, control: Control, event: Event) -> None:
        if event.owner is not EventOwner.CLIENT or "request" not in event.fields:
            raise ProtocolError(f"a client asks OPEN, STATUS or SHUTDOWN, not {event.type} of {event.owner}")
        request = event["request"]
        if event.type is EventType.SHUTDOWN:
            self._reply(control.pipe, Event(EventType.ACK, _OWNER, {"request": request}))
            self._stop_seconds = min(event.get("seconds", LIMITS.stop_seconds), LIMITS.stop_seconds)
            self.ask_to_stop()
        elif event.type is EventType.OPEN:
            fields = {name: event[name] for name in ("stream", "create", "settings")}
            self._ask(self.publisher_broker, EventType.OPEN, fields, lambda answer: self._pass_on(control, request, answer))
        else:
            self._figures.tell(lambda status: self._reply(control.pipe, _answer(request, status)))

    def _pass_on(self, control: Control, request: int, answer: Event) -> None:
        fields = {name: value for name, value in answer.fields.items() if name in ("opened", "error", "message")}
        self._reply(control.pipe, Event(answer.type, _OWNER, {**fields, "request": request}))

    def _own_figures(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "root": os.fspath(self.root),
            "clients": len(self._controls),
            "registered": self._registry.to_list(),
        }

    def _reply(self, pipe: Pipe, event: Event) -> None:
        if pipe.closed:
            return
        try:
            pipe.send(event)
            if pipe.waits_to_write:
                self._poller.watch_writes(pipe, lambda broken, _: self._forget(broken))
        except PipeError:
            self._forget(pipe)

    def _forget(self, pipe: Pipe) -> None:
        self._poller.remove(pipe)
        self._strangers.pop(pipe, None)
        self._controls.pop(pipe, None)
        pipe.close()


def _answer(request: int, status: dict[str, Any]) -> Event:
    return Event(EventType.ACK, _OWNER, {"request": request, "status": status})


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


_WELCOME: dict[EventOwner, Callable[[Manager, Pipe, Event], None]] = {
    EventOwner.CLIENT: Manager._welcome_client,
    EventOwner.PUBLISHER: Manager._welcome_publisher,
    EventOwner.CONSUMER: Manager._welcome_consumer,
}
