"""What both brokers share: the clients that a broker serves, and the pipe to the other broker."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import Generic, TypeVar

from dq.broker.life import Life
from dq.config import LIMITS
from dq.errors import BrokerError, DqError, ProtocolError
from dq.model.event import Event, EventOwner, EventType, decode
from dq.model.told import about, words_of
from dq.transport.frames import Buffer
from dq.transport.pipe import Broken, Ended, Pipe, PipeError

log = logging.getLogger("dq")
# Some errors show what a client said, which may be as long as a frame.
_MESSAGE_CHARS_MAX = 2_000


class Served:
    """One registered client: its pipe, and the answers of this turn."""

    __slots__ = ("answers", "id", "pid", "pipe")

    def __init__(self, pipe: Pipe, client: str, pid: int) -> None:
        self.pipe, self.id, self.pid = pipe, client, pid
        self.answers: list[Event] = []

    def labels(self) -> dict[str, str]:
        """Whose pipe it is, for those who watch."""
        return {"peer": EventOwner.CLIENT, "client": self.id}


Client = TypeVar("Client", bound=Served)


def nack(owner: EventOwner, error: DqError, **fields: object) -> Event:
    """The NACK that tells of an error; the client raises it by its name."""
    message = str(error)[:_MESSAGE_CHARS_MAX]
    return Event(EventType.NACK, owner, {**fields, "error": type(error).__name__, "message": message})


def _tell_cut_off(client: Served, error: Exception) -> None:
    extra = about(error, client=client.id, client_pid=client.pid)
    log.warning("%s (pid %d) is cut off: %s", client.id, client.pid, words_of(error), extra=extra)


class Desk(Generic[Client]):
    """The clients of one broker: lets them in, reads them, answers them, and sees them leave.

    Args:
        life: of the process.
        owner: which broker this is.
        on_event: what a client sent; a ProtocolError from here costs that client its connection.
        on_gone: a client has left, by its death or because it was cut off. Not called for those that `forget` closes.
    """

    def __init__(
        self,
        life: Life,
        owner: EventOwner,
        on_event: Callable[[Client, Event], None],
        on_gone: Callable[[Client], None],
    ) -> None:
        self._life, self._owner, self._on_event, self._on_gone = life, owner, on_event, on_gone
        self.clients: dict[str, Client] = {}
        self._answering: dict[Client, None] = {}

    def pipe(self, sock: socket.socket) -> Pipe:
        """A pipe over a socket that was handed over."""
        return Pipe(sock, self._life.poller.scratch)

    def check_room(self) -> None:
        """Raises BrokerError when no more clients are served."""
        if len(self.clients) >= LIMITS.clients_max:
            raise BrokerError(f"this broker serves {LIMITS.clients_max} clients already: close some first")

    def admit(self, client: Client) -> None:
        """Serves a client from now on. An id is of one connection: who comes last has it."""
        old = self.clients.get(client.id)
        if old is not None:
            self.supersede(old)
            self._on_gone(old)
        self.clients[client.id] = client
        self._life.watchers.know(client.pipe, client.labels)
        self._life.poller.add(client.pipe, lambda: self._read(client))

    def refuse(self, pipe: Pipe, client_id: str, error: DqError) -> None:
        """Answers a client that cannot be served, and closes; what the kernel took is still read by it."""
        self._life.watchers.know(pipe, lambda: {"peer": EventOwner.CLIENT, "client": client_id})
        try:
            pipe.send(nack(self._owner, error))
        except Broken:
            log.info("a client left before it could be refused")
        self._life.watchers.forget(pipe)
        pipe.close()
        if client_id not in self.clients:  # else it is another's, who stays
            self._life.tell(Event(EventType.CLOSE, self._owner, {"id": client_id}))

    def _read(self, client: Client) -> None:
        try:
            for frame in client.pipe.receive():
                self._on_event(client, decode(frame))
        except Ended:
            self.leave(client)
        except (PipeError, ProtocolError) as error:
            self._cut_off(client, error)

    def _cut_off(self, client: Client, error: Exception) -> None:
        """The client broke the protocol or its pipe: it is told, if it still listens, and it alone pays."""
        _tell_cut_off(client, error)
        if isinstance(error, ProtocolError):
            self.answer(client, nack(self._owner, error))
            self._write(client)
        self.leave(client)

    def leave(self, client: Client) -> None:
        """A client is gone; safe twice."""
        if self.clients.get(client.id) is client:
            self.forget(client)
            self._on_gone(client)

    def forget(self, client: Client) -> None:
        """Closes a client's pipe and forgets it."""
        if self.clients.get(client.id) is client:
            self._life.tell(Event(EventType.CLOSE, self._owner, {"id": client.id}))
        self.supersede(client)

    def supersede(self, client: Client) -> None:
        """As `forget`, of a connection whose client has come anew: its id goes on, and the manager goes on knowing it."""
        if self.clients.get(client.id) is client:
            del self.clients[client.id]
        self._answering.pop(client, None)
        if not client.pipe.closed:
            self._life.poller.remove(client.pipe)
            self._life.watchers.forget(client.pipe)
            client.pipe.close()

    # --- answers -----------------------------------------------------------------------------------------------------

    def answer(self, client: Client, event: Event) -> None:
        """Answers at the end of the turn."""
        client.answers.append(event)
        self._answering[client] = None

    def drop_answers(self) -> None:
        """Nothing of this turn may be confirmed."""
        for client in self._answering:
            client.answers.clear()
        self._answering.clear()

    def flush(self) -> None:
        """One write a client, however many answers it gets."""
        if not self._answering:
            return
        answering, self._answering = self._answering, {}
        for client in answering:
            self._write(client)

    def _write(self, client: Client) -> None:
        answers, client.answers = client.answers, []
        if answers and not client.pipe.closed:
            self._send(client, lambda: client.pipe.send_all(answers))

    def push(self, client: Client, parts: list[Buffer]) -> None:
        """Sends one frame to a client now, with its answers before it."""
        answers, client.answers = client.answers, []
        if not client.pipe.closed:
            self._send(client, lambda: client.pipe.send_all(answers, parts))

    def _send(self, client: Client, send: Callable[[], None]) -> None:
        try:
            send()
        except Broken as broken:
            self._read(client)  # what it said before it left still counts, its goodbye above all
            if self.clients.get(client.id) is client:
                _tell_cut_off(client, broken)
                self.leave(client)
            return
        if client.pipe.waits_to_write:
            self._life.poller.watch_writes(client.pipe, lambda _pipe, _broken: self.leave(client))


