"""`Link`: a client's connection to the broker that serves it. It reads, reconnects and keeps time for a session.

Who waits, reads: a thread that waits for an answer reads the connection itself and saves the way through another thread
(two context switches of about 30 us each, beside a sync of 200 us). Where nobody waits and something is under way, a
thread of the link's own reads. Exactly one thread reads at a time: the one that holds `_reading`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from dq.client.bell import Bell
from dq.client.quitting import quit_if_asked, request_here
from dq.config import LIMITS
from dq.errors import BrokerError, BrokerLost, Closed, DqError, Forked, ProtocolError, by_name
from dq.model.event import Event, EventType, decode
from dq.model.told import about, words_of
from dq.transport.frames import Buffer
from dq.transport.peer import Peer

log = logging.getLogger("dq")
_RETRY_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.25)


def error_of(event: Event) -> DqError:
    """The error that a NACK tells of."""
    return by_name(event["error"], event["message"])


class Session(Protocol):
    """What a publisher or a consumer does over a link. All is called without the link's locks."""

    def hello(self, *, again: bool) -> Event:
        """The REGISTER event; `again` after the connection was lost."""

    def welcomed(self, answer: Event, *, again: bool) -> None:
        """The broker serves us; after a loss, what was not answered is sent again here."""

    def handle(self, event: Event) -> None:
        """An event came."""

    def busy(self) -> bool:
        """Whether an answer is under way, so that somebody must read."""

    def pending(self) -> bool:
        """Whether there is something that `tick` would see to now."""

    def tick(self) -> float | None:
        """Does what is due by time; returns in how many seconds it wants to be called again (None: when woken)."""

    def failed(self, error: DqError) -> None:
        """The broker did not come back in time."""


