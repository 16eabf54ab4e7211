"""One call of `publish_many` on its way: its own batches, so that the hot loop takes no lock a record."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import orjson

from dq.client.batcher import Batcher
from dq.client.drafts import Draft
from dq.client.ways import Way
from dq.config import LIMITS
from dq.errors import DqError, PublishError, RecordTooLarge
from dq.model.receipt import Receipts, StoredRange
from dq.model.record import LINE, check_finite
from dq.model.task import TaskIn

if TYPE_CHECKING:
    from dq.client.publisher import Publisher


class _Anything:
    """A container that has everything in it."""

    def __contains__(self, _: object) -> bool:
        return True


# A search for one byte costs a tenth of one for four, and most lines without a null have no u at all.
_U = ord("u")
# Types of items that take the longer way.
_SPECIAL = frozenset({TaskIn, bytes, bytearray, memoryview})
_ANY = _Anything()
# A batch leaves after this, full or not, however slowly its records come.
_SLOW_SECONDS = 0.005
Key = str | Callable[[Any], str | None] | None


class Flight:
    """The batches of one call.

    Attributes:
        receipts: what was committed.
        error: the first error of a batch, or None.
    """

    def __init__(self, publisher: Publisher, batcher: Batcher) -> None:
        self._publisher, self._batcher = publisher, batcher
        self._drafts: dict[int, Draft] = {}
        self._sent: deque[Draft] = deque()
        self._later: Flight | None = None
        self.receipts = Receipts(durability=batcher.durability)
        self.error: DqError | None = None

    def take(self, items: Iterable[Any], key: Key) -> None:
        """Makes batches of the items and sends them. Stops early at the first batch that fails.

        The plain case stands in the loop itself, on local names: a call a record more costs a tenth of the rate.
        """
        dumps, now, bytes_max = orjson.dumps, time.time, LIMITS.batch_bytes_max
        batch_size, special = self._publisher.batch_size, _SPECIAL if key is None else _ANY
        lines, count, leaves_at = bytearray(), 0, 0.0
        try:
            for item in items:
                if type(item) in special:
                    self._ship_plain(lines, count)  # first, so that records keep their order where there is one bucket
                    lines, count = bytearray(), 0
                    self._take_one(item, key)
                    if self.error is not None:
                        break
                    continue
                if self._drafts:
                    self._ship_drafts()
                at = now()
                try:
                    line = dumps({"at": at, "payload": item}, None, LINE)
                except TypeError:
                    self._publisher.line_of(item, None, None, "", None)  # raises, with what to do about it
                    raise
                if _U in line and b"null" in line:
                    check_finite(item)
                if not count or len(lines) + len(line) > bytes_max:
                    if len(line) > LIMITS.record_bytes_max:
                        raise too_large(line)
                    self._ship_plain(lines, count)
                    lines, count, leaves_at = bytearray(), 0, at + _SLOW_SECONDS
                lines += line
                count += 1
                if count >= batch_size or at > leaves_at:
                    self._ship_plain(lines, count)
                    lines, count = bytearray(), 0
                    if self.error is not None:
                        break
        finally:
            self._ship_plain(lines, count)  # also what came before an item that cannot be published

    def _ship_plain(self, lines: bytearray, count: int) -> None:
        """A batch of records without a key."""
        if count:
            draft = Draft(self._batcher.next_keyless(), self._batcher.durability)
            draft.lines, draft.count = lines, count
            self._ship(draft)

    def _take_one(self, item: Any, key: Key) -> None:
        """A record with more than a payload."""
        part = item if type(item) is TaskIn else TaskIn(item)
        chosen = part.key if part.key is not None else key(part.payload) if callable(key) else key
        way = self._publisher.way(part.delay, part.once, part.priority, part.expires)
        line = self._publisher.line_of(part.payload, chosen, part.topic, part.name, part.headers, way)
        if way is None or way.due is None:
            self._take_line(line, chosen, part.topic, way)
            return
        if self._later is None:
            self._later = self._publisher.taker(way).flight()
        self._later._take_line(line, chosen, part.topic, way.waiting)
        self.error = self.error or self._later.error

    def _take_line(self, line: bytes, key: str | None, topic: str | None, way: Way | None) -> None:
        batcher, priority = self._batcher, 0 if way is None else way.priority
        # Those without a key are gathered under numbers below 0, and get their bucket with the batch.
        bucket = 0 if len(batcher.lanes) == 1 else -1 - priority if key is None else batcher.bucket_of(key, priority)
        if way is not None and way.once is not None:
            if bucket in self._drafts:  # first, so that records of one key keep their order
                self._ship(self._drafts.pop(bucket))
            self._ship(batcher.draft_once(line, key, topic, way))
            return
        draft = self._drafts.get(bucket)
        if draft is not None and len(draft.lines) + len(line) > LIMITS.batch_bytes_max:
            self._ship(self._drafts.pop(bucket))
            draft = None
        if draft is None:
            draft = self._drafts[bucket] = Draft(batcher.next_keyless(priority) if bucket < 0 else bucket, batcher.durability)
        draft.lines += line
        draft.count += 1
        if topic is not None:
            draft.topics.add(topic)
            draft.labelled += 1
        if way is not None and way.expires is not None:
            draft.note_expiry(way.expires)
        if draft.count >= self._publisher.batch_size:
            self._ship(self._drafts.pop(bucket))

    def _ship_drafts(self) -> None:
        """Sends the batches that `_take_one` has begun."""
        drafts, self._drafts = self._drafts, {}
        for draft in drafts.values():
            self._ship(draft)

    def _ship(self, draft: Draft) -> None:
        batcher = self._batcher
        with batcher.lock:
            batcher.add_draft(draft)
        self._sent.append(draft)
        if batcher.window_full(draft.bucket):
            self._publisher.wait_for_window(draft, draft.bucket)
        else:
            self._publisher.read_answers()
        self._collect()

    def _collect(self) -> None:
        """Takes in what is answered by now, in order."""
        while self._sent:
            outcome = self._sent[0].outcome
            if outcome is None:
                return
            self._sent.popleft()
            if isinstance(outcome, StoredRange):
                self.receipts.add(outcome)
            elif self.error is None:
                self.error = outcome

    def finish(self) -> None:
        """Sends what is left and waits until all is answered."""
        self._ship_drafts()
        for draft in self._sent:
            self._publisher.wait_for(draft)
        self._publisher.leave()  # the last answers may have come in passing, and those of other threads are still to come
        self._collect()
        if self._later is not None:
            later, self._later = self._later, None
            later.finish()
            for part in later.receipts.ranges:
                self.receipts.add(part)
            self.error = self.error or later.error


def too_large(line: bytes) -> PublishError:
    """The error for a record over the limit."""
    return RecordTooLarge(
        f"a record of {len(line)} bytes: at most {LIMITS.record_bytes_max} are taken. "
        "Put the payload into a file or an object store and publish its path"
    )
