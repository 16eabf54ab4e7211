"""Broadcasts: what is told to a channel goes to whoever listens to it now, and is stored nowhere.

::

    teller ──WRITE──► Broadcasts ──WRITE──► each listener of the channel
    teller ◄──ACK──┤  counts, by      ◄──ACK, NACK──┤
                       the mode

A listener answers each signal once: taken, skipped (it did not want it) or failed. What it has before it without an answer is
bounded: a listener that does not read, or fails too often in a row, is dropped. A teller keeps the time itself, and asks for
what is known when it is over; so nothing here waits for a time.
"""

from __future__ import annotations

import logging
import socket
from dataclasses import dataclass, field
from typing import Any

from dq.broker.desk import Desk, Served, nack
from dq.broker.life import Life
from dq.config import LIMITS
from dq.errors import DqError, InvalidSetting, ListenerDropped, ProtocolError
from dq.model.event import Event, EventOwner, EventType
from dq.model.names import check_client_id, check_name
from dq.model.shown import outlined
from dq.model.signal import Mode
from dq.model.told import about, words_of
from dq.transport.pipe import Pipe

log = logging.getLogger("dq")
_REASONS_MAX = 10
_REASON_CHARS_MAX = 500
# Whom a dropped listener's new connection is refused to; one that comes later than so many others is let in again.
_DROPPED_MAX = 1_000
_MODES = frozenset(map(str, Mode))


class Listener(Served):
    """A client that listens to channels, or tells something to some, or both."""

    __slots__ = ("before", "before_bytes", "channels", "failures", "telling", "topic")

    def __init__(self, pipe: Pipe, client: str, pid: int, channels: list[str], topic: str | None) -> None:
        super().__init__(pipe, client, pid)
        self.channels, self.topic = dict.fromkeys(channels), topic
        self.before: dict[int, tuple[Told, int]] = {}  # signals it has not answered, and their sizes, by number
        self.before_bytes = self.failures = 0
        self.telling: dict[int, Told] = {}  # what it waits for, by its own numbers

    def labels(self) -> dict[str, str]:
        return {"peer": EventOwner.LISTENER, "client": self.id}


@dataclass(slots=True, eq=False)
class Told:
    """One broadcast, and what has come of it."""

    teller: Listener
    number: int
    mode: str
    told: int = 0
    taken: int = 0
    failed: int = 0
    reasons: list[str] = field(default_factory=list)

    @property
    def open(self) -> int:
        """How many have not answered."""
        return self.told - self.taken - self.failed

    @property
    def is_over(self) -> bool:
        """Whether its teller waits no longer."""
        return not self.open or self.mode == Mode.FORGET or (self.mode == Mode.ANY and self.taken > 0)

    def result(self) -> dict[str, Any]:
        """As the teller is told it."""
        return {"told": self.told, "taken": self.taken, "failed": self.failed, "open": self.open, "reasons": self.reasons}

    def fail(self, reason: str) -> None:
        """One that was told failed."""
        self.failed += 1
        if len(self.reasons) < _REASONS_MAX:
            self.reasons.append(reason[:_REASON_CHARS_MAX])


