"""Who comes in by the manager's door: says who it is and is handed to the broker that serves it, or stays and asks."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dq.broker.clients import Control, Registered, Registry
from dq.broker.desk import nack
from dq.broker.figures import Ask, Figures
from dq.broker.supervised import Supervised
from dq.broker.watchers import Watchers
from dq.config import LIMITS
from dq.errors import InvalidSetting, ProtocolError
from dq.model.event import Event, EventOwner, EventType, decode
from dq.transport.pipe import Pipe, PipeError
from dq.transport.poller import Poller

log = logging.getLogger("dq")
_OWNER = EventOwner.MANAGER
_SERVES_CHARS_MAX = 200  # of a listener's channels and a reader's streams, in the list of who is there
Opened = Callable[[list[Any]], None]
Refused = Callable[[Event], None]


class Reception:
    """The clients that the manager itself talks to: strangers until they say who they are, and those that ask it things.

    Args:
        root: the data directory.
        poller: the manager's loop.
        publisher_broker, consumer_broker: clients are handed to them.
        registry: keeps who was handed to whom.
        ask: asks a broker, and calls back with its answer.
        figures: of all three processes.
        stop: stops the manager within so many seconds.
        watchers: of the manager's process.
    """

    def __init__(
        self,
        root: Path,
        poller: Poller,
        publisher_broker: Supervised,
        consumer_broker: Supervised,
        registry: Registry,
        ask: Ask,
        figures: Figures,
        stop: Callable[[float], None],
        watchers: Watchers,
    ) -> None:
        self._root, self._poller = root, poller
        self._publisher_broker, self._consumer_broker = publisher_broker, consumer_broker
        self._registry, self._ask, self._figures, self._stop = registry, ask, figures, stop
        self._watchers = watchers
        self._strangers: dict[Pipe, float] = {}
        self._controls: dict[Pipe, Control] = {}

    @property
    def attached(self) -> int:
        """How many are attached to the manager itself."""
        return len(self._controls)

    @property
    def due(self) -> float | None:
        """When `tend` is to be called, in monotonic seconds; None: not before somebody comes."""
        return min((since + LIMITS.hello_seconds for since in self._strangers.values()), default=None)

    def tend(self, now: float) -> None:
        """Closes connections that did not say in time who they are."""
        for pipe in [pipe for pipe, since in self._strangers.items() if since + LIMITS.hello_seconds <= now]:
            log.info("a connection that did not say who it is was closed")
            self._forget(pipe)

    def close(self) -> None:
        """Closes all that are still here."""
        for pipe in [*self._strangers, *self._controls]:
            self._forget(pipe)

    # --- the door --------------------------------------------------------------------------------------------------

    def let_in(self, sock: socket.socket) -> None:
        """Somebody stands in the door."""
        pipe = Pipe(sock, self._poller.scratch)
        self._strangers[pipe] = time.monotonic()
        self._watchers.know(pipe, lambda: self._labels(pipe))
        self._poller.add(pipe, lambda: self._read(pipe))

    def _labels(self, pipe: Pipe) -> dict[str, str]:
        control = self._controls.get(pipe)
        return {"peer": EventOwner.CLIENT} if control is None else {"peer": EventOwner.CLIENT, "client": control.id}

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
        self._watchers.know(pipe, lambda: self._labels(pipe))
        self._reply(pipe, Event(EventType.ACK, _OWNER, {"status": {"pid": os.getpid(), "root": os.fspath(self._root)}}))

    def _welcome_publisher(self, pipe: Pipe, event: Event) -> None:
        self._registry.add(Registered(event["id"], EventOwner.PUBLISHER_BROKER, event["pid"], event["stream"]))
        self._hand_over(self._publisher_broker, pipe, event)

    def _welcome_consumer(self, pipe: Pipe, event: Event) -> None:
        """The publisher broker opens the streams first, for it alone makes them; then the consumer broker gets the client."""
        self._poller.remove(pipe)

        def opened(streams: list[Any]) -> None:
            self._registry.add(Registered(event["id"], EventOwner.CONSUMER_BROKER, event["pid"], event["sink"]))
            self._hand_over(self._consumer_broker, pipe, Event(event.type, event.owner, {**event.fields, "opened": streams}))

        self._open_streams(event, opened, lambda answer: self._turn_away(pipe, answer))

    def _welcome_listener(self, pipe: Pipe, event: Event) -> None:
        serves = ",".join(event["channels"])[:_SERVES_CHARS_MAX]
        self._registry.add(Registered(event["id"], EventOwner.CONSUMER_BROKER, event["pid"], serves))
        self._hand_over(self._consumer_broker, pipe, event)

    def _welcome_watcher(self, pipe: Pipe, event: Event) -> None:
        """It watches this process, or is handed to one of the brokers; it counts as no client."""
        brokers = {"publisher_broker": self._publisher_broker, "consumer_broker": self._consumer_broker}
        if event["process"] in brokers:
            self._hand_over(brokers[event["process"]], pipe, event)
            return
        self._poller.remove(pipe)
        self._watchers.forget(pipe)
        if event["process"] == "manager":
            self._watchers.welcome(pipe)
        else:
            known = ", ".join(["manager", *brokers])
            self._turn_away(pipe, nack(_OWNER, InvalidSetting(f"watch one of {known}, not {event['process']!r:.100}")))

    def _welcome_reader(self, pipe: Pipe, event: Event) -> None:
        """It makes no stream, and reads the logs itself: the publisher broker tells it how far they go."""
        serves = ",".join(event["streams"])[:_SERVES_CHARS_MAX]
        self._registry.add(Registered(event["id"], EventOwner.PUBLISHER_BROKER, event["pid"], serves))
        self._hand_over(self._publisher_broker, pipe, event)

    def _open_streams(self, event: Event, opened: Opened, refused: Refused) -> None:
        """Has the publisher broker open the streams that an event names, one after the other."""
        streams, found = event["streams"], list[Any]()
        if len(streams) > LIMITS.streams_max:
            raise ProtocolError(f"a consumer of {len(streams):,} streams; {LIMITS.streams_max:,} are the most")

        def next_stream(answer: Event | None) -> None:
            if answer is not None and answer.type is EventType.NACK:
                refused(Event(EventType.NACK, _OWNER, {name: answer[name] for name in ("error", "message")}))
                return
            if answer is not None:
                found.append(answer["opened"])
            if len(found) < len(streams):
                fields = {"stream": streams[len(found)], "create": event.get("create", False), "settings": {}}
                self._ask(self._publisher_broker, EventType.OPEN, fields, next_stream)
            else:
                opened(found)

        next_stream(None)

    def _turn_away(self, pipe: Pipe, answer: Event) -> None:
        self._reply(pipe, answer)
        self._watchers.forget(pipe)
        pipe.close()

    def _hand_over(self, broker: Supervised, pipe: Pipe, event: Event) -> None:
        self._poller.remove(pipe)
        self._watchers.forget(pipe)
        broker.hand(event.encode(), pipe.sock)

    # --- requests --------------------------------------------------------------------------------------------------

    def _on_request(self, control: Control, event: Event) -> None:
        if event.owner is not EventOwner.CLIENT or "request" not in event.fields:
            raise ProtocolError(f"a client asks OPEN, CHANGE, STATUS or SHUTDOWN, not {event.type} of {event.owner}")
        request = event["request"]
        if event.type is EventType.SHUTDOWN:
            self._reply(control.pipe, Event(EventType.ACK, _OWNER, {"request": request}))
            self._stop(event.get("seconds", LIMITS.stop_seconds))
        elif event.type is EventType.OPEN:
            fields = {name: event[name] for name in ("stream", "create", "settings")}
            self._ask(self._publisher_broker, EventType.OPEN, fields, lambda answer: self._pass_on(control, request, answer))
        elif event.type is EventType.CHANGE:
            self._on_change(control, event)
        else:
            self._figures.tell(lambda status: self._reply(control.pipe, _answer(request, status)))

    def _on_change(self, control: Control, event: Event) -> None:
        """Something is to be done with a stream or a sink; the broker that owns it does it, and answers."""
        request = event["request"]
        fields = {name: value for name, value in event.fields.items() if name != "request"}
        broker = {"stream": self._publisher_broker, "sink": self._consumer_broker}.get(event["kind"])
        if broker is None:
            error = InvalidSetting(f"streams and sinks can be changed, not {event['kind']!r:.100}")
            self._reply(control.pipe, nack(_OWNER, error, request=request))
            return

        def opened(streams: list[Any]) -> None:
            told = {**fields, "opened": streams} if streams else fields
            self._ask(broker, EventType.CHANGE, told, lambda answer: self._pass_on(control, request, answer))

        if "streams" in fields:
            self._open_streams(event, opened, lambda answer: self._pass_on(control, request, answer))
        else:
            opened([])

    def _pass_on(self, control: Control, request: int, answer: Event) -> None:
        fields = {name: value for name, value in answer.fields.items() if name in ("opened", "result", "error", "message")}
        self._reply(control.pipe, Event(answer.type, _OWNER, {**fields, "request": request}))

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
        self._watchers.forget(pipe)
        pipe.close()


def _answer(request: int, status: dict[str, Any]) -> Event:
    return Event(EventType.ACK, _OWNER, {"request": request, "status": status})


_WELCOME: dict[EventOwner, Callable[[Reception, Pipe, Event], None]] = {
    EventOwner.CLIENT: Reception._welcome_client,
    EventOwner.PUBLISHER: Reception._welcome_publisher,
    EventOwner.CONSUMER: Reception._welcome_consumer,
    EventOwner.LISTENER: Reception._welcome_listener,
    EventOwner.WATCHER: Reception._welcome_watcher,
    EventOwner.READER: Reception._welcome_reader,
}
