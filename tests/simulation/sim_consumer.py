"""A consumer of a simulated world: the real `Hand` and `Task`, and a user who does all that users do."""

from __future__ import annotations

from typing import Any

from sim_checker import BrokenPromise, Place
from sim_clients import SimClient, Stage

from dq.client.hand import Hand
from dq.client.held_lease import HeldLease
from dq.client.task import Task
from dq.core.states import State
from dq.model.event import Event, EventOwner, EventType
from dq.model.outcome import Outcome

POISON = 61  # a record whose number divides by this kills who works on it


class SimConsumer(SimClient):
    """A consumer with the real `Hand` and `Task`.

    Attributes:
        sink: also what `Task` asks for.
        leaving: it says goodbye when all that it decided is confirmed.
        stalled_until: it does nothing before.
    """

    sleeping = False  # what the hand asks of the link
    max_attempts = 1 << 31  # what a task asks for, to know whether a traceback is to be told: here none is

    def __init__(self, stage: Stage, sink: str, streams: list[str], settings: dict[str, Any]) -> None:
        self.sink, self.streams, self._settings = sink, streams, settings
        self.hand = Hand(self, self, stage.chance.choice((None, 1, 4, 20)))
        self.leaving = False
        self.stalled_until = 0.0
        self._renew_at = 0.0
        self._ordered = False
        self._open: list[Task] = []
        self._numbers: dict[tuple[int, int], int] = {}
        self._ages: dict[int, int] = {}
        self._sent: dict[int, list[tuple[int, str, list[int]]]] = {}
        super().__init__(stage, stage.next_name("c"))
        self.consumer_id = self.id

    def hello(self, *, again: bool) -> Event:
        fields: dict[str, Any] = {
            "id": self.id, "pid": 1, "sink": self.sink, "streams": self.streams, "create": True, "settings": self._settings,
        }  # fmt: skip
        if again:
            self.hand.resuming = True
            fields["again"], fields["leases"] = True, self.hand.lease_numbers
        return Event(EventType.REGISTER, EventOwner.CONSUMER, fields)

    def welcomed(self, answer: Event, *, again: bool) -> None:
        settings = answer["settings"]
        self.hand.grace, self.hand.no_ack, self._ordered = settings["ack_grace"], settings["no_ack"], settings["ordered"]
        if again:
            for event in self.hand.resume(answer["leases"]):
                self._send(event)
        self.flush(now=again)

    def handle(self, event: Event) -> None:
        if event.type is EventType.TASK:
            lease, sink = event["lease"], self.stage.checker.sinks[self.sink]
            late = self.end is None or self.end.peer.owner is not self.stage.manager.consumer_broker.life
            # One of a broker that is gone may be forgotten; a number that was forgotten may be given out again.
            void = late or lease in self._ages or lease < sink.voided
            self._ages[lease] = -1 if void else sink.age_at_start
            self.hand.take(event)
        elif event.type is EventType.READ:
            self.hand.forget_credit()
            self.flush()
        else:
            assert event.type is EventType.ACK, event
            self.hand.confirmed(event["number"])
            for number in [number for number in self._sent if number <= event["number"]]:
                for age, act, numbers in self._sent.pop(number):
                    if age == self.stage.checker.sinks[self.sink].age:
                        self.stage.checker.confirmed(self.sink, act, self._in_time(numbers))

    def _in_time(self, numbers: list[int]) -> list[int]:
        """Of a sink in order, a late ack changes nothing, and that it was late is not told."""
        service = self.stage.manager.consumer_broker.service if self._ordered else None
        if service is None or self.sink not in service._sinks.runs:
            return [] if self._ordered else numbers
        ledgers, where = service._sinks.runs[self.sink].core._book.ledgers, self.stage.checker.where
        places = {number: place for number in numbers if (place := where(number)) is not None and place.shard in ledgers}
        return [number for number, place in places.items() if ledgers[place.shard].state_of(place.offset) is State.SETTLED]

    def _meaning(self, event: Event) -> list[tuple[int, str, list[int]]]:
        """Of each lease that it speaks of: how old that is, what was decided, and of which records."""
        act, known = "ack" if event.type is EventType.ACK else str(event.get("outcome", "")), self._numbers
        return [
            (self._ages[lease], act, [known[lease, offset] for offset in range(first, end) if (lease, offset) in known])
            for lease, first, end in event.get("ranges", ())
        ]

    def _send(self, event: Event) -> None:
        self.send(event.line())

    def flush(self, *, now: bool = False) -> None:
        if self.hand.resuming or not self.welcome:
            return
        for event in self.hand.take_events(now=now):
            self._sent[event["number"]] = self._meaning(event)
            for _, act, numbers in self._sent[event["number"]]:
                self.stage.checker.decided(self.sink, act, numbers)
            self._send(event)
        credit = 0 if self.leaving else self.hand.credit()
        if credit:
            self._send(Event(EventType.READ, EventOwner.CONSUMER, {"credit": credit}))

    # --- what its user does ------------------------------------------------------------------------------------------

    def spin(self) -> None:
        if self.stage.clock.monotonic() >= self.stalled_until:
            super().spin()

    def tick(self) -> None:
        now = self.stage.clock.monotonic()
        if now >= self._renew_at:
            self._renew_at = now + self.hand.grace / 4
            renewal = self.hand.renewals(now)
            if renewal is not None:
                self._send(renewal)
        if self.leaving:
            self._leave()
            return
        if self._open and self.stage.chance.random() < 0.1:  # late, maybe after its lease was lost
            self._open.pop(0).ack()
        self.work(self.stage.chance.randint(0, 4), now)
        if self.stage.chance.random() < 0.8 and not self.gone:
            self.flush(now=self.stage.chance.random() < 0.1)

    def work(self, count: int, now: float) -> None:
        for _ in range(count):
            task = self._next(now)
            if task is None or self.gone:
                return
            self._do(task)

    def _next(self, now: float) -> Task | None:
        for fields, lease, offset in self.hand.ready:
            return Task(lease, offset, fields)
        if self.hand.refill(now):
            for fields, lease, offset in self.hand.ready:
                return Task(lease, offset, fields)
        return None

    def _do(self, task: Task) -> None:
        checker, chance = self.stage.checker, self.stage.chance
        number = self._numbers[task.lease.number, task.offset] = checker.delays.number_of(task._fields, task.stream)
        place = Place(task.stream, task.bucket, task.offset)
        checker.delivered(self.sink, place, number, task.attempt)
        if self._ordered:
            self._check_order(task, place)
        if number % POISON == 0:
            self.die()
            return
        act = chance.random()
        if task.lease.settled:
            return
        if act < 0.86:
            task.ack()
        elif act < 0.91:
            task.retry(chance.choice((None, 0.0, 0.3, 3.0, 3.0 if self._ordered else 70.0)), "it failed")
        elif act < 0.93:
            task.release()
        elif act < 0.95:
            task.drop()
        elif act < 0.97:
            task.dead_letter("bad")
        elif act < 0.985:
            task.extend(chance.choice((0.5, 10.0)))
            self._open.append(task)
        else:
            self._send(self.hand.abandon(task))
            self._open.append(task)

    def _check_order(self, task: Task, place: Place) -> None:
        """Of a lease that counts still, everything before a record is settled, or in this same hand."""
        service = self.stage.manager.consumer_broker.service
        run = service._sinks.runs.get(self.sink) if service is not None else None
        ledger = run.core._book.ledgers.get(place.shard) if run is not None else None
        lease = ledger.leases.get(task.lease.number) if ledger is not None else None
        if lease is None or lease.hand.name != self.id or place.offset not in lease.open:
            return
        self.stage.checker.counts["in order"] += 1
        for offset in range(ledger.floor, place.offset):
            state, holder = ledger.state_of(offset), ledger.holder(offset)
            if state not in (State.SETTLED, State.DYING) and (holder is None or holder.hand.name != self.id):
                raise BrokenPromise(f"{self.sink}: {place} was worked on while {offset} is {state}")

    def slow_down(self) -> None:
        """One task runs long: what was not started goes back."""
        if self.welcome:
            self._send(self.hand.withdraw())
            self.hand.slow()
            self.flush()

    def leave(self) -> None:
        """Gives back, waits for the confirmations, says goodbye."""
        if self.welcome and not self.leaving:
            self.leaving = True
            self.hand.give_back()
            while self._open:
                self._open.pop().ack()
            self.flush(now=True)

    def _leave(self) -> None:
        if self.hand.unsent:
            self.flush(now=True)
        if not self.hand.unconfirmed and self.end is not None:
            self.send(Event(EventType.CLOSE, EventOwner.CONSUMER).line())
            while self._outgoing and not self.end.peer.closed and self.end.room:
                del self._outgoing[: self.end.sendmsg([self._outgoing])]
            self.gone = True
            self.end.close()

    # --- what `Task` and `Hand` call ---------------------------------------------------------------------------------

    def settle(self, task: Task, outcome: Outcome, *, after: float | None = None, reason: str = "", error: str = "") -> None:
        self.hand.decide(task.lease, (task.offset, task.offset + 1), outcome, after=after, reason=reason, error=error)
        if self._ordered and outcome in (Outcome.RETRY, Outcome.RELEASE):
            self.hand.hold_back(task.lease)

    def extend(self, task: Task, seconds: float, note: str | None) -> None:
        lease: HeldLease = task.lease
        fields = {"lease": lease.number, "offset": task.offset, "seconds": seconds}
        self._send(Event(EventType.EXTEND, EventOwner.CONSUMER, fields))

    def confirm(self) -> None:
        raise AssertionError("nobody waits in a simulation")

    def wake(self) -> None:
        pass
