"""The PublisherBroker: the only writer of the streams. It never opens a batch; all its work is per batch.

Group commit: what arrived while the last commit was syncing is the next commit. One write and one `fdatasync` per touched
bucket, in parallel where there are several, and only then the answers.
"""

from __future__ import annotations

import logging
import socket
from concurrent.futures import ThreadPoolExecutor
from difflib import get_close_matches
from typing import TYPE_CHECKING

from dq.broker.life import ExitCode, Life, Setup, prepare
from dq.config import LIMITS
from dq.errors import (
    DiskFull,
    DqError,
    OutcomeUnknown,
    ProtocolError,
    SyncFailed,
    UnknownStream,
)
from dq.log.backend import Batch, End, StorageWriter, Stored
from dq.log.catalog import Catalog, OpenStream, make_directory
from dq.log.layout import Layout
from dq.log.locks import HeldLock, hold
from dq.model.event import Event, EventOwner, EventType, decode
from dq.model.names import DEAD_LETTER_SUFFIX, check_name, check_new_stream
from dq.model.settings import StreamSettings
from dq.transport.pipe import Broken, Ended, Pipe, PipeError

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

log = logging.getLogger("dq")
_OWNER = EventOwner.PUBLISHER_BROKER
Shard = tuple[str, int]


class PublisherClient:
    """One registered publisher: its pipe and the stream it writes to."""

    __slots__ = ("answers", "id", "pid", "pipe", "stream")

    def __init__(self, pipe: Pipe, publisher: str, pid: int, stream: OpenStream) -> None:
        self.pipe, self.id, self.pid, self.stream = pipe, publisher, pid, stream
        self.answers: list[Event] = []


class Staged:
    """A batch of this turn: stored and synced when its bucket's commit succeeds, and answered then."""

    __slots__ = ("bucket", "client", "publisher", "sequence", "stored", "stream")

    def __init__(self, client: PublisherClient | None, stream: str, bucket: int, batch: Batch, stored: Stored) -> None:
        self.client, self.stream, self.bucket, self.stored = client, stream, bucket, stored
        self.publisher, self.sequence = batch.publisher, batch.sequence


