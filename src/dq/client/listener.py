"""`Listener`: hears what is broadcast to channels while it is there; nothing of it is stored."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any

import orjson

from dq.client.lifetime import watch
from dq.client.link import Link, error_of
from dq.client.place import Place, root_of
from dq.client.wishes import reconnect_of, seconds_of
from dq.config import LIMITS
from dq.errors import DqError, Forked, InvalidSetting
from dq.model.event import Event, EventOwner, EventType
from dq.model.names import check_name
from dq.model.record import payload_of
from dq.model.settings import check_pattern
from dq.model.signal import Signal
from dq.model.told import about, frames_of, place_of, words_of

log = logging.getLogger("dq")


class Listener:
    """Listens to channels. A context manager; iterate over it, in one thread at a time.

    A signal is *taken* when the loop asks for the next one, or the `with` of this listener ends; it has *failed* when `fail`
    was called, or an exception left the `with`. Whoever told it may be waiting for that. What is said while the broker is being
    replaced, or before this object was made, is not heard.

    Args:
        broker: a `BrokerManager`, what `dq.connect` returns, or the path of a data directory.
        channels: to listen to.
        topic: hear only signals with this topic.
        pattern: hear only signals whose topic this regular expression finds (`re.search`); str or compiled.
        reconnect_timeout: seconds for which a broker that went away is looked for; default None: as the settings say, else 30.

    Raises:
        BrokerNotRunning, InvalidName, InvalidSetting.
    """

    def __init__(
        self,
        broker: Place,
        *channels: str,
        topic: str | None = None,
        pattern: str | re.Pattern[str] | None = None,
        reconnect_timeout: float | timedelta | None = None,
    ) -> None:
        if not channels:
            raise InvalidSetting('a listener needs a channel: Listener(broker, "news")')
        self.channels = tuple(check_name("channel", channel) for channel in channels)
        self.id = f"l-{os.urandom(6).hex()}"
        self._topic = None if topic is None else check_name("topic", topic)
        self._pattern = pattern if pattern is None or isinstance(pattern, re.Pattern) else check_pattern(pattern)
        self._waiting: deque[Event] = deque()  # bounded by the broker: it drops who has too many without an answer
        self._in_hand: int | None = None
        self._changed = threading.Event()
        self._stopped = False
        self._dropped: DqError | None = None
        self._lost: DqError | None = None
        self._thread: threading.Thread | None = None
        root = root_of(broker)
        self._link = Link(root, self, reconnect_of(root, reconnect_timeout))
        self._link.open()
        watch(self)

    # --- what users call ---------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Signal]:
        """The signals, as they come, until `stop()`.

        Raises:
            ListenerDropped: it failed too often in a row, or did not read, and is told nothing more.
            BrokerLost: the broker did not come back within `reconnect_timeout`.
        """
        while (signal := self.hear(None)) is not None:
            yield signal

    def get(self, timeout: float | timedelta = 0.0) -> Signal | None:
        """The next signal, which counts as taken; None when none came within `timeout` seconds.

        Raises:
            ListenerDropped, BrokerLost: as the iteration.
        """
        signal = self.hear(time.monotonic() + seconds_of("timeout", timeout))
        self._settle()
        return signal

    def fail(self, reason: str) -> None:
        """The signal at hand could not be dealt with: its teller learns so. Three in a row, and this listener is dropped."""
        self._link.check()
        self._settle(str(reason))

    def call(self, function: Callable[[Signal], object]) -> Listener:
        """Has a thread of its own call `function` for each signal; an exception from it counts as failed, and is logged.

        Returns this listener; `close()` ends the thread.
        """
        if self._thread is not None:
            raise InvalidSetting("this listener calls a function already: make another one")
        self._thread = threading.Thread(target=self._call, args=(function,), daemon=True, name="dq-listener")
        self._thread.start()
        return self

    def stop(self) -> None:
        """Ends the iteration after the signal at hand; safe from other threads and from signal handlers."""
        self._stopped = True
        self._link.interrupt()  # not `_changed`, which no signal handler may set; `_follow` looks soon enough

    def close(self) -> None:
        """Leaves; what waits was heard by nobody. Safe twice."""
        try:
            self._link.check()
        except DqError:
            return
        self.stop()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(LIMITS.stop_seconds)
        self._settle()
        self._link.close(Event(EventType.CLOSE, EventOwner.LISTENER))

    def after_fork(self, refusal: Forked) -> None:
        """In a forked child: this object is the parent's."""
        self._link.after_fork(refusal)

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if error is not None:
            self._settle(_said(error))
        self.close()

    def __repr__(self) -> str:
        return f"<Listener {self.id} of {', '.join(self.channels)}>"

    # --- inside ------------------------------------------------------------------------------------------------------

    def hear(self, deadline: float | None) -> Signal | None:
        """The next signal, now in hand; None after `stop` or at the deadline (monotonic seconds)."""
        self._settle()
        while not self._stopped:
            self._link.check()
            if self._dropped is not None:
                raise self._dropped
            if self._lost is not None:
                lost, self._lost = self._lost, None
                raise lost
            if self._waiting:
                event = self._waiting.popleft()
                self._in_hand = event["number"]
                try:
                    return _signal_of(event)
                except (KeyError, TypeError, ValueError) as error:  # whoever told it is no client of dq's
                    self._settle(f"the signal cannot be read: {error}")
            elif not self._link.wait(self._something_came, deadline, self._follow):
                return None
        return None

    def _something_came(self) -> bool:
        return bool(self._waiting or self._stopped or self._dropped is not None or self._lost is not None)

    def _follow(self, timeout: float | None) -> None:
        """Another thread reads, or the connection is being made again."""
        self._changed.wait(0.05 if timeout is None else min(timeout, 0.05))
        self._changed.clear()

    def _settle(self, reason: str | None = None) -> None:
        """Answers for the signal in hand, if there is one: taken, or failed for a reason."""
        number, self._in_hand = self._in_hand, None
        if number is None:
            return
        if reason is None:
            self._link.send(Event(EventType.ACK, EventOwner.LISTENER, {"number": number}).line())
        else:
            self._link.send(Event(EventType.NACK, EventOwner.LISTENER, {"number": number, "reason": reason[:500]}).line())

    def _call(self, function: Callable[[Signal], object]) -> None:
        try:
            for signal in self:
                try:
                    function(signal)
                except Exception as error:
                    log.error(
                        "a listener of %s failed: %s", signal.channel, place_of(error), extra=about(error, listener=self.id)
                    )
                    log.debug("the listener's error", extra=about(error, listener=self.id, frames=frames_of(error)))
                    self._settle(_said(error))
        except DqError as error:
            if not self._stopped:
                log.error("listener %s ends: %s", self.id, words_of(error), extra=about(error, listener=self.id))

    # --- the session of the link -------------------------------------------------------------------------------------

    def hello(self, *, again: bool) -> Event:
        if self._dropped is not None:
            raise self._dropped
        fields: dict[str, Any] = {"id": self.id, "pid": os.getpid(), "channels": list(self.channels)}
        if self._topic is not None:
            fields["topic"] = self._topic
        return Event(EventType.REGISTER, EventOwner.LISTENER, {**fields, "again": True} if again else fields)

    def welcomed(self, answer: Event, *, again: bool) -> None:
        self._changed.set()

    def handle(self, event: Event) -> None:
        if event.type is EventType.WRITE:
            if self._pattern is None or self._pattern.search(event.get("topic", "")) is not None:
                self._waiting.append(event)
            else:
                fields = {"number": event["number"], "skipped": True}
                self._link.send(Event(EventType.ACK, EventOwner.LISTENER, fields).line())
        elif event.type is EventType.NACK:
            self._dropped = error_of(event)
        self._changed.set()

    def busy(self) -> bool:
        """The link reads all the time, so that a listener that does nothing else is there again soon after its broker."""
        return self._dropped is None

    def tick(self) -> float | None:
        return None

    def pending(self) -> bool:
        return False

    def failed(self, error: DqError) -> None:
        self._lost = error
        self._changed.set()


def _signal_of(event: Event) -> Signal:
    fields = orjson.loads(event.body)
    created_at = datetime.fromtimestamp(fields["at"], UTC)
    return Signal(event["channel"], payload_of(fields), fields.get("topic"), created_at)


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
