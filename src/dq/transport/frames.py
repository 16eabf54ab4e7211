"""Frames: a length of four bytes, big-endian, then so many bytes. The framing of `multiprocessing.connection.Connection`."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from dq.config import LIMITS
from dq.errors import ProtocolError

LENGTH = struct.Struct("!I")


class Inbox:
    """Takes bytes as they arrive and gives whole frames; holds only what is incomplete."""

    __slots__ = ("_max", "_partial")

    def __init__(self, frame_bytes_max: int = LIMITS.frame_bytes_max) -> None:
        self._max = frame_bytes_max
        self._partial = bytearray()

    def feed(self, chunk: memoryview) -> Iterator[bytes]:
        """Gives each frame that `chunk` completes. `chunk` is only read before this generator ends.

        Raises:
            ProtocolError: a length is 0 or over the limit; nothing was allocated for it.
        """
        if self._partial:
            self._partial += chunk
            source = memoryview(bytes(self._partial)) if self._complete() else None
            if source is None:
                return
            self._partial = bytearray()
        else:
            source = chunk
        place, size = 0, len(source)
        while size - place >= 4:
            length = self._checked(LENGTH.unpack_from(source, place)[0])
            if size - place - 4 < length:
                break
            yield bytes(source[place + 4 : place + 4 + length])
            place += 4 + length
        if place < size:
            self._partial += source[place:]

    def _complete(self) -> bool:
        """Whether the first frame is whole by now, so that a large one is not copied at each arrival."""
        if len(self._partial) < 4:
            return False
        return len(self._partial) - 4 >= self._checked(LENGTH.unpack_from(self._partial)[0])

    def _checked(self, length: int) -> int:
        if not 0 < length <= self._max:
            raise ProtocolError(f"a frame of {length} bytes: between 1 and {self._max} are taken; is the peer a dq client?")
        return length

    @property
    def waiting_bytes(self) -> int:
        """Bytes of a frame that is not whole yet."""
        return len(self._partial)


def framed(*parts: bytes | memoryview) -> list[bytes | memoryview]:
    """The parts of one frame with its length before them, none of them empty, to be written by one `sendmsg`."""
    return [LENGTH.pack(sum(map(len, parts))), *(part for part in parts if len(part))]
