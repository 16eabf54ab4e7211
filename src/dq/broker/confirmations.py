"""What consumers said and the sink's log has, and has not been confirmed to them yet."""

from __future__ import annotations

from typing import Generic, TypeVar

from dq.broker.desk import Desk, Served
from dq.broker.life import Life
from dq.model.event import Event, EventOwner, EventType


class Numbering(Served):
    """A client that numbers what it says.

    Attributes:
        noted: the number of the last thing it said; to be confirmed, once it is written.
    """

    __slots__ = ("noted",)
    noted: int


Client = TypeVar("Client", bound=Numbering)


class Confirmations(Generic[Client]):
    """A confirmation goes along with the next lease, so that it wakes nobody; soon in any case, and now for who waits.

    Args:
        life: of the process.
        desk: answers the clients.
    """

    def __init__(self, life: Life, desk: Desk[Client]) -> None:
        self._life, self._desk = life, desk
        self._waiting: dict[Client, None] = {}
        self._at = 0.0

    @property
    def due(self) -> float | None:
        """When `confirm_due` is to be called, in monotonic seconds; None: nobody waits."""
        return self._at if self._waiting else None

    def note(self, client: Client, event: Event) -> None:
        """A client said something with a number."""
        client.noted = event["number"]
        if event.get("now"):
            self._waiting.pop(client, None)
            self._tell(client)
            return
        if not self._waiting:
            self._at = self._life.clock.monotonic() + self._life.limits.confirm_seconds
        self._waiting[client] = None

    def confirm(self, client: Client) -> None:
        """Something else goes to this client now."""
        if client in self._waiting:
            del self._waiting[client]
            self._tell(client)

    def confirm_due(self, now: float) -> None:
        """Confirms to all, when the time has come."""
        if self._waiting and now >= self._at:
            for client in list(self._waiting):
                self.confirm(client)

    def forget(self, client: Client) -> None:
        """A client left."""
        self._waiting.pop(client, None)

    def forget_all(self) -> None:
        """Nothing of it could be written."""
        self._waiting.clear()

    def _tell(self, client: Client) -> None:
        self._desk.answer(client, Event(EventType.ACK, EventOwner.CONSUMER_BROKER, {"number": client.noted}))
