"""What a sink's log tells of single records: pure, from notes to events.

Each note is done again by the code of the core; what it means for a record that is watched is read from the note and from
where the record stands before and after it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from dq.core.leases import Lease, Shard
from dq.core.ledger import Ledger
from dq.core.states import State
from dq.history.rebuilt import SNAPSHOT, Note, Rebuilt, Said, kind_of
from dq.history.values import SETTLED_BY, HistoryEvent, Kind, RecordState

Place = tuple[str, int, int]
"""Stream, bucket, offset."""


def id_of(place: Place) -> str:
    """The id of the record at a place."""
    return f"{place[0]}/{place[1]}/{place[2]}"


@dataclass(slots=True)
class SinkPast:
    """What the log of one sink tells of some records.

    Attributes:
        sink: its name.
        events: what happened, in the order of the log.
        states: how each record stands now; without those whose streams the sink is not over.
        since: when its log begins, if what was before is not kept; else None.
    """

    sink: str
    events: list[HistoryEvent] = field(default_factory=list)
    states: dict[Place, RecordState] = field(default_factory=dict)
    since: float | None = None

    def of(self, place: Place) -> list[HistoryEvent]:
        """The events of one record."""
        record = id_of(place)
        return [event for event in self.events if event.record == record]


def events_of(notes: Iterable[Said], sink: str, places: Collection[Place], now: float | None = None) -> SinkPast:
    """What the notes of a sink tell of the records at these places.

    Args:
        now: wall time at which delays that are over have ended; None: all that were noted last still.

    Raises:
        Damaged: a note cannot follow those before it.
    """
    watcher = _Watcher(sink, places)
    for said in notes:
        watcher.take(said)
    return watcher.end(now)


class _Watcher:
    def __init__(self, sink: str, places: Collection[Place]) -> None:
        self._sink, self._rebuilt, self._past = sink, Rebuilt(), SinkPast(sink)
        self._places: dict[Shard, list[int]] = {}
        for stream, bucket, offset in places:
            self._places.setdefault((stream, bucket), []).append(offset)
        self._last: dict[Place, HistoryEvent] = {}
        self._snapshot_at: float | None = None
        self._before_snapshot: dict[Place, State | None] | None = None

    def take(self, said: Said) -> None:
        kind = kind_of(said.note)
        if self._snapshot_at is not None and (kind not in SNAPSHOT or (kind == "cursor" and "next" not in said.note)):
            self._end_snapshot()
        if kind == "snapshot":
            known = self._rebuilt.since is not None
            self._before_snapshot = {place: self._state(place) for place in self._all()} if known else None
            self._snapshot_at = said.at
        told = [] if self._snapshot_at is not None else self._told(kind, said)
        self._rebuilt.take(said)
        for event in told:
            self._add(event)

    def _told(self, kind: str, said: Said) -> list[HistoryEvent]:
        tell = _TELLERS.get(kind)
        try:
            return [] if tell is None else list(tell(self, said))
        except (KeyError, TypeError, ValueError, IndexError):
            return []  # the note lacks what it must have: it is refused when it is done again

    def end(self, now: float | None) -> SinkPast:
        if self._snapshot_at is not None:
            self._end_snapshot()
        if now is not None:
            self._rebuilt.end_delays(now)
        if self._rebuilt.cut_short:
            self._past.since = self._rebuilt.since
        for place in self._all():
            state = self._state_now(place)
            if state is not None:
                self._past.states[place] = state
        return self._past

    # --- what is asked of it -----------------------------------------------------------------------------------------

    def _all(self) -> Iterator[Place]:
        for shard, offsets in self._places.items():
            for offset in offsets:
                yield (*shard, offset)

    def _state(self, place: Place) -> State | None:
        return self._rebuilt.state_of(place[:2], place[2])

    def within(self, note: Note, ranges: Iterable[Any]) -> Iterator[Place]:
        """The places that are watched in these ranges of the note's shard."""
        offsets = self._places.get((note["stream"], note["bucket"]))
        if offsets:
            shard, spans = (note["stream"], note["bucket"]), [(first, stop) for first, stop in ranges]
            for offset in offsets:
                if any(first <= offset < stop for first, stop in spans):
                    yield (*shard, offset)

    def lease_of(self, number: int) -> Lease | None:
        """A lease that is known."""
        return self._rebuilt.book.leases.get(number) or self._rebuilt.book.ended.get(number)

    def event(self, said: Said, kind: Kind, place: Place, number: int | None = None, **more: Any) -> HistoryEvent:
        """An event; of a lease with its consumer."""
        lease = None if number is None else self.lease_of(number)
        if lease is not None:
            more = {"consumer": lease.hand.name, "pid": lease.hand.pid, **more}
        return HistoryEvent(at=said.at, kind=kind, record=id_of(place), sink=self._sink, lease=number, **more)

    def attempts(self, place: Place) -> int:
        """How many attempts a record has burned."""
        ledger = self._rebuilt.book.ledgers.get(place[:2])
        return 0 if ledger is None else ledger.attempts(place[2])

    def open_at(self, place: Place) -> bool:
        """Whether a record is neither settled nor dying, and the sink is over its stream."""
        return self._state(place) not in (State.SETTLED, State.DYING, None)

    def ledger(self, note: Note) -> Ledger | None:
        """What is known of the shard of a note."""
        return self._rebuilt.book.ledgers.get((note["stream"], note["bucket"]))

    def offset_place(self, note: Note) -> Iterator[Place]:
        """The place of a note about one record, if it is watched."""
        offset = note["offset"]
        return self.within(note, [(offset, offset + 1)])

    def group(self, number: int) -> Iterator[Place]:
        """The watched members of a group of suspects that wait still."""
        for shard, members in self._rebuilt.book.groups.get(number, {}).items():
            for offset in self._places.get(shard, ()):
                if offset in members and offset in self._rebuilt.book.ledgers[shard].suspects:
                    yield (*shard, offset)

    def of_stream(self, stream: str) -> Iterator[Place]:
        """The watched places of a stream."""
        return (place for place in self._all() if place[0] == stream)

    def in_hand(self) -> Iterator[tuple[Place, Lease]]:
        """The watched records that consumers have."""
        for place in self._all():
            ledger = self._rebuilt.book.ledgers.get(place[:2])
            lease = None if ledger is None else ledger.holder(place[2])
            if lease is not None:
                yield place, lease

    # --- what it tells -----------------------------------------------------------------------------------------------

    def _add(self, event: HistoryEvent) -> None:
        self._past.events.append(event)
        stream, bucket, offset = event.record.rsplit("/", 2)
        self._last[stream, int(bucket), int(offset)] = event

    def _end_snapshot(self) -> None:
        """A snapshot is complete. At the head of what is kept, it says how what was before had ended."""
        at, before = self._snapshot_at, self._before_snapshot
        self._snapshot_at = self._before_snapshot = None
        for place in self._all():
            state, ledger = self._state(place), self._rebuilt.book.ledgers.get(place[:2])
            if ledger is None or state is None or place[2] >= ledger.next or (before is not None and before[place] is state):
                continue
            lease, burned = ledger.holder(place[2]), ledger.burned.get(place[2])
            self._add(
                HistoryEvent(
                    at=at, kind=Kind.KEPT, record=id_of(place), sink=self._sink, reason=state.value,
                    consumer="" if lease is None else lease.hand.name, pid=0 if lease is None else lease.hand.pid,
                    lease=None if lease is None else lease.number,
                    attempt=burned.attempts if burned else None, error=burned.error if burned else "",
                )
            )  # fmt: skip

    def _state_now(self, place: Place) -> RecordState | None:
        state, ledger = self._state(place), self._rebuilt.book.ledgers.get(place[:2])
        if state is None or ledger is None:
            return None
        lease, burned, last = ledger.holder(place[2]), ledger.burned.get(place[2]), self._last.get(place)
        if state is State.SETTLED:
            last = next((e for e in reversed(self._past.of(place)) if e.kind in _ENDS), None)
        return RecordState(
            sink=self._sink,
            record=id_of(place),
            state=state.value,
            since=None if last is None else last.at,
            by=None if last is None else last.kind,
            consumer=lease.hand.name if lease is not None else last.consumer if last is not None else "",
            pid=lease.hand.pid if lease is not None else last.pid if last is not None else 0,
            lease=lease.number if lease is not None else last.lease if last is not None else None,
            until=self._rebuilt.due_at(ledger, place[2]) if state is State.DELAYED else None,
            attempts=burned.attempts if burned else (last.attempt or 0) if last is not None and last.kind in _COUNTED else 0,
            error=burned.error if burned else last.error if last is not None else "",
        )


