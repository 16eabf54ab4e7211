"""`ahead`: what a sink would hand out next, and what of it has to wait for what; from the logs alone, and nothing is taken."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

from dq.core.ledger import Ledger
from dq.core.matching import Matcher
from dq.core.ordering import ready_in_order, suspect_in_order
from dq.core.ranges import Range
from dq.errors import Damaged, RecordsTrimmed
from dq.history.read_notes import blamed_on, chosen_sinks, notes_of
from dq.history.rebuilt import Rebuilt
from dq.history.shelf import TRIES, Found, Shelf, StreamLook, trimmed_meanwhile
from dq.log.files import Files
from dq.log.sink_file import read_sink
from dq.model.record import Record, record_of
from dq.model.settings import SinkSettings

SCANNED_MAX = 100_000
"""Records that are looked through for a filter, of each priority; what lies beyond is not looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A record that a sink has not settled.

    Attributes:
        record: it; None where its line cannot be read: the sink makes a dead letter of it.
        id: of the record.
        state: "ready"; "alone" if it is ready, and goes to a consumer that has nothing else, since one was lost with it;
            "retry" if it failed and waits for its time; "dying" if its dead letter is on its way; "in hand".
        attempt: the number of its next delivery, or of the one that it is in, from 1.
        until: wall time at which its delay is over; None where it has none.
        consumer, pid, lease, since: who has it in hand since which wall time; None, and 0 for a process that is not known.
        error: its last error, "" where there was none.
    """

    record: Record | None
    id: str
    state: str
    attempt: int = 1
    until: float | None = None
    consumer: str | None = None
    pid: int = 0
    lease: int | None = None
    since: float | None = None
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ahead:
    """What stands before a sink.

    Attributes:
        sink: its name.
        paused: nothing is handed out.
        standing: the records, those that are ready first, as far as they were asked for.
        gaps: what could not be looked at, a sentence each.
    """

    sink: str
    paused: bool
    standing: tuple[Standing, ...]
    gaps: tuple[str, ...] = ()


def ahead(root: Path | str | os.PathLike[str], sink: str, most: int = 10) -> Ahead:
    """What a sink would hand out next, then what waits for a retry, the soonest first, then what is in hand. It needs no
    broker, and one that runs is not disturbed.

    The order of ready records within a bucket is that in which they go, unless some come back meanwhile; buckets of one
    priority take turns, by the batch.

    Args:
        root: the data directory.
        sink: its name.
        most: how many records, of all together.

    Raises:
        UnknownSink: there is none. Damaged, NewerFormat: its log, or one of its streams, cannot be used. LogError: it cannot
            be read.
    """
    root, files = Path(root), Files()
    for _ in range(TRIES):
        with Shelf(files, root) as shelf, suppress(RecordsTrimmed):
            return _Look(files, root, chosen_sinks(files, root, sink)[0], shelf).told(most)
    raise trimmed_meanwhile(root)


class _Look:
    """One look at a sink."""

    def __init__(self, files: Files, root: Path, sink: str, shelf: Shelf) -> None:
        self._sink, self._shelf, self._now = sink, shelf, time.time()
        content = read_sink(files, root, sink)
        self._settings, detached = (SinkSettings(), frozenset[str]()) if content is None else content[:2]
        self._matcher = Matcher(self._settings.topic, self._settings.pattern)
        self._rebuilt = Rebuilt()
        try:
            for said in notes_of(files, root, sink):
                self._rebuilt.take(said)
        except Damaged as error:
            raise blamed_on(root, sink, error) from error
        self._rebuilt.end_delays(self._now)
        self._gaps: list[str] = []
        ledgers = [each for _, each in sorted(self._rebuilt.book.ledgers.items()) if each.shard[0] not in detached]
        self._over = [(ledger, look) for ledger in ledgers if (look := self._look_at(ledger)) is not None]

    def _look_at(self, ledger: Ledger) -> StreamLook | None:
        look = self._shelf.look(ledger.shard[0])
        if look is None or look.uuid != ledger.uuid or ledger.shard[1] >= look.buckets:
            return None
        if not look.tells:
            gap = f"the records of stream {look.name} can be read by its broker alone: they are left out"
            self._gaps += [] if gap in self._gaps else [gap]
            return None
        ledger.end = look.end(ledger.shard[1])
        ledger.lane = ledger.shard[1] // look.lane_buckets
        return look

    def told(self, most: int) -> Ahead:
        """What stands before it."""
        found = islice(chain(self._alone(), self._ready(), self._retries(), self._dying(), self._in_hand()), most)
        standing = tuple(found)
        return Ahead(sink=self._sink, paused=self._rebuilt.book.paused, standing=standing, gaps=tuple(self._gaps))

    # --- what is ready -----------------------------------------------------------------------------------------------

    def _alone(self) -> Iterator[Standing]:
        for ledger, look in self._over:
            if self._settings.ordered:
                first = suspect_in_order(ledger)
                suspects: Iterable[Range] = [] if first is None else [(first, first + 1)]
            else:
                suspects = ledger.suspects
            yield from self._wanted(ledger, look, suspects, "alone")

    def _ready(self) -> Iterator[Standing]:
        """Those of the highest priority first; the buckets of one in turn."""
        for lane in sorted({ledger.lane for ledger, _ in self._over}, reverse=True):
            turns = [self._ready_of(ledger, look) for ledger, look in self._over if ledger.lane == lane]
            while turns:
                for turn in list(turns):
                    standing = next(turn, None)
                    if standing is None:
                        turns.remove(turn)
                    else:
                        yield standing

    def _ready_of(self, ledger: Ledger, look: StreamLook) -> Iterator[Standing]:
        if self._settings.ordered:
            first = ready_in_order(ledger)
            ranges = [] if first is None else [first]
        else:
            ranges = [*ledger.returned, (ledger.next, ledger.end)]
        return self._wanted(ledger, look, ranges, "ready")

    def _wanted(self, ledger: Ledger, look: StreamLook, ranges: Iterable[Range], state: str) -> Iterator[Standing]:
        looked_at = count(1)
        for first, stop in ranges:
            for found in look.ahead(ledger.shard[1], first, stop):
                if next(looked_at) > SCANNED_MAX:
                    self._gaps.append(
                        f"of {look.name}/{ledger.shard[1]} only {SCANNED_MAX:,} records were looked through for what it wants"
                    )
                    return
                if self._wants(found):
                    yield self._standing(ledger, found, state)

    def _wants(self, found: Found) -> bool:
        fields, about = found.fields, found.batch.about or {}
        if about.get("for", self._sink) != self._sink:
            return False
        expires, topic = fields.get("expires"), fields.get("topic")
        if isinstance(expires, (int, float)) and expires <= self._now:
            return False
        return not fields or self._matcher.takes(topic if isinstance(topic, str) else None)

    # --- what is not -------------------------------------------------------------------------------------------------

    def _retries(self) -> Iterator[Standing]:
        dues = [
            (self._rebuilt.due_at(ledger, offset), offset, ledger, look)
            for ledger, look in self._over
            for offset in ledger.delayed
        ]
        for due, offset, ledger, look in sorted(dues, key=lambda each: each[:2]):
            yield from self._kept(ledger, look, [(offset, offset + 1)], "retry", until=due)

    def _dying(self) -> Iterator[Standing]:
        for ledger, look in self._over:
            ranges = [(offset, offset + 1) for offset in sorted(ledger.dying)]
            yield from self._kept(ledger, look, ranges, "dying")

    def _in_hand(self) -> Iterator[Standing]:
        for ledger, look in self._over:
            for lease in ledger.leases.values():
                since = self._rebuilt.leased_at.get(lease.number)
                holder = {"consumer": lease.hand.name, "pid": lease.hand.pid, "lease": lease.number, "since": since}
                yield from self._kept(ledger, look, lease.open, "in hand", **holder)

    def _kept(self, ledger: Ledger, look: StreamLook, ranges: Iterable[Range], state: str, **more: Any) -> Iterator[Standing]:
        for first, stop in ranges:
            for found in look.ahead(ledger.shard[1], first, stop):
                yield self._standing(ledger, found, state, **more)

    def _standing(self, ledger: Ledger, found: Found, state: str, **more: Any) -> Standing:
        stream, bucket, offset = found.place
        burned, came = ledger.burned.get(offset), found.batch.about or {}
        attempts = came.get("attempts", 0) if burned is None else burned.attempts
        error = came.get("error", "") if burned is None else burned.error
        record = None
        with suppress(KeyError, TypeError, ValueError):
            record = record_of(stream, bucket, offset, found.fields)
        return Standing(
            record=record, id=f"{stream}/{bucket}/{offset}", state=state, attempt=attempts + 1, error=str(error), **more
        )
