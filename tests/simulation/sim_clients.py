"""The clients of a simulated world: a connection that comes back, and a publisher with the real core of one."""

from __future__ import annotations

import random
from typing import Any

from sim_checker import Checker, Place
from sim_manager import SimManager
from sim_once import KEYS
from sim_wires import End

from dq.client.batcher import Batcher, Settled
from dq.client.drafts import Draft
from dq.client.link import error_of
from dq.client.ways import Way
from dq.clock import FakeClock
from dq.errors import BrokerLost, SequenceError
from dq.model.event import Event, EventOwner, EventType, decode
from dq.model.names import base_stream
from dq.model.receipt import StoredRange
from dq.model.record import encode
from dq.transport.frames import Inbox, framed

JOIN_SECONDS = 30.0
TOPICS = (None, None, "mail.new", "mail.old", "log")
LIVES = (0.01, 0.1, 1.0, 100.0)
"""Seconds after which a record is of no use, if it expires."""
DELAYS = (0.0, 0.02, 0.3, 2.0, 20.0, 90.0, 7_200.0)
"""Seconds; the last is longer than a broker remembers publishers for."""


class Stage:
    """What a client needs of its world."""

    def __init__(self, manager: SimManager, clock: FakeClock, chance: random.Random, checker: Checker) -> None:
        self.manager, self.clock, self.chance, self.checker = manager, clock, chance, checker
        self.streams: dict[str, dict[str, Any]] = {}  # and their settings
        self._numbers = 0
        self._names = 0

    def next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    def next_name(self, kind: str) -> str:
        self._names += 1
        return f"{kind}-{self._names:04d}"


class SimClient:
    """A connection that comes back, as `client.link.Link` keeps one.

    Attributes:
        gone: it died or left.
        welcome: whether the broker serves it now.
    """

    def __init__(self, stage: Stage, name: str) -> None:
        self.stage, self.id = stage, name
        self.end: End | None = None
        self.gone = self.welcome = self._known = self._impatient = False
        self._inbox, self._outgoing = Inbox(), bytearray()
        self._joining_since = 0.0
        self.connect()

    # --- the link --------------------------------------------------------------------------------------------------

    def connect(self) -> None:
        if self.stage.manager.up and not self.gone:
            self.end, theirs = self.stage.manager.machine.wires.pair()
            self._inbox, self._outgoing, self.welcome = Inbox(), bytearray(), False
            self._joining_since = self.stage.clock.monotonic()
            self.stage.manager.let_in(self.hello(again=self._known), theirs)

    def send(self, *parts: bytes | bytearray) -> bool:
        if self.end is None or not self.welcome:
            return False
        for part in framed(*parts):
            self._outgoing += part
        return True

    def spin(self) -> None:
        if self.gone:
            return
        end = self.end
        if end is None:
            if self.stage.chance.random() < 0.3:
                self.connect()
            return
        if not self.welcome and self.stage.clock.monotonic() - self._joining_since > JOIN_SECONDS:
            self._impatient = True
            self._lost()
            return
        try:
            if self._outgoing and end.room:
                del self._outgoing[: end.sendmsg([self._outgoing])]
            self._read(end)
        except OSError:
            self._lost()
        if self.welcome and self.end is end:
            self.tick()

    def _read(self, end: End) -> None:
        buffer = memoryview(bytearray(32 * 1024))
        while end.readable:
            count = end.recv_into(buffer, len(buffer))
            if not count:
                self._lost()
                return
            for frame in self._inbox.feed(buffer[:count]):
                self._take(decode(frame))
                if self.end is not end:
                    return

    def _take(self, event: Event) -> None:
        if self.welcome:
            self.handle(event)
        elif event.type is EventType.NACK:
            self.stage.checker.refused_to_join(event, impatient=self._impatient)
            self._lost()
            self.gone = self.gone or event["error"] in ("UnknownSink", "UnknownStream")
        else:
            again, self.welcome, self._known = self._known, True, True
            self.welcomed(event, again=again)

    def _lost(self) -> None:
        if self.end is not None:
            self.end.close()
        self.end, self.welcome = None, False

    def die(self) -> None:
        """The process is killed."""
        self.gone = True
        if self.end is not None:
            self.end.lose()

    # --- the session -----------------------------------------------------------------------------------------------

    def hello(self, *, again: bool) -> Event:
        raise NotImplementedError

    def welcomed(self, answer: Event, *, again: bool) -> None:
        raise NotImplementedError

    def handle(self, event: Event) -> None:
        raise NotImplementedError

    def tick(self) -> None:
        """Once a turn, while it is served."""


