"""`HeldLease`: a range of records in a consumer's hand, and which of them are still open."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from dq.model.event import Event
from dq.model.record import payload_of

if TYPE_CHECKING:
    from dq.client.hand import Hand
    from dq.client.task import Settler

_DECODE_BYTES = 48 * 1024
Range = tuple[int, int]


class HeldLease:
    """One lease: a range of records, and which of them are still open.

    Attributes:
        number: the lease's number.
        stream, bucket, first, count: its records.
        offsets: of the records that came, in order; not all of the range where a filter left some out.
        settled: the broker settled them when it handed them out (`no_ack`): nothing is said of them any more.
        attempts, errors: for those that come again: attempts burned before, and the last error.
        received_wall: when it came, seconds since 1970.
        left: how many are in hand and not settled.
        expires: whether records are in it that expire: each is looked at before it is handed out.
        lost: those that are not in hand any more, since they were left unsettled for too long; a late ack of one is sent.
    """

    __slots__ = (
        "_body", "_decoded", "_expired", "_place", "_publishers", "_sent", "acked", "attempts", "bucket", "count",
        "errors", "expires", "extended", "first", "grace", "hand", "left", "lost", "number", "offsets",
        "received_wall", "renewed_wall", "settled", "settler", "stream",
    )  # fmt: skip

    def __init__(self, event: Event, hand: Hand, settler: Settler, grace: float, *, settled: bool = False) -> None:
        fields = event.fields
        self.number, self.stream, self.bucket = fields["lease"], fields["stream"], fields["bucket"]
        self.first, self.count = fields["first"], fields["count"]
        self.offsets: Sequence[int] = range(self.first, self.first + self.count)
        if "without" in fields:
            self.offsets = list(_left_over(self.first, self.first + self.count, fields["without"]))
            self.count = len(self.offsets)
        self.attempts = {int(offset): burned for offset, burned in fields.get("attempts", {}).items()}
        self.errors = {int(offset): error for offset, error in fields.get("errors", {}).items()}
        self._publishers: list[list[Any]] = fields["publishers"]
        self._body: bytes | bytearray = event.body
        self._place = self._decoded = 0
        self._sent: list[tuple[int, int, float]] = []
        self.hand, self.settler, self.grace = hand, settler, grace
        self.received_wall = self.renewed_wall = time.time()
        self.extended: dict[int, float] = {}
        self.acked: list[int] = []
        self.expires: bool = fields.get("expires", False)
        self._expired: list[int] = []
        self.settled = settled
        self.left = 0 if settled else self.count
        self.lost: set[int] = set()

    def lose(self, offset: int) -> None:
        """A record was left unsettled for so long that it is another's by now."""
        self.lost.add(offset)
        self.left -= 1

    def ended(self, offsets: Sequence[int]) -> None:
        """Something was decided about records."""
        self.left -= len(offsets)
        if self.lost:
            self.left += len(self.lost.intersection(offsets))

    def begin_acks(self) -> None:
        """The first ack since the last were taken: has them sent within 5 ms."""
        if self.settled:
            return
        self.hand.dirty.append(self)
        if self.hand.sleeper.sleeping:
            self.hand.sleeper.wake()

    def hands_out(self, fields: object, offset: int) -> bool:
        """Whether a record is still of use; one that is not is settled as that, and not to be handed out."""
        expires = fields.get("expires") if isinstance(fields, dict) else None
        if not isinstance(expires, (int, float)) or expires > time.time():
            return True
        if not self.settled:
            self._expired.append(offset)
            self.begin_acks()  # after the append, as with an ack
        return False

    def take_expired(self) -> list[Range]:
        """Those that were found to have expired since the last call, as ranges."""
        count = len(self._expired)
        offsets = self._expired[:count]
        del self._expired[:count]
        self.ended(offsets)
        ranges = to_ranges(offsets)
        self.note_sent(ranges)
        return ranges

    def take_acked(self) -> list[Range]:
        """The acks since the last call, as ranges."""
        count = len(self.acked)
        offsets = self.acked[:count]
        del self.acked[:count]
        if self.acked:  # another thread appended meanwhile, and saw no need to begin
            self.begin_acks()
        self.ended(offsets)
        ranges = to_ranges(offsets)
        self.note_sent(ranges)
        return ranges

    def note_sent(self, ranges: list[Range]) -> None:
        """Remembers when outcomes went to the broker. A clock read for every ack would cost a tenth of it."""
        wall = time.time()
        self._sent += [(first, end, wall) for first, end in ranges]

    def sent_wall(self, offset: int) -> float | None:
        """When the outcome of a record went to the broker; None before."""
        return next((wall for first, end, wall in self._sent if first <= offset < end), None)

    @property
    def undecoded(self) -> int:
        """Records that are still bytes."""
        return int(self.count) - self._decoded

    @property
    def undecoded_offsets(self) -> Sequence[int]:
        """Their offsets."""
        return self.offsets[self._decoded :]

    def decode_next(self) -> tuple[Sequence[int], list[Any]]:
        """Decodes the next records at once, as one JSON array; returns their offsets and them.

        Not the whole lease: `gc` looks at everything after 700 new containers, and 64 KiB of records stay below that, and in
        the processor's cache. A list of 1,500 costs a tenth more a record.

        Raises:
            ValueError: a line is not JSON; `decode_lines` gives the lines of the same records.
        """
        start, end = self._next_span()
        lines = self._body[start : end - 1].replace(b"\n", b",")
        records = orjson.loads(b"[%b]" % lines)  # type: ignore[str-format]  # %b takes any buffer
        if len(records) != self._body.count(b"\n", start, end):
            raise ValueError("a line that is more than one value")
        offsets = self.offsets[self._decoded : self._decoded + len(records)]
        self._moved(end, len(records))
        return offsets, records

    def decode_lines(self) -> tuple[Sequence[int], list[bytes]]:
        """The same records, not decoded."""
        start, end = self._next_span()
        lines = bytes(self._body[start:end]).splitlines()
        offsets = self.offsets[self._decoded : self._decoded + len(lines)]
        self._moved(end, len(lines))
        return offsets, lines

    def _next_span(self) -> tuple[int, int]:
        end = self._body.find(b"\n", self._place + _DECODE_BYTES) + 1
        return self._place, end or len(self._body)

    def forget(self) -> None:
        """Drops what was not decoded."""
        self._body, self._decoded = b"", self.count

    def _moved(self, end: int, count: int) -> None:
        self._place = end
        self._decoded += count
        if end == len(self._body):
            self._body = b""

    def publisher_of(self, offset: int) -> str:
        """Who published a record; a lease may hold the batches of several."""
        place = offset - self.first
        for count, publisher in self._publishers:
            if place < count:
                return str(publisher)
            place -= count
        return ""

    def is_extended(self, offset: int) -> bool:
        """Whether its user asked for more time for a record, and that is not over."""
        return self.extended.get(offset, 0.0) > time.time()

    def deadline_wall(self, offset: int) -> float:
        """Until when the broker leaves a record here without a sign of life."""
        return self.extended.get(offset, self.renewed_wall + self.grace)

    @staticmethod
    def raw_payload(fields: dict[str, Any]) -> Any:
        """A payload that was published as bytes."""
        return payload_of(fields)


def _left_over(first: int, end: int, without: list[list[int]]) -> Iterator[int]:
    """The offsets of a range that are in none of the sorted ranges `without`."""
    for gap, after in without:
        yield from range(first, gap)
        first = after
    yield from range(first, end)


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
