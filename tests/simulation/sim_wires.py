"""Pipes in memory with the face of sockets, and a poller over them: late, in pieces, bounded, lost at a death."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Sequence

from dq.transport.pipe import Broken, Pipe

CAPACITY = 24 * 1024
Handler = Callable[[], None]


class Wires:
    """All pipes of a world.

    Attributes:
        ends: those that are open.
    """

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.ends: list[End] = []
        self._next = 100

    def pair(self) -> tuple[End, End]:
        one, other = End(self, self._next), End(self, self._next + 1)
        one.peer, other.peer = other, one
        self._next += 2
        self.ends += (one, other)
        return one, other

    def deliver(self) -> None:
        """Some of what is under way arrives."""
        for end in self.ends:
            if end.late:
                end.deliver()


class End:
    """One end of a pipe.

    Attributes:
        late: what was sent to it and has not arrived.
        here: what has arrived and was not read.
        ended: its peer has closed.
        owner: the life of the broker that it was handed over to.
    """

    peer: End
    owner: object = None

    def __init__(self, wires: Wires, number: int) -> None:
        self._wires, self._number = wires, number
        self.late, self.here = bytearray(), bytearray()
        self.closed = self.ended = False

    # --- what a socket does ----------------------------------------------------------------------------------------
    def fileno(self) -> int:
        return -1 if self.closed else self._number

    def setblocking(self, blocking: bool) -> None:
        assert not blocking, "a broker never blocks on a client"

    def setsockopt(self, *_: int) -> None:
        pass

    def sendmsg(self, parts: Sequence[bytes | bytearray | memoryview]) -> int:
        if self.closed:
            raise OSError(errno.EBADF, "Bad file descriptor")
        peer = self.peer
        if peer.closed:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")
        room = self.room
        if not room:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        content = b"".join(parts)[:room]
        if len(content) > 1 and self._wires.chance.random() < 0.1:
            content = content[: self._wires.chance.randrange(1, len(content))]
        peer.late += content
        return len(content)

    def recv_into(self, buffer: memoryview, size: int) -> int:
        if self.closed:
            raise OSError(errno.EBADF, "Bad file descriptor")
        if not self.here:
            if self.late or not self.ended:
                raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
            return 0
        count = min(size, len(self.here))
        if count > 1 and self._wires.chance.random() < 0.1:
            count = self._wires.chance.randrange(1, count)
        buffer[:count] = self.here[:count]
        del self.here[:count]
        return count

    def close(self) -> None:
        if not self.closed:
            self.closed = self.peer.ended = True
            self._wires.ends.remove(self)

    # --- what the world does to it ---------------------------------------------------------------------------------
    def lose(self) -> None:
        """Its process died: some of what it sent last may never arrive."""
        if not self.closed:
            late, chance = self.peer.late, self._wires.chance
            if late and chance.random() < 0.5:
                del late[chance.randrange(len(late)) :]
            self.close()

    def deliver(self) -> None:
        chance = self._wires.chance.random()
        if chance < 0.85:
            self.here += self.late
            self.late.clear()
        elif chance < 0.95:
            count = self._wires.chance.randint(1, len(self.late))
            self.here += self.late[:count]
            del self.late[:count]

    @property
    def room(self) -> int:
        """So many bytes it takes now; the kernel tells of room only where there is some worth telling."""
        room = CAPACITY - len(self.peer.late) - len(self.peer.here)
        return room if room >= CAPACITY // 4 else 0

    @property
    def readable(self) -> bool:
        return bool(self.here) or (self.ended and not self.late)

    @property
    def writable(self) -> bool:
        return self.peer.closed or self.room > 0


class SimPoller:
    """The face of `transport.poller.Poller` over such ends."""

    scratch = memoryview(bytearray(32 * 1024))

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._handlers: dict[int, tuple[End, Handler, Handler | None]] = {}
        self._calls: list[Handler] = []

    def add(self, thing: Pipe, handler: Handler) -> None:
        end = thing.sock
        assert isinstance(end, End)
        assert end.fileno() >= 0, "a closed pipe cannot be waited for"
        self._handlers[end.fileno()] = (end, handler, None)

    def remove(self, thing: Pipe) -> None:
        assert thing.fileno() >= 0, "a pipe is removed before it is closed"
        self._handlers.pop(thing.fileno(), None)

    def watch_writes(self, pipe: Pipe, on_broken: Callable[[Pipe, Broken], None]) -> None:
        number = pipe.fileno()
        end, read, write = self._handlers[number]
        if write is not None or not pipe.waits_to_write:
            return

        def ready_to_write() -> None:
            try:
                pipe.flush()
            except Broken as broken:
                on_broken(pipe, broken)
                return
            if not pipe.waits_to_write:
                self._handlers[number] = (end, read, None)

        self._handlers[number] = (end, read, ready_to_write)

    def call(self, handler: Handler) -> None:
        self._calls.append(handler)

    @property
    def ready(self) -> bool:
        """Whether a loop that sleeps would wake."""
        return bool(self._calls) or any(
            end.readable or (write is not None and end.writable) for end, _, write in self._handlers.values()
        )

    def run_once(self) -> None:
        """Calls the handlers of what is ready, in any order."""
        calls, self._calls = self._calls, []
        for call in calls:
            call()
        numbers = [number for number, (end, _, write) in self._handlers.items() if end.readable or (write and end.writable)]
        if len(numbers) > 1:
            self._chance.shuffle(numbers)
        for number in numbers:
            if number in self._handlers:
                end, _, write = self._handlers[number]
                if write is not None and end.writable:
                    write()
            if number in self._handlers:
                end, read, _ = self._handlers[number]
                if end.readable:
                    read()
