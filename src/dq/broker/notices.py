"""What the publisher broker tells the consumer broker and the readers of records that are gone: they need not look for them."""

from __future__ import annotations

from collections.abc import Iterable

from dq.broker.desk import Neighbour
from dq.broker.readers import Readers
from dq.log.catalog import OpenStream
from dq.model.event import Event, EventOwner, EventType


class Notices:
    """Keeps what was not told yet: a newer word is told in place of an older one.

    Args:
        neighbour: the pipe to the other broker.
        readers: those that are served here.

    Attributes:
        waiting: whether there is something to be told.
        urgent: whether it is to be told in this turn, though that wakes the other broker.
    """

    def __init__(self, neighbour: Neighbour, readers: Readers) -> None:
        self._neighbour, self._readers = neighbour, readers
        self._destroyed: dict[str, str] = {}  # names by uuid
        self._changed: dict[str, tuple[OpenStream, bool]] = {}
        self.urgent = False

    @property
    def waiting(self) -> bool:
        return bool(self._changed or self._destroyed)

    def moved(self, stream: OpenStream) -> None:
        """The marks of a stream have moved by its limits."""
        self._readers.changed(stream.name)
        _, whole = self._changed.get(stream.name, (stream, False))
        self._changed[stream.name] = (stream, whole)

    def changed(self, stream: OpenStream) -> None:
        """A user has had records of a stream trimmed or removed."""
        self._readers.changed(stream.name)
        self._changed[stream.name] = (stream, True)
        self.urgent = True

    def destroyed(self, stream: OpenStream) -> None:
        """A stream is no more."""
        self._readers.destroyed(stream.name)
        self._changed.pop(stream.name, None)
        self._destroyed[stream.uuid] = stream.name
        self.urgent = True

    def begin_anew(self, streams: Iterable[OpenStream]) -> None:
        """The other broker is new: it is told of every stream of which something is gone."""
        for stream in streams:
            if any(stream.marks) or stream.gone.ranges:
                self.changed(stream)

    def send(self) -> None:
        """Tells what waits, as far as the pipe takes it now."""
        for uuid, name in list(self._destroyed.items()):
            if not self._send(name, uuid, {"destroyed": True}):
                return
            del self._destroyed[uuid]
        for name, (stream, whole) in list(self._changed.items()):
            removed = {"removed": stream.gone.listed()} if whole else {}
            if not self._send(name, stream.uuid, {"epoch": stream.epoch, "marks": stream.firsts(), **removed}):
                return
            del self._changed[name]
        self.urgent = False

    def _send(self, name: str, uuid: str, fields: dict[str, object]) -> bool:
        return self._neighbour.send(
            Event(EventType.TRIM, EventOwner.PUBLISHER_BROKER, {"stream": name, "uuid": uuid, **fields})
        )