class Neighbour:
    """The pipe to the other broker: replaced whenever one of the two is.

    Args:
        life: of the process.
        on_event: what the other broker sent.
    """

    def __init__(self, life: Life, on_event: Callable[[Event], None]) -> None:
        self._life, self._on_event = life, on_event
        self._pipe: Pipe | None = None

    def attach(self, sock: socket.socket) -> None:
        """There is a new pipe."""
        if self._pipe is not None:
            self._close(self._pipe)
        pipe = self._pipe = Pipe(sock, self._life.poller.scratch)
        self._life.poller.add(pipe, lambda: self._read(pipe))
        self._life.watchers.know(pipe, self._labels)

    def _labels(self) -> dict[str, str]:
        ours = self._life.watchers.owner
        other = EventOwner.PUBLISHER_BROKER if ours is EventOwner.CONSUMER_BROKER else EventOwner.CONSUMER_BROKER
        return {"peer": other}

    def send(self, event: Event) -> bool:
        """Sends, if there is a neighbour and it reads; what is lost with it is told to the next one anew."""
        pipe = self._pipe
        if pipe is None or pipe.closed or pipe.waits_to_write:
            return False  # a newer word is said in place of this one, as soon as the older one is through
        try:
            pipe.send(event)
            self._life.poller.watch_writes(pipe, lambda broken, _: self._close(broken))
        except Broken:
            self._close(pipe)
            return False
        return True

    def _read(self, pipe: Pipe) -> None:
        try:
            for frame in pipe.receive():
                self._on_event(decode(frame))
        except (PipeError, ProtocolError):
            self._close(pipe)

    def _close(self, pipe: Pipe) -> None:
        if not pipe.closed:
            self._life.poller.remove(pipe)
            self._life.watchers.forget(pipe)
            pipe.close()
