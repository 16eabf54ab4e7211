"""Who watches the envelopes that pass this process, and what is told to them: types, owners, places and sizes, no payload.

::

    clients, neighbour ──► Pipe ──tap──┐
    queues of the manager ─────────────┴──► Watchers ──SEEN──► each watcher

Without a watcher no pipe has a tap: it costs a look at one attribute for each frame. A watcher that does not read in time is
told nothing meanwhile; the numbers of what it is told say how much it missed. It never slows a process down.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable
from typing import Any, Final

import orjson

from dq.config import LIMITS
from dq.errors import BrokerError, ProtocolError
from dq.model.event import Event, EventOwner, EventType
from dq.transport.frames import LENGTH, Buffer
from dq.transport.pipe import Broken, Pipe, PipeError
from dq.transport.poller import Poller

log = logging.getLogger("dq")
Labels = Callable[[], dict[str, str]]
_CHARS_MAX = 200
# What of an envelope is shown as it stands.
_TEXTS: Final = ("stream", "sink", "channel", "topic", "mode", "outcome", "error", "kind", "what")
_NUMBERS: Final = ("bucket", "sequence", "first", "count", "lease", "request", "credit", "offset")


class Watchers:
    """The watchers of one process.

    Args:
        poller: of its loop.

    Attributes:
        owner: whose process it is.
        on: whether anybody watches.
        said: what is to be told at the end of this turn.
    """

    def __init__(self, poller: Poller, owner: EventOwner = EventOwner.MANAGER) -> None:
        self._poller, self.owner = poller, owner
        self.on = False
        self.said: list[Event] = []
        self._number = 0
        self._pipes: dict[Pipe, None] = {}
        self._known: dict[Pipe, Labels] = {}

    # --- what is watched ---------------------------------------------------------------------------------------------

    def know(self, pipe: Pipe, labels: Labels) -> None:
        """Has what passes a pipe told to watchers, now or when one comes; `labels` say whose it is, when they are needed."""
        self._known[pipe] = labels
        if self.on:
            pipe.tap = _Tap(self, labels())

    def forget(self, pipe: Pipe) -> None:
        """A pipe is closed, or another process's from now on; safe twice."""
        self._known.pop(pipe, None)
        pipe.tap = None

    def saw(self, direction: str, event: Event, peer: EventOwner, at: float | None = None) -> None:
        """An event passed that went over no pipe, but over a queue or with a descriptor; `at` that wall time, else now."""
        sizes = (len(event.line()), len(event.body))
        self.note(direction, event.type, event.owner, event.fields, sizes, {"peer": peer}, at)

    def note(
        self,
        direction: str,
        kind: str,
        speaker: str,
        fields: dict[str, Any],
        sizes: tuple[int, int],
        labels: dict[str, str],
        at: float | None = None,
    ) -> None:
        """Keeps it to be told at the end of the turn. What watchers say themselves is not among what they want to see."""
        if speaker == EventOwner.WATCHER:
            return
        self._number += 1
        if all(pipe.waits_to_write for pipe in self._pipes):
            return  # none of them has read what it was told before
        told: dict[str, Any] = {
            "number": self._number, "at": at or time.time(), "direction": direction, "kind": kind, "speaker": speaker,
            "bytes": sizes[0], "body": sizes[1], **_shown(fields), **labels,
        }  # fmt: skip
        self.said.append(Event(EventType.SEEN, self.owner, told))

    # --- who watches -------------------------------------------------------------------------------------------------

    def admit(self, sock: socket.socket) -> None:
        """Somebody wants to watch this process."""
        self.welcome(Pipe(sock, self._poller.scratch))

    def welcome(self, pipe: Pipe) -> None:
        """The same, over a pipe that nobody reads any more."""
        if len(self._pipes) >= LIMITS.watchers_max:
            self._refuse(pipe, BrokerError(f"{LIMITS.watchers_max} watch this process already: end one of them first"))
            return
        self._poller.add(pipe, lambda: self._read(pipe))
        self._pipes[pipe] = None
        if not self.on:
            self.on = True
            for known, labels in self._known.items():
                known.tap = _Tap(self, labels())
        self._send(pipe, [Event(EventType.ACK, self.owner, {"status": {"pid": os.getpid()}})])

    def _refuse(self, pipe: Pipe, error: Exception) -> None:
        fields = {"error": type(error).__name__, "message": str(error)[:_CHARS_MAX]}
        try:
            pipe.send(Event(EventType.NACK, self.owner, fields))
        except Broken:
            log.info("a watcher left before it could be refused")
        pipe.close()

    def _read(self, pipe: Pipe) -> None:
        """A watcher has nothing to say."""
        try:
            for _ in pipe.receive():
                raise ProtocolError("a watcher says nothing after its REGISTER")
        except ProtocolError as error:
            self._remove(pipe)
            self._refuse(pipe, error)
        except PipeError:
            self._leave(pipe)

    def _leave(self, pipe: Pipe) -> None:
        self._remove(pipe)
        pipe.close()

    def _remove(self, pipe: Pipe) -> None:
        if self._pipes.pop(pipe, self) is self:
            return
        self._poller.remove(pipe)
        if not self._pipes:
            self.on = False
            self.said.clear()
            for known in self._known:
                known.tap = None

    # --- what they are told ------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Tells what was seen in this turn; a watcher that has not read what it was told before is told nothing of it."""
        said, self.said = self.said, []
        for pipe in list(self._pipes):
            if not pipe.waits_to_write:
                self._send(pipe, said)

    def _send(self, pipe: Pipe, events: list[Event]) -> None:
        try:
            pipe.send_all(events)
        except Broken:
            self._leave(pipe)
            return
        if pipe.waits_to_write:
            self._poller.watch_writes(pipe, lambda broken, _: self._leave(broken))


