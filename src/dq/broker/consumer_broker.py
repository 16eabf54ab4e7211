"""The ConsumerBroker: the only owner of the sinks' state. It reads what is committed, leases ranges to idle consumers, settles.

A turn: read all that is ready, dispatch, write the notes of every touched sink, and only then confirm and push.
"""

from __future__ import annotations

import logging
import socket
from concurrent.futures import Future
from typing import TYPE_CHECKING

from dq.broker.broadcast import Broadcasts
from dq.broker.desk import Desk, Neighbour, Served
from dq.broker.life import Life, Setup, prepare
from dq.broker.opened import check_pushable
from dq.broker.sink_run import Push, SinkRun
from dq.broker.sinks import Sinks
from dq.broker.words import acked, extended, given_back
from dq.config import LIMITS
from dq.errors import BrokerLost, Damaged, DiskFull, DqError, LogError, ProtocolError, SyncFailed
from dq.log.backend import End
from dq.log.directories import make_directory
from dq.log.layout import Layout
from dq.log.locks import HeldLock
from dq.model.event import Event, EventOwner, EventType
from dq.model.names import DEAD_LETTER_SUFFIX, check_client_id
from dq.transport.pipe import Pipe

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

log = logging.getLogger("dq")
_OWNER = EventOwner.CONSUMER_BROKER
Shard = tuple[str, int]
_RETRY_SECONDS = 1.0


class ConsumerClient(Served):
    """A consumer, and its sink."""

    __slots__ = ("noted", "run")

    def __init__(self, pipe: Pipe, client: str, pid: int, run: SinkRun) -> None:
        super().__init__(pipe, client, pid)
        self.run = run
        self.noted = 0  # the number of the last thing it said; to be confirmed, once it is written

    def labels(self) -> dict[str, str]:
        return {"peer": EventOwner.CONSUMER, "client": self.id, "sink": self.run.name}


