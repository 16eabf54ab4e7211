"""The publisher's core: which records make a batch, which batch may leave, and what became of each.

Per bucket, batches are numbered from 0 and sent in order, up to `in_flight_batches` ahead of their answers; they are
answered in order. A batch that was refused leaves a gap in the numbers, so all that were sent behind it are refused too
(`doomed`), and the number is used again.

A record with a key for `once` is a batch of its own, and has no such number: by its key the broker knows whether it has it. It
keeps its place among the batches of its bucket, is answered in any order, and where it is refused nothing else is.

A stream with priorities has a lane of buckets for each: bucket `priority * buckets + b`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import cast

from dq.client.drafts import Draft
from dq.client.ways import Way
from dq.config import LIMITS
from dq.core.buckets import BucketRouter
from dq.errors import DqError, LogError, OutcomeUnknown, SyncFailed
from dq.model.event import Event, EventOwner, EventType
from dq.model.receipt import StoredRange

Send = Callable[..., bool]
Settled = tuple[Draft, "StoredRange | DqError"]


class Lane:
    """One bucket of the stream, as its publisher sees it."""

    __slots__ = ("draft", "in_flight", "next_sequence", "once", "waiting")

    def __init__(self) -> None:
        self.draft: Draft | None = None
        self.waiting: deque[Draft] = deque()
        self.in_flight: deque[Draft] = deque()
        self.once: dict[int, Draft] = {}
        self.next_sequence = 0

    def sent(self) -> list[Draft]:
        """What is under way, in the order in which it was sent."""
        if not self.once:
            return list(self.in_flight)
        return sorted((*self.in_flight, *self.once.values()), key=lambda draft: draft.turn)


class Batcher:
    """Batches on their way. All methods are to be called with `lock` held, except where they say so.

    Args:
        stream: its name, for receipts.
        buckets: of the stream, for each of its priorities.
        batch_size: records of a full batch.
        linger: seconds for which a batch waits for more records; 0: as soon as the one before it was answered.
        send: writes one frame; returns False where there is no connection.
        nudge: called when somebody begins to wait for an outcome that another thread is to read.
        priorities: of the stream.
    """

    def __init__(
        self,
        stream: str,
        buckets: int,
        durability: str,
        batch_size: int,
        linger: float,
        start: int,
        send: Send,
        nudge: Callable[[], None] | None = None,
        priorities: int = 1,
    ) -> None:
        self.buckets, self.priorities = buckets, priorities
        self.stream, self.durability, self._batch_size, self._linger = stream, durability, batch_size, linger
        self._send, self._nudge = send, nudge
        self.lock = threading.RLock()
        self.lanes = [Lane() for _ in range(buckets * priorities)]
        self._routers = [BucketRouter(buckets, start) for _ in range(priorities)]
        self._keyless = [priority * buckets + router.next() for priority, router in enumerate(self._routers)]
        self._once: dict[int, Draft] = {}
        self._next_once = self._turn = 0
        self.in_flight = 0
        self.waiting_bytes = 0
        self.space = threading.Condition(self.lock)
        self.resuming = False

    # --- in --------------------------------------------------------------------------------------------------------

    def add(
        self, line: bytes, key: str | None, topic: str | None, way: Way | None = None, *, urgent: bool, now: float
    ) -> tuple[Draft, int]:
        """Takes one record; returns its batch and its place in it. An urgent one does not linger: somebody waits for it."""
        if way is None:
            bucket = self._keyless[0] if key is None else self._routers[0].of(key)
        elif way.once is None:
            bucket = self.bucket_of(key, way.priority)
        else:
            alone = self.draft_once(line, key, topic, way)
            self.add_draft(alone)
            return alone, 0
        lane = self.lanes[bucket]
        draft = lane.draft
        if draft is not None and len(draft.lines) + len(line) > LIMITS.batch_bytes_max:
            self.seal(lane)
            draft = None
        if draft is None:
            draft = lane.draft = Draft(bucket, self.durability, now)
            draft.nudge = self._nudge
        draft.lines += line
        if topic is not None:
            draft.topics.add(topic)
            draft.labelled += 1
        if way is not None and way.expires is not None:
            draft.note_expiry(way.expires)
        place = draft.count
        draft.count = place + 1
        self.waiting_bytes += len(line)
        if draft.count >= self._batch_size:
            self.seal(lane)
        if urgent:
            draft.urgent = True
            if not lane.in_flight:
                self.push(lane)
        return draft, place

    def add_draft(self, draft: Draft) -> None:
        """Takes a whole batch, behind what was added before."""
        lane = self.lanes[draft.bucket]
        self.seal(lane)
        draft.nudge = self._nudge
        lane.waiting.append(draft)
        self.waiting_bytes += len(draft.lines)
        self.send_waiting(lane)

    def draft_once(self, line: bytes, key: str | None, topic: str | None, way: Way) -> Draft:
        """The batch of a record that is stored once."""
        draft = Draft(self.next_keyless(way.priority) if key is None else self.bucket_of(key, way.priority), self.durability)
        draft.lines += line
        draft.count, draft.once, draft.sink, draft.urgent = 1, way.once, way.sink, True
        if topic is not None:
            draft.topics.add(topic)
            draft.labelled = 1
        if way.expires is not None:
            draft.note_expiry(way.expires)
        return draft

    def bucket_of(self, key: str | None, priority: int = 0) -> int:
        """The bucket of a key, or the one whose turn it is."""
        if key is None:
            return self._keyless[priority]
        return priority * self.buckets + self._routers[priority].of(key)

    def next_keyless(self, priority: int = 0) -> int:
        """The bucket for the next batch of records without a key."""
        bucket = self._keyless[priority] = priority * self.buckets + self._routers[priority].next()
        return bucket

    def seal(self, lane: Lane) -> None:
        """Ends the batch that is being filled."""
        if lane.draft is not None:
            draft, lane.draft = lane.draft, None
            lane.waiting.append(draft)
            priority = draft.bucket // self.buckets
            if draft.bucket == self._keyless[priority]:
                self.next_keyless(priority)
            self.send_waiting(lane)

    def push(self, lane: Lane) -> None:
        """Sends what there is of a bucket, full or not."""
        self.seal(lane)
        self.send_waiting(lane)

    def push_all(self) -> None:
        """Sends what there is."""
        for lane in self.lanes:
            self.push(lane)

    def push_lingering(self, now: float) -> float | None:
        """Sends the batches whose time has come; returns how many seconds are left for the next one."""
        left: list[float] = []
        for lane in self.lanes:
            if lane.draft is not None:
                rest = lane.draft.opened + self._linger - now
                if rest <= 0:
                    self.push(lane)
                else:
                    left.append(rest)
        return min(left, default=None)

    # --- out -------------------------------------------------------------------------------------------------------

    def send_waiting(self, lane: Lane) -> None:
        """Sends full batches as far as the window is open."""
        while lane.waiting and len(lane.in_flight) < LIMITS.in_flight_batches:
            if lane.waiting[0].once is not None and len(lane.once) >= LIMITS.in_flight_once:
                return
            draft = lane.waiting.popleft()
            if draft.once is None:
                draft.sequence = lane.next_sequence
                lane.next_sequence += 1
                lane.in_flight.append(draft)
            else:
                draft.sequence = self._next_once
                self._next_once += 1
                lane.once[draft.sequence] = self._once[draft.sequence] = draft
            draft.turn = self._turn
            self._turn += 1
            self.in_flight += 1
            self._write(draft, again=False)

    def _write(self, draft: Draft, *, again: bool) -> None:
        if self.resuming:
            return  # there is a new connection, and it has not heard of the batches before this one yet: `resend` sends all
        fields: dict[str, object] = {"bucket": draft.bucket, "sequence": draft.sequence, "count": draft.count}
        if again:
            draft.again = fields["again"] = True
        if draft.topics:
            unlabelled = [""] if draft.labelled < draft.count else []
            fields["topics"] = (unlabelled + sorted(draft.topics))[: LIMITS.batch_topics_max + 1]
        about = draft.about()
        if about is not None:
            fields["about"] = about
        self._send(Event(EventType.WRITE, EventOwner.PUBLISHER, fields).line(), draft.lines)

    def resend(self) -> list[Settled]:
        """After a new connection: what was not answered goes again, with the numbers it had; what is returned is to be settled
        without the lock.

        What was sent behind a refused batch was refused too, and only the answer was lost. It may not go again: its number
        may follow the last one by now, and it would be stored behind what was sent after it.
        """
        self.resuming = False
        refused: list[Settled] = []
        for lane in self.lanes:
            for draft in [draft for draft in lane.in_flight if draft.doomed is not None]:
                lane.in_flight.remove(draft)
                self.in_flight -= 1
                self._forget(draft)
                refused.append((draft, cast("DqError", draft.doomed)))
            for draft in lane.sent():
                self._write(draft, again=True)
            self.send_waiting(lane)
        return refused

    def begin_anew(self) -> None:
        """The stream was destroyed and made anew: nothing that is under way is stored in it, so all goes under new numbers."""
        for lane in self.lanes:
            for draft in lane.in_flight:
                draft.doomed = None
            lane.waiting.extendleft(reversed(lane.sent()))
            lane.in_flight.clear()
            lane.once.clear()
            lane.next_sequence = 0
        self._once.clear()
        self.in_flight = 0

    def window_full(self, bucket: int) -> bool:
        """Whether a batch for this bucket would have to wait. May be asked without the lock."""
        return bool(self.lanes[bucket].waiting)

    # --- answers ---------------------------------------------------------------------------------------------------

    def stored(self, bucket: int, sequence: int, first: int, count: int) -> Settled | None:
        """A batch was committed; what is returned is to be settled without the lock."""
        draft = self._awaited(bucket, sequence)
        if draft is None:
            return None
        return self._finish(draft, StoredRange(self.stream, bucket, first, count))

    def refused(self, bucket: int, sequence: int, error: DqError) -> Settled | None:
        """A batch was not committed; what is returned is to be settled without the lock."""
        draft = self._awaited(bucket, sequence)
        if draft is None or isinstance(error, SyncFailed):
            # Nobody knows: the broker leaves after such an answer, and the batch is sent again to the next one, which does.
            return None
        if draft.doomed is not None:
            error = draft.doomed
        else:
            lane = self.lanes[bucket]
            lane.next_sequence = sequence
            for later in lane.in_flight:
                later.doomed = error
        return self._finish(draft, error)

    def once_stored(self, sequence: int, bucket: int, first: int) -> Settled | None:
        """A record with a key for `once` stands there, since now or before; what is returned is settled without the lock."""
        return self._finish_once(sequence, StoredRange(self.stream, bucket, first, 1))

    def once_refused(self, sequence: int, error: DqError) -> Settled | None:
        """Such a record was not stored; what is returned is to be settled without the lock."""
        return None if isinstance(error, SyncFailed) else self._finish_once(sequence, error)

    def _finish_once(self, sequence: int, outcome: StoredRange | DqError) -> Settled | None:
        draft = self._once.pop(sequence, None)
        if draft is None:
            return None
        lane = self.lanes[draft.bucket]
        del lane.once[sequence]
        return self._finished(lane, draft, outcome)

    def _awaited(self, bucket: int, sequence: int) -> Draft | None:
        """Answers come in the order of the batches; one that does not fit is of a connection that is gone."""
        if bucket < len(self.lanes):
            in_flight = self.lanes[bucket].in_flight
            if in_flight and in_flight[0].sequence == sequence:
                return in_flight[0]
        return None

    def _finish(self, draft: Draft, outcome: StoredRange | DqError) -> Settled:
        lane = self.lanes[draft.bucket]
        lane.in_flight.popleft()
        return self._finished(lane, draft, outcome)

    def _finished(self, lane: Lane, draft: Draft, outcome: StoredRange | DqError) -> Settled:
        self.in_flight -= 1
        self._forget(draft)
        self.send_waiting(lane)
        if lane.draft is not None and lane.draft.urgent and not lane.in_flight:
            self.push(lane)
        return draft, outcome

    def _forget(self, draft: Draft) -> None:
        self.waiting_bytes -= len(draft.lines)
        draft.lines = bytearray()  # the memory goes now, however long its futures are kept
        if self.waiting_bytes < LIMITS.waiting_bytes_max:
            self.space.notify_all()

    def fail_all(self, error: DqError) -> list[Settled]:
        """Gives up on all that is on its way; what is returned is to be settled without the lock.

        Numbers begin anew: the publisher must go on under another id.
        """
        of_sent = error
        if isinstance(error, LogError):  # they were sent, and the broker that is there now cannot say what became of them
            of_sent = OutcomeUnknown(f"{error}; whether the records that were under way are stored is not known")
        failed: list[Settled] = []
        for lane in self.lanes:
            lane.next_sequence = 0
            failed += [(draft, of_sent) for draft in lane.sent()]
            failed += [(draft, error) for draft in (*lane.waiting, *([lane.draft] if lane.draft is not None else []))]
            lane.in_flight.clear()
            lane.once.clear()
            lane.waiting.clear()
            lane.draft = None
        for draft, _ in failed:
            self._forget(draft)
        self._once.clear()
        self.in_flight = 0
        return failed

    @property
    def draft_open(self) -> bool:
        """Whether a batch is being filled. May be asked without the lock."""
        return any(lane.draft is not None for lane in self.lanes)

    @property
    def watched(self) -> bool:
        """Whether a thread that does not read waits for an answer."""
        with self.lock:
            return any(draft.watched for draft in self.unanswered())

    def unanswered(self) -> Iterator[Draft]:
        """The batches whose answers are still to come, the one that is being filled too."""
        for lane in self.lanes:
            yield from lane.in_flight
            yield from lane.once.values()
            yield from lane.waiting
            if lane.draft is not None:
                yield lane.draft

    @property
    def idle(self) -> bool:
        """Whether nothing is left to be sent or answered."""
        return not self.in_flight and not any(lane.waiting or lane.draft is not None for lane in self.lanes)
