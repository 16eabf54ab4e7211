"""The consumer's core: what is in its hand, what was decided about it, how much more it can take.

Nothing here waits or knows a socket: events come in as values, and frames to be sent come out.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from itertools import repeat
from typing import Any

import orjson

from dq.client.task import Settler, Task
from dq.config import LIMITS
from dq.model.event import Event, EventOwner, EventType
from dq.model.outcome import Outcome
from dq.model.record import payload_of

_CONSUMER = EventOwner.CONSUMER
Range = tuple[int, int]


class HeldLease:
    """One lease: a range of records, and which of them are still open.

    Attributes:
        number: the lease's number.
        stream, bucket, first, count: its records.
        attempts, errors: for those that come again: attempts burned before, and the last error.
        received_wall: when it came, seconds since 1970.
        left: how many are not settled.
    """

    __slots__ = (
        "_publishers", "acked", "attempts", "body", "bucket", "count", "errors", "extended", "first", "grace", "hand", "left",
        "number", "received", "received_wall", "renewed_wall", "settler", "stream",
    )  # fmt: skip

    def __init__(self, event: Event, hand: Hand, settler: Settler, grace: float) -> None:
        fields = event.fields
        self.number, self.stream, self.bucket = fields["lease"], fields["stream"], fields["bucket"]
        self.first, self.count = fields["first"], fields["count"]
        self.attempts = {int(offset): burned for offset, burned in fields.get("attempts", {}).items()}
        self.errors = {int(offset): error for offset, error in fields.get("errors", {}).items()}
        self._publishers: list[list[Any]] = fields["publishers"]
        self.body = event.body
        self.hand, self.settler, self.grace = hand, settler, grace
        self.received = 0.0
        self.received_wall = self.renewed_wall = time.time()
        self.extended: dict[int, float] = {}
        self.acked: list[int] = []
        self.left = self.count

    def ack(self, offset: int) -> None:
        """Notes an ack; `append` is atomic, so that no lock is needed here."""
        acked = self.acked
        if not acked:
            self.hand.dirty.append(self)
        acked.append(offset)
        if self.hand.sleeper.sleeping:
            self.hand.sleeper.wake()

    def take_acked(self) -> list[Range]:
        """The acks since the last call, as ranges."""
        count = len(self.acked)
        offsets = self.acked[:count]
        del self.acked[:count]  # those that other threads append meanwhile stand behind and stay
        self.left -= count
        return to_ranges(offsets)

    def publisher_of(self, offset: int) -> str:
        """Who published a record; a lease may hold the batches of several."""
        place = offset - self.first
        for count, publisher in self._publishers:
            if place < count:
                return str(publisher)
            place -= count
        return ""

    def deadline_wall(self, offset: int) -> float:
        """Until when the broker leaves a record here without a sign of life."""
        return self.extended.get(offset, self.renewed_wall + self.grace)

    @staticmethod
    def raw_payload(fields: dict[str, Any]) -> Any:
        """A payload that was published as bytes."""
        return payload_of(fields)


def to_ranges(offsets: list[int]) -> list[Range]:
    """Offsets as half-open ranges. They nearly always come in order and without a gap, and then no loop runs."""
    if not offsets:
        return []
    first, end = offsets[0], offsets[-1] + 1
    if end - first == len(offsets) and offsets == list(range(first, end)):
        return [(first, end)]
    ranges: list[Range] = []
    for offset in sorted(set(offsets)):
        if ranges and ranges[-1][1] == offset:
            ranges[-1] = (ranges[-1][0], offset + 1)
        else:
            ranges.append((offset, offset + 1))
    return ranges


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
        ready: (lease, offset, fields) to be handed to the user's code; taking from it is atomic.
        dirty: leases with acks that were not sent yet.
    """

    def __init__(self, settler: Settler, sleeper: Any, prefetch: int | None) -> None:
        self._settler, self.sleeper = settler, sleeper
        self._fixed = prefetch
        self.target = prefetch or 1
        self.grace = LIMITS.ack_grace_seconds
        self.ready: deque[tuple[HeldLease, int, dict[str, Any]]] = deque()
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
        self._abandoned: list[tuple[Task, float]] = []
        self.lock = threading.RLock()

    # --- in --------------------------------------------------------------------------------------------------------

    def take(self, event: Event) -> None:
        """A TASK event came."""
        lease = HeldLease(event, self, self._settler, self.grace)
        with self.lock:
            self._leases[lease.number] = lease
            self._arrived.append(lease)
            self._arrived_count += lease.count
            self._granted = max(self._granted - lease.count, 0)

    def refill(self, now: float) -> bool:
        """Decodes the next lease, whole, into `ready`; False when none has come."""
        with self.lock:
            self._learn(now)
            if not self._arrived:
                self._working = None
                return False
            lease = self._arrived.popleft()
            self._arrived_count -= lease.count
            body, lease.body = lease.body, b""
            try:
                records = orjson.loads(b"[%b]" % body[:-1].replace(b"\n", b","))
                if len(records) != lease.count:
                    raise ValueError
            except ValueError:
                self._refill_singly(lease, body)
            else:
                self.ready.extend(zip(repeat(lease), range(lease.first, lease.first + lease.count), records))
            self._working, self._working_since = lease, now
        if self.sleeper.sleeping:
            self.sleeper.wake()  # it sees to the signs of life as long as something is in hand
        return True

    def _refill_singly(self, lease: HeldLease, body: bytes) -> None:
        """One line of the lease is no JSON: that one alone is dead-lettered."""
        for offset, line in enumerate(body.splitlines(), lease.first):
            try:
                fields = orjson.loads(line)
                if not isinstance(fields, dict) or not ("payload" in fields or "base64" in fields):
                    raise ValueError("it has no payload")
            except ValueError as error:
                reason = f"the record's line cannot be read: {error}"
                self.decide(lease, (offset, offset + 1), Outcome.DEAD_LETTER, reason=reason)
            else:
                self.ready.append((lease, offset, fields))

    # --- what was decided --------------------------------------------------------------------------------------------

    def decide(
        self, lease: HeldLease, span: Range, outcome: Outcome, *, after: float | None = None, reason: str = "", error: str = ""
    ) -> None:
        """Notes anything but an ack."""
        with self.lock:
            lease.left -= span[1] - span[0]
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
        """The broker has noted what was sent with this number."""
        self._unconfirmed.pop(number, None)

    def take_events(self) -> list[Event]:
        """What is to be sent now: acks by range, everything else singly."""
        with self.lock:
            events: list[Event] = []
            ranges: list[list[int]] = []
            while self.dirty:
                lease = self.dirty.popleft()
                ranges += [[lease.number, first, end] for first, end in lease.take_acked()]
                if lease.left <= 0:
                    self._leases.pop(lease.number, None)
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
            return events

    def _numbered(self, kind: EventType, fields: dict[str, Any]) -> Event:
        self._number += 1
        event = Event(kind, _CONSUMER, {"number": self._number, **fields})
        self._unconfirmed[self._number] = event
        return event

    def give_back(self) -> None:
        """Gives back what was not started; no attempt is burned."""
        with self.lock:
            spans: dict[HeldLease, list[int]] = {}
            while True:
                try:
                    lease, offset, _ = self.ready.popleft()
                except IndexError:
                    break
                spans.setdefault(lease, []).append(offset)
            while self._arrived:
                lease = self._arrived.popleft()
                spans[lease] = list(range(lease.first, lease.first + lease.count))
            self._arrived_count = 0
            for lease, offsets in spans.items():
                for span in to_ranges(offsets):
                    self.decide(lease, span, Outcome.RELEASE)

    # --- credit ----------------------------------------------------------------------------------------------------

    def _learn(self, now: float) -> None:
        """Adapts the target to the pace of the lease that was just worked off: 50 ms of work, at most doubled at once."""
        lease = self._working
        if lease is None or self._fixed is not None:
            return
        took = max(now - self._working_since, 1e-6)
        fits = int(lease.count * LIMITS.prefetch_seconds / took)
        self.target = max(1, min(fits, self.target * 2, LIMITS.prefetch_records_max))

    def credit(self) -> int:
        """How many more records to ask for now; 0 as long as enough is in hand or on its way."""
        with self.lock:
            held = len(self.ready) + self._arrived_count + self._granted
            if held * 2 > self.target:
                return 0
            wanted = self.target - held
            self._granted += wanted
            return wanted

    def slow(self) -> None:
        """One task runs long: gives back what was not started and takes single records until the pace is known again."""
        self.give_back()
        if self._fixed is None:
            with self.lock:
                self.target, self._granted, self._working = 1, 0, None

    def withdraw(self) -> Event:
        """Takes back what was granted and not used. Numbered: what the broker sent before it came is here when it is confirmed."""
        with self.lock:
            self._granted = 0
            return self._numbered(EventType.READ, {"credit": 0})

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
                if now - since > self.grace:  # it is not ours any more
                    task.lease.left -= 1
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
        return len(self.ready) + self._arrived_count

    # --- a new connection --------------------------------------------------------------------------------------------

    @property
    def lease_numbers(self) -> list[int]:
        """The leases it holds, to be kept across a restart of the broker."""
        return list(self._leases)

    def resume(self, kept: list[int]) -> list[Event]:
        """After a new connection: forgets the leases that were not kept; returns what is to be sent again."""
        with self.lock:
            self._granted = 0
            lost = {number for number in self._leases if number not in set(kept)}
            for _ in range(len(self.ready)):  # in place, for other threads take from it meanwhile
                try:
                    item = self.ready.popleft()
                except IndexError:
                    break
                if item[0].number not in lost:
                    self.ready.append(item)
            self._arrived = deque(lease for lease in self._arrived if lease.number not in lost)
            self._arrived_count = sum(lease.count for lease in self._arrived)
            for number in lost:
                del self._leases[number]
            return list(self._unconfirmed.values())
