"""The ConsumerBroker: the only owner of the sinks' state. It reads what is committed, leases ranges to idle consumers, settles.

A turn: read all that is ready, dispatch, write the notes of every touched sink, and only then confirm and push.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from dq.broker.life import Life, Setup, prepare
from dq.broker.sink_run import Push, SinkRun, load_settings, make_sink
from dq.config import LIMITS
from dq.errors import DiskFull, DqError, LogError, ProtocolError
from dq.log.backend import End
from dq.log.catalog import make_directory, read_stream
from dq.log.layout import Layout
from dq.log.locks import HeldLock, hold
from dq.model.event import Event, EventOwner, EventType, decode
from dq.model.names import DEAD_LETTER_SUFFIX
from dq.model.outcome import Outcome
from dq.model.settings import SinkSettings
from dq.transport.pipe import Broken, Ended, Pipe, PipeError

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

log = logging.getLogger("dq")
_OWNER = EventOwner.CONSUMER_BROKER
Shard = tuple[str, int]
_RETRY_SECONDS = 1.0


class ConsumerClient:
    """One registered consumer: its pipe, its sink, and the answers of this turn."""

    __slots__ = ("answers", "id", "pid", "pipe", "run")

    def __init__(self, pipe: Pipe, consumer: str, pid: int, run: SinkRun) -> None:
        self.pipe, self.id, self.pid, self.run = pipe, consumer, pid, run
        self.answers: list[Event] = []


class ConsumerBroker:
    """The service of the consumer broker's process."""

    owner = _OWNER

    def __init__(self, life: Life) -> None:
        self._life = life
        self._lock: HeldLock | None = None
        self._sinks: dict[str, SinkRun] = {}
        self._over: dict[str, set[SinkRun]] = {}
        self._ends: dict[Shard, End] = {}
        self._clients: dict[str, ConsumerClient] = {}
        self._touched: set[SinkRun] = set()
        self._answering: dict[ConsumerClient, None] = {}
        self._syncer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="dq-sync")
        self._syncing: Future[None] | None = None
        self._sync_at = 0.0
        self._resend_at: float | None = None
        self._neighbour: Pipe | None = None

    # --- life ------------------------------------------------------------------------------------------------------

    def start(self) -> dict[str, object]:
        root, files, layout = self._life.root, self._life.files, Layout(self._life.root)
        make_directory(files, layout.sinks)
        self._lock = hold(layout.sinks_lock, LIMITS.lock_wait_seconds, "the sinks are kept by another consumer broker")
        for name in sorted(files.list_directory(layout.sinks)):
            settings = load_settings(root, name)
            if settings is None:
                continue  # a kill between the directory and the settings: no consumer was ever told of it
            run = SinkRun(root, files, self._life.clock, name, settings)
            self._sinks[name] = run
            for stream in run.streams:
                self._over.setdefault(stream, set()).add(run)
                self._open_again(run, stream)
            self._touched.add(run)
        return {"sinks": len(self._sinks)}

    def _open_again(self, run: SinkRun, stream: str) -> None:
        """Tells a sink found at start which stream this is now; how far it is committed comes with the first hint."""
        try:
            found = read_stream(self._life.files, self._life.root, stream)
        except DqError as error:
            log.error("sink %s waits: stream %s cannot be read: %s", run.name, stream, error)
            return
        settings = found.settings.to_dict()
        for bucket in range(found.settings.buckets):
            run.core.add_shard((stream, bucket), 0, found.uuid, found.epoch)
        run.remember_backend(stream, settings["backend"])

    def wait_seconds(self) -> float | None:
        if self._touched:
            return 0.0
        now = self._life.clock.monotonic()
        deadlines = [at for at in (run.core.next_deadline() for run in self._sinks.values()) if at is not None]
        if any(run.unsynced for run in self._sinks.values()):
            deadlines.append(self._sync_at)
        if self._resend_at is not None:
            deadlines.append(self._resend_at)
        return max(min(deadlines) - now, 0.0) if deadlines else None

    def stop(self) -> None:
        self._syncer.shutdown()
        for client in list(self._clients.values()):
            self._forget(client)
        for run in self._sinks.values():
            try:
                run.close()
            except DqError as error:
                log.error("sink %s: %s", run.name, error)
        if self._lock is not None:
            self._lock.release()

    # --- the manager -----------------------------------------------------------------------------------------------

    def on_event(self, event: Event) -> None:
        if event.type is EventType.STATUS:
            self._life.tell(Event(EventType.ACK, _OWNER, {"request": event["request"], "status": self._status()}))
        elif event.type is EventType.ACK and "publisher" in event.fields:
            run = self._sinks.get(str(event["publisher"]).removeprefix("sink:"))
            if run is not None:
                run.core.dead_letter_stored(str(event["stream"]).removesuffix(DEAD_LETTER_SUFFIX), event["sequence"])
                self._touched.add(run)
        elif event.type is EventType.NACK and "publisher" in event.fields:
            log.warning("a dead letter waits: %s", event["message"])
            self._resend_at = self._life.clock.monotonic() + _RETRY_SECONDS
        else:
            log.error("the manager sent %s, which is not for the consumer broker", event.type)

    def _status(self) -> dict[str, object]:
        return {
            "sinks": {name: run.status() for name, run in self._sinks.items()},
            "consumers": {c.id: {"pid": c.pid, "sink": c.run.name} for c in self._clients.values()},
        }

    # --- clients ---------------------------------------------------------------------------------------------------

    def on_client(self, event: Event, sock: socket.socket) -> None:
        pipe = Pipe(sock, self._life.poller.scratch)
        consumer = event["id"]
        try:
            if len(self._clients) >= LIMITS.clients_max:
                raise ProtocolError(f"this broker serves {LIMITS.clients_max} consumers already")
            run = self._sink(event["sink"], event.get("settings", {}))
            for opened in event.get("opened", []):
                run.open_stream(opened)
                self._over.setdefault(opened["stream"], set()).add(run)
            kept = self._join(run, event)
            run.write_notes()
        except DqError as error:
            refusal = Event(EventType.NACK, _OWNER, {"error": type(error).__name__, "message": str(error)})
            try:
                pipe.send(refusal)
            except Broken:
                log.info("a consumer left before it could be refused")
            pipe.close()
            self._life.tell(Event(EventType.CLOSE, _OWNER, {"id": consumer}))
            return
        client = ConsumerClient(pipe, consumer, event["pid"], run)
        self._clients[consumer] = client
        self._life.poller.add(pipe, lambda: self._read(client))
        self._answer(client, Event(EventType.ACK, _OWNER, {"leases": kept, "settings": run.settings.to_dict()}))
        self._touched.add(run)

    def _sink(self, name: str, wish: dict[str, Any]) -> SinkRun:
        run = self._sinks.get(name)
        if run is not None:
            run.settings.check_wish("sink", name, wish)
            return run
        settings = SinkSettings.from_dict(wish)
        make_sink(self._life.root, self._life.files, name, settings)
        run = self._sinks[name] = SinkRun(self._life.root, self._life.files, self._life.clock, name, settings)
        return run

    def _join(self, run: SinkRun, event: Event) -> list[int]:
        consumer, now = event["id"], self._life.clock.monotonic()
        if event.get("again"):
            old = self._clients.get(consumer)
            if old is not None:  # its old pipe has not ended yet
                self._leave(old, died=False)
            return run.core.resume(consumer, event.get("leases", []), now)
        run.core.join(consumer, now)
        return []

    def _read(self, client: ConsumerClient) -> None:
        try:
            for frame in client.pipe.receive():
                self._on_consumer(client, decode(frame))
        except Ended:
            self._leave(client, died=True)
        except (PipeError, ProtocolError) as error:
            log.warning("consumer %s (pid %d) is cut off: %s", client.id, client.pid, error)
            self._leave(client, died=True)

    def _leave(self, client: ConsumerClient, *, died: bool) -> None:
        if self._clients.get(client.id) is not client:
            return
        del self._clients[client.id]
        now = self._life.clock.monotonic()
        if died:
            client.run.core.died(client.id, now)
        else:
            client.run.core.leave(client.id, now)
        self._touched.add(client.run)
        self._forget(client)
        self._life.tell(Event(EventType.CLOSE, _OWNER, {"id": client.id}))

    def _forget(self, client: ConsumerClient) -> None:
        if not client.pipe.closed:
            self._life.poller.remove(client.pipe)
            client.pipe.close()

    def _on_consumer(self, client: ConsumerClient, event: Event) -> None:
        if event.owner is not EventOwner.CONSUMER:
            raise ProtocolError(f"a consumer does not speak as {event.owner}")
        core, now = client.run.core, self._life.clock.monotonic()
        self._touched.add(client.run)
        if event.type is EventType.ACK:
            for lease, first, end in _triples(event["ranges"]):
                core.ack(client.id, lease, ((first, end),), now)
            self._answer(client, Event(EventType.ACK, _OWNER, {"number": event["number"]}))
        elif event.type is EventType.READ:
            self._credit(client, event)
        elif event.type is EventType.NACK:
            self._give_back(client, event, now)
            self._answer(client, Event(EventType.ACK, _OWNER, {"number": event["number"]}))
        elif event.type is EventType.EXTEND:
            self._extend(client, event, now)
        elif event.type is EventType.CLOSE:
            self._leave(client, died=False)
        else:
            raise ProtocolError(f"a consumer does not send {event.type}")

    def _credit(self, client: ConsumerClient, event: Event) -> None:
        """So many more records; 0 takes back what was granted and not used."""
        if event["credit"]:
            client.run.core.grant(client.id, min(event["credit"], LIMITS.prefetch_records_max))
        else:
            client.run.core.withdraw(client.id)
        if "number" in event.fields:
            self._answer(client, Event(EventType.ACK, _OWNER, {"number": event["number"]}))

    def _give_back(self, client: ConsumerClient, event: Event, now: float) -> None:
        core, outcome = client.run.core, event["outcome"]
        reason, error = event.get("reason", ""), event.get("error", "")
        for lease, first, end in _triples(event["ranges"]):
            if outcome == Outcome.RELEASE:
                core.release(client.id, lease, ((first, end),), now)
            elif outcome == Outcome.DROP:
                core.drop(client.id, lease, ((first, end),), now)
            elif outcome == Outcome.RETRY:
                for offset in range(first, end):
                    core.retry(client.id, lease, offset, event.get("after"), error, now)
            elif outcome == Outcome.DEAD_LETTER:
                for offset in range(first, end):
                    core.dead_letter(client.id, lease, offset, reason, error, now)
            else:
                raise ProtocolError(f"NACK has no outcome {outcome!r}")

    def _extend(self, client: ConsumerClient, event: Event, now: float) -> None:
        core, fields = client.run.core, event.fields
        if "leases" in fields:
            core.renew(client.id, [_whole(lease) for lease in fields["leases"]], now)
        for pair in fields.get("abandoned", ()):
            if not isinstance(pair, list) or len(pair) != 2:
                raise ProtocolError(f"EXTEND: {pair!r} is no [lease, offset]")
            core.abandon(client.id, _whole(pair[0]), _whole(pair[1]), now)
        if "seconds" in fields:
            lease, offset = fields.get("lease", 0), fields.get("offset", 0)
            core.extend(client.id, lease, offset, fields["seconds"], now)
            client.run.note_progress(lease, offset, fields.get("note", ""))

    # --- a turn ----------------------------------------------------------------------------------------------------

    def turn(self) -> None:
        now = self._life.clock.monotonic()
        for run in self._sinks.values():
            deadline = run.core.next_deadline()
            if deadline is not None and deadline <= now:
                run.core.expire(now)
                self._touched.add(run)
        if self._resend_at is not None and self._resend_at <= now:
            self._resend_at = None
            self._resend_dead_letters()
        touched, self._touched = self._touched, set()
        pushes: list[Push] = []
        for run in touched:
            pushes += self._serve(run, now)
        self._flush_answers()
        for consumer, parts in pushes:
            self._push(consumer, parts)
        self._sync_when_due(now)

    def _serve(self, run: SinkRun, now: float) -> list[Push]:
        """Dispatches one sink and writes its notes; what it returns may be sent then."""
        pushes, more = run.dispatch(now)
        if more:
            self._touched.add(run)
        intents = run.core.take_new_intents()
        try:
            run.write_notes()
            if intents:
                run.sync()  # an intent is on disk before its dead letter is: else it could be written twice
                for event in run.dead_letter_writes(intents):
                    self._life.tell(event)
        except (LogError, DiskFull) as error:
            # Nothing was confirmed of what could not be noted: consumers send it again to the next consumer broker.
            self._answering.clear()
            self._life.fail(error)
            return []
        return pushes

    def _resend_dead_letters(self) -> None:
        for run in self._sinks.values():
            for event in run.dead_letter_writes(run.core.dead_letters()):
                self._life.tell(event)

    def _push(self, consumer: str, parts: list[bytes | memoryview]) -> None:
        client = self._clients.get(consumer)
        if client is None or client.pipe.closed:
            return
        try:
            client.pipe.send_parts(*parts)
            if client.pipe.waits_to_write:
                self._life.poller.watch_writes(client.pipe, self._broken(client))
        except Broken as error:
            log.warning("consumer %s (pid %d) is cut off: %s", client.id, client.pid, error)
            self._leave(client, died=True)

    def _broken(self, client: ConsumerClient) -> Any:
        return lambda _pipe, _error: self._leave(client, died=True)

    def _answer(self, client: ConsumerClient, event: Event) -> None:
        client.answers.append(event)
        self._answering[client] = None

    def _flush_answers(self) -> None:
        answering, self._answering = self._answering, {}
        for client in answering:
            answers, client.answers = client.answers, []
            if client.pipe.closed:
                continue
            try:
                client.pipe.send_all(answers)
                if client.pipe.waits_to_write:
                    self._life.poller.watch_writes(client.pipe, self._broken(client))
            except Broken:
                self._leave(client, died=True)

    def _sync_when_due(self, now: float) -> None:
        """Every second, in a thread, so that no turn waits for the disk."""
        if now < self._sync_at or (self._syncing is not None and not self._syncing.done()):
            return
        runs = [run for run in self._sinks.values() if run.unsynced]
        if runs:
            self._sync_at = now + LIMITS.sink_sync_seconds
            self._syncing = self._syncer.submit(_sync_all, runs)
            self._syncing.add_done_callback(lambda done: self._life.poller.call(lambda: self._synced(done)))

    def _synced(self, done: Future[None]) -> None:
        error = done.exception()
        if error is not None:
            self._life.fail(error)

    # --- the hint from the other broker ----------------------------------------------------------------------------

    def on_neighbour(self, sock: socket.socket) -> None:
        if self._neighbour is not None and not self._neighbour.closed:
            self._life.poller.remove(self._neighbour)
            self._neighbour.close()
        pipe = self._neighbour = Pipe(sock, self._life.poller.scratch)
        self._life.poller.add(pipe, lambda: self._read_neighbour(pipe))
        self._ask_for_hint(pipe)
        self._resend_dead_letters()  # those under way to a broker that died may be lost; a second one is known by its number

    def _ask_for_hint(self, pipe: Pipe) -> None:
        try:
            pipe.send(Event(EventType.READ, _OWNER, {"credit": 1}))
        except Broken:
            self._close_neighbour(pipe)

    def _read_neighbour(self, pipe: Pipe) -> None:
        try:
            for frame in pipe.receive():
                for stream, bucket, offset, segment, position in decode(frame)["ends"]:
                    for run in self._over.get(stream, ()):
                        run.committed((stream, bucket), End(offset, segment, position))
                        self._touched.add(run)
                self._ask_for_hint(pipe)
        except (PipeError, ProtocolError):
            self._close_neighbour(pipe)

    def _close_neighbour(self, pipe: Pipe) -> None:
        if not pipe.closed:
            self._life.poller.remove(pipe)
            pipe.close()


def _whole(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ProtocolError(f"{value!r} is no lease and no offset")
    return value


def _triples(ranges: Sequence[Any]) -> Sequence[tuple[int, int, int]]:
    """Checks what a consumer says of its leases: [lease, first, end) each."""
    for part in ranges:
        if not isinstance(part, list) or len(part) != 3:
            raise ProtocolError(f"{part!r} is no [lease, first, end]")
        lease, first, end = map(_whole, part)
        if not first < end or end - first > LIMITS.prefetch_records_max or lease < 0:
            raise ProtocolError(f"{part!r} is an empty or too long range")
    return ranges


def _sync_all(runs: list[SinkRun]) -> None:
    for run in runs:
        run.sync()


def main(setup: Setup, inbox: Queue[bytes], outbox: Queue[bytes], handover: socket.socket) -> None:
    """The process."""
    prepare(setup)
    life = Life(setup, inbox, outbox, handover)
    raise SystemExit(int(life.run(ConsumerBroker(life))))
