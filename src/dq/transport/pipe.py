"""`Pipe`: the broker's end of a connection. It never blocks: what cannot be written now waits, up to a limit.

A pipe ends in one of three ways, each an error of its own for whoever reads it: `Broken` by the peer in the middle of
something, a `ProtocolError` for who has to be told, `Ended` well, between two frames. One that we closed gives nothing more.
"""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Protocol

from dq.config import KIB, LIMITS
from dq.model.event import Event
from dq.transport.frames import Buffer, Inbox, framed

# Linux takes 1,024 parts in one call (IOV_MAX).
_PARTS_MAX = 512
# What waits is kept in pieces of this size, and so much is offered to the kernel at once.
_PIECE_BYTES = 256 * KIB
_PIECES_MAX = 4
# One read takes about as many events, by the size of the last ones, and no less than a page: others get their turn between.
_FRAMES_A_READ = 256
_READ_BYTES_MIN = 4 * KIB


class PipeError(Exception):
    """A pipe has ended. Never reaches users: brokers act on it."""


class Ended(PipeError):
    """The peer closed between two frames, or died there: for a pipe they are the same."""


class Broken(PipeError):
    """The peer closed in the middle of a frame, or was cut off."""


class Tap(Protocol):
    """Is shown what passes a pipe."""

    def read(self, frame: bytearray) -> None:
        """A frame came in, and is still whole."""

    def wrote(self, parts: list[Buffer]) -> None:
        """Frames go out, as `framed` made them."""


class Pipe:
    """One non-blocking connection with framing.

    Args:
        sock: the socket; owned from now on.
        scratch: a buffer for `recv_into` that all pipes of a loop share, so that an idle pipe costs no memory.

    Attributes:
        tap: is shown all that passes, while somebody watches.
    """

    __slots__ = ("_outgoing", "_outgoing_bytes", "_readable", "_scratch", "_written", "closed", "inbox", "sock", "tap")

    def __init__(self, sock: socket.socket, scratch: memoryview) -> None:
        sock.setblocking(False)
        widen(sock)
        self.sock, self._scratch, self.inbox, self.closed = sock, scratch, Inbox(), False
        self.tap: Tap | None = None
        self._readable = len(scratch)  # bytes that one read may take
        self._outgoing: deque[bytearray] = deque()
        self._outgoing_bytes = self._written = 0  # bytes that wait; bytes of the first piece that do not any more

    def fileno(self) -> int:
        return self.sock.fileno()

    def receive(self) -> Iterator[bytearray]:
        """Gives the frames that have arrived, after one read; nothing from a pipe that we closed.

        Raises:
            Ended, Broken: the pipe is at its end.
            ProtocolError: a frame has a length that no frame may have; the pipe is of no use any more.
        """
        if self.closed:
            return
        try:
            count = self.sock.recv_into(self._scratch, self._readable)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            raise Broken(str(error)) from error
        if not count:
            if self.inbox.waiting_bytes:
                raise Broken("closed in the middle of a frame")
            raise Ended("closed by the peer")
        frames = 0
        for frame in self.inbox.feed(self._scratch[:count]):
            frames += 1
            if self.tap is not None:
                self.tap.read(frame)
            yield frame
        wanted = count * _FRAMES_A_READ // frames if frames else len(self._scratch)
        self._readable = min(max(wanted, _READ_BYTES_MIN), len(self._scratch))

    def send(self, event: Event) -> None:
        """Sends an event, now or as soon as the peer reads.

        Raises:
            Broken: the peer is gone, or does not read and too much waits.
        """
        self.send_parts(event.line(), event.body)

    def send_parts(self, *parts: Buffer) -> None:
        """Sends one frame made of several parts, none of them copied unless it must wait."""
        self._send(framed(*parts))

    def send_all(self, events: list[Event], last: list[Buffer] | None = None) -> None:
        """Sends several events by one write, and after them the frame that is made of the parts `last`.

        Raises:
            Broken: as `send`.
        """
        parts = [part for event in events for part in framed(event.line(), event.body)]
        self._send(parts if last is None else parts + framed(*last))

    def _send(self, frame: list[Buffer]) -> None:
        if self.tap is not None:
            self.tap.wrote(frame)
        if self._outgoing:
            self._wait(frame)
            return
        while frame:
            try:
                sent = self.sock.sendmsg(frame[:_PARTS_MAX])
            except (BlockingIOError, InterruptedError):
                self._wait(frame)
                return
            except OSError as error:
                raise Broken(str(error)) from error
            frame = _after(frame, sent)

    def _wait(self, parts: list[Buffer]) -> None:
        """Keeps copies: a part may be of a buffer many times its size, and many small ones take more memory than they are."""
        for part in parts:
            if self._outgoing and len(self._outgoing[-1]) + len(part) <= _PIECE_BYTES:
                self._outgoing[-1] += part
            else:
                self._outgoing.append(bytearray(part))
            self._outgoing_bytes += len(part)
        if self._outgoing_bytes > LIMITS.outgoing_bytes_max:
            raise Broken(f"the peer does not read: {self._outgoing_bytes} bytes wait for it")

    @property
    def waits_to_write(self) -> bool:
        """Whether something is to be written when the socket takes it."""
        return bool(self._outgoing)

    def flush(self) -> None:
        """Writes what waits, as far as the socket takes it now."""
        while self._outgoing:
            pieces = [memoryview(piece) for piece in islice(self._outgoing, _PIECES_MAX)]
            pieces[0] = pieces[0][self._written :]
            try:
                sent = self.sock.sendmsg(pieces)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                raise Broken(str(error)) from error
            self._outgoing_bytes -= sent
            self._written += sent
            while self._outgoing and self._written >= len(self._outgoing[0]):
                self._written -= len(self._outgoing.popleft())

    def close(self) -> None:
        """Closes it; safe twice."""
        self.closed = True
        self._outgoing.clear()
        self._written = 0
        with contextlib.suppress(OSError):
            self.sock.close()


def _after(parts: list[Buffer], sent: int) -> list[Buffer]:
    """What is left of `parts` when `sent` bytes of them are gone."""
    for place, part in enumerate(parts):
        if sent < len(part):
            return [memoryview(part)[sent:], *parts[place + 1 :]] if sent else parts[place:]
        sent -= len(part)
    return []


def widen(sock: socket.socket) -> None:
    """Asks for large kernel buffers, so that a batch goes through in one write and the writer need not wait for the reader."""
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, option, LIMITS.pipe_bytes)