class Broadcasts:
    """The listeners of one consumer broker.

    Args:
        life: of the process.
        owner: as whom it answers.
    """

    def __init__(self, life: Life, owner: EventOwner) -> None:
        self._owner = owner
        self._desk: Desk[Listener] = Desk(life, owner, self._on_event, self._gone)
        self._by_channel: dict[str, dict[Listener, None]] = {}
        self._dropped: dict[str, str] = {}
        # Not from 0: what a listener answers to a broker before this one must not meet a number of ours.
        self._next_number = int(life.clock.wall() * 1_000_000)

    # --- who comes and goes ------------------------------------------------------------------------------------------

    def on_client(self, event: Event, sock: socket.socket) -> None:
        """A listener was handed over."""
        desk, client_id = self._desk, event["id"]
        pipe = desk.pipe(sock)
        try:
            desk.check_room()
            check_client_id(client_id)
            if event.get("again") and client_id in self._dropped:
                raise ListenerDropped(self._dropped[client_id])
            channels = _checked(event["channels"])
        except DqError as error:
            desk.refuse(pipe, client_id, error)
            return
        client = Listener(pipe, client_id, event["pid"], channels, event.get("topic"))
        desk.admit(client)
        for channel in client.channels:
            self._by_channel.setdefault(channel, {})[client] = None
        desk.answer(client, Event(EventType.ACK, self._owner))

    def _gone(self, client: Listener) -> None:
        for channel in client.channels:
            listeners = self._by_channel.get(channel, {})
            listeners.pop(client, None)
            if not listeners:
                self._by_channel.pop(channel, None)
        client.telling.clear()
        before, client.before = client.before, {}
        for told, _ in before.values():
            told.fail("a listener left before it had taken it")
            self._answer_if_over(told)

    def _drop(self, client: Listener, why: str) -> None:
        """Nothing more is told to this listener; it learns why, now or when it comes again."""
        extra = about(client=client.id, client_pid=client.pid)
        log.warning("listener %s (pid %d) is dropped: %s", client.id, client.pid, words_of(why), extra=extra)
        self._dropped[client.id] = why
        if len(self._dropped) > _DROPPED_MAX:
            del self._dropped[next(iter(self._dropped))]
        self._desk.push(client, [nack(self._owner, ListenerDropped(why)).line()])
        self._desk.leave(client)

    def flush(self) -> None:
        """Sends what this turn brought."""
        self._desk.flush()

    def stop(self) -> None:
        """Closes all connections."""
        for client in list(self._desk.clients.values()):
            self._desk.forget(client)

    def status(self) -> dict[str, Any]:
        """Who listens to what, by id. Who only tells is among them, without channels."""
        return {
            client.id: {"pid": client.pid, "channels": list(client.channels), "unanswered": len(client.before)}
            for client in self._desk.clients.values()
        }

    # --- what they say -----------------------------------------------------------------------------------------------

    def _on_event(self, client: Listener, event: Event) -> None:
        if client.pipe.closed:  # it was dropped a moment ago; what came with its last failure counts no more
            return
        if event.owner is not EventOwner.LISTENER:
            raise ProtocolError(f"a listener does not speak as {event.owner}")
        if event.type is EventType.WRITE:
            self._tell(client, event)
        elif event.type is EventType.ACK:
            self._taken(client, event["number"], skipped=event.get("skipped", False))
        elif event.type is EventType.NACK:
            self._failed(client, event["number"], event["reason"])
        elif event.type is EventType.STATUS:
            told = client.telling.pop(event["number"], None)
            if told is not None:  # else its answer is on the way
                self._answer(told)
        elif event.type is EventType.CLOSE:
            self._desk.leave(client)
        else:
            raise ProtocolError(f"a listener does not send {event.type}")

    def _tell(self, teller: Listener, event: Event) -> None:
        """Passes a signal on to each listener of its channel, and looks into none."""
        number, mode = event["number"], event.get("mode", Mode.FORGET)
        if mode not in _MODES:
            raise ProtocolError(f"a broadcast has no mode {outlined(mode)}")
        if number in teller.telling or len(teller.telling) >= LIMITS.broadcasts_open_max:
            raise ProtocolError(f"broadcast {number} is one too many: at most {LIMITS.broadcasts_open_max:,} are waited for")
        if len(event.body) > LIMITS.record_bytes_max:
            raise ProtocolError(f"a signal of {len(event.body)} bytes: at most {LIMITS.record_bytes_max} are taken")
        told = Told(teller, number, mode)
        channel, topic, body = event["channel"], event.get("topic"), bytes(event.body)
        labels = {"channel": channel} if topic is None else {"channel": channel, "topic": topic}
        teller.telling[number] = told
        for listener in list(self._by_channel.get(channel, ())):
            # (One that was there a moment ago may have left while another one was dropped.)
            if not listener.pipe.closed and (listener.topic is None or listener.topic == topic):
                self._pass_on(told, listener, labels, body)
        self._answer_if_over(told)

    def _pass_on(self, told: Told, listener: Listener, labels: dict[str, Any], body: bytes) -> None:
        told.told += 1
        size = listener.before_bytes + len(body)
        if len(listener.before) >= LIMITS.signals_waiting_max or (listener.before and size > LIMITS.signals_waiting_bytes_max):
            told.fail("a listener does not read, and was dropped")
            self._drop(listener, f"this listener did not read: {len(listener.before):,} signals wait for it. Listen anew")
            return
        self._next_number += 1
        listener.before[self._next_number] = (told, len(body))
        listener.before_bytes = size
        self._desk.answer(listener, Event(EventType.WRITE, EventOwner.LISTENER, {"number": self._next_number, **labels}, body))

    def _taken(self, client: Listener, number: int, *, skipped: bool) -> None:
        told = self._answered(client, number)
        if told is None:
            return
        if skipped:
            told.told -= 1
        else:
            client.failures = 0
            told.taken += 1
        self._answer_if_over(told)

    def _failed(self, client: Listener, number: int, reason: str) -> None:
        told = self._answered(client, number)
        if told is None:
            return
        told.fail(reason)
        self._answer_if_over(told)
        client.failures += 1
        if client.failures >= LIMITS.listener_failures_max:
            why = f"this listener failed {client.failures} times in a row, the last time with {reason[:_REASON_CHARS_MAX]!r}"
            self._drop(client, f"{why}. Mend it and listen anew")

    @staticmethod
    def _answered(client: Listener, number: int) -> Told | None:
        """What a listener speaks of; None where that was answered already, or was told by a broker before this one."""
        told, size = client.before.pop(number, (None, 0))
        client.before_bytes -= size
        return told

    # --- what tellers hear -------------------------------------------------------------------------------------------

    def _answer_if_over(self, told: Told) -> None:
        if told.is_over and told.teller.telling.get(told.number) is told:
            del told.teller.telling[told.number]
            self._answer(told)

    def _answer(self, told: Told) -> None:
        self._desk.answer(told.teller, Event(EventType.ACK, self._owner, {"number": told.number, "result": told.result()}))


def _checked(channels: list[str]) -> list[str]:
    if len(channels) > LIMITS.channels_max:
        raise InvalidSetting(f"a listener of {len(channels):,} channels; {LIMITS.channels_max:,} are the most")
    return [check_name("channel", channel) for channel in channels]