# --- one function a kind of note, asked before the note is done --------------------------------------------------------
Teller = Callable[[_Watcher, Said], Iterator[HistoryEvent]]
_COUNTED = {Kind.GIVEN_UP, Kind.PUT_OFF, Kind.KEPT}
"""Of these the attempt is how many have been burned, and it was the last one here."""
_ENDS = SETTLED_BY | _COUNTED


def _lease(kind: str, then: Kind) -> Teller:
    def tell(watcher: _Watcher, said: Said) -> Iterator[HistoryEvent]:
        note = said.note
        left_out = set(watcher.within(note, note.get("without", ())))
        for place in watcher.within(note, [(note["first"], note["first"] + note["count"])]):
            if place in left_out:
                yield watcher.event(said, Kind.SKIPPED, place)
                continue
            came = [each[2] for each in note.get("burned", ()) if each[0] <= place[2] < each[0] + each[1]]
            burned = max([watcher.attempts(place), *came])
            reason = "alone" if note.get("alone") else ""
            who = {"consumer": note["to"], "pid": note.get("pid", 0)}
            yield watcher.event(said, then, place, note[kind], attempt=burned + 1, reason=reason, **who)

    return tell


def _settle(kind: str, then: Kind) -> Teller:
    def tell(watcher: _Watcher, said: Said) -> Iterator[HistoryEvent]:
        ledger = watcher.ledger(said.note)
        for place in watcher.within(said.note, said.note["ranges"]):
            holder = None if ledger is None else ledger.holder(place[2])
            late = holder is None or holder.number != said.note[kind]
            yield watcher.event(said, then, place, said.note[kind], reason="late" if late else "")

    return tell