class PublisherBroker:
    """The service of the publisher broker's process."""

    owner = _OWNER

    def __init__(self, life: Life) -> None:
        self._life = life
        self._catalog = Catalog(life.files, life.root, LIMITS)
        self._lock: HeldLock | None = None
        self._clients: dict[str, PublisherClient] = {}
        self._answering: set[PublisherClient] = set()
        self._staged: dict[Shard, tuple[StorageWriter, list[Staged]]] = {}
        self._syncers = ThreadPoolExecutor(max_workers=8, thread_name_prefix="dq-sync")
        self._neighbour: Pipe | None = None
        self._hints_wanted = False
        self._hints: dict[Shard, End] = {}
        self._commits = self._batches = self._records = 0

    # --- life ------------------------------------------------------------------------------------------------------

    def start(self) -> dict[str, object]:
        layout = Layout(self._life.root)
        make_directory(self._life.files, layout.streams)
        self._lock = hold(
            layout.streams_lock, LIMITS.lock_wait_seconds, "the streams are written by another publisher broker"
        )
        self._catalog.open()
        for stream, error in self._catalog.errors.items():
            log.error("stream %s is closed: %s", stream, error)
        return {"streams": len(self._catalog.streams), "closed": {k: str(v) for k, v in self._catalog.errors.items()}}

    def wait_seconds(self) -> float | None:
        return None

    def stop(self) -> None:
        self._syncers.shutdown()
        for client in list(self._clients.values()):
            self._drop(client, "the broker stops")
        self._catalog.close(clean=self._life.exit_code is ExitCode.DONE)
        if self._lock is not None:
            self._lock.release()

    # --- the manager -----------------------------------------------------------------------------------------------

    def on_event(self, event: Event) -> None:
        try:
            self._do(event)
        except DqError as error:
            echoed = ("stream", "publisher", "sequence") if event.type is EventType.WRITE else ("request",)
            self._life.tell(_nack(error, {name: event[name] for name in echoed if name in event.fields}))

    def _do(self, event: Event) -> None:
        if event.type is EventType.OPEN:
            stream = self._open(event["stream"], create=event["create"], wish=event["settings"])
            self._life.tell(Event(EventType.ACK, _OWNER, {"request": event["request"], "opened": describe(stream)}))
        elif event.type is EventType.WRITE:
            self._store_dead_letter(event)
        elif event.type is EventType.TRIM:
            stream = self._open(event["stream"], create=False, wish={})
            stream.writers[event["bucket"]].trim(event["offset"])
        elif event.type is EventType.STATUS:
            self._life.tell(Event(EventType.ACK, _OWNER, {"request": event["request"], "status": self._status()}))
        else:
            log.error("the manager sent %s, which is not for the publisher broker", event.type)

    def _open(self, name: str, *, create: bool, wish: dict[str, object]) -> OpenStream:
        """Finds a stream or makes it.

        Raises:
            UnknownStream, SettingsMismatch, InvalidName, InvalidSetting, Damaged: as their names say.
        """
        check_name("stream", name)
        if name in self._catalog.errors:
            raise self._catalog.errors[name]
        stream = self._catalog.get(name)
        if stream is not None:
            stream.settings.check_wish("stream", name, wish)
            return stream
        if not create:
            raise _unknown(name, self._catalog.streams)
        if not (name.endswith(DEAD_LETTER_SUFFIX) and self._catalog.get(name.removesuffix(DEAD_LETTER_SUFFIX))):
            check_new_stream(name)
        settings = StreamSettings.from_dict(wish)
        stream = self._catalog.create(name, settings)
        log.info("stream %s is made with %d bucket(s), durability %s", name, settings.buckets, settings.durability)
        for bucket, writer in enumerate(stream.writers):
            self._hints[name, bucket] = writer.end
        return stream

    def _status(self) -> dict[str, object]:
        streams = {}
        for name, stream in self._catalog.streams.items():
            figures = [writer.stats() for writer in stream.writers]
            streams[name] = {
                "settings": stream.settings.to_dict(),
                "records": sum(part.end_offset - part.first_offset for part in figures),
                "bytes": sum(part.bytes for part in figures),
                "segments": sum(part.segments for part in figures),
                "ends": [part.end_offset for part in figures],
            }
        return {
            "streams": streams,
            "closed": {name: str(error) for name, error in self._catalog.errors.items()},
            "publishers": {client.id: {"pid": client.pid, "stream": client.stream.name} for client in self._clients.values()},
            "commits": self._commits,
            "batches": self._batches,
            "records": self._records,
        }

    # --- clients ---------------------------------------------------------------------------------------------------

    def on_client(self, event: Event, sock: socket.socket) -> None:
        pipe = Pipe(sock, self._life.poller.scratch)
        publisher = event["id"]
        try:
            if len(self._clients) >= LIMITS.clients_max:
                raise ProtocolError(f"this broker serves {LIMITS.clients_max} publishers already")
            stream = self._open(event["stream"], create=event.get("create", False), wish=event.get("settings", {}))
        except DqError as error:
            _last_words(pipe, _nack(error))
            self._life.tell(Event(EventType.CLOSE, _OWNER, {"id": publisher}))
            return
        if publisher in self._clients:  # its old connection has not ended yet
            self._forget(self._clients[publisher])
        client = PublisherClient(pipe, publisher, event["pid"], stream)
        self._clients[publisher] = client
        self._life.poller.add(pipe, lambda: self._read(client))
        self._answer(client, Event(EventType.ACK, _OWNER, {"opened": describe(stream)}))

    def _read(self, client: PublisherClient) -> None:
        try:
            for frame in client.pipe.receive():
                self._on_write(client, decode(frame))
        except Ended:
            self._drop(client, "")
        except (PipeError, ProtocolError) as error:
            log.warning("publisher %s (pid %d) is cut off: %s", client.id, client.pid, error)
            self._answer(client, _nack(ProtocolError(str(error))))
            self._flush_answers()
            self._drop(client, str(error))

    def _on_write(self, client: PublisherClient, event: Event) -> None:
        if event.type is EventType.CLOSE:
            return
        if event.type is not EventType.WRITE or event.owner is not EventOwner.PUBLISHER:
            raise ProtocolError(f"a publisher sends WRITE, not {event.type} of {event.owner}")
        fields = event.fields
        bucket, sequence = fields["bucket"], fields["sequence"]
        if bucket >= len(client.stream.writers):
            raise ProtocolError(f"stream {client.stream.name} has no bucket {bucket}")
        batch = Batch(
            client.id, sequence, fields["count"], event.body, tuple(fields.get("topics", ())), fields.get("again", False)
        )
        try:
            self._stage(client, client.stream, bucket, batch)
        except ProtocolError:
            raise
        except DqError as error:
            self._answer(client, _nack(error, {"bucket": bucket, "sequence": sequence}))

    def _stage(self, client: PublisherClient | None, stream: OpenStream, bucket: int, batch: Batch) -> None:
        writer = stream.writers[bucket]
        stored = writer.append(batch)
        staged = Staged(client, stream.name, bucket, batch, stored)
        shard = (stream.name, bucket)
        if shard in self._staged:
            self._staged[shard][1].append(staged)
        else:
            self._staged[shard] = (writer, [staged])

    def _store_dead_letter(self, event: Event) -> None:
        stream = self._open(event["stream"], create=True, wish={})
        self._stage(None, stream, 0, Batch(event["publisher"], event["sequence"], 1, event.body))

    # --- the commit ------------------------------------------------------------------------------------------------

    def turn(self) -> None:
        if self._staged:
            staged, self._staged = self._staged, {}
            self._commit(staged)
        if self._answering:
            self._flush_answers()
        if self._hints and self._hints_wanted:
            self._send_hints()

    def _commit(self, staged: dict[Shard, tuple[StorageWriter, list[Staged]]]) -> None:
        self._commits += 1
        if len(staged) == 1:
            [(shard, (writer, batches))] = staged.items()
            self._answer_all(shard, batches, _committed(writer))
            return
        results = self._syncers.map(_committed, [writer for writer, _ in staged.values()])
        for (shard, (_, batches)), result in zip(staged.items(), results, strict=True):
            self._answer_all(shard, batches, result)

    def _answer_all(self, shard: Shard, batches: list[Staged], result: End | DqError) -> None:
        if isinstance(result, End):
            self._hints[shard] = result
            for staged in batches:
                self._answer_stored(staged)
            return
        if isinstance(result, SyncFailed):
            self._life.fail(result)
            result = OutcomeUnknown(f"{result}; whether these records are stored is not known until they are sent again")
        elif isinstance(result, DiskFull):
            log.warning("%s", result)
        for staged in batches:
            self._answer_failed(staged, result)

    def _answer_stored(self, staged: Staged) -> None:
        stored = staged.stored
        self._batches += 1
        self._records += stored.count
        if staged.client is not None:
            fields = {"bucket": staged.bucket, "sequence": staged.sequence, "first": stored.first, "count": stored.count}
            self._answer(staged.client, Event(EventType.ACK, _OWNER, fields))
        else:
            self._life.tell(Event(EventType.ACK, _OWNER, self._dead_letter_fields(staged)))

    def _answer_failed(self, staged: Staged, error: DqError) -> None:
        if staged.client is not None:
            self._answer(staged.client, _nack(error, {"bucket": staged.bucket, "sequence": staged.sequence}))
        else:
            self._life.tell(_nack(error, self._dead_letter_fields(staged)))

    @staticmethod
    def _dead_letter_fields(staged: Staged) -> dict[str, object]:
        return {"stream": staged.stream, "sequence": staged.sequence, "publisher": staged.publisher}

    def _answer(self, client: PublisherClient, event: Event) -> None:
        client.answers.append(event)
        self._answering.add(client)

    def _flush_answers(self) -> None:
        """One write a client, however many of its batches were in the commit."""
        answering, self._answering = self._answering, set()
        for client in answering:
            answers, client.answers = client.answers, []
            if client.pipe.closed:
                continue
            try:
                client.pipe.send_all(answers)
                self._life.poller.watch_writes(client.pipe, lambda _, broken, c=client: self._drop(c, str(broken)))  # type: ignore[misc]
            except Broken as error:
                self._drop(client, str(error))

    def _drop(self, client: PublisherClient, reason: str) -> None:
        if self._clients.get(client.id) is client:
            del self._clients[client.id]
            self._life.tell(Event(EventType.CLOSE, _OWNER, {"id": client.id}))
        log.info("publisher %s (pid %d) left %s", client.id, client.pid, reason)
        self._forget(client)

    def _forget(self, client: PublisherClient) -> None:
        if not client.pipe.closed:
            self._life.poller.remove(client.pipe)
            client.pipe.close()

    # --- the hint to the other broker ------------------------------------------------------------------------------

    def on_neighbour(self, sock: socket.socket) -> None:
        if self._neighbour is not None and not self._neighbour.closed:
            self._life.poller.remove(self._neighbour)
            self._neighbour.close()
        pipe = self._neighbour = Pipe(sock, self._life.poller.scratch)
        self._life.poller.add(pipe, lambda: self._read_neighbour(pipe))
        self._hints_wanted = False
        for name, stream in self._catalog.streams.items():
            for bucket, writer in enumerate(stream.writers):
                self._hints[name, bucket] = writer.end

    def _read_neighbour(self, pipe: Pipe) -> None:
        """The other broker asks for the next hint when it wants one: a broker with nobody to serve is never woken."""
        try:
            for frame in pipe.receive():
                decode(frame)
                self._hints_wanted = True
        except (PipeError, ProtocolError):
            self._close_neighbour(pipe)

    def _send_hints(self) -> None:
        pipe = self._neighbour
        if pipe is None or pipe.closed:
            return
        ends = [[stream, bucket, end.offset, end.segment, end.position] for (stream, bucket), end in self._hints.items()]
        self._hints_wanted = False
        try:
            pipe.send(Event(EventType.COMMITTED, _OWNER, {"ends": ends}))
            self._life.poller.watch_writes(pipe, lambda broken_pipe, _: self._close_neighbour(broken_pipe))
        except Broken:
            self._close_neighbour(pipe)
            return
        self._hints.clear()

    def _close_neighbour(self, pipe: Pipe) -> None:
        if not pipe.closed:
            self._life.poller.remove(pipe)
            pipe.close()


