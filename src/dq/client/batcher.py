"""The publisher's core: which records make a batch, which batch may leave, and what became of each.

Per bucket, batches are numbered from 0 and sent in order, up to `in_flight_batches` ahead of their answers; they are
answered in order. A batch that was refused leaves a gap in the numbers, so all that were sent behind it are refused too
(`doomed`), and the number is used again.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import cast

from dq.client.drafts import Draft
from dq.config import LIMITS
from dq.core.buckets import BucketRouter
from dq.errors import DqError, LogError, OutcomeUnknown, SyncFailed
from dq.model.event import Event, EventOwner, EventType
from dq.model.receipt import StoredRange

Send = Callable[..., bool]
Settled = tuple[Draft, "StoredRange | DqError"]


class Lane:
    """One bucket of the stream, as its publisher sees it."""

    __slots__ = ("draft", "in_flight", "next_sequence", "waiting")

    def __init__(self) -> None:
        self.draft: Draft | None = None
        self.waiting: deque[Draft] = deque()
        self.in_flight: deque[Draft] = deque()
        self.next_sequence = 0


class Batcher:
    """Batches on their way. All methods are to be called with `lock` held, except where they say so.

    Args:
        stream: its name, for receipts.
        buckets: of the stream.
        batch_size: records of a full batch.
        linger: seconds for which a batch waits for more records; 0: as soon as the one before it was answered.
        send: writes one frame; returns False where there is no connection.
        nudge: called when somebody begins to wait for an outcome that another thread is to read.
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
    ) -> None:
        self.stream, self.durability, self._batch_size, self._linger = stream, durability, batch_size, linger
        self._send, self._nudge = send, nudge
        self.lock = threading.RLock()
        self.lanes = [Lane() for _ in range(buckets)]
        self.router = BucketRouter(buckets, start)
        self._keyless = self.router.next()
        self.in_flight = 0
        self.waiting_bytes = 0
        self.space = threading.Condition(self.lock)
        self.resuming = False

    # --- in --------------------------------------------------------------------------------------------------------

    def add(self, line: bytes, key: str | None, topic: str | None, *, urgent: bool, now: float) -> tuple[Draft, int]:
        """Takes one record; returns its batch and its place in it. An urgent one does not linger: somebody waits for it."""
        bucket = self._keyless if key is None else self.router.of(key)
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

    def next_keyless(self) -> int:
        """The bucket for the next batch of records without a key."""
        self._keyless = self.router.next()
        return self._keyless

    def seal(self, lane: Lane) -> None:
        """Ends the batch that is being filled."""
        if lane.draft is not None:
            draft, lane.draft = lane.draft, None
            lane.waiting.append(draft)
            if draft.bucket == self._keyless:
                self.next_keyless()
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
            draft = lane.waiting.popleft()
            draft.sequence = lane.next_sequence
            lane.next_sequence += 1
            lane.in_flight.append(draft)
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
            for draft in lane.in_flight:
                self._write(draft, again=True)
            self.send_waiting(lane)
        return refused

    def begin_anew(self) -> None:
        """The stream was destroyed and made anew: nothing that is under way is stored in it, so all goes under new numbers."""
        for lane in self.lanes:
            for draft in lane.in_flight:
                draft.doomed = None
            lane.waiting.extendleft(reversed(lane.in_flight))
            lane.in_flight.clear()
            lane.next_sequence = 0
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
            failed += [(draft, of_sent) for draft in lane.in_flight]
            failed += [(draft, error) for draft in (*lane.waiting, *([lane.draft] if lane.draft is not None else []))]
            lane.in_flight.clear()
            lane.waiting.clear()
            lane.draft = None
        for draft, _ in failed:
            self._forget(draft)
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
            yield from lane.waiting
            if lane.draft is not None:
                yield lane.draft

    @property
    def idle(self) -> bool:
        """Whether nothing is left to be sent or answered."""
        return not self.in_flight and not any(lane.waiting or lane.draft is not None for lane in self.lanes)