def _pass(kind: str, then: Kind) -> Teller:
    def tell(watcher: _Watcher, said: Said) -> Iterator[HistoryEvent]:
        return (watcher.event(said, then, place) for place in watcher.within(said.note, said.note[kind]))

    return tell


def _one(kind: str, then: Kind, *names: str, **renamed: str) -> Teller:
    """Of a note about one record: `names` are keys that the event has too, `renamed` those that it has by another name."""

    def tell(watcher: _Watcher, said: Said) -> Iterator[HistoryEvent]:
        note = said.note
        told = {name: note[name] for name in names} | {ours: note[theirs] for ours, theirs in renamed.items()}
        for place in watcher.offset_place(note):
            yield watcher.event(said, then, place, note[kind], **told)

    return tell


def _release(watcher: _Watcher, said: Said) -> Iterator[HistoryEvent]:
    for place in watcher.within(said.note, said.note["ranges"]):
        yield watcher.event(said, Kind.RELEASED, place, said.note["release"], reason=str(said.note.get("why", "")))


def _suspect(watcher: _Watcher, said: Said) -> Iterator[HistoryEvent]:
    for place in watcher.within(said.note, said.note["ranges"]):
        yield watcher.event(said, Kind.SUSPECTED, place, said.note["lease"], error=said.note["error"])


