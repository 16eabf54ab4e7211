"""`Peer`: a client's end of a connection. Sending blocks until the broker's kernel buffer takes it; receiving can time out."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections import deque
from pathlib import Path

from dq.config import LIMITS
from dq.errors import BrokerLost, ProtocolError
from dq.model.event import Event, decode
from dq.transport.door import knock
from dq.transport.frames import Buffer, Inbox, framed
from dq.transport.pipe import widen


class Peer:
    """One connection to a broker or to the manager.

    Any thread may send; one thread at a time may receive.
    """

    def __init__(self, root: Path) -> None:
        self._sock = knock(root)
        widen(self._sock)
        self._inbox = Inbox()
        self._sending = threading.Lock()
        self._scratch = memoryview(bytearray(LIMITS.pipe_bytes))
        self._ready: deque[bytearray] = deque()
        self._woken, self._waker = os.pipe()
        os.set_blocking(self._waker, False)
        self._poll, self._watch = self._new_poll(), self._new_poll()  # one a thread: a poll object takes one call at a time
        self.closed = False

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, event: Event) -> None:
        """Sends an event.

        Raises:
            BrokerLost: the broker is gone.
        """
        self.send_parts(event.line(), event.body)

    def send_parts(self, *parts: Buffer) -> None:
        """Sends one frame made of several parts, without copying them."""
        frame = framed(*parts)
        total = sum(map(len, frame))
        try:
            with self._sending:
                sent = self._sock.sendmsg(frame)
                if sent < total:
                    self._sock.sendall(b"".join(frame)[sent:])
        except OSError as error:
            raise BrokerLost(f"the broker went away: {error.strerror}") from error

    def _new_poll(self) -> select.poll:
        poll = select.poll()  # no limit on descriptor numbers, unlike select()
        poll.register(self._sock, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        return poll

    def receive(self, timeout: float | None) -> bytearray | None:
        """The next frame, or None after `timeout` seconds (None: waits for ever) or when `wake` was called.

        Raises:
            BrokerLost: the broker is gone.
        """
        while not self._ready:
            if self.closed:
                raise BrokerLost("the connection was closed")
            ready = self._poll.poll(None if timeout is None else max(timeout, 0.0) * 1000.0)
            if not ready:
                return None
            if any(descriptor == self._woken for descriptor, _ in ready):
                os.read(self._woken, 4096)
                return None
            self._fill()
        return self._ready.popleft()

    def wait_readable(self, timeout: float | None) -> None:
        """Waits until there is something for `receive`, without taking it; for a thread that leaves the reading to others."""
        if not self._ready and not self.closed:
            self._watch.poll(None if timeout is None else max(timeout, 0.0) * 1000.0)

    def wake(self) -> None:
        """Has the `receive` that waits, or the next one, return at once; safe from any thread and signal handler."""
        if not self.closed:
            with contextlib.suppress(BlockingIOError, OSError):
                os.write(self._waker, b"\0")

    def _fill(self) -> None:
        try:
            count = self._sock.recv_into(self._scratch)
            if not count:
                raise BrokerLost("the broker went away: it closed the connection")
            self._ready.extend(self._inbox.feed(self._scratch[:count]))
        except OSError as error:
            raise BrokerLost(f"the broker went away: {error.strerror}") from error
        except ProtocolError as error:
            raise BrokerLost(f"the broker does not speak as expected: {error}") from error

    def ask(self, event: Event, timeout: float) -> Event:
        """Sends an event and waits for the one that comes back.

        Raises:
            BrokerLost: the broker is gone, or silent for `timeout` seconds.
        """
        self.send(event)
        frame = self.receive(timeout)
        if frame is None:
            raise BrokerLost(f"the broker did not answer {event.type} within {timeout:g} s")
        return decode(frame)

    def close(self) -> None:
        """Ends the connection; safe twice. Nobody may be in `receive`."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self.close_copy()

    def close_copy(self) -> None:
        """Closes this process's descriptors alone, as a forked child must: the connection goes on for its parent."""
        if not self.closed:
            self.closed = True
            self._sock.close()
            os.close(self._woken)
            os.close(self._waker)