class _Tap:
    """On one pipe: notes each frame that passes, by its line and its size."""

    __slots__ = ("_labels", "_watchers")

    def __init__(self, watchers: Watchers, labels: dict[str, str]) -> None:
        self._watchers, self._labels = watchers, labels

    def read(self, frame: bytearray) -> None:
        """A frame came in."""
        self._note("in", frame, len(frame))

    def wrote(self, parts: list[Buffer]) -> None:
        """Frames go out: each its length, its line, and the parts of its body."""
        place = 0
        while place < len(parts):
            size = LENGTH.unpack(parts[place])[0]
            self._note("out", parts[place + 1], size)
            place += 1
            while size > 0:
                size -= len(parts[place])
                place += 1

    def _note(self, direction: str, head: Buffer, size: int) -> None:
        """Notes a frame whose line stands whole in `head`. What is none will be refused, and has nothing to be shown."""
        line = bytes(head[: bytes(head[: LIMITS.line_bytes_max]).find(b"\n") + 1])
        try:
            fields = orjson.loads(line)
            kind, speaker = EventType(fields.pop("type")), EventOwner(fields.pop("owner"))
        except (ValueError, TypeError, KeyError, AttributeError):
            return
        self._watchers.note(direction, kind, speaker, fields, (len(line), size - len(line)), self._labels)


def _shown(fields: dict[str, Any]) -> dict[str, Any]:
    """Of an envelope what says where it belongs, all of it short."""
    shown: dict[str, Any] = {name: fields[name][:_CHARS_MAX] for name in _TEXTS if type(fields.get(name)) is str}
    shown.update((name, fields[name]) for name in _NUMBERS if type(fields.get(name)) is int and fields[name] >= 0)
    if "kind" in shown:
        shown["of"] = shown.pop("kind")
    for name, shown_as in (("id", "client"), ("publisher", "client")):
        if type(fields.get(name)) is str:
            shown[shown_as] = fields[name][:_CHARS_MAX]
    if type(fields.get("number")) is int:  # of what is said, or answered; a number of ours counts the envelopes
        shown["said"] = max(fields["number"], 0)
    ranges = fields.get("ranges")
    if isinstance(ranges, list):
        shown["ranges"] = len(ranges)
        spans = [part for part in ranges if isinstance(part, list) and len(part) == 3]
        if all(type(value) is int for part in spans for value in part):
            shown["count"] = max(sum(end - first for _, first, end in spans), 0)
    ends = fields.get("ends")
    if isinstance(ends, list):
        shown["count"] = len(ends)
    return shown
