"""`Teller`: what `Broker.broadcast` speaks through. It tells something to a channel and waits as long as the mode asks for."""

from __future__ import annotations

import os
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from dq.client.flight import too_large
from dq.client.lifetime import watch
from dq.client.link import Link
from dq.client.wishes import reconnect_of, seconds_of
from dq.config import LIMITS
from dq.errors import BroadcastFailed, BrokerLost, DqError, Forked, InvalidSetting
from dq.model.event import Event, EventOwner, EventType
from dq.model.names import check_name
from dq.model.record import encode
from dq.model.signal import BroadcastResult, Mode

# What is known when the time is over is asked for; a broker that is there answers that within a turn.
_LAST_WORD_SECONDS = 1.0


class _Telling:
    """One broadcast that is waited for."""

    __slots__ = ("changed", "error", "result", "sent")

    def __init__(self) -> None:
        self.sent = False
        self.result: dict[str, Any] | None = None
        self.error: DqError | None = None
        self.changed = threading.Event()

    def done(self) -> bool:
        return self.result is not None or self.error is not None

    def follow(self, timeout: float | None) -> None:
        """Another thread reads."""
        self.changed.wait(0.05 if timeout is None else min(timeout, 0.05))


class Teller:
    """Broadcasts of one process. Safe to share between threads; a `Broker` makes one when it needs it.

    Args:
        root: the data directory.

    Raises:
        BrokerNotRunning: nobody serves it.
    """

    def __init__(self, root: Path) -> None:
        self.id = f"t-{os.urandom(6).hex()}"
        self._telling: dict[int, _Telling] = {}
        self._lock = threading.Lock()
        self._number = 0
        self._link = Link(root, self, reconnect_of(root, None))
        self._link.open()
        watch(self)

    def broadcast(
        self, channel: str, payload: Any, *, mode: str, topic: str | None, timeout: float | timedelta
    ) -> BroadcastResult:
        """See `Broker.broadcast`."""
        check_name("channel", channel)
        if mode not in list(Mode):
            raise InvalidSetting(f"mode must be one of {', '.join(map(repr, map(str, Mode)))}, not {mode!r}")
        labels = {"channel": channel, "mode": str(mode)}
        if topic is not None:
            labels["topic"] = check_name("topic", topic)
        deadline = time.monotonic() + seconds_of("timeout", timeout)
        line = encode(payload, time.time(), None, topic)
        if len(line) > LIMITS.record_bytes_max:
            raise too_large(line)
        number, telling = self._begin()
        try:
            self._send(Event(EventType.WRITE, EventOwner.LISTENER, {"number": number, **labels}, line), telling, deadline)
            return self._wait(number, telling, deadline, Mode(mode))
        finally:
            with self._lock:
                del self._telling[number]

    def _begin(self) -> tuple[int, _Telling]:
        with self._lock:
            self._number += 1
            telling = self._telling[self._number] = _Telling()
            return self._number, telling

    def _send(self, event: Event, telling: _Telling, deadline: float) -> None:
        """Sends it once: a broadcast that may have been heard is not said again."""
        telling.sent = True  # before it is: who is replaced meanwhile may have heard it
        while not self._link.send(event.line(), event.body):
            telling.sent = False
            self._link.wait(lambda: self._link.whole or telling.done(), deadline, telling.follow)
            if telling.error is not None:
                raise telling.error
            if time.monotonic() >= deadline:
                raise BrokerLost("the broker did not come back in time: nobody was told. Broadcast again, or raise timeout")
            telling.sent = True

    def _wait(self, number: int, telling: _Telling, deadline: float, mode: Mode) -> BroadcastResult:
        in_time = self._link.wait(telling.done, deadline, telling.follow)
        if not in_time:
            self._link.send(Event(EventType.STATUS, EventOwner.LISTENER, {"number": number}).line())
            self._link.wait(telling.done, time.monotonic() + _LAST_WORD_SECONDS, telling.follow)
        if telling.error is not None:
            raise telling.error
        if telling.result is None:
            raise BrokerLost("the broker did not say in time what came of the broadcast: who was told is not known")
        return _judged(telling.result, mode, in_time=in_time)

    def close(self) -> None:
        """Leaves; safe twice."""
        self._link.close(Event(EventType.CLOSE, EventOwner.LISTENER))
        self.failed(BrokerLost("this handle on the broker was closed before the listeners had answered"))

    def after_fork(self, refusal: Forked) -> None:
        """In a forked child: this object is the parent's."""
        self._link.after_fork(refusal)

    # --- the session of the link -------------------------------------------------------------------------------------

    def hello(self, *, again: bool) -> Event:
        fields: dict[str, Any] = {"id": self.id, "pid": os.getpid(), "channels": []}
        return Event(EventType.REGISTER, EventOwner.LISTENER, {**fields, "again": True} if again else fields)

    def welcomed(self, answer: Event, *, again: bool) -> None:
        if again:
            lost = BrokerLost("the broker was replaced while listeners were told: who was told is not known")
            self._fail([telling for telling in self._all() if telling.sent], lost)

    def handle(self, event: Event) -> None:
        with self._lock:
            telling = self._telling.get(event.get("number", -1))
        if telling is not None and event.type is EventType.ACK:
            telling.result = event["result"]
            telling.changed.set()

    def busy(self) -> bool:
        return bool(self._telling)

    def tick(self) -> float | None:
        return None

    def pending(self) -> bool:
        return False

    def failed(self, error: DqError) -> None:
        self._fail(self._all(), error)

    def _all(self) -> list[_Telling]:
        with self._lock:
            return list(self._telling.values())

    @staticmethod
    def _fail(tellings: list[_Telling], error: DqError) -> None:
        for telling in tellings:
            telling.error = telling.error or error
            telling.changed.set()


def _judged(said: dict[str, Any], mode: Mode, *, in_time: bool) -> BroadcastResult:
    """The result, or the error that the mode makes of it."""
    missed = 0 if in_time else said["open"]
    result = BroadcastResult(said["told"], said["taken"], said["failed"], missed, tuple(said["reasons"]))
    all_failed = mode is Mode.ALL and (result.failed or result.missed)
    any_failed = mode is Mode.ANY and result.told and not result.taken
    if all_failed or any_failed:
        why = f"; the first failed with {result.reasons[0]!r}" if result.reasons else ""
        error = BroadcastFailed(
            f"{result.told} listeners were told, {result.taken} took it, {result.failed} failed and {result.missed} did not "
            f'answer in time{why}. With mode="best" this is only counted'
        )
        error.result = result
        raise error
    return result