class Link:
    """One connection, kept alive.

    Args:
        root: the data directory.
        session: what runs over it.
        reconnect_timeout: seconds for which a lost broker is looked for.
    """

    def __init__(self, root: Path, session: Session, reconnect_timeout: float) -> None:
        self._root, self._session, self._reconnect_timeout = root, session, reconnect_timeout
        self._reading = threading.Lock()
        self._wanted = Bell()
        self._whole = threading.Event()
        self._refusal: DqError | None = None
        self._joining: Peer | None = None
        self.sleeping = False
        self._thread = threading.Thread(target=self._keep, daemon=True, name="dq-link")

    def open(self) -> None:
        """Connects and registers. A broker that is just being replaced is waited for.

        Raises:
            BrokerNotRunning, and whatever the broker answers to REGISTER.
            BrokerLost: it did not come back within `reconnect_timeout`.
        """
        deadline = time.monotonic() + self._reconnect_timeout
        while True:
            try:
                self._peer, answer = self._connect(again=False)
                break
            except BrokerLost:
                if time.monotonic() >= deadline:
                    raise
            quit_if_asked()
            time.sleep(_RETRY_SECONDS[0])
        self._whole.set()
        self._session.welcomed(answer, again=False)
        self._thread.start()

    def _connect(self, *, again: bool) -> tuple[Peer, Event]:
        peer = self._joining = Peer(self._root)
        try:
            self.check()  # whoever closed this object before now could not interrupt what comes
            answer = peer.ask(self._session.hello(again=again), LIMITS.start_seconds)
            if answer.type is EventType.NACK:
                raise error_of(answer)
        except BaseException:
            peer.close()
            raise
        finally:
            self._joining = None
        return peer, answer

    # --- sending ---------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raises Closed or Forked when this object is not to be used any more."""
        if self._refusal is not None:
            raise self._refusal

    @property
    def whole(self) -> bool:
        """Whether there is a connection now that may be used."""
        return self._whole.is_set() and self._refusal is None

    @property
    def usable(self) -> bool:
        """Whether this object was not closed or refused."""
        return self._refusal is None

    def send(self, *parts: Buffer) -> bool:
        """Sends one frame; False when the connection is lost: the session sends again what matters once it is back."""
        if not self._whole.is_set():
            return False
        try:
            self._peer.send_parts(*parts)
        except BrokerLost:
            self._lost()
            return False
        return True

    def wake(self) -> None:
        """Has the link's own thread look again. Cheap while it is awake: callers ask `sleeping` first."""
        self.sleeping = False
        self._wanted.ring()

    def interrupt(self) -> None:
        """Has whoever reads return; for `stop()` from another thread or a signal handler."""
        joining = self._joining
        if joining is not None and self._refusal is not None:
            joining.wake()  # it waits for a broker that may never answer
        self._peer.wake()
        self._wanted.ring()

    # --- reading ---------------------------------------------------------------------------------------------------

    def wait(
        self,
        done: Callable[[], bool],
        deadline: float | None,
        follow: Callable[[float | None], object],
        *,
        returns: bool = False,
    ) -> bool:
        """Reads until `done()` or until `deadline` (monotonic seconds); where another thread reads, waits by `follow(seconds)`.

        Args:
            returns: this thread will be here again soon, so no other one need read meanwhile. Two threads that take turns
                with every batch cost more than the batch.

        Returns whether it is done.
        """
        request = request_here()
        if request is not None:  # a coroutine waits behind this thread
            finished, done = done, lambda: request.made or finished()
        while not done():
            self.check()
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            if self._whole.is_set() and self._reading.acquire(blocking=False):
                try:
                    self._read_until(done, deadline)
                finally:
                    self._reading.release()
                if not returns:
                    self.leave()
            else:
                if not self._whole.is_set():
                    self._wanted.ring()  # after it gave up, it looks for a broker again as soon as somebody waits
                follow(left)
        quit_if_asked()
        return True

    def _read_until(self, done: Callable[[], bool], deadline: float | None) -> None:
        while self._whole.is_set() and not done():
            left = None if deadline is None else deadline - time.monotonic()
            if not self._read_one(left) and (left is not None or self._refusal is not None):
                return

    def leave(self) -> None:
        """This thread reads no more for now: should answers be under way, the link's own thread reads them.

        To be called after every end of reading by a thread that does not promise to be here again: others may wait for what
        comes next, and they looked for somebody who reads while this one still did.
        """
        if self.sleeping and self._session.busy():
            self.wake()

    def nudge(self) -> None:
        """Somebody begins to wait for what another thread has to read."""
        if self.sleeping:
            self.wake()

    def read_ready(self) -> None:
        """Handles what has arrived, without waiting; nothing if another thread reads. Call `leave` when done."""
        if self._whole.is_set() and self._reading.acquire(blocking=False):
            try:
                while self._read_one(0.0):
                    pass
            finally:
                self._reading.release()

    def _read_one(self, timeout: float | None) -> bool:
        try:
            frame = self._peer.receive(timeout)
            if frame is None:
                return False
            self._session.handle(decode(frame))
        except BrokerLost:
            self._lost()
            return False
        except ProtocolError as error:
            log.error("the broker sent what is no event: %s", words_of(error), extra=about(error))
            self._lost()
            return False
        return True

    # --- the link's own thread ---------------------------------------------------------------------------------------

    def _lost(self) -> None:
        self._whole.clear()
        self._wanted.ring()

    def _keep(self) -> None:
        """Reads where nobody else does, keeps time, reconnects."""
        while self._refusal is None:
            self._wanted.forget()  # before the look, so that a loss in between is not overslept
            if not self._whole.is_set():
                self._reconnect()
                continue
            wait = self._session.tick()
            if self._session.busy() and not self._reading.locked():
                # It waits without holding the right to read: a thread that submits takes the answers in itself, in passing,
                # and does not have to wait for this one to get hold of the interpreter.
                self._peer.wait_readable(wait)
                self.read_ready()
            elif wait is not None and wait <= LIMITS.flush_seconds:
                self._wanted.wait(wait)  # it looks again so soon that nobody need wake it
            else:
                self.sleeping = True  # from here on whoever has something to be done wakes
                if not self._session.pending() or self._reading.locked():
                    self._wanted.wait(wait)
                self.sleeping = False

    def _reconnect(self) -> None:
        deadline = time.monotonic() + self._reconnect_timeout
        with self._reading:  # whoever read the old connection has left it
            self._peer.close()
        attempt = 0
        while self._refusal is None:
            try:
                peer, answer = self._connect(again=True)
            except BrokerError as error:
                if time.monotonic() >= deadline:
                    self._give_up(error)
                    return
            except DqError as error:
                self._give_up(error)
                return
            else:
                self._peer = peer
                self._whole.set()
                self._session.welcomed(answer, again=True)
                return
            self._wanted.wait(_RETRY_SECONDS[min(attempt, len(_RETRY_SECONDS) - 1)])
            self._wanted.forget()
            attempt += 1

    def _give_up(self, error: DqError) -> None:
        """What waits is told; the next use looks for a broker again."""
        if isinstance(error, BrokerError):
            error = BrokerLost(
                f"the broker of {self._root} went away and did not come back within {self._reconnect_timeout:g} s: "
                f"start it again, or raise reconnect_timeout ({error})"
            )
        self._wanted.forget()
        self.sleeping = True
        self._session.failed(error)
        if self._refusal is None:  # else it was closed in between, and nobody will wake this thread again
            self._wanted.wait()

    # --- the end ---------------------------------------------------------------------------------------------------

    def renew(self) -> None:
        """Gives this connection up for a new one, on which the session says anew who it is."""
        self._lost()

    def refuse(self, error: DqError) -> None:
        """This object is of no use any more, and says why; for the session, in the link's own thread."""
        self._refusal = error
        self._whole.clear()
        with self._reading:
            self._peer.close()

    def close(self, goodbye: Event | None = None) -> None:
        """Ends the connection; safe twice."""
        if self._refusal is not None:
            return
        if goodbye is not None:
            self.send(goodbye.line())
        self._refusal = Closed("this object was closed: make a new one")
        self.interrupt()
        if threading.current_thread() is not self._thread:
            self._thread.join(LIMITS.stop_seconds)
        with self._reading:
            self._peer.close()

    def after_fork(self, refusal: Forked) -> None:
        """In a forked child: the connection is the parent's, and so is its thread."""
        self._refusal = refusal
        self._peer.close_copy()