def _cleared(watcher: _Watcher, said: Said) -> Iterator[HistoryEvent]:
    return (watcher.event(said, Kind.CLEARED, place) for place in watcher.group(said.note["cleared"]))


def _abandon(watcher: _Watcher, said: Said) -> Iterator[HistoryEvent]:
    number, offset = said.note["abandon"], said.note["offset"]
    lease = watcher.lease_of(number)
    if lease is not None:
        shard = {"stream": lease.shard[0], "bucket": lease.shard[1]}
        for place in watcher.within(shard, [(offset, offset + 1)]):
            yield watcher.event(said, Kind.ABANDONED, place, number)


def _intent(watcher: _Watcher, said: Said) -> Iterator[HistoryEvent]:
    note = said.note
    ledger = watcher.ledger(note)
    for place in watcher.offset_place(note):
        holder = None if ledger is None else ledger.holder(place[2])
        put_off = {"seconds": max(note["due"] - said.at, 0.0)} if note.get("due") else {}
        told = {"attempt": note["attempts"], "error": note["error"], "reason": note["reason"], "consumer": note["consumer"]}
        kind, number = Kind.PUT_OFF if put_off else Kind.GIVEN_UP, None if holder is None else holder.number
        yield watcher.event(said, kind, place, number, **told, **put_off)


def _cursor(watcher: _Watcher, said: Said) -> Iterator[HistoryEvent]:
    note, ledger = said.note, watcher.ledger(said.note)
    if ledger is not None:
        anew = "" if ledger.uuid == note["uuid"] else "made anew"
        for place in watcher.within(note, [(0, ledger.next)]):
            yield watcher.event(said, Kind.SOUGHT, place, reason=anew)
    for place in watcher.within(note, [(0, note["cursor"])]):
        yield watcher.event(said, Kind.BEFORE_START, place)


def _trim(watcher: _Watcher, said: Said) -> Iterator[HistoryEvent]:
    gone = watcher.within(said.note, [(0, said.note["trim"])])
    return (watcher.event(said, Kind.TRIMMED, place) for place in gone if watcher.open_at(place))


def _cut(watcher: _Watcher, said: Said) -> Iterator[HistoryEvent]:
    ledger = watcher.ledger(said.note)
    stop = 0 if ledger is None else ledger.next
    return (watcher.event(said, Kind.CUT, place) for place in watcher.within(said.note, [(said.note["cut"], stop)]))


def _forget(watcher: _Watcher, said: Said) -> Iterator[HistoryEvent]:
    places = watcher.of_stream(said.note["forget"])
    return (watcher.event(said, Kind.FORGOTTEN, place) for place in places if watcher.open_at(place))


def _start(watcher: _Watcher, said: Said) -> Iterator[HistoryEvent]:
    return (watcher.event(said, Kind.RESTARTED, place, lease.number) for place, lease in watcher.in_hand())


_TELLERS: dict[str, Teller] = {
    "abandon": _abandon,
    "ack": _settle("ack", Kind.ACKED),
    "cleared": _cleared,
    "cursor": _cursor,
    "cut": _cut,
    "deliver": _lease("deliver", Kind.DELIVERED),
    "drop": _settle("drop", Kind.DROPPED),
    "expire": _pass("expire", Kind.EXPIRED),
    "expired": _settle("expired", Kind.EXPIRED),
    "extend": _one("extend", Kind.EXTENDED, "seconds"),
    "forget": _forget,
    "intent": _intent,
    "lease": _lease("lease", Kind.LEASED),
    "lost": _one("lost", Kind.LOST, "error", attempt="attempts"),
    "overdue": _one("overdue", Kind.OVERDUE, "error", attempt="attempts"),
    "release": _release,
    "remove": _pass("remove", Kind.REMOVED),
    "retry": _one("retry", Kind.FAILED, "error", attempt="attempts", seconds="after"),
    "skip": _pass("skip", Kind.SKIPPED),
    "start": _start,
    "suspect": _suspect,
    "trim": _trim,
}
