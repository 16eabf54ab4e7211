"""The ConsumerBroker: the only owner of the sinks' state. It reads what is committed, leases ranges to idle consumers, settles.

A turn: read all that is ready, dispatch, write the notes of every touched sink, and only then confirm and push.
"""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING, Any

from dq.broker.broadcast import Broadcasts
from dq.broker.confirmations import Confirmations, Numbering
from dq.broker.desk import Desk, Neighbour, nack
from dq.broker.holders import Holders
from dq.broker.laters import Laters
from dq.broker.life import Life, Setup, prepare
from dq.broker.post import Post
from dq.broker.sink_changes import SinkChanges
from dq.broker.sink_run import Push, SinkRun
from dq.broker.sink_sync import SinkSync
from dq.broker.sinks import Sinks
from dq.broker.words import acked, extended, given_back
from dq.config import LIMITS
from dq.core.deadlines import Deadlines
from dq.errors import BrokerLost, DiskFull, DqError, LogError, ProtocolError, SyncFailed
from dq.log.backend import End
from dq.log.directories import make_directory
from dq.log.layout import Layout
from dq.log.locks import HeldLock
from dq.model.event import Event, EventOwner, EventType
from dq.model.names import check_client_id
from dq.model.told import about, words_of
from dq.transport.pipe import Pipe

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

log = logging.getLogger("dq")
_OWNER = EventOwner.CONSUMER_BROKER


class ConsumerClient(Numbering):
    """A consumer, and its sink."""

    __slots__ = ("run",)

    def __init__(self, pipe: Pipe, client: str, pid: int, run: SinkRun) -> None:
        super().__init__(pipe, client, pid)
        self.run = run
        self.noted = 0

    def labels(self) -> dict[str, str]:
        return {"peer": EventOwner.CONSUMER, "client": self.id, "sink": self.run.name}


