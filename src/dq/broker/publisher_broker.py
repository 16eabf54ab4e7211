"""The PublisherBroker: the only writer of the streams. It never opens a batch; all its work is per batch.

Group commit: what arrived while the last commit was syncing is the next commit. One write and one `fdatasync` per touched
bucket, in parallel where there are several, and only then the answers.
"""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING

from dq.broker.commits import Commits
from dq.broker.desk import Desk, Neighbour, nack
from dq.broker.interval_sync import IntervalSync
from dq.broker.life import ExitCode, Life, Setup, prepare
from dq.broker.notices import Notices
from dq.broker.once import Once
from dq.broker.opened import check_later, describe, figures, unknown_stream
from dq.broker.readers import Readers
from dq.broker.reopening import Reopening
from dq.broker.staged import Noted, Staged, check_size, refusal
from dq.broker.stream_changes import Holder, StreamChanges
from dq.broker.trimming import Trimming
from dq.errors import DiskFull, DqError, LogError, ProtocolError, SyncFailed
from dq.log import memory
from dq.log.backend import Batch, End, StorageWriter
from dq.log.catalog import Catalog, OpenStream
from dq.log.directories import make_directory
from dq.log.layout import Layout
from dq.log.locks import HeldLock
from dq.model.about import check_about, is_counted
from dq.model.event import Event, EventOwner, EventType
from dq.model.names import LATER_SUFFIX, base_stream, check_client_id, check_name, check_new_stream
from dq.model.settings import StreamSettings
from dq.model.told import about, words_of
from dq.settings.values import with_defaults

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

log = logging.getLogger("dq")
_OWNER = EventOwner.PUBLISHER_BROKER
Shard = tuple[str, int]


