"""The manager of a simulated world: it starts the brokers anew, hands clients over, and routes as the real one does."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from sim_files import DirectoryNode
from sim_life import ProcessKilled, Room, SimDisk, SimLife, Watcher
from sim_wires import End, Wires

from dq.broker.consumer_broker import ConsumerBroker
from dq.broker.publisher_broker import PublisherBroker
from dq.clock import FakeClock
from dq.config import LIMITS
from dq.errors import DqError
from dq.model.event import Event, EventOwner, EventType, decode
from dq.transport.frames import framed

_HELLO = Event(EventType.REGISTER, EventOwner.MANAGER).encode()
Answer = Callable[[Event], None]


class Machine:
    """What the processes of a world share: disk, clock, locks, chance."""

    def __init__(self, chance: random.Random, clock: FakeClock, wires: Wires, watcher: Watcher, root: DirectoryNode) -> None:
        self.chance, self.clock, self.wires, self.watcher, self.root = chance, clock, wires, watcher, root
        self.room = Room()
        self.locks: set[Path] = set()

    def disk(self) -> SimDisk:
        return SimDisk(self.root, self.chance, self.watcher, self.room)


class Broker:
    """A broker process under its supervisor.

    Attributes:
        service: what runs in it; None while it does not.
        ready: it has said that it runs.
        restart_at: when it is started again.
        waiting: who waits to be handed over to it.
        on_opened: called when it has started, and with a name when it has opened that log later.
    """

    def __init__(self, machine: Machine, kind: type[PublisherBroker] | type[ConsumerBroker]) -> None:
        self.machine, self.kind, self.owner = machine, kind, kind.owner
        self.service: Any = None
        self.life: SimLife = self._new_life(fresh=True)
        self.ready, self.fresh = False, True
        self.restart_at: float | None = None
        self.starts_failed = 0
        self.last_error: BaseException | None = None
        self.wake_at: float | None = 0.0
        self.inbox: deque[bytes] = deque()
        self.waiting: deque[tuple[bytes, End]] = deque()
        self._ends: list[End] = []
        self.on_opened: Callable[[Broker, str | None], None] = lambda _broker, _name: None

    def _new_life(self, *, fresh: bool) -> SimLife:
        machine = self.machine
        return SimLife(machine.disk(), machine.clock, machine.chance, machine.locks, fresh=fresh)

    def start(self) -> bool:
        """False when it did not start; it is tried again later then."""
        self.life, self.restart_at, self.wake_at = self._new_life(fresh=self.fresh), None, 0.0
        self.fresh = False
        service = self.service = self.kind(self.life)
        self._let_reopen(service)
        try:
            status = service.start()
        except ProcessKilled:
            self.die()
            return False
        except (DqError, OSError) as error:
            self.last_error = error
            self.starts_failed += 1
            self.die(error)
            return False
        self.starts_failed = 0
        self.life.tell(Event(EventType.REGISTER, self.owner, {"pid": 1, "status": status}))
        return True

    def _let_reopen(self, service: Any) -> None:
        """A log that is tried once more is read from the disk alone, so that an earlier flush that failed hides nothing."""
        place, method = (service._catalog, "reopen") if self.is_publishers else (service._sinks, "_open")
        setattr(place, method, partial(self._open_anew, getattr(place, method)))
        if not self.is_publishers:
            service._laters._open = partial(self._open_later_anew, service._laters._open)

    def _open_later_anew(self, open_again: Callable[[str], Any], name: str) -> Any:
        if name in self.service._laters.closed:
            self.life.files.new_life()
        return open_again(name)

    def _open_anew(self, open_again: Callable[[str], Any], name: str) -> Any:
        if not self.ready:
            return open_again(name)
        self.life.files.new_life()
        opened = open_again(name)
        self.on_opened(self, name)
        return opened

    # --- its loop --------------------------------------------------------------------------------------------------

    def spin(self) -> None:
        """A turn, if a loop that sleeps would wake for it."""
        if self.service is None:
            return
        for workers in self.life.workers:
            if self.machine.chance.random() < 0.5:
                self._guarded(workers.run_one)
        if self.service is not None and self._awake():
            self._guarded(self._turn)

    def _awake(self) -> bool:
        due = self.wake_at is not None and self.wake_at <= self.machine.clock.monotonic()
        return due or bool(self.inbox) or bool(self._takes()) or self.life.poller.ready

    def _takes(self) -> bool:
        return bool(self.waiting) and (self.ready or self._is_neighbour(self.waiting[0][0]))

    @staticmethod
    def _is_neighbour(event: bytes) -> bool:
        return event == _HELLO

    def _turn(self) -> None:
        service, life = self.service, self.life
        while self._takes():
            raw, end = self.waiting.popleft()
            self._ends.append(end)
            end.owner = life
            event = decode(raw)
            if event.owner is EventOwner.MANAGER:
                service.on_neighbour(end)
            else:
                service.on_client(event, end)
        while self.inbox:
            event = decode(self.inbox.popleft())
            if event.type is EventType.SHUTDOWN:
                life.ask_to_stop()
            else:
                service.on_event(event)
        life.poller.run_once()
        service.turn()
        if life.asked:
            try:
                service.stop()
            except (DqError, OSError) as error:
                life.error = life.error or error
            self.last_error = life.error
            self.die(life.error)
            return
        wait = service.wait_seconds()
        self.wake_at = None if wait is None else self.machine.clock.monotonic() + wait

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            act()
        except ProcessKilled:
            self.die()

    # --- its end ---------------------------------------------------------------------------------------------------

    def kill(self, after_calls: int = 0) -> None:
        """At once, or in the middle of what it does with the disk so many calls later."""
        if self.service is not None:
            if after_calls:
                self.life.files.calls_left = after_calls
            else:
                self.die()

    def die(self, error: BaseException | None = None) -> None:
        """The process is gone; the system closes its files, pipes and locks."""
        self.service, self.ready = None, False
        self.life.files.dead = True
        for end in self._ends:
            end.lose()
        self._ends.clear()
        self.inbox.clear()
        self.machine.locks -= {path for path in self.machine.locks if (path.parent.name == "streams") == self.is_publishers}
        self.waiting = deque(item for item in self.waiting if not self._is_neighbour(item[0]))
        if error is None:  # the thread that feeds its queue died with it
            said, chance = self.life.said, self.machine.chance
            for _ in range(chance.choice((0, 0, len(said), chance.randint(0, len(said))))):
                said.pop()
        wait = LIMITS.restart_backoff_seconds * 2 ** min(self.starts_failed, 6) if self.starts_failed else 0.0
        self.restart_at = self.machine.clock.monotonic() + wait

    @property
    def is_publishers(self) -> bool:
        return self.owner is EventOwner.PUBLISHER_BROKER

    def send(self, event: Event) -> None:
        """What is sent to a broker that is not there is lost."""
        if self.ready:
            self.inbox.append(event.encode())


class SimManager:
    """Routes, hands over, starts again."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.publisher_broker = Broker(machine, PublisherBroker)
        self.consumer_broker = Broker(machine, ConsumerBroker)
        self.brokers = (self.publisher_broker, self.consumer_broker)
        self._requests: dict[int, tuple[Broker, Event, Answer]] = {}
        self._next_request = 0
        self.settings: dict[str, dict[str, Any]] = {}  # of streams that are made
        self.up = True

    def start_brokers(self) -> None:
        """All at once, as a manager that is new."""
        self.up = True
        for broker in self.brokers:
            broker.fresh, broker.starts_failed = True, 0
            self.start(broker)

    def start(self, broker: Broker) -> None:
        if broker.start():
            broker.on_opened(broker, None)
            one, other = self.machine.wires.pair()
            self.publisher_broker.waiting.append((_HELLO, one))
            self.consumer_broker.waiting.append((_HELLO, other))

    def spin(self) -> None:
        now = self.machine.clock.monotonic()
        for broker in self.brokers:
            said = broker.life.said
            while said:
                self._on_event(broker, decode(said.popleft()))
            if self.up and broker.service is None and broker.restart_at is not None and broker.restart_at <= now:
                self.start(broker)

    def _on_event(self, broker: Broker, event: Event) -> None:
        if event.type is EventType.REGISTER:
            broker.ready = broker.service is not None
            for asked, request, _ in list(self._requests.values()):
                if asked is broker:
                    broker.send(request)
        elif event.type is EventType.CLOSE:
            pass
        elif "request" in event.fields:
            found = self._requests.pop(event["request"], None)
            if found is not None:
                found[2](event)
        elif broker is self.consumer_broker and event.type in (EventType.WRITE, EventType.TRIM):
            trim = event.type is EventType.TRIM
            self.publisher_broker.send(Event(event.type, EventOwner.MANAGER, event.fields) if trim else event)
        elif broker is self.publisher_broker and "publisher" in event.fields:
            self.consumer_broker.send(event)
        else:
            raise AssertionError(f"{broker.owner} told the manager {event}")

    def ask(self, broker: Broker, kind: EventType, fields: dict[str, Any], then: Answer) -> None:
        """Asks a broker; the answer comes also when it has to be started again first."""
        self._next_request += 1
        event = Event(kind, EventOwner.MANAGER, {"request": self._next_request, **fields})
        self._requests[self._next_request] = (broker, event, then)
        broker.send(event)

    # --- the door --------------------------------------------------------------------------------------------------

    def let_in(self, hello: Event, end: End) -> None:
        """A client said who it is."""
        if hello.owner in (EventOwner.PUBLISHER, EventOwner.READER):
            self.publisher_broker.waiting.append((hello.encode(), end))
            return

        def hand_over(opened: list[Any]) -> None:
            told = Event(hello.type, hello.owner, {**hello.fields, "opened": opened})
            self.consumer_broker.waiting.append((told.encode(), end))

        def refuse(answer: Event) -> None:
            refusal = Event(EventType.NACK, EventOwner.MANAGER, {name: answer[name] for name in ("error", "message")})
            if not end.peer.closed:
                end.sendmsg(framed(refusal.line()))
            end.close()

        self._open_all(hello["streams"], hello.get("create", False), hand_over, refuse)

    def _open_all(self, streams: list[str], create: bool, then: Callable[[list[Any]], None], refuse: Answer) -> None:
        """Has the publisher broker open streams, one after the other."""
        opened: list[Any] = []

        def next_stream(answer: Event | None) -> None:
            if answer is not None and answer.type is EventType.NACK:
                refuse(answer)
                return
            if answer is not None:
                opened.append(answer["opened"])
            if len(opened) < len(streams):
                settings = self.settings.get(streams[len(opened)], {}) if create else {}
                fields = {"stream": streams[len(opened)], "create": create, "settings": settings}
                self.ask(self.publisher_broker, EventType.OPEN, fields, next_stream)
                return
            then(opened)

        next_stream(None)

    def change(self, kind: str, fields: dict[str, Any], then: Answer) -> None:
        """What a user wants of a stream or a sink."""
        broker = self.publisher_broker if kind == "stream" else self.consumer_broker

        def opened(streams: list[Any]) -> None:
            self.ask(
                broker,
                EventType.CHANGE,
                {**fields, "kind": kind, "opened": streams} if streams else {**fields, "kind": kind},
                then,
            )

        self._open_all(fields.get("streams", []), fields.get("create", False), opened, then)

    def stop(self) -> None:
        """A clean stop: nobody is let in any more, the consumers' broker goes first."""
        self.up = False
        self.forget_waiting()
        for broker in reversed(self.brokers):
            broker.send(Event(EventType.SHUTDOWN, EventOwner.MANAGER))
            for _ in range(5):
                broker.spin()
                self.spin()
            broker.kill()  # it met an error, or had not started
            broker.restart_at = None

    def lose_power(self, root: DirectoryNode) -> None:
        """Everything of this machine is gone but the disk."""
        self.up = False
        self.forget_waiting()
        for broker in self.brokers:
            broker.die()
            broker.restart_at = None
            broker.life.said.clear()
        self.machine.root = root

    def forget_waiting(self) -> None:
        """The manager itself ends, and with it whoever waits at it."""
        self._requests.clear()
        for broker in self.brokers:
            for _, end in broker.waiting:
                end.close()
            broker.waiting.clear()