class ConsumerBroker:
    """The service of the consumer broker's process."""

    owner = _OWNER

    def __init__(self, life: Life) -> None:
        self._life = life
        self._lock: HeldLock | None = None
        self._sinks = Sinks(life)
        self._laters = Laters(life)
        self._sync = SinkSync(life, self._sinks, self._laters)
        self._post = Post(life, self._sinks, self._laters, self._sync, self._touch)
        self._desk: Desk[ConsumerClient] = Desk(life, _OWNER, self._on_consumer, self._died)
        self._broadcasts = Broadcasts(life, _OWNER)
        self._confirmations = Confirmations(life, self._desk)
        self._changes = SinkChanges(self._sinks, self._changed, self._end_sink, Holders(self._sinks, life.clock))
        self._neighbour = Neighbour(life, self._on_neighbour_event)
        self._touched: dict[SinkRun, None] = {}  # no set: what is served first is the same in each run
        self._deadlines: Deadlines[SinkRun] = Deadlines()
        self._subscribed = self._heard = False

    # --- life ------------------------------------------------------------------------------------------------------

    def start(self) -> dict[str, object]:
        layout = Layout(self._life.root)
        make_directory(self._life.files, layout.sinks)
        self._lock = self._life.lock(layout.sinks_lock, f"the directory {layout.sinks}")
        self._sinks.open()
        self._laters.open()
        self._touched = dict.fromkeys(self._sinks)
        return {"sinks": len(self._sinks.runs), "closed": {name: str(error) for name, error in self._sinks.closed.items()}}

    def wait_seconds(self) -> float | None:
        if self._touched:
            return 0.0
        due = (self._deadlines.first(), self._confirmations.due, self._sync.due, self._post.due())
        moments = [moment for moment in due if moment is not None]
        return max(min(moments) - self._life.clock.monotonic(), 0.0) if moments else None

    def stop(self) -> None:
        self._broadcasts.stop()
        self._sync.close()
        for client in list(self._desk.clients.values()):
            self._desk.forget(client)
        for run in self._sinks:
            try:
                run.close()
            except DqError as error:
                log.error("sink %s: %s", run.name, words_of(error), extra=about(error, sink=run.name))
        self._laters.close()
        if self._lock is not None:
            self._lock.release()

    # --- the manager -----------------------------------------------------------------------------------------------

    def on_event(self, event: Event) -> None:
        if event.type is EventType.STATUS:
            self._life.tell(Event(EventType.ACK, _OWNER, {"request": event["request"], "status": self._status()}))
        elif event.type is EventType.CHANGE:
            self._change(event)
        elif event.type in (EventType.ACK, EventType.NACK) and "publisher" in event.fields:
            self._post.answered(event)
            self._subscribe()
        else:
            log.error("the manager sent %s, which is not for the consumer broker", event.type)

    def _change(self, event: Event) -> None:
        if self._life.exit_code:
            return  # a flush has failed: what the disk has is for the next broker to find out, which is asked once more
        request = event["request"]
        try:
            result = self._changes.do(event)
        except DqError as error:
            if isinstance(error, SyncFailed):  # the next broker finds out what the disk has, and does it then
                self._life.fail(error)
                return
            self._life.tell(nack(_OWNER, self._sinks.explained(error, event), request=request))
            return
        self._life.tell(Event(EventType.ACK, _OWNER, {"request": request, "result": result}))

    def _changed(self, run: SinkRun) -> None:
        """A sink may have more to hand out, and keep more on disk, or less."""
        self._touch(run)
        self._sync.look_again()

    def _end_sink(self, run: SinkRun) -> None:
        """A sink is destroyed: its consumers come again and find it gone; nothing of it is flushed or waited for any more."""
        self._turn_away(run)
        self._sync.settle()
        self._sync.look_again()  # what it kept on disk may go
        self._deadlines.cancel(run)
        self._touched.pop(run, None)
        self._post.forget(run)

    def _status(self) -> dict[str, object]:
        return {
            "sinks": {run.name: run.status() for run in self._sinks},
            "closed": {name: str(error) for name, error in (self._sinks.closed | self._laters.closed).items()},
            "consumers": {c.id: {"pid": c.pid, "sink": c.run.name} for c in self._desk.clients.values()},
            "listeners": self._broadcasts.status(),
            "pins": self._sinks.pins(),
            "later": self._laters.status(),
        }

    def _touch(self, run: SinkRun) -> None:
        """There may be something to be done for a sink at the end of this turn."""
        self._touched[run] = None

    # --- clients ---------------------------------------------------------------------------------------------------

    def on_client(self, event: Event, sock: socket.socket) -> None:
        if event.owner is EventOwner.LISTENER:
            self._broadcasts.on_client(event, sock)
            return
        desk, consumer = self._desk, event["id"]
        pipe = desk.pipe(sock)
        try:
            if self._life.exit_code:
                raise BrokerLost("this broker ends, since a flush failed: connect again")
            desk.check_room()
            check_client_id(consumer)
            run = self._sink_of(event)
            opened = [each for each in event.get("opened", []) if self._is_wanted(run, each, event)]
            new = [self._sinks.put_over(run, each) for each in opened]
            run.check_served()
            kept = self._join(run, event, is_new=any(new))
        except SyncFailed as error:  # the next broker finds out what the disk has; the client waits for it
            self._life.fail(error)
            desk.refuse(pipe, consumer, BrokerLost(str(error)))
            return
        except DqError as error:
            desk.refuse(pipe, consumer, self._sinks.explained(error, event))
            return
        client = ConsumerClient(pipe, consumer, event["pid"], run)
        desk.admit(client)
        desk.answer(client, Event(EventType.ACK, _OWNER, {"leases": kept, "settings": run.settings.to_dict()}))
        self._subscribe()

    def _sink_of(self, event: Event) -> SinkRun:
        """The sink that a consumer asks for; made, if it is to be, but not for one that comes back to a sink it had."""
        name, wish = event["sink"], event.get("settings", {})
        if event.get("create", False) and not event.get("again", False):
            return self._sinks.get_or_make(name, wish, event.get("opened", ()))
        run = self._sinks.get(name)
        run.settings.check_wish("sink", name, wish)
        return run

    @staticmethod
    def _is_wanted(run: SinkRun, opened: dict[str, Any], event: Event) -> bool:
        """Whether a consumer's stream is to be the sink's: not if it only comes back, and the sink was taken off meanwhile."""
        return not event.get("again", False) or opened["stream"] not in run.shards.left

    def _join(self, run: SinkRun, event: Event, *, is_new: bool) -> list[int]:
        consumer, now, again = event["id"], self._life.clock.monotonic(), event.get("again", False)
        old = self._desk.clients.get(consumer)
        if again and old is not None:  # its old pipe has not ended yet
            self._desk.supersede(old)
            old.run.core.leave(old.id, now)
        kept = run.core.rejoin(consumer, event.get("leases", []) if again else (), now, event["pid"])
        self._touch(run)
        try:
            run.write_notes()
            if is_new:  # else a power cut could forget what the sink is over, and nothing would be kept for it
                run.sync()
                self._sync.look_again()
        except DqError:
            run.core.leave(consumer, now)  # else its id would be taken when it comes again
            raise
        return kept

    def _died(self, client: ConsumerClient) -> None:
        client.run.core.died(client.id, self._life.clock.monotonic())
        self._left(client)

    def _left(self, client: ConsumerClient) -> None:
        self._confirmations.forget(client)
        self._touch(client.run)
        self._subscribe()

    def _on_consumer(self, client: ConsumerClient, event: Event) -> None:
        if event.owner is not EventOwner.CONSUMER:
            raise ProtocolError(f"a consumer does not speak as {event.owner}")
        core, now = client.run.core, self._life.clock.monotonic()
        self._touch(client.run)
        if event.type is EventType.ACK:
            acked(client.run, client.id, event, now)
            self._confirmations.note(client, event)
        elif event.type is EventType.READ:
            self._credit(client, event)
        elif event.type is EventType.NACK:
            core.wall = self._life.clock.wall()  # a retry that waits long has its time by it
            given_back(client.run, client.id, event, now)
            self._confirmations.note(client, event)
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
            self._confirmations.note(client, event)

    # --- a turn ----------------------------------------------------------------------------------------------------

    def turn(self) -> None:
        now = self._life.clock.monotonic()
        for run in self._deadlines.due(now):
            run.core.expire(now)
            self._touch(run)
            self._ask_silent(run)
        try:
            self._post.turn(now)
        except (LogError, DiskFull) as error:
            self._give_up(error)
        touched, self._touched = self._touched, {}
        pushes: list[Push] = []
        for run in touched:
            pushes += self._serve(run, now)
            if run.shards.damaged or run.unserved is not None:
                self._turn_away_unserved(run)
        for consumer, parts in pushes:
            client = self._desk.clients.get(consumer)
            if client is not None:
                self._confirmations.confirm(client)
                self._desk.push(client, parts)
        self._confirmations.confirm_due(now)
        self._desk.flush()
        self._broadcasts.flush()
        self._sync.run_due(now)

    def _ask_silent(self, run: SinkRun) -> None:
        """Asks consumers of whom nothing was heard what they want; one that is stopped answers when it goes on. One that has
        not answered for long is given up: it comes anew, if it ever does."""
        for consumer in run.core.take_stale():
            client = self._desk.clients.get(consumer)
            if client is not None:
                log.warning(
                    "%s (pid %d) of sink %s has been silent for long, and is cut off", client.id, client.pid, run.name,
                    extra=about(sink=run.name, client=client.id, client_pid=client.pid),
                )  # fmt: skip
                self._desk.leave(client)
        for consumer in run.core.take_silenced():
            client = self._desk.clients.get(consumer)
            if client is not None:
                run.core.withdraw(consumer)
                self._desk.answer(client, Event(EventType.READ, _OWNER, {"credit": 0}))

    def _turn_away_unserved(self, run: SinkRun) -> None:
        """Nothing of a sink can be read any more: its consumers come again, and are told why they are not let in."""
        try:
            run.check_served()
        except DqError:
            self._turn_away(run)

    def _turn_away(self, run: SinkRun) -> None:
        """Takes all consumers off a sink. They come again."""
        now = self._life.clock.monotonic()
        for client in [client for client in self._desk.clients.values() if client.run is run]:
            run.core.leave(client.id, now)
            self._desk.forget(client)
            self._left(client)

    def _serve(self, run: SinkRun, now: float) -> list[Push]:
        """Dispatches one sink and writes its notes; what it returns may be sent then."""
        pushes, more = run.dispatch(now)
        if more:
            self._touch(run)
        try:
            self._post.send_dead_letters(run, now)
        except (LogError, DiskFull) as error:
            self._give_up(error)
            return []
        deadline = run.core.next_deadline()
        if deadline is not None:
            self._deadlines.set(run, deadline)
        if run.unsynced:
            self._sync.note(run)
        return pushes

    def _give_up(self, error: DqError) -> None:
        """Nothing was confirmed of what could not be noted: consumers send it again to the next consumer broker."""
        self._desk.drop_answers()
        self._confirmations.forget_all()
        self._life.fail(error)

    # --- the hint from the other broker ----------------------------------------------------------------------------

    def on_neighbour(self, sock: socket.socket) -> None:
        self._neighbour.attach(sock)
        self._subscribed = False
        self._subscribe()
        self._heard = False
        self._post.again()

    def _subscribe(self) -> None:
        """Asks to be told of commits as long as there are consumers, or dead letters whose records are still to be read.
        Without, a commit wakes one process less."""
        wanted = bool(self._desk.clients) or any(run.core.dead_letters() for run in self._sinks)
        if wanted != self._subscribed and self._neighbour.send(Event(EventType.READ, _OWNER, {"credit": int(wanted)})):
            self._subscribed = wanted

    def _on_neighbour_event(self, event: Event) -> None:
        if not self._heard:  # a broker that is new knows no floors, and what was told it while it started is lost
            self._heard = True
            self._sync.tell_anew()
        if event.type is EventType.COMMITTED:
            for stream, bucket, offset, segment, position, epoch, uuid in event["ends"]:
                end = End(offset, segment, position)
                self._touched |= self._sinks.committed((stream, bucket), end, uuid, epoch)
                self._laters.committed(stream, end, uuid, epoch)
        else:
            self._touched |= self._gone(event)

    def _gone(self, event: Event) -> dict[SinkRun, None]:
        """TRIM of the publisher broker: records of a stream are gone, or all of it."""
        stream, uuid = event["stream"], event["uuid"]
        if event.get("destroyed", False):
            self._sync.forget(stream)
            self._sync.settle()
            self._laters.destroyed(stream)
            return self._sinks.destroyed(stream, uuid)
        removed = [(bucket, (first, stop)) for bucket, first, stop in event.get("removed", ())]
        self._laters.gone(stream, uuid, event.get("marks", ()), removed)
        return self._sinks.gone(stream, uuid, event.get("epoch", 0), event.get("marks", ()), removed)


def main(setup: Setup, inbox: Queue[bytes], outbox: Queue[bytes], handover: socket.socket) -> None:
    """The process."""
    prepare(setup)
    life = Life(setup, inbox, outbox, handover)
    raise SystemExit(int(life.run(ConsumerBroker(life))))