def _committed(writer: StorageWriter) -> End | DqError:
    try:
        return writer.commit()
    except DqError as error:
        return error


def describe(stream: OpenStream) -> dict[str, object]:
    """What a client or the other broker needs to know of a stream."""
    return {
        "stream": stream.name,
        "uuid": stream.uuid,
        "epoch": stream.epoch,
        "settings": stream.settings.to_dict(),
        "ends": [[end.offset, end.segment, end.position] for end in (writer.end for writer in stream.writers)],
    }


def _unknown(name: str, known: dict[str, OpenStream]) -> UnknownStream:
    near = get_close_matches(name, list(known), n=3)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are {len(known)} streams"
    return UnknownStream(f"there is no stream {name!r}: {hint} A Publisher makes a missing stream unless create=False")


def _nack(error: DqError, fields: dict[str, object] | None = None) -> Event:
    return Event(EventType.NACK, _OWNER, {**(fields or {}), "error": type(error).__name__, "message": str(error)})


def _last_words(pipe: Pipe, event: Event) -> None:
    """Answers a client that cannot be served and closes; what the kernel took is still read by it."""
    try:
        pipe.send(event)
    except Broken:
        log.info("a client left before it could be refused")
    pipe.close()


def main(setup: Setup, inbox: Queue[bytes], outbox: Queue[bytes], handover: socket.socket) -> None:
    """The process."""
    prepare(setup)
    life = Life(setup, inbox, outbox, handover)
    raise SystemExit(int(life.run(PublisherBroker(life))))