class PublisherBroker:
    """The service of the publisher broker's process."""

    owner = _OWNER

    def __init__(self, life: Life) -> None:
        self._life = life
        self._catalog = Catalog(life.files, life.root, life.limits)
        self._lock: HeldLock | None = None
        self._desk: Desk[Holder] = Desk(life, _OWNER, self._on_write, self._left)
        self._readers = Readers(life, self._find, self._catalog.streams.get)
        self._neighbour = Neighbour(life, self._on_neighbour_event)
        self._staged: dict[Shard, tuple[StorageWriter, list[Staged]]] = {}
        self._syncers = life.threads(8)
        self._interval = IntervalSync(life, self._syncers)
        self._notices = Notices(self._neighbour, self._readers)
        self._trimming = Trimming(life, self._catalog, self._notices)
        self._changes = StreamChanges(
            self._catalog, self._trimming, self._notices, self._interval, self._desk, self._find, self._commit_staged
        )
        self._hints_wanted = self._later_grew = False
        self._once = Once(life, self._catalog, self._stage, self._join, self._refuse_once)
        self._hints: dict[Shard, End] = {}
        self._commits = Commits(life.clock)
        self._reopening = Reopening(life, self._catalog, self._opened)

    # --- life ------------------------------------------------------------------------------------------------------

    def start(self) -> dict[str, object]:
        layout = Layout(self._life.root)
        make_directory(self._life.files, layout.streams)
        self._lock = self._life.lock(layout.streams_lock, f"the directory {layout.streams}")
        if self._life.fresh:  # what a manager that is gone left in memory was promised to nobody
            memory.remove(self._life.files, self._life.root)
        self._catalog.open()
        for opened in self._catalog.streams.values():
            self._trimming.opened(opened)
        for stream, error in self._catalog.errors.items():
            log.error("stream %s is closed: %s", stream, words_of(error), extra=about(error, stream=stream))
        return {"streams": len(self._catalog.streams), "closed": {k: str(v) for k, v in self._catalog.errors.items()}}

    def wait_seconds(self) -> float | None:
        if self._staged or self._once.loading:
            return 0.0
        dues = (self._trimming.due, self._interval.due, self._reopening.due)
        moments = [moment for moment in dues if moment is not None]
        return max(min(moments) - self._life.clock.monotonic(), 0.0) if moments else None

    def stop(self) -> None:
        self._syncers.shutdown()
        self._readers.close()
        for client in list(self._desk.clients.values()):
            self._desk.forget(client)
        try:
            self._catalog.close(clean=self._life.exit_code is ExitCode.DONE)
        except LogError as error:
            log.error("no clean end: %s; the next start checks all", words_of(error), extra=about(error))
        if self._lock is not None:
            self._lock.release()

    # --- the manager -----------------------------------------------------------------------------------------------

    def on_event(self, event: Event) -> None:
        try:
            self._do(event)
        except DqError as error:
            self._end_on_failed_flush(error)
            echoed = ("stream", "publisher", "sequence", "bucket") if event.type is EventType.WRITE else ("request",)
            self._life.tell(nack(_OWNER, error, **{name: event[name] for name in echoed if name in event.fields}))

    def _do(self, event: Event) -> None:
        if event.type is EventType.OPEN:
            stream = self._open(event["stream"], create=event["create"], wish=event["settings"])
            self._life.tell(Event(EventType.ACK, _OWNER, {"request": event["request"], "opened": describe(stream)}))
        elif event.type is EventType.WRITE:
            self._store_of_neighbour(event)
        elif event.type is EventType.TRIM:
            self._trimming.settled(event["stream"], event["bucket"], event["offset"], event.get("uuid"))
        elif event.type is EventType.CHANGE:
            self._life.tell(Event(EventType.ACK, _OWNER, {"request": event["request"], "result": self._changes.do(event)}))
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
        if name in self._catalog.errors:  # it may have been mended, or the disk have room again
            reopened = self._catalog.reopen(name)
            if reopened is not None:
                self._opened(reopened)
        stream = self._catalog.get(name)
        if stream is not None:
            stream.settings.check_wish("stream", name, wish)
            return stream
        if not create:
            raise unknown_stream(name, self._catalog.streams)
        base = self._catalog.get(base_stream(name) or "")
        if base is None:
            check_new_stream(name)
        defaults = self._life.stream_defaults if base is None else {"once_seconds": base.settings.once_seconds}
        settings = StreamSettings.from_dict(with_defaults(defaults, wish))
        if base is not None and name.endswith(LATER_SUFFIX):
            settings = base.settings.of_later()
        stream = self._catalog.create(name, settings)
        said = f"{settings.bucket_count} bucket(s), durability {settings.durability}"
        log.info("stream %s is made with %s", name, said, extra=about(stream=name))
        self._opened(stream)
        return stream

    def _opened(self, stream: OpenStream) -> None:
        self._trimming.opened(stream)
        self._hint_all(stream)

    def _find(self, name: str) -> OpenStream:
        return self._open(name, create=False, wish={})

    def _status(self) -> dict[str, object]:
        return {
            "streams": {name: figures(stream) for name, stream in self._catalog.streams.items()},
            "closed": {name: str(error) for name, error in self._catalog.errors.items()},
            "publishers": {c.id: {"pid": c.pid, "stream": c.stream.name} for c in self._desk.clients.values()},
            "readers": self._readers.status(),
            **self._commits.status(),
        }

    # --- clients ---------------------------------------------------------------------------------------------------

    def on_client(self, event: Event, sock: socket.socket) -> None:
        if event.owner is EventOwner.READER:
            self._readers.let_in(event, sock)
            return
        desk, publisher = self._desk, event["id"]
        pipe = desk.pipe(sock)
        try:
            desk.check_room()
            check_client_id(publisher)
            # One that comes again asks for nothing: its settings are those of the stream as it was, should it be made anew.
            known = event.get("again", False) and event["stream"] in self._catalog.streams
            wish = {} if known else event.get("settings", {})
            base = base_stream(event["stream"])
            if base and "base" in event.fields and base not in self._catalog:
                self._open(base, create=True, wish=event["base"])  # it was destroyed, and its publisher may make it anew
            stream = self._open(event["stream"], create=event.get("create", False), wish=wish)
        except DqError as error:
            self._end_on_failed_flush(error)
            desk.refuse(pipe, publisher, error)
            return
        client = Holder(pipe, publisher, event["pid"], stream)
        desk.admit(client)
        desk.answer(client, Event(EventType.ACK, _OWNER, {"opened": describe(stream, removed=False)}))

    def _left(self, client: Holder) -> None:
        extra = about(stream=client.stream.name, client=client.id, client_pid=client.pid)
        log.info("publisher %s (pid %d) of stream %s left", client.id, client.pid, client.stream.name, extra=extra)

    def _on_write(self, client: Holder, event: Event) -> None:
        if event.owner is EventOwner.PUBLISHER and event.type is EventType.CLOSE:
            return
        if event.owner is not EventOwner.PUBLISHER or event.type is not EventType.WRITE:
            raise ProtocolError(f"a publisher sends WRITE, not {event.type} of {event.owner}")
        fields = event.fields
        bucket, sequence = fields["bucket"], fields["sequence"]
        if bucket >= len(client.stream.writers):
            raise ProtocolError(f"stream {client.stream.name} has no bucket {bucket}")
        count, about = fields["count"], fields.get("about")
        batch = Batch(
            client.id, sequence, count, event.body, tuple(fields.get("topics", ())), fields.get("again", False),
            None if about is None else check_about(about, count),
        )  # fmt: skip
        once = not is_counted(batch.about)
        try:
            check_size(batch, self._life.limits)
            if once:
                self._once.take(client, bucket, batch)
            else:
                self._stage(client, client.stream, bucket, batch)
        except ProtocolError:
            raise
        except DqError as error:
            self._end_on_failed_flush(error)
            # A publisher takes answers in the order of its batches: those before this one come first. With keys it need not.
            if self._staged and not once:
                self._commit_staged()
            self._desk.answer(client, refusal(error, bucket, sequence, once=once))

    def _stage(self, client: Holder | None, stream: OpenStream, bucket: int, batch: Batch, noted: Noted | None = None) -> None:
        writer = stream.writers[bucket]
        stored = writer.append(batch)
        staged = Staged(client, stream.name, bucket, batch, stored)
        if noted is not None:
            noted.stands(stored.first)
            staged.noted = noted
        shard = (stream.name, bucket)
        if shard in self._staged:
            self._staged[shard][1].append(staged)
        else:
            self._staged[shard] = (writer, [staged])
            self._commits.arrive()
        if writer.staged_bytes >= self._life.limits.commit_bytes_max:
            self._commit_staged()

    def _join(self, stream: OpenStream, staged: Staged) -> None:
        """A batch whose key for `once` is known is answered as the first one is, and with it."""
        bucket = staged.bucket if staged.stored_bucket is None else staged.stored_bucket
        if staged.stored.first < stream.writers[bucket].end.offset:
            self._answer(staged, staged.ack())
        else:
            self._staged[stream.name, bucket][1].append(staged)

    def _refuse_once(self, client: Holder, error: DqError, bucket: int, sequence: int) -> None:
        self._end_on_failed_flush(error)
        self._desk.answer(client, refusal(error, bucket, sequence, once=True))

    def _store_of_neighbour(self, event: Event) -> None:
        """What the consumer broker has written: dead letters, and records whose time has come."""
        check_later(self._catalog, event["stream"], event.get("uuid"))
        stream = self._open(event["stream"], create=base_stream(event["stream"]) is not None, wish={})
        bucket, count, about = event.get("bucket", 0), event.get("count", 1), event.get("about")
        if bucket >= len(stream.writers):
            raise ProtocolError(f"stream {stream.name} has no bucket {bucket}")
        topics, again = tuple(event.get("topics", ())), event.get("again", False)
        checked = None if about is None else check_about(about, count)
        if not is_counted(checked):
            raise ProtocolError("a key for once is for publishers; the other broker has numbers of its own")
        self._stage(
            None, stream, bucket, Batch(event["publisher"], event["sequence"], count, event.body, topics, again, checked)
        )

    # --- the commit ------------------------------------------------------------------------------------------------

    def turn(self) -> None:
        self._once.turn()
        self._commit_staged()
        self._readers.tell()
        self._desk.flush()
        self._interval.run_due()
        self._reopening.run_due()
        for name in self._trimming.run_due():
            self._destroy_old(name)
        if self._hints_wanted or self._later_grew or self._notices.urgent:
            if self._notices.waiting:  # first: what was taken out is not handed out by a broker that is new
                self._notices.send()
            if self._hints:
                self._send_hints()

    def _destroy_old(self, name: str) -> None:
        log.info("stream %s has lived for its ttl", name, extra=about(stream=name))
        try:
            self._changes.destroy(name)
        except LogError as error:
            log.error("stream %s cannot be destroyed now: %s", name, words_of(error), extra=about(error, stream=name))
            self._end_on_failed_flush(error)

    def _commit_staged(self) -> None:
        if not self._staged:
            return
        staged, self._staged = self._staged, {}
        self._commits.begin()
        writers = [writer for writer, _ in staged.values()]
        results = map(_committed, writers) if len(writers) == 1 else self._syncers.map(_committed, writers)
        for (shard, (_, batches)), result in zip(staged.items(), results, strict=True):
            self._answer_all(shard, batches, result)
        self._commits.end()

    def _answer_all(self, shard: Shard, batches: list[Staged], result: End | DqError) -> None:
        if isinstance(result, End):
            self._hints[shard] = result
            self._later_grew = self._later_grew or shard[0].endswith(LATER_SUFFIX)
            stream = self._catalog.streams[shard[0]]
            self._interval.note(stream, shard[1])
            self._trimming.committed(stream, shard[1], result)
            self._readers.committed(shard)
            for staged in batches:
                self._answer_stored(staged)
            return
        if isinstance(result, SyncFailed):
            self._end_on_failed_flush(result)
            result = SyncFailed(f"{result}; whether these records are stored is not known until they are sent again")
        elif isinstance(result, DiskFull):
            log.warning("%s", words_of(result), extra=about(result, stream=shard[0]))
        end = self._catalog.streams[shard[0]].writers[shard[1]].end.offset
        for staged in batches:
            # It came again and stood there before this commit; or it was stored before the one that a user's class refused.
            if staged.stored.first + staged.stored.count <= end:
                self._answer_stored(staged)
            else:
                if staged.noted is not None:
                    staged.noted.forget()
                self._answer(staged, staged.nack(result))

    def _end_on_failed_flush(self, error: DqError) -> None:
        """The next broker finds out what the disk has: this one cannot know any more."""
        if isinstance(error, SyncFailed):
            self._life.fail(error)

    def _answer_stored(self, staged: Staged) -> None:
        self._commits.store(staged.stored.count)
        self._answer(staged, staged.ack())

    def _answer(self, staged: Staged, answer: Event) -> None:
        if staged.client is not None:
            self._desk.answer(staged.client, answer)
        else:
            self._life.tell(answer)

    # --- the hint to the other broker ------------------------------------------------------------------------------

    def on_neighbour(self, sock: socket.socket) -> None:
        self._neighbour.attach(sock)
        self._hints_wanted = False
        for stream in self._catalog.streams.values():
            self._hint_all(stream)
        self._notices.begin_anew(self._catalog.streams.values())

    def _hint_all(self, stream: OpenStream) -> None:
        for bucket, writer in enumerate(stream.writers):
            self._hints[stream.name, bucket] = writer.end
        self._later_grew = self._later_grew or stream.name.endswith(LATER_SUFFIX)

    def _on_neighbour_event(self, event: Event) -> None:
        """The other broker wants to be told of commits, or not: one with nobody to serve is never woken."""
        self._hints_wanted = event["credit"] > 0

    def _send_hints(self) -> None:
        streams = self._catalog.streams
        ends = [
            [name, bucket, end.offset, end.segment, end.position, streams[name].epoch, streams[name].uuid]
            for (name, bucket), end in self._hints.items()
            if name in streams
        ]
        if self._neighbour.send(Event(EventType.COMMITTED, _OWNER, {"ends": ends})):
            self._hints.clear()
            self._later_grew = False


def _committed(writer: StorageWriter) -> End | DqError:
    try:
        return writer.commit()
    except DqError as error:
        return error


def main(setup: Setup, inbox: Queue[bytes], outbox: Queue[bytes], handover: socket.socket) -> None:
    """The process."""
    prepare(setup)
    life = Life(setup, inbox, outbox, handover)
    raise SystemExit(int(life.run(PublisherBroker(life))))