class ConsumerBroker:
    """The service of the consumer broker's process."""

    owner = _OWNER

    def __init__(self, life: Life) -> None:
        self._life = life
        self._lock: HeldLock | None = None
        self._sinks = Sinks(life)
        self._told: dict[Shard, int] = {}
        self._desk: Desk[ConsumerClient] = Desk(life, _OWNER, self._on_consumer, self._died)
        self._neighbour = Neighbour(life, self._on_hint)
        self._broadcasts = Broadcasts(life, _OWNER)
        self._touched: dict[SinkRun, None] = {}  # no set: what is served first is the same in each run
        self._syncer = life.threads(1)
        self._syncing: Future[None] | None = None
        self._sync_at = 0.0
        self._resend_at: float | None = None  # dead letters under way are sent again then
        self._resending: dict[SinkRun, None] = {}
        self._subscribed = self._heard = False
        self._unconfirmed: dict[ConsumerClient, None] = {}
        self._confirm_at = 0.0

    # --- life ------------------------------------------------------------------------------------------------------

    def start(self) -> dict[str, object]:
        layout = Layout(self._life.root)
        make_directory(self._life.files, layout.sinks)
        self._lock = self._life.lock(layout.sinks_lock, f"the directory {layout.sinks}")
        self._sinks.open()
        self._touched = dict.fromkeys(self._sinks)
        return {"sinks": len(self._sinks.runs), "closed": {name: str(error) for name, error in self._sinks.closed.items()}}

    def wait_seconds(self) -> float | None:
        if self._touched:
            return 0.0
        now = self._life.clock.monotonic()
        deadlines = [at for at in (run.core.next_deadline() for run in self._sinks) if at is not None]
        if self._unconfirmed:
            deadlines.append(self._confirm_at)
        if any(run.unsynced for run in self._sinks):
            deadlines.append(self._sync_at)
        if self._resend_at is not None:
            deadlines.append(self._resend_at)
        return max(min(deadlines) - now, 0.0) if deadlines else None

    def stop(self) -> None:
        self._syncer.shutdown()
        self._broadcasts.stop()
        for client in list(self._desk.clients.values()):
            self._desk.forget(client)
        for run in self._sinks:
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
            run = self._sinks.runs.get(str(event["publisher"]).removeprefix("sink:"))
            if run is not None:
                run.core.dead_letter_stored(str(event["stream"]).removesuffix(DEAD_LETTER_SUFFIX), event["sequence"])
                self._touched[run] = None
                self._subscribe()
        elif event.type is EventType.NACK and "publisher" in event.fields:
            log.warning("a dead letter waits: %s", event["message"])
            self._resend_at = self._life.clock.monotonic() + _RETRY_SECONDS
        else:
            log.error("the manager sent %s, which is not for the consumer broker", event.type)

    def _status(self) -> dict[str, object]:
        return {
            "sinks": {run.name: run.status() for run in self._sinks},
            "closed": {name: str(error) for name, error in self._sinks.closed.items()},
            "consumers": {c.id: {"pid": c.pid, "sink": c.run.name} for c in self._desk.clients.values()},
            "listeners": self._broadcasts.status(),
        }

    # --- clients ---------------------------------------------------------------------------------------------------

    def on_client(self, event: Event, sock: socket.socket) -> None:
        if event.owner is EventOwner.LISTENER:
            self._broadcasts.on_client(event, sock)
            return
        desk, consumer = self._desk, event["id"]
        pipe = desk.pipe(sock)
        try:
            desk.check_room()
            check_client_id(consumer)
            check_pushable(event.get("opened", []))  # before the sink is made
            run = self._sinks.get(event["sink"], event.get("settings", {}))
            new = [self._sinks.put_over(run, opened) for opened in event.get("opened", [])]
            run.check_readable()
            kept = self._join(run, event, is_new=any(new))
        except SyncFailed as error:  # the next broker finds out what the disk has; the client waits for it
            self._life.fail(error)
            desk.refuse(pipe, consumer, BrokerLost(str(error)))
            return
        except DqError as error:
            desk.refuse(pipe, consumer, error)
            return
        client = ConsumerClient(pipe, consumer, event["pid"], run)
        desk.admit(client)
        desk.answer(client, Event(EventType.ACK, _OWNER, {"leases": kept, "settings": run.settings.to_dict()}))
        self._subscribe()

    def _join(self, run: SinkRun, event: Event, *, is_new: bool) -> list[int]:
        consumer, now, again = event["id"], self._life.clock.monotonic(), event.get("again", False)
        old = self._desk.clients.get(consumer)
        if again and old is not None:  # its old pipe has not ended yet
            self._desk.supersede(old)
            old.run.core.leave(old.id, now)
        kept = run.core.rejoin(consumer, event.get("leases", []) if again else (), now)
        self._touched[run] = None
        try:
            run.write_notes()
            if is_new:  # else a power cut could forget what the sink is over, and nothing would be kept for it
                run.sync()
        except DqError:
            run.core.leave(consumer, now)  # else its id would be taken when it comes again
            raise
        return kept

    def _died(self, client: ConsumerClient) -> None:
        client.run.core.died(client.id, self._life.clock.monotonic())
        self._left(client)

    def _left(self, client: ConsumerClient) -> None:
        self._unconfirmed.pop(client, None)
        self._touched[client.run] = None
        self._subscribe()

    def _on_consumer(self, client: ConsumerClient, event: Event) -> None:
        if event.owner is not EventOwner.CONSUMER:
            raise ProtocolError(f"a consumer does not speak as {event.owner}")
        core, now = client.run.core, self._life.clock.monotonic()
        self._touched[client.run] = None
        if event.type is EventType.ACK:
            acked(client.run, client.id, event, now)
            self._confirm_later(client, event)
        elif event.type is EventType.READ:
            self._credit(client, event)
        elif event.type is EventType.NACK:
            given_back(client.run, client.id, event, now)
            self._confirm_later(client, event)
        elif event.type is EventType.EXTEND:
            extended(client.run, client.id, event, now)
        elif event.type is EventType.CLOSE:
            core.leave(client.id, now)
            self._desk.forget(client)
            self._left(client)
        else:
            raise ProtocolError(f"a consumer does not send {event.type}")

    def _credit(self, client: ConsumerClient, event: Event) -> None:
        """So many more records; 0 takes back what was granted and not used."""
        if event["credit"]:
            client.run.core.grant(client.id, min(event["credit"], LIMITS.prefetch_records_max))
        else:
            client.run.core.withdraw(client.id)
        if "number" in event.fields:
            self._confirm_later(client, event)

    def _confirm_later(self, client: ConsumerClient, event: Event) -> None:
        """A confirmation goes along with the next lease, so that it wakes nobody; soon in any case, and now for who waits."""
        client.noted = event["number"]
        if event.get("now"):
            self._unconfirmed.pop(client, None)
            self._desk.answer(client, Event(EventType.ACK, _OWNER, {"number": client.noted}))
        else:
            if not self._unconfirmed:
                self._confirm_at = self._life.clock.monotonic() + self._life.limits.confirm_seconds
            self._unconfirmed[client] = None

    # --- a turn ----------------------------------------------------------------------------------------------------

    def turn(self) -> None:
        now = self._life.clock.monotonic()
        for run in self._sinks:
            deadline = run.core.next_deadline()
            if deadline is not None and deadline <= now:
                run.core.expire(now)
                self._touched[run] = None
                self._ask_silent(run)
        if self._resend_at is not None and self._resend_at <= now:
            self._resend_at = None
            self._resend_dead_letters()
        touched, self._touched = self._touched, {}
        pushes: list[Push] = []
        for run in touched:
            pushes += self._serve(run, now)
            if run.damaged:
                self._turn_away(run, now)
        for consumer, parts in pushes:
            client = self._desk.clients.get(consumer)
            if client is not None:
                self._confirm(client)
                self._desk.push(client, parts)
        if self._unconfirmed and now >= self._confirm_at:
            for client in list(self._unconfirmed):
                self._confirm(client)
        self._desk.flush()
        self._broadcasts.flush()
        self._sync_when_due(now)

    def _ask_silent(self, run: SinkRun) -> None:
        """Asks consumers of whom nothing was heard what they want; one that is stopped answers when it goes on."""
        for consumer in run.core.take_silenced():
            client = self._desk.clients.get(consumer)
            if client is not None:
                run.core.withdraw(consumer)
                self._desk.answer(client, Event(EventType.READ, _OWNER, {"credit": 0}))

    def _turn_away(self, run: SinkRun, now: float) -> None:
        """Nothing of a sink can be read any more: its consumers come again, and are told why they are not let in."""
        try:
            run.check_readable()
        except Damaged:
            for client in [client for client in self._desk.clients.values() if client.run is run]:
                run.core.leave(client.id, now)
                self._desk.forget(client)
                self._left(client)

    def _confirm(self, client: ConsumerClient) -> None:
        if client in self._unconfirmed:
            del self._unconfirmed[client]
            self._desk.answer(client, Event(EventType.ACK, _OWNER, {"number": client.noted}))

    def _serve(self, run: SinkRun, now: float) -> list[Push]:
        """Dispatches one sink and writes its notes; what it returns may be sent then."""
        pushes, more = run.dispatch(now)
        if more:
            self._touched[run] = None
        letters = run.letters_again() if run in self._resending else run.letters_due()
        self._resending.pop(run, None)
        try:
            run.write_notes()
            if letters:
                run.sync()  # an intent is on disk before its dead letter is: else it could be written twice
                for event in run.dead_letter_writes(letters):
                    self._life.tell(event)
                self._resend_at = now + _RETRY_SECONDS  # they may be lost on their way, to a broker that is just starting
        except (LogError, DiskFull) as error:
            # Nothing was confirmed of what could not be noted: consumers send it again to the next consumer broker.
            self._desk.drop_answers()
            self._unconfirmed.clear()
            self._life.fail(error)
            return []
        return pushes

    def _resend_dead_letters(self) -> None:
        """Those under way may be lost; one that comes a second time is known by its number."""
        for run in self._sinks:
            if run.core.dead_letters():
                self._resending[run] = self._touched[run] = None

    def _sync_when_due(self, now: float) -> None:
        """Every second, in a thread, so that no turn waits for the disk."""
        if now < self._sync_at or (self._syncing is not None and not self._syncing.done()):
            return
        runs = [run for run in self._sinks if run.unsynced]
        if runs:
            self._sync_at = now + self._life.limits.sink_sync_seconds
            floors = self._sinks.low_water()
            self._syncing = self._syncer.submit(_sync_all, runs)
            self._syncing.add_done_callback(lambda done: self._life.poller.call(lambda: self._synced(done, floors)))

    def _synced(self, done: Future[None], floors: dict[Shard, int]) -> None:
        """What was settled before the sync is settled for good, and the segments below may go."""
        error = done.exception()
        if error is not None:
            self._life.fail(error)
            return
        for (stream, bucket), floor in floors.items():
            if self._told.get((stream, bucket), 0) < floor:
                self._told[stream, bucket] = floor
                self._life.tell(Event(EventType.TRIM, _OWNER, {"stream": stream, "bucket": bucket, "offset": floor}))
        if self._sinks.low_water() != floors:  # what was settled while the sync waited for its thread is told after the next
            for run in self._sinks:
                run.unsynced = True

    # --- the hint from the other broker ----------------------------------------------------------------------------

    def on_neighbour(self, sock: socket.socket) -> None:
        self._neighbour.attach(sock)
        self._subscribed = False
        self._subscribe()
        self._heard = False
        self._resend_dead_letters()

    def _subscribe(self) -> None:
        """Asks to be told of commits as long as there are consumers, or dead letters whose records are still to be read.
        Without, a commit wakes one process less."""
        wanted = bool(self._desk.clients) or any(run.core.dead_letters() for run in self._sinks)
        if wanted != self._subscribed and self._neighbour.send(Event(EventType.READ, _OWNER, {"credit": int(wanted)})):
            self._subscribed = wanted

    def _on_hint(self, event: Event) -> None:
        if event.type is not EventType.COMMITTED:
            return  # what is gone is found when it is read
        if not self._heard:  # a broker that is new knows no floors, and what was told it while it started is lost
            self._heard = True
            self._told.clear()
            for run in self._sinks:
                run.unsynced = True
        for stream, bucket, offset, segment, position, epoch in event["ends"]:
            self._touched |= self._sinks.committed((stream, bucket), End(offset, segment, position), epoch)


def _sync_all(runs: list[SinkRun]) -> None:
    for run in runs:
        run.sync()


def main(setup: Setup, inbox: Queue[bytes], outbox: Queue[bytes], handover: socket.socket) -> None:
    """The process."""
    prepare(setup)
    life = Life(setup, inbox, outbox, handover)
    raise SystemExit(int(life.run(ConsumerBroker(life))))
