"""Who is connected, as the manager knows it."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from dq.model.event import EventOwner
from dq.transport.pipe import Pipe


@dataclass(frozen=True, slots=True)
class Registered:
    """A publisher or a consumer that was handed over to a broker.

    Attributes:
        id, pid: of the client.
        broker: which broker serves it.
        serves: its stream or its sink.
    """

    id: str
    broker: EventOwner
    pid: int
    serves: str


@dataclass(frozen=True, slots=True, eq=False)
class Control:
    """A process that is attached to the manager itself, to ask it things and to be counted."""

    pipe: Pipe
    id: str
    pid: int


class Registry:
    """The publishers and consumers of one manager, by id."""

    def __init__(self) -> None:
        self._by_id: dict[str, Registered] = {}

    def add(self, client: Registered) -> None:
        """A client that comes again takes its own place."""
        self._by_id[client.id] = client

    def forget(self, client: str) -> None:
        """A client left."""
        self._by_id.pop(client, None)

    def forget_all(self, broker: EventOwner) -> None:
        """A broker died: its clients come again by themselves."""
        self._by_id = {name: client for name, client in self._by_id.items() if client.broker is not broker}

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._by_id)

    def to_list(self) -> list[dict[str, object]]:
        """For the status."""
        return [asdict(client) for client in self._by_id.values()]
