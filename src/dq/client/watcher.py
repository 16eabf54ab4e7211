"""`Watcher`: is told of each envelope that passes the three processes of a broker; what is in it stays with them."""

from __future__ import annotations

import os
import select
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dq.client.link import error_of
from dq.config import LIMITS
from dq.errors import BrokerLost, ProtocolError
from dq.model.event import Event, EventOwner, EventType, decode
from dq.transport.peer import Peer

PROCESSES = ("manager", "publisher_broker", "consumer_broker")
_OWN = frozenset({"number", "at", "direction", "peer", "kind", "speaker", "client", "bytes", "body"})
# Two processes tell of one envelope at nearly the same time; so long it is waited for the other one, to show them in order.
_ORDER_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Seen:
    """An envelope, as it passed a process. All text in it can be printed.

    Attributes:
        at: when, in seconds since 1970.
        process: which of the three it passed.
        direction: "in" or "out".
        peer: what is at the other end.
        client: its id; "" for one of the brokers, or a client that has not said who it is.
        kind, speaker: type and owner of the envelope.
        bytes, body: how long its line is, and what follows it.
        fields: what else it says, as numbers and short texts: stream, sink, bucket, count ...
    """

    at: float
    process: str
    direction: str
    peer: str
    client: str
    kind: str
    speaker: str
    bytes: int
    body: int
    fields: dict[str, int | str]


class _Window:
    """The connection to one process."""

    def __init__(self, root: Path, process: str) -> None:
        self.process = process
        self.peer = Peer(root)
        self.joined = False
        self.number: int | None = None  # of the last thing it told
        fields = {"id": f"w-{os.urandom(6).hex()}", "pid": os.getpid(), "process": process}
        self.peer.send(Event(EventType.REGISTER, EventOwner.WATCHER, fields))


class Watcher:
    """Watches the processes of one broker. Not for several threads; a context manager.

    Args:
        root: the data directory.

    Attributes:
        missed: how many envelopes were not told, since this watcher did not read in time.
        replaced: the names of processes that ended since this was last emptied; the next ones are watched in their place.

    Raises:
        BrokerNotRunning: nobody serves the directory.
        BrokerError: too many watch already.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.missed = 0
        self.replaced: list[str] = []
        self._windows: list[_Window] = []
        self._early: list[Seen] = []
        try:
            for process in PROCESSES:
                self._windows.append(_Window(root, process))
            self._join(time.monotonic() + LIMITS.start_seconds)
        except BaseException:
            self.close()
            raise

    def _join(self, deadline: float) -> None:
        """Returns once all three tell what passes them, so that nothing that is done from now on is missed."""
        while not all(window.joined for window in self._windows):
            self._early += self._read(max(deadline - time.monotonic(), 0.0))
            if time.monotonic() >= deadline:
                raise BrokerLost(f"not all processes of the broker answered within {LIMITS.start_seconds:g} s")

    def take(self, timeout: float | None) -> list[Seen]:
        """What has passed since, in order; waits up to `timeout` seconds (None: for ever) for the first.

        Raises:
            BrokerLost, BrokerNotRunning: the broker has ended.
        """
        seen, self._early = self._early, []
        if not seen:
            seen = self._read(timeout)
        settled = time.monotonic() + _ORDER_SECONDS
        while seen and (left := settled - time.monotonic()) > 0:
            seen += self._read(left)
        return sorted(seen, key=lambda each: each.at)

    def _read(self, timeout: float | None) -> list[Seen]:
        poll = select.poll()
        for window in self._windows:
            poll.register(window.peer, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll(None if timeout is None else timeout * 1000)}
        seen: list[Seen] = []
        for place, window in enumerate(self._windows):
            if window.peer.fileno() in ready:
                try:
                    while (frame := window.peer.receive(0.0)) is not None:
                        seen += self._told(window, frame)
                except BrokerLost:
                    self._replace(place)
        return seen

    def _replace(self, place: int) -> None:
        """A process ended: another one comes in its place, unless it was the manager."""
        lost = self._windows[place]
        lost.peer.close()
        if lost.process == "manager":
            raise BrokerLost(f"the broker of {self._root} has ended")
        self._windows[place] = _Window(self._root, lost.process)
        self.replaced.append(lost.process)

    def _told(self, window: _Window, frame: bytearray) -> list[Seen]:
        event = decode(frame)
        if event.type is EventType.NACK:
            raise error_of(event)
        if event.type is EventType.ACK:
            window.joined = True
            return []
        if event.type is not EventType.SEEN:
            raise ProtocolError(f"a watcher is told SEEN, not {event.type}")
        if window.number is not None:
            self.missed += event["number"] - window.number - 1
        window.number = event["number"]
        return [_seen(window.process, event.fields)]

    def close(self) -> None:
        """Watches no longer; safe twice."""
        for window in self._windows:
            window.peer.close()

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _seen(process: str, told: dict[str, Any]) -> Seen:
    fields = {name: _plain(value) for name, value in told.items() if name not in _OWN}
    texts = {name: str(_plain(told.get(name, ""))) for name in ("direction", "peer", "client", "kind", "speaker")}
    return Seen(at=told["at"], process=process, bytes=told["bytes"], body=told["body"], fields=fields, **texts)


def _plain(value: int | str) -> int | str:
    """Without what a terminal would act on: a stranger may call itself anything."""
    if isinstance(value, str) and not value.isprintable():
        return "".join(letter if letter.isprintable() else "?" for letter in value)
    return value
