"""`ReaderSession`: what a reader says to the publisher broker, and what it hears; or that nobody is there to be asked."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from dq.client.link import Link, error_of
from dq.client.reader_core import ReaderCore
from dq.client.reader_stream import Shelf, Told
from dq.config import LIMITS
from dq.errors import BrokerLost, BrokerNotRunning, Closed, DqError, Forked, UnknownStream
from dq.log.layout import Layout
from dq.model.event import Event, EventOwner, EventType
from dq.model.start import Start

_OWNER = EventOwner.READER
_ANSWER_SECONDS = 10.0  # a broker on a busy machine or disk; to say that there is nothing more would be wrong


class ReaderSession:
    """The connection of one reader. Safe to share between threads.

    Args:
        root: the data directory.
        shelf, core: of the reader.
        starts: the streams it reads, and where each begins.
        reconnect_timeout: seconds for which a broker that went away is looked for.

    Attributes:
        reader_id: by which the broker knows it.
        lock: to be held by whoever uses the core.
        stopped: whether nothing is waited for any more.
    """

    def __init__(self, root: Path, shelf: Shelf, core: ReaderCore, starts: dict[str, Start], reconnect_timeout: float) -> None:
        self.reader_id = f"r-{os.urandom(6).hex()}"
        self._root, self._shelf, self._core, self._starts = root, shelf, core, starts
        self._reconnect_timeout = reconnect_timeout
        self.lock, self._attaching = threading.RLock(), threading.Lock()
        self._changed = threading.Event()
        self.stopped = self._attached = self._asking = False
        self._refusal: DqError | None = None
        self._failure: DqError | None = None
        self._first: Event | None = None
        self._number = self._answered = self._request = 0
        self._refused: dict[int, DqError] = {}
        self._keep_up_at = 0.0
        self._link = Link(root, self, reconnect_timeout)

    # --- beginning ---------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Goes on with the broker, or with what is on disk.

        Raises:
            BrokerNotRunning: none runs, and the directory is no data directory. What the broker answers.
        """
        try:
            self._attach()
        except BrokerNotRunning:
            if not Layout(self._root).instance.exists():
                raise
            self.look()

    def _attach(self) -> None:
        self._link.open()
        try:
            if self._first is not None:
                self._take_in(self._first)
        except BaseException:
            self._link.close(Event(EventType.CLOSE, _OWNER))
            raise
        self._attached = True

    def look(self) -> None:
        """Takes in what the directory has of each stream."""
        with self.lock:
            self._core.tell([self._look(name) for name in self._starts], self._starts)

    def _look(self, name: str) -> Told:
        try:
            return self._shelf.look(name)
        except FileNotFoundError:
            raise UnknownStream(f"there is no stream {name!r} in {self._root}, and no broker runs that could make it") from None

    # --- asking ------------------------------------------------------------------------------------------------------

    def keep_up(self) -> None:
        """Has the ends told now and then while there is enough to read, so that no bucket waits for the end of another."""
        now = time.monotonic()
        if self._attached and now >= self._keep_up_at:
            self._keep_up_at = now + LIMITS.flush_seconds
            self._link.read_ready()
            self._ask(1)

    def _ask(self, credit: int) -> int:
        """Asks for news: with credit once there are some, without at once. Returns the number of the question."""
        with self.lock:
            if credit and self._asking:
                return self._number
            self._number += 1
            self._asking = True
            self._link.send(Event(EventType.READ, _OWNER, {"credit": credit, "number": self._number}).line())
            return self._number

    def wait(self, deadline: float | None) -> None:
        """Waits until there is something to read, until `deadline`, or until it is stopped.

        Raises:
            BrokerLost: the broker did not come back in time. BrokerNotRunning: there was none, and there is none now.
        """
        if not self._attached:
            self._look_again(waits=True)
            return
        done = True
        while done and not self._core.ready and not self.stopped:
            # The answer may be of buckets that this reader does not read: then it asks again.
            self._ask(1)
            done = self._link.wait(lambda: self._core.ready or self._interrupted() or not self._asking, deadline, self._follow)
            self._raise_failure()

    def refresh(self) -> None:
        """Finds out what there is now. Raises as `wait`, but not that there is no broker."""
        if not self._attached:
            self._look_again(waits=False)
            return
        number, until = self._ask(0), time.monotonic() + _ANSWER_SECONDS
        self._link.wait(lambda: self._answered >= number or not self._link.whole or self._interrupted(), until, self._follow)
        self._raise_failure()

    def _look_again(self, *, waits: bool) -> None:
        """There was no broker: is there one now, or more on disk?"""
        with self._attaching:
            if self._attached:
                return
            try:
                self._attach()
            except BrokerNotRunning as error:
                self.look()
                if waits and not self._core.ready:
                    why = "all that is on disk was read, and there is nobody who could tell of more"
                    raise BrokerNotRunning(f"{why}: {error}") from None

    def _interrupted(self) -> bool:
        return self.stopped or self._failure is not None

    def _raise_failure(self) -> None:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _follow(self, timeout: float | None) -> None:
        """Another thread reads, or the connection is being made again."""
        self._changed.wait(0.05 if timeout is None else min(timeout, 0.05))
        self._changed.clear()

    # --- other streams -----------------------------------------------------------------------------------------------

    def added(self, name: str) -> None:
        """A stream is among the starts that was not: has it told. Raises UnknownStream, InvalidSetting, BrokerLost."""
        if not self._attached:
            with self.lock:
                self._core.tell([self._look(name)], self._starts)
            return
        with self.lock:
            self._request += 1
            request = self._request
        self._link.send(self._hello(request=request).line())

        def answered() -> bool:
            return request in self._refused or self._failure is not None or name in self._core.streams

        done = self._link.wait(answered, time.monotonic() + self._reconnect_timeout, self._follow)
        refusal = self._refused.pop(request, None)
        if refusal is not None:
            raise refusal
        self._raise_failure()
        if not done:
            raise BrokerLost(f"the broker did not say whether stream {name!r} can be read: try again")

    def dropped(self) -> None:
        """A stream is not among the starts any more."""
        if self._attached:
            self._link.send(self._hello(request=0).line())

    # --- the end -----------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raises Closed or Forked."""
        if self._refusal is not None:
            raise self._refusal

    def stop(self) -> None:
        """Whoever waits goes on; nobody waits again."""
        self.stopped = True
        if self._attached:
            self._link.interrupt()  # not `_changed`, which no signal handler may set; `_follow` looks soon enough

    def wake(self) -> None:
        """Has whoever waits look again."""
        if self._attached:
            self._link.interrupt()
        self._changed.set()

    def close(self) -> bool:
        """Leaves; False when it had left already."""
        if self._refusal is not None:
            return False
        self.stopped, self._refusal = True, Closed("this object was closed: make a new one")
        if self._attached:
            self._link.close(Event(EventType.CLOSE, _OWNER))
        return True

    def after_fork(self, refusal: Forked) -> None:
        """In a forked child: the connection is the parent's."""
        self._refusal = refusal
        if self._attached:
            self._link.after_fork(refusal)

    # --- the session of the link -------------------------------------------------------------------------------------

    def _hello(self, **fields: object) -> Event:
        named = {"id": self.reader_id, "pid": os.getpid(), "streams": list(self._starts)}
        return Event(EventType.REGISTER, _OWNER, {**named, **fields})

    def hello(self, *, again: bool) -> Event:
        return self._hello(again=True) if again else self._hello()

    def welcomed(self, answer: Event, *, again: bool) -> None:
        if not again:
            self._first = answer
            return
        with self.lock:
            self._hear(answer)
            if self._asking:
                self._asking = False
                self._ask(1)
        self._changed.set()

    def handle(self, event: Event) -> None:
        with self.lock:
            self._hear(event)
        self._changed.set()

    def _hear(self, event: Event) -> None:
        """Called by whoever reads: an error is for whoever waits."""
        try:
            if event.type is EventType.NACK:
                raise error_of(event)
            self._take_in(event)
        except DqError as error:
            if event.get("request"):
                self._refused[event["request"]] = error
            else:
                self._failure = error

    def _take_in(self, event: Event) -> None:
        with self.lock:
            if event.type is EventType.ACK:
                self._core.tell(map(Told.by_broker, event["result"]["streams"]), self._starts)
            elif event.type is EventType.COMMITTED:
                self._answered = max(self._answered, event.get("number", 0))
                self._asking = self._answered < self._number
                self._core.tell(map(Told.by_broker, event.get("opened", ())), self._starts)
                self._core.committed(event["ends"])

    def busy(self) -> bool:
        return False

    def pending(self) -> bool:
        return False

    def tick(self) -> float | None:
        return None

    def failed(self, error: DqError) -> None:
        self._failure = error
        self._changed.set()
