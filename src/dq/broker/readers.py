"""The readers that the publisher broker serves: it tells them how far streams are committed, and they read the logs themselves.

A reader asks by READ, and is answered once: at the end of the turn in which something it reads was committed, or is gone, since
it was last told. One that does not ask is not told, and costs nothing with a commit: it is noted once that there is news.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from dq.broker.desk import Desk, Served, nack
from dq.broker.life import Life
from dq.broker.opened import describe
from dq.config import LIMITS
from dq.errors import BackendFailed, DqError, ProtocolError, SyncFailed, UnknownStream
from dq.log.catalog import OpenStream
from dq.model.event import Event, EventOwner, EventType
from dq.model.names import check_client_id
from dq.model.told import about
from dq.transport.pipe import Pipe

log = logging.getLogger("dq")
_OWNER = EventOwner.PUBLISHER_BROKER
Shard = tuple[str, int]


class ReaderClient(Served):
    """A reader: its streams, whether it waits for news, and what is news to it."""

    __slots__ = ("asks", "changed", "news", "number", "streams")

    def __init__(self, pipe: Pipe, client: str, pid: int) -> None:
        super().__init__(pipe, client, pid)
        self.streams: list[str] = []
        self.asks, self.number = False, 0
        self.news: set[Shard] = set()
        self.changed: set[str] = set()

    def labels(self) -> dict[str, str]:
        return {"peer": EventOwner.READER, "client": self.id}


class Readers:
    """The desk of the readers.

    Args:
        life: of the process.
        open_stream: finds a stream by its name, or raises.
        find: the stream of a name, if it is open now.
    """

    def __init__(self, life: Life, open_stream: Callable[[str], OpenStream], find: Callable[[str], OpenStream | None]) -> None:
        self._life, self._open, self._find = life, open_stream, find
        self._desk: Desk[ReaderClient] = Desk(life, _OWNER, self._on_event, self._left)
        self._told: dict[Shard, dict[ReaderClient, None]] = {}  # who knows all that is committed there
        self._of_stream: dict[str, dict[ReaderClient, None]] = {}
        self._due: dict[ReaderClient, None] = {}

    def let_in(self, event: Event, sock: socket.socket) -> None:
        """A reader was handed over."""
        desk, pipe = self._desk, self._desk.pipe(sock)
        try:
            desk.check_room()
            check_client_id(event["id"])
            streams = self._open_all(event["streams"])
        except DqError as error:
            desk.refuse(pipe, event["id"], error)
            return
        client = ReaderClient(pipe, event["id"], event["pid"])
        desk.admit(client)
        self._put_over(client, streams)

    def _open_all(self, names: list[str]) -> list[OpenStream]:
        if len(names) > LIMITS.streams_max:
            raise ProtocolError(f"a reader of {len(names):,} streams; {LIMITS.streams_max:,} are the most")
        try:
            return [self._open(name) for name in dict.fromkeys(names)]
        except SyncFailed as error:
            self._life.fail(error)  # the next broker finds out what the disk has
            raise

    def _put_over(self, client: ReaderClient, streams: list[OpenStream], **echoed: int) -> None:
        """Has a client read these streams and no others, and tells it all about them."""
        self._take_off(client)
        client.streams = [stream.name for stream in streams]
        for stream in streams:
            self._of_stream.setdefault(stream.name, {})[client] = None
            for bucket in range(len(stream.writers)):
                self._told.setdefault((stream.name, bucket), {})[client] = None
        opened = [describe(stream) for stream in streams]
        self._desk.answer(client, Event(EventType.ACK, _OWNER, {"result": {"streams": opened}, **echoed}))

    def _take_off(self, client: ReaderClient) -> None:
        for name in client.streams:
            of_stream = self._of_stream.get(name, {})
            of_stream.pop(client, None)
            if not of_stream:
                self._of_stream.pop(name, None)
            stream = self._find(name)
            for bucket in range(len(stream.writers) if stream is not None else 0):
                self._know((name, bucket), client)
        client.streams = []
        client.news.clear()
        client.changed.clear()

    def _know(self, shard: Shard, client: ReaderClient) -> None:
        told = self._told.get(shard)
        if told is not None:
            told.pop(client, None)
            if not told:
                del self._told[shard]

    def _left(self, client: ReaderClient) -> None:
        self._take_off(client)
        self._due.pop(client, None)
        log.info("reader %s (pid %d) left", client.id, client.pid, extra=about(client=client.id, client_pid=client.pid))

    # --- what readers say --------------------------------------------------------------------------------------------

    def _on_event(self, client: ReaderClient, event: Event) -> None:
        if event.owner is not EventOwner.READER or event.type not in (EventType.READ, EventType.REGISTER, EventType.CLOSE):
            raise ProtocolError(f"a reader sends READ, not {event.type} of {event.owner}")
        if event.type is EventType.REGISTER:  # it reads other streams from now on
            self._reread(client, event["streams"], event.get("request", 0))
        elif event.type is EventType.READ and "request" in event.fields:
            self._fetch(client, event)
        elif event.type is EventType.READ:
            client.asks, client.number = True, event.get("number", 0)
            if client.news or client.changed or not event["credit"]:  # without credit it asks what is new, and does not wait
                self._due[client] = None

    def _fetch(self, client: ReaderClient, event: Event) -> None:
        """It asks for records that only this process can read; their class is asked, and nothing waits for it meanwhile."""
        request, name = event["request"], event.get("stream", "")
        stream, bucket = self._find(name), event.get("bucket", 0)
        if stream is None or bucket >= len(stream.writers):
            error = UnknownStream(f"there is no bucket {bucket} of a stream {name!r}")
            self._desk.answer(client, nack(_OWNER, error, request=request))
            return

        def answer(lines: Future[list[bytes]]) -> None:
            self._life.poller.call(lambda: self._fetched(client, request, lines))

        fetch = getattr(stream.writers[bucket], "fetch", None)
        if fetch is None:
            raise ProtocolError(f"stream {name} is read from its files")
        fetch(event.get("first", 0), event.get("count", 1), event.get("size", 1), answer)

    def _fetched(self, client: ReaderClient, request: int, lines: Future[list[bytes]]) -> None:
        error = lines.exception()
        if error is None:
            fields = {"request": request, "count": len(lines.result())}
            self._desk.answer(client, Event(EventType.ACK, _OWNER, fields, b"".join(lines.result())))
        else:
            told = error if isinstance(error, DqError) else BackendFailed(f"{type(error).__name__}: {error}")
            self._desk.answer(client, nack(_OWNER, told, request=request))
        self._desk.flush()

    def _reread(self, client: ReaderClient, names: list[str], request: int) -> None:
        try:
            streams = self._open_all(names)
        except ProtocolError:
            raise
        except DqError as error:
            self._desk.answer(client, nack(_OWNER, error, request=request))
            return
        self._put_over(client, streams, request=request)

    # --- what happens to streams -------------------------------------------------------------------------------------

    def committed(self, shard: Shard) -> None:
        """More of a bucket is committed. Who was not told of the last commit is not looked at again."""
        told = self._told.pop(shard, None)
        for client in told or ():
            client.news.add(shard)
            if client.asks:
                self._due[client] = None

    def changed(self, name: str) -> None:
        """Records of a stream are gone, or it was opened anew."""
        for client in self._of_stream.get(name, ()):
            client.changed.add(name)
            if client.asks:
                self._due[client] = None

    def destroyed(self, name: str) -> None:
        """A stream is no more: its readers are cut off, come again, and find another one of that name or none."""
        for shard in [shard for shard in self._told if shard[0] == name]:
            del self._told[shard]
        for client in list(self._of_stream.get(name, ())):
            self._desk.leave(client)

    # --- telling -----------------------------------------------------------------------------------------------------

    def tell(self) -> None:
        """The end of a turn: who asks and has news is told, before the publishers are: a reader sees what was confirmed."""
        if self._due:
            due, self._due = self._due, {}
            for client in due:
                self._tell(client)
        self._desk.flush()

    def _tell(self, client: ReaderClient) -> None:
        ends = [end for shard in client.news if (end := self._end(shard)) is not None]
        for shard in client.news:
            self._told.setdefault(shard, {})[client] = None
        fields: dict[str, Any] = {"ends": ends, "number": client.number}
        if client.changed:
            fields["opened"] = [describe(stream) for name in client.changed if (stream := self._find(name)) is not None]
        client.news.clear()
        client.changed.clear()
        client.asks = False
        self._desk.answer(client, Event(EventType.COMMITTED, _OWNER, fields))

    def _end(self, shard: Shard) -> list[Any] | None:
        name, bucket = shard
        stream = self._find(name)
        if stream is None:
            return None
        end = stream.writers[bucket].end
        return [name, bucket, end.offset, end.segment, end.position, stream.epoch]

    def status(self) -> dict[str, object]:
        """Who reads."""
        return {c.id: {"pid": c.pid, "streams": c.streams, "waits": c.asks} for c in self._desk.clients.values()}

    def close(self) -> None:
        """Lets them go; they look for the next broker."""
        for client in list(self._desk.clients.values()):
            self._desk.forget(client)
