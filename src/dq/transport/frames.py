"""Frames: a length of four bytes, big-endian, then so many bytes. The framing of `multiprocessing.connection.Connection`."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from dq.config import LIMITS
from dq.errors import ProtocolError

Buffer = bytes | bytearray | memoryview
LENGTH = struct.Struct("!I")


class Inbox:
    """Takes bytes as they arrive and gives whole frames; holds only what is incomplete."""

    __slots__ = ("_head", "_max", "_partial", "_size")

    def __init__(self, frame_bytes_max: int = LIMITS.frame_bytes_max) -> None:
        self._max = frame_bytes_max
        self._head = b""  # of a length that is not whole
        self._partial: bytearray | None = None  # a frame that is not whole, of `_size` bytes when it is
        self._size = 0

    def feed(self, chunk: memoryview) -> Iterator[bytearray]:
        """Gives each frame that `chunk` completes. `chunk` is only read before this generator ends.

        A frame is a bytearray of its own: what stands before its body is cut off without copying the body.

        Raises:
            ProtocolError: a length is 0 or over the limit; nothing was allocated for it.
        """
        place, size = 0, len(chunk)
        if self._partial is not None:
            place = self._size - len(self._partial)
            self._partial += chunk[:place]
            if len(self._partial) < self._size:
                return
            frame, self._partial = self._partial, None
            yield frame
        elif self._head:
            chunk = memoryview(self._head + bytes(chunk))
            size, self._head = len(chunk), b""
        while size - place >= 4:
            length = LENGTH.unpack_from(chunk, place)[0]
            if not 0 < length <= self._max:
                raise ProtocolError(f"a frame of {length} bytes: from 1 to {self._max} are taken; is the peer a dq client?")
            place += 4
            if size - place < length:
                self._partial, self._size = bytearray(chunk[place:]), length
                return
            yield bytearray(chunk[place : place + length])
            place += length
        if place < size:
            self._head = bytes(chunk[place:])

    @property
    def waiting_bytes(self) -> int:
        """Bytes of a frame that is not whole yet."""
        return len(self._head) if self._partial is None else 4 + len(self._partial)


def framed(*parts: Buffer) -> list[Buffer]:
    """The parts of one frame with its length before them, none of them empty, to be written by one `sendmsg`."""
    return [LENGTH.pack(sum(map(len, parts))), *(part for part in parts if len(part))]
