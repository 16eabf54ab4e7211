"""The delayed records of one stream: read as they are committed, and moved into their stream when their time has come.

They wait in a stream of their own, so that they pin no segment of the one they are for. A move is an intent, as a dead letter
is: noted and synced, sent to the publisher broker as a batch with its number, and done when that is stored. After a restart it
is sent again with the same number: each record comes exactly once.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dq.broker.in_order import IN_FLIGHT, InOrder
from dq.broker.later_lines import Address, Coming, address_of, batch_fields, fields_of, line_with_origin, times_of
from dq.broker.life import Life
from dq.config import KIB
from dq.core.later import Later, Move, remaining
from dq.core.ranges import Range
from dq.errors import Damaged, DiskFull, DqError, LogError, RecordsTrimmed, SequenceError
from dq.log.backend import BucketPlace, End, StorageReader, backend_of
from dq.log.layout import REPAIR, Layout
from dq.log.sink_log import SinkLog
from dq.log.stream_file import StreamDescription, read_stream
from dq.model.event import Event, EventOwner, EventType
from dq.model.names import base_stream
from dq.model.told import about, words_of, words_told

log = logging.getLogger("dq")
_LOOK_BYTES = 128 * KIB
"""Of new records, looked at in one turn: some 2 ms."""
_MOVE_RECORDS = 256
"""Moved in one turn, and so in one batch, at the most."""
_TRY_SECONDS = 1.0


class LaterRun:
    """Delayed records at work: what is known of them, their log, the log they stand in.

    Args:
        life: of the process.
        stream: in which they wait.

    Attributes:
        name: of its log, among those of the sinks; no sink can have it.
        unsynced: whether its log has notes that are not on disk yet.
        why: what keeps it from going on; "" where nothing does.
        told: the same as a log may say it.
    """

    def __init__(self, life: Life, stream: str) -> None:
        self._life, self.stream, self.base = life, stream, base_stream(stream) or ""
        self.core = Later(stream)
        self.name = f"later:{self.base}"
        place = Layout(life.root).later(self.base)
        self._log, notes = SinkLog.open(life.files, place, self.name, life.limits)
        try:
            for note in notes:
                self.core.replay(note)
        except Damaged as error:
            self._log.close()
            raise Damaged(f"{place}: {error}. Restore it from a backup, or cut it: {REPAIR} --help") from error
        self._reader: StorageReader | None = None
        self._end = End(0, 0, 0)
        self._target: StreamDescription | None = None
        self._order: InOrder[int] = InOrder()
        self._refusing = set[int]()  # buckets that did not take the last batch that came to them
        self._resend_at: float | None = None
        self._look_at: float | None = None
        self.unsynced = False
        self.why = self.told = ""
        self._about = about(stream=self.base)

    # --- what it is told ---------------------------------------------------------------------------------------------

    def committed(self, end: End, uuid: str, epoch: int) -> None:
        """The stream in which they wait is committed up to `end`. Raises LogError where it cannot be read."""
        if self._reader is None or (uuid, epoch) != (self.core.uuid, self.core.epoch):
            self._open(uuid, epoch)
        if self._reader is not None:
            self._reader.advance(end)
            if end.offset > self._end.offset:
                self._end = end

    def _open(self, uuid: str, epoch: int) -> None:
        found = read_stream(self._life.files, self._life.root, self.stream)
        if (found.uuid, found.epoch) != (uuid, epoch):
            return  # an old word: what is true now is said yet
        if self._reader is not None:
            self._reader.close()
        self._end, self.why, self._target = End(0, 0, 0), "", None
        self._refusing.clear()
        if uuid != self.core.uuid:
            self.core.begin(uuid, epoch)
            self._order.anew()
        elif epoch > self.core.epoch:
            self._begin_epoch(found)
        # Small pieces: what is moved lies anywhere, and for each of it one piece is read and checked.
        limits = replace(self._life.limits, read_bytes=64 * KIB, index_bytes=64 * KIB)
        place = BucketPlace(
            self._life.files, Layout(self._life.root).bucket(self.stream, 0), options=found.settings.options, limits=limits
        )
        self._reader = backend_of(found.settings).open_reader(place)

    def _begin_epoch(self, found: StreamDescription) -> None:
        ends = [start.ends[0] for start in found.starts if start.epoch > self.core.epoch]
        end = min(ends, default=None)
        known = max(self.core.next, self.core.last_known)
        making = self.core.making
        lost = self.core.begin_epoch(found.epoch, end if end is not None and end < known else None)
        if lost:
            log.warning(
                "stream %s lost its end, and with it %d records that wait for their time", self.stream, lost, extra=self._about
            )
        if self.core.making != making:
            self._order.anew()

    def gone(self, uuid: str, marks: Sequence[int], removed: Sequence[tuple[int, Range]]) -> None:
        """Records were taken out before their time: they never come."""
        if uuid == self.core.uuid:
            self.core.lose([(0, mark) for mark in marks[:1]])
            self.core.lose([part for _, part in removed])

    def again(self) -> None:
        """The publisher broker is another one: what is under way may be lost."""
        self._order.again()
        self._target = None

    def stored(self, event: Event) -> None:
        """A batch is stored."""
        if event["publisher"] == self._publisher(event["bucket"]):
            self.core.stored(event["bucket"], event["sequence"])
            self._refusing.discard(event["bucket"])
            if self.why and not self._refusing:
                log.warning("records of %s go on, after: %s", self.stream, self.told, extra=self._about)
                self.why = ""

    def refused(self, event: Event) -> None:
        """A batch was not taken: its stream is missing, full, closed. It is tried again."""
        if event["publisher"] == self._publisher(event["bucket"]):
            behind = event["error"] == SequenceError.__name__
            if behind and self.core.gap(event["bucket"], event["sequence"]):
                log.warning(
                    "stream %s lost its end, and with it delayed records that had come to it", self.base, extra=self._about
                )
                self._order.begin_lane(event["bucket"])
                return
            self._refusing.add(event["bucket"])
            follows = behind and self.why  # the one before it was not taken, for that reason
            if self.why != event["message"] and not follows:
                self.why, self.told = event["message"], words_told(event["error"], event["message"])
                log.warning("records of %s whose time has come wait: %s", self.stream, self.told, extra=self._about)
            self._resend_at = self._life.clock.monotonic() + _TRY_SECONDS

    # --- a turn ------------------------------------------------------------------------------------------------------

    def due(self) -> float | None:
        """When `turn` is to be called next; None: not before it is told something."""
        if self._look_at is not None:
            return self._look_at
        if self._reader is not None and self.core.next < self._end.offset:
            return 0.0
        due = None if self._is_full else self.core.next_due()
        moments = [moment for moment in (due, self._resend_at) if moment is not None]
        return min(moments, default=None)

    @property
    def _is_full(self) -> bool:
        return self.core.under_way >= IN_FLIGHT

    def turn(self, now: float) -> list[Event]:
        """Looks at new records, and moves those that are due; what it returns is to be sent.

        Raises:
            DiskFull, LogError: its own log cannot be written.
        """
        if self._reader is None or (self._look_at is not None and now < self._look_at):
            return []
        self._look_at = None
        try:
            self._look(self._reader, now)
            if not self._is_full:
                self._move_due(self._reader, now)
        except (LogError, OSError) as error:
            self._stuck(error, now)
        if self._resend_at is not None and self._resend_at <= now:
            self._order.again()
            self._resend_at = None
        moves = self._unsent()
        self.write_notes()
        if not moves:
            return []
        self.sync()  # a move is on disk before it is sent: else it could come twice
        self._resend_at = now + _TRY_SECONDS
        return self._writes(self._reader, moves)

    def _stuck(self, why: Exception | str, now: float) -> None:
        if self.why != str(why):
            self.why, self.told = str(why), words_of(why)
            log.error("the delayed records of %s wait: %s", self.base, self.told, extra=self._about)
        self._look_at = now + _TRY_SECONDS

    @property
    def _missing(self) -> str:
        return f"stream {self.base!r} is missing: it is made anew by the next who publishes to it, or put it back and restart"

    def _look(self, reader: StorageReader, now: float) -> None:
        """Learns when new records are due."""
        if self.core.next >= self._end.offset:
            return
        try:
            found = reader.read(self.core.next, self._life.limits.batch_records_max, _LOOK_BYTES)
        except RecordsTrimmed as error:
            self.core.lose([(0, min(error.first, self._end.offset))])
            self.core.next = max(self.core.next, min(error.first, self._end.offset))
            return
        wall, offset = self._life.clock.wall(), found.first
        for part, count in zip(found.parts, found.counts, strict=True):
            for at, due in times_of(part, count):
                self.core.learn(offset, now + remaining(due, at, wall), now)
                offset += 1

    def _move_due(self, reader: StorageReader, now: float) -> None:
        offsets = self.core.take_due(now, _MOVE_RECORDS)
        if not offsets:
            return
        try:
            target = self._target or read_stream(self._life.files, self._life.root, self.base)
            lines = self._lines(reader, offsets)
        except (DqError, OSError) as error:
            self.core.put_back(offsets, now + _TRY_SECONDS, now)
            if not isinstance(error, FileNotFoundError):
                raise
            self._stuck(self._missing, now)
            return
        self._target = target
        batches: dict[Address, list[int]] = {}
        sizes: dict[Address, int] = {}
        priorities = target.settings.priorities
        for offset in offsets:
            coming = lines.get(offset)
            if coming is None:
                self.core.lose([(offset, offset + 1)])
                continue
            address = address_of(coming.fields, target.settings.buckets, priorities, offset)
            size = sizes.get(address, 0) + len(coming.line) + 2 * KIB // 16
            if address in batches and size > self._life.limits.batch_bytes_max:
                self.core.move(address[0], batches.pop(address))
                size = len(coming.line)
            batches.setdefault(address, []).append(offset)
            sizes[address] = size
        for address, batch in batches.items():
            self.core.move(address[0], batch)

    @staticmethod
    def _lines(reader: StorageReader, offsets: Sequence[int]) -> dict[int, Coming]:
        """The records at these offsets, by offset, without those that are gone. Read in their order in the log."""
        lines: dict[int, Coming] = {}
        wanted = sorted(offsets)
        place = 0
        while place < len(wanted):
            first, run = wanted[place], 1
            while place + run < len(wanted) and wanted[place + run] == first + run:
                run += 1
            try:
                found = reader.read(first, run, _LOOK_BYTES)
            except RecordsTrimmed:
                place += 1
                continue
            if not found.count:
                break
            for offset, line in enumerate(b"".join(found.parts).splitlines(keepends=True), found.first):
                lines[offset] = Coming(offset, line, fields_of(line))
            place += found.count
        return lines

    def _unsent(self) -> list[Move]:
        lanes: dict[int, list[Move]] = {}
        for move in self.core.moves():
            lanes.setdefault(move.bucket, []).append(move)
        due: list[Move] = []
        for bucket, moves in lanes.items():
            numbers = self._order.due(bucket, [move.number for move in moves])
            due += [move for move in moves if move.number in numbers]
        return due

    def _publisher(self, bucket: int) -> str:
        return f"{self.name}:{self.core.uuid[:8]}.{self.core.making_of(bucket)}"

    def _writes(self, reader: StorageReader, moves: Sequence[Move]) -> list[Event]:
        events: list[Event] = []
        held = set[int]()  # buckets that get nothing more now
        for place, move in enumerate(moves):
            if move.bucket in held:
                continue
            try:
                lines = self._lines(reader, move.offsets)
                target = self._target or read_stream(self._life.files, self._life.root, self.base)
            except (LogError, OSError) as error:  # also of the stream that they are for: it waits until that is mended
                self._stuck(self._missing if isinstance(error, FileNotFoundError) else error, self._life.clock.monotonic())
                for later in moves[place:]:
                    self._order.unsent(later.bucket, min(each.number for each in moves[place:] if each.bucket == later.bucket))
                break
            batch = [lines[offset] for offset in move.offsets if offset in lines]
            if not batch:  # trimmed since; whether it was stored is not known
                held.add(move.bucket)
                if self.core.is_first(move.bucket, move.number):
                    self.core.void(move.bucket, move.number)
                    self._order.begin_lane(move.bucket)
                else:  # those before it have the numbers that they have
                    self._order.unsent(move.bucket, move.number)
                continue
            address = address_of(batch[0].fields, target.settings.buckets, target.settings.priorities, batch[0].offset)
            fields = {
                "stream": self.base, "publisher": self._publisher(move.bucket), "sequence": move.number, "uuid": self.core.uuid,
                **batch_fields(batch, (move.bucket, *address[1:])),
            }  # fmt: skip
            body = b"".join(line_with_origin(each, self.stream) for each in batch)
            events.append(Event(EventType.WRITE, EventOwner.CONSUMER_BROKER, fields, body))
        return events

    # --- its log -----------------------------------------------------------------------------------------------------

    def write_notes(self) -> None:
        """Writes what was noted, before anything of it is sent. Raises DiskFull, LogError."""
        notes = self.core.take_notes()
        if not notes:
            return
        self._log.append(notes)
        self._log.write()
        self.unsynced = True
        if self._log.full:
            try:
                self._log.roll(self.core.snapshot())
            except DiskFull as error:
                log.warning(
                    "the log of the delayed records of %s goes on as it is: %s", self.base, words_of(error), extra=self._about
                )

    def sync(self) -> None:
        """Brings the notes to the disk; also called in a thread. Raises SyncFailed."""
        self.unsynced = False
        self._log.sync()

    def close(self) -> None:
        """Writes and syncs what is left, and closes all files, the latter in any case. Raises DiskFull, LogError."""
        try:
            self.write_notes()
            self._log.sync()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Closes all files, and leaves what is not written."""
        self._log.close()
        if self._reader is not None:
            self._reader.close()

    def status(self) -> dict[str, Any]:
        """Its figures, as JSON takes them; `next_due` in seconds from now."""
        due, now = self.core.first_due(), self._life.clock.monotonic()
        return {
            "stream": self.stream,
            "waiting": self.core.waiting(self._end.offset),
            "under_way": self.core.under_way,
            "next_due": None if due is None else max(due - now, 0.0),
            "moved": self.core.moved,
            "gone": self.core.gone,
            "why": self.why,
        }
