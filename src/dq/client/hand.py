"""The consumer's core: what is in its hand, what was decided about it, how much more it can take.

Nothing here waits or knows a socket: events come in as values, and frames to be sent come out.
"""

from __future__ import annotations

import operator
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any

import orjson

from dq.client.held_lease import HeldLease, Range, to_ranges
from dq.client.task import Settler, Task
from dq.config import LIMITS
from dq.model.event import Event, EventOwner, EventType
from dq.model.outcome import Outcome

_CONSUMER = EventOwner.CONSUMER


class Sleeper:
    """What the hand needs of the link: whether its thread sleeps for long, and how to wake it."""

    sleeping: bool

    def wake(self) -> None:
        """Has it look again."""


class Hand:
    """What one consumer holds.

    Args:
        settler: the consumer.
        sleeper: the link.
        prefetch: how many records to hold, or None for "auto".

    Attributes:
        ready: gives (fields, lease, offset), to be handed to the user's code. Several threads may take from it: it is an
            iterator written in C, so that each gets records of its own without a lock.
        most: records that "auto" asks for, at most.
        resuming: there is a new connection, and what the old one took with it was not sent again yet. Nothing newer may go
            before it: a confirmation counts for all that was sent earlier.
        no_ack: the sink settles what it hands out.
        expiring: whether a lease came with records in it that expire.
        between_leases: whether the last refill ended a lease, which is the moment to send what was decided.
        dirty: leases with acks that were not sent yet.
    """

    def __init__(self, settler: Settler, sleeper: Any, prefetch: int | None) -> None:
        self._settler, self.sleeper = settler, sleeper
        self._fixed = prefetch
        self.target = prefetch or 1
        self.most = LIMITS.prefetch_records_max
        self.grace = LIMITS.ack_grace_seconds
        self.ready: Iterator[tuple[dict[str, Any], HeldLease, int]] = iter(())
        self._ready_records: Any = iter(())
        self.dirty: deque[HeldLease] = deque()
        self._arrived: deque[HeldLease] = deque()
        self._arrived_count = 0
        self._leases: dict[int, HeldLease] = {}
        self._granted = 0
        self._number = 0
        self._decided: list[tuple[int, Outcome, Range, float | None, str, str]] = []
        self._unconfirmed: dict[int, Event] = {}
        self._working: HeldLease | None = None
        self._working_since = 0.0
        self.between_leases = True
        self.resuming = False
        self._abandoned: list[tuple[Task, float]] = []
        self.no_ack = self.expiring = False
        self._held_back: dict[tuple[str, int], int | None] = {}  # and the number at whose confirmation the broker knows
        self.lock = threading.RLock()

    # --- in --------------------------------------------------------------------------------------------------------

    def take(self, event: Event) -> None:
        """A TASK event came."""
        lease = HeldLease(event, self, self._settler, self.grace, settled=self.no_ack)
        with self.lock:
            self._granted = max(self._granted - lease.count, 0)
            self.expiring = self.expiring or lease.expires
            if (lease.stream, lease.bucket) in self._held_back:  # sent before the broker knew of it
                self.release(lease, lease.offsets)
                return
            if not lease.settled:
                self._leases[lease.number] = lease
            self._arrived.append(lease)
            self._arrived_count += lease.count

    def refill(self, now: float) -> bool:
        """Puts the next records into `ready`; False when none are here."""
        with self.lock:
            lease = self._working
            self.between_leases = lease is None or not lease.undecoded
            if lease is None or not lease.undecoded:
                self._learn(now)
                self.target = self.target or self._fixed or 1  # it was 0 while a task ran long
                if not self._arrived:
                    self._working = None
                    return False
                lease = self._working = self._arrived.popleft()
                self._arrived_count -= lease.count
                self._working_since = now
            try:
                offsets, records = lease.decode_next()
            except ValueError:
                self._refill_singly(lease)
            else:
                self._fill(lease, offsets, records)
        if self.sleeper.sleeping:
            self.sleeper.wake()  # it sees to the signs of life as long as something is in hand
        return True

    def _refill_singly(self, lease: HeldLease) -> None:
        """One of the lines is no JSON: that one alone is dead-lettered."""
        offsets, lines = lease.decode_lines()
        good: list[tuple[int, dict[str, Any]]] = []
        for offset, line in zip(offsets, lines, strict=True):
            try:
                fields = orjson.loads(line)
                if not isinstance(fields, dict) or not ("payload" in fields or "base64" in fields):
                    raise ValueError("it has no payload")
            except ValueError as error:
                reason = f"the record's line cannot be read: {error}"
                self.decide(lease, (offset, offset + 1), Outcome.DEAD_LETTER, reason=reason)
            else:
                good.append((offset, fields))
        self._fill(lease, [offset for offset, _ in good], [fields for _, fields in good])

    def _fill(self, lease: HeldLease, offsets: Sequence[int], records: list[Any]) -> None:
        self._ready_records = iter(records)
        # The records come first: zip then sees their end at once and lets go of the list, before the next is decoded.
        ready = zip(self._ready_records, repeat(lease), offsets)
        # Not a generator, which two threads cannot ask at once.
        self.ready = filter(_of_use, ready) if lease.expires else ready

    @property
    def ready_count(self) -> int:
        """Decoded records that no code has started on."""
        return operator.length_hint(self._ready_records)

    # --- what was decided --------------------------------------------------------------------------------------------

    def decide(
        self, lease: HeldLease, span: Range, outcome: Outcome, *, after: float | None = None, reason: str = "", error: str = ""
    ) -> None:
        """Notes anything but an ack."""
        if lease.settled:
            return
        with self.lock:
            lease.ended(range(*span))
            lease.note_sent([span])
            self._decided.append((lease.number, outcome, span, after, reason, error))
            if lease.left <= 0:
                self._leases.pop(lease.number, None)
        if self.sleeper.sleeping:
            self.sleeper.wake()

    @property
    def unsent(self) -> bool:
        """Whether something was decided and not sent."""
        return bool(self.dirty or self._decided)

    @property
    def unconfirmed(self) -> bool:
        """Whether the broker has still to confirm something."""
        return bool(self._unconfirmed)

    def awaits(self, event: Event) -> bool:
        """Whether this one is still to be confirmed."""
        return event["number"] in self._unconfirmed

    def confirmed(self, number: int) -> None:
        """The broker has noted all that was sent up to this number."""
        with self.lock:
            for earlier in list(self._unconfirmed):
                if earlier > number:
                    break
                del self._unconfirmed[earlier]
            for shard, known in list(self._held_back.items()):
                if known is not None and known <= number:
                    del self._held_back[shard]

    def take_events(self, *, now: bool = False) -> list[Event]:
        """What is to be sent now: acks by range, everything else singly.

        Args:
            now: somebody waits for the confirmation; else the broker sends it along with the next lease, or within 50 ms.
        """
        with self.lock:
            events: list[Event] = []
            ranges: list[list[int]] = []
            expired: list[list[int]] = []
            for _ in range(len(self.dirty)):
                lease = self.dirty.popleft()
                ranges += [[lease.number, first, end] for first, end in lease.take_acked()]
                if lease.expires:
                    expired += [[lease.number, first, end] for first, end in lease.take_expired()]
                if lease.left <= 0:
                    self._leases.pop(lease.number, None)
            if expired:
                events.append(self._numbered(EventType.ACK, {"ranges": expired, "expired": True}))
            if ranges:
                events.append(self._numbered(EventType.ACK, {"ranges": ranges}))
            decided, self._decided = self._decided, []
            for number, outcome, (first, end), after, reason, error in decided:
                fields: dict[str, Any] = {"outcome": outcome, "ranges": [[number, first, end]]}
                if after is not None:
                    fields["after"] = float(after)
                if reason:
                    fields["reason"] = reason
                if error:
                    fields["error"] = error
                events.append(self._numbered(EventType.NACK, fields))
            for shard, confirmed_by in self._held_back.items():
                if confirmed_by is None:
                    self._held_back[shard] = self._number
            if now and self._unconfirmed:
                events.append(self._numbered(EventType.ACK, {"ranges": [], "now": True}))
            return events

    def _numbered(self, kind: EventType, fields: dict[str, Any]) -> Event:
        self._number += 1
        event = Event(kind, _CONSUMER, {"number": self._number, **fields})
        self._unconfirmed[self._number] = event
        return event

    def give_back(self) -> None:
        """Gives back what was not started; no attempt is burned. What is settled already stays, to be worked on later."""
        if self.no_ack:
            return
        with self.lock:
            self._drop_working()
            while self._arrived:
                self._drop(self._arrived.popleft())
            self._arrived_count = 0

    def hold_back(self, lease: HeldLease) -> None:
        """A task of an ordered sink comes again: what is behind it in its bucket is given back unstarted, also what is on its
        way here, until the broker has confirmed that it knows."""
        with self.lock:
            shard = (lease.stream, lease.bucket)
            if self._working is not None and (self._working.stream, self._working.bucket) == shard:
                self._drop_working()
            kept: deque[HeldLease] = deque()
            for arrived in self._arrived:
                if (arrived.stream, arrived.bucket) == shard:
                    self._drop(arrived)
                else:
                    kept.append(arrived)
            self._arrived = kept
            self._arrived_count = sum(each.count for each in kept)
            self._held_back[shard] = None  # until it has a number

    def _drop_working(self) -> None:
        """Gives back what is not started of the lease at hand."""
        spans: dict[HeldLease, list[int]] = {}
        for _, lease, offset in self.ready:
            spans.setdefault(lease, []).append(offset)
        for lease, offsets in spans.items():
            self.release(lease, offsets)
        if self._working is not None:
            self._drop(self._working)
            self._working = None

    def _drop(self, lease: HeldLease) -> None:
        self.release(lease, lease.undecoded_offsets)
        lease.forget()

    def release(self, lease: HeldLease, offsets: Sequence[int]) -> None:
        """Gives records back unstarted."""
        for span in to_ranges(list(offsets)):
            self.decide(lease, span, Outcome.RELEASE)

    # --- credit ----------------------------------------------------------------------------------------------------

    def _learn(self, now: float) -> None:
        """Adapts the target to the pace of the lease that was just worked off: 50 ms of work, at most doubled at once."""
        lease = self._working
        if lease is None or self._fixed is not None:
            return
        took = max(now - self._working_since, 1e-6)
        fits = int(lease.count * LIMITS.prefetch_seconds / took)
        self.target = max(1, min(fits, self.target * 2, self.most))

    def credit(self) -> int:
        """How many more records to ask for now; 0 as long as enough is in hand or on its way."""
        with self.lock:
            held = self.waiting + self._granted
            if held * 2 > self.target:
                return 0
            wanted = self.target - held
            self._granted += wanted
            return wanted

    def forget_credit(self) -> None:
        """The broker has heard nothing for long, and asks anew what is wanted."""
        with self.lock:
            self._granted = 0

    def slow(self) -> None:
        """One task runs long: gives back what was not started, and asks for nothing until the next one is wanted."""
        self.give_back()
        self.target = 0

    def withdraw(self) -> Event:
        """Takes back what was granted and not used. When it is confirmed, all that the broker had sent before is here."""
        with self.lock:
            self._granted = 0
            return self._numbered(EventType.READ, {"credit": 0, "now": True})

    # --- signs of life -----------------------------------------------------------------------------------------------

    def abandon(self, task: Task) -> Event:
        """The next task was asked for while this one is open: it is not renewed any more."""
        with self.lock:
            self._abandoned.append((task, time.monotonic()))
        return Event(EventType.EXTEND, _CONSUMER, {"abandoned": [[task.lease.number, task.offset]]})

    def renewals(self, now: float) -> Event | None:
        """A sign of life for every lease with something open in it, but for those tasks that were left unsettled."""
        with self.lock:
            forsaken: dict[HeldLease, int] = {}
            kept: list[tuple[Task, float]] = []
            for task, since in self._abandoned:
                if task.outcome is not None:
                    continue
                if now - since > self.grace and not task.lease.is_extended(task.offset):  # it is not ours any more
                    task.lease.lose(task.offset)
                    if task.lease.left <= 0:
                        self._leases.pop(task.lease.number, None)
                    continue
                kept.append((task, since))
                forsaken[task.lease] = forsaken.get(task.lease, 0) + 1
            self._abandoned = kept
            alive = [lease for lease in self._leases.values() if lease.left > forsaken.get(lease, 0)]
            wall = time.time()
            for lease in alive:
                lease.renewed_wall = wall
            return Event(EventType.EXTEND, _CONSUMER, {"leases": [lease.number for lease in alive]}) if alive else None

    @property
    def empty(self) -> bool:
        """Whether nothing is in hand, neither started nor waiting."""
        return not self._leases

    @property
    def waiting(self) -> int:
        """Records in hand that no code has started on."""
        working = self._working
        return self.ready_count + self._arrived_count + (working.undecoded if working is not None else 0)

    # --- a new connection --------------------------------------------------------------------------------------------

    @property
    def lease_numbers(self) -> list[int]:
        """The leases to be kept across a restart of the broker: those it holds, and those it has ended without being sure
        that the broker knows. Else their records would be in others' hands before the ack of them is sent again."""
        with self.lock:
            ended = {part[0] for event in self._unconfirmed.values() for part in event.get("ranges", ())}
            return sorted(ended | set(self._leases))

    def resume(self, kept: list[int]) -> list[Event]:
        """After a new connection: forgets the leases that were not kept; returns what is to be sent again."""
        with self.lock:
            self._granted, self.resuming = 0, False
            lost = {number for number in self._leases if number not in set(kept)}
            if self._working is not None and self._working.number in lost:
                deque(self._ready_records, maxlen=0)  # emptied in place: other threads may be taking from it
                self._working.forget()
                self._working = None
            self._arrived = deque(lease for lease in self._arrived if lease.number not in lost)
            self._arrived_count = sum(lease.count for lease in self._arrived)
            for number in lost:
                del self._leases[number]
            return list(self._unconfirmed.values())


def _of_use(entry: tuple[dict[str, Any], HeldLease, int]) -> bool:
    fields, lease, offset = entry
    return lease.hands_out(fields, offset)