class SimPublisher(SimClient):
    """A publisher with the real `Batcher`."""

    def __init__(self, stage: Stage, stream: str) -> None:
        self.base = base_stream(stream)
        self.stream, self._settings = stream, {} if self.base else stage.streams[stream]
        self.batcher: Batcher | None = None
        self._numbers: dict[Draft, list[int]] = {}
        super().__init__(stage, stage.next_name("p"))

    def hello(self, *, again: bool) -> Event:
        if self.batcher is not None:
            self.batcher.resuming = True
        fields = {"id": self.id, "pid": 1, "stream": self.stream, "create": True, "again": again, "settings": self._settings}
        return Event(EventType.REGISTER, EventOwner.PUBLISHER, fields)

    def welcomed(self, answer: Event, *, again: bool) -> None:
        if self.batcher is None:
            settings, size = answer["opened"]["settings"], self.stage.chance.choice((1, 2, 5, 9))
            self.batcher = Batcher(self.stream, settings["buckets"], settings["durability"], size, 0.0, 0, self.send)
        else:
            with self.batcher.lock:
                refused = self.batcher.resend()
            for settled in refused:
                self._settle(settled)

    def publish(self, count: int) -> None:
        batcher, chance = self.batcher, self.stage.chance
        if batcher is None:
            return
        urgent = chance.random() < 0.7
        for _ in range(count):
            number, key = self.stage.next_number(), chance.choice((None, None, "a", "b", "c"))
            payload = {"n": number, "pad": "x" * chance.choice((0, 10, 90, 400))}
            topic = chance.choice(TOPICS)
            wall, times = self.stage.clock.wall(), dict[str, float]()
            if self.base is not None:
                times["due"] = wall + chance.choice(DELAYS)
                self.stage.checker.delays.asked(number, times["due"])
            once = chance.choice(KEYS) if self.base is None and chance.random() < 0.15 else None
            if once is not None:
                self.stage.checker.once.asked(number, self.stream, once)
            if chance.random() < 0.15:
                times["expires"] = times.get("due", wall) + chance.choice(LIVES)
                self.stage.checker.delays.expires(number, times["expires"])
            way = None
            if once is not None or ("expires" in times and self.base is None):
                way = Way(once=once, expires=times.get("expires"))
            line = encode(payload, wall, key, topic, "", None, times)
            with batcher.lock:
                draft, place = batcher.add(line, key, topic, way, urgent=urgent, now=0.0)
            numbers = self._numbers.setdefault(draft, [])
            assert place == len(numbers)
            numbers.append(number)
            self.stage.checker.asked(number, line, topic, self.id, self.base or self.stream, draft)
        if chance.random() < 0.5:
            self.push_all()

    def push_all(self) -> None:
        if self.batcher is not None and self.welcome:
            with self.batcher.lock:
                self.batcher.push_all()

    def handle(self, event: Event) -> None:
        assert self.batcher is not None
        fields = event.fields
        with self.batcher.lock:
            if "once" in fields and event.type is EventType.ACK:
                stands = fields.get("stored_bucket", fields["bucket"])
                settled = self.batcher.once_stored(fields["sequence"], stands, fields["first"])
            elif "once" in fields:
                settled = self.batcher.once_refused(fields["sequence"], error_of(event))
            elif event.type is EventType.ACK:
                settled = self.batcher.stored(fields["bucket"], fields["sequence"], fields["first"], fields["count"])
            else:
                assert event.type is EventType.NACK
                assert "sequence" in fields, event
                settled = self.batcher.refused(fields["bucket"], fields["sequence"], error_of(event))
        if settled is not None:
            self._settle(settled)

    @property
    def _broker_gone(self) -> bool:
        return self.end is not None and self.end.peer.owner is not self.stage.manager.publisher_broker.life

    def _settle(self, settled: Settled) -> None:
        draft, outcome = settled
        draft.settle(outcome)
        numbers = self._numbers.pop(draft)
        if isinstance(outcome, StoredRange):
            assert outcome.count == len(numbers)
            for offset, number in enumerate(numbers, outcome.first):
                self.stage.checker.receipt(number, Place(outcome.stream, outcome.bucket, offset), late=self._broker_gone)
        else:
            self.stage.checker.failed(numbers, outcome)
            if isinstance(outcome, SequenceError):
                self.die()  # it would go on with the same number for ever

    def give_up(self) -> None:
        """Its broker did not come back in time: what was under way is given up, and it goes on under another id."""
        if self.batcher is not None and self.end is None:
            with self.batcher.lock:
                failed = self.batcher.fail_all(BrokerLost("it did not come back"))
            for settled in failed:
                self._settle(settled)
            self.id = self.stage.next_name("p")

    @property
    def idle(self) -> bool:
        return self.batcher is None or self.batcher.idle
